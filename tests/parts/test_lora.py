"""Low-rank terms: nothing at the start, alone trained, the same outputs when merged, plain weights in files."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import masklet
from masklet.models import build
from masklet.parts.lora import LowRank, adapt, merge, plain_state
from masklet.structures.errors import UserError
from masklet.weights import save_checkpoint

TINY: dict[str, Any] = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.Flatten(), nn.Linear(216, 4))


def trained(model: nn.Module, x: Tensor, steps: int = 3) -> nn.Module:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return model


def test_only_low_rank_terms_learn_and_merging_changes_no_output() -> None:
    model, x = net(), torch.rand(2, 3, 5, 5)
    before, start = model(x), deepcopy(model.state_dict())
    assert adapt(model, {r"[02]": 2, r"4": 3}) == ["0", "2", "4"]
    assert torch.equal(model(x), before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"{i}.parametrizations.weight.0.{side}" for i in (0, 2, 4) for side in ("down", "up")}
    assert [layer.parametrizations.weight[0].up.shape[1] for layer in (model[0], model[2], model[4])] == [2, 2, 3]
    trained(model, x)
    assert not torch.allclose(model(x), before)
    for i in (0, 2, 4):
        assert torch.equal(model[i].parametrizations.weight.original, start[f"{i}.weight"])
        assert torch.equal(model[i].bias, start[f"{i}.bias"])
        change = (model[i].weight - start[f"{i}.weight"]).flatten(1)
        values = torch.linalg.svdvals(change)
        assert values[3 if i == 4 else 2 :].max() < 1e-3 * values[0]
    after, plain = model(x), plain_state(model)
    assert merge(model) is model
    assert torch.equal(model(x), after)
    assert {type(layer) for layer in model} == {nn.Conv2d, nn.ReLU, nn.ConvTranspose2d, nn.Flatten, nn.Linear}
    assert model.state_dict().keys() == start.keys() == plain.keys()
    assert all(torch.equal(plain[key], value) for key, value in model.state_dict().items())


def test_some_parts_may_be_trained_themselves() -> None:
    model, x = net(), torch.rand(2, 3, 5, 5)
    adapt(model, {r"0": 4, r".*": 0}, trained=r"4\.")
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"0.parametrizations.weight.0.down", "0.parametrizations.weight.0.up", "4.weight", "4.bias"}
    start = deepcopy(model.state_dict())
    moved = {key for key, value in trained(model, x).state_dict().items() if not torch.equal(value, start[key])}
    assert moved == learning


def test_a_hand_example() -> None:
    layer = LowRank(torch.eye(2), 1)
    layer.down.data, layer.up.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    assert layer(torch.eye(2)).tolist() == [[4.0, 6.0], [4.0, 9.0]]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.eye(2)).dtype == torch.float32


def test_a_whole_system_is_saved_as_it_answers(tmp_path: Path) -> None:
    model = build("sam2_hiera_tiny", **TINY).eval()
    names = adapt(model, {r"encoder\.backbone": 2, r"attention\.": 2, r"decoder\.transformer": 2})
    assert {name.partition(".")[0] for name in names} == {"encoder", "attention", "decoder"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                nn.init.normal_(parameter, std=0.1)
    loaded = masklet.load(save_checkpoint(tmp_path / "a.safetensors", model)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs, bare = model(images), loaded(images), build("sam2_hiera_tiny", **TINY).eval()(images)
        merged = merge(model)(images)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(merged[key], value, rtol=1e-5, atol=1e-5)
        assert (bare[key] - value).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("ranks", "more", "message"),
    [
        ({"head": 4}, None, "no layer matches 'head'; names look like 0, 2, 4"),
        ({"0": -1}, None, "the rank of '0' is -1; give 1 or more, or 0 for none"),
        ({"0": 1}, "x", "no parameter matches 'x'; names look like 0.weight, 0.bias, 2.weight"),
    ],
)
def test_mistakes(ranks: dict[str, int], more: str | None, message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        adapt(net(), ranks, more)


def test_twice_is_a_mistake() -> None:
    model = net()
    adapt(model, {"0": 1})
    with pytest.raises(UserError, match=r"^0 has a low-rank term already; merge\(model\) first$"):
        adapt(model, {"0": 1})
