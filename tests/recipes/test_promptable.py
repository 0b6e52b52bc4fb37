"""The recipe for models that take prompts: batches by number, resumable, from drawn clips."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import masklet
from masklet.data.moving import MovingShapes
from masklet.models import build
from masklet.recipes.promptable import ClipFeed, PromptableRecipe, _share, run
from masklet.structures.errors import UserError
from masklet.weights import save_checkpoint

TINY: dict[str, Any] = {
    **{"backbone": "hiera_tiny", "side": 32, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16, "mask_channels": 4},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}
SHORT = PromptableRecipe(
    {"moving": 1.0},
    options=TINY,
    **{"epochs": 2, "steps": 2, "images": 2, "clips": 1, "frames": 3, "rounds": 1, "val_limit": 2},
    **{"precision": "fp32", "device": "cpu", "warm_up_steps": 1, "workers": 0},
)


def test_batches_depend_on_their_number_only() -> None:
    feeds = [ClipFeed(MovingShapes((32, 32)), 2, 1, 3, 4, seed=5, workers=workers) for workers in (0, 2)]
    one, other = ([batch.inputs for batch in feed.epoch(1)] for feed in feeds)
    assert [inputs[0].shape for inputs in one] == [(2, 1, 3, 32, 32), (1, 3, 3, 32, 32)] * 2
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a[0], b[0])
        assert all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    rest = [batch.inputs for batch in feeds[0].epoch(1, start=2)]
    assert torch.equal(rest[0][0], one[2][0])
    assert len(feeds[0]) == 4


def test_a_training_from_drawn_clips_to_a_checkpoint(tmp_path: Path) -> None:
    result = run(SHORT, tmp_path / "run", progress=False)
    assert result.epochs == 2
    assert {"iou@1", "iou@3", "j", "f", "jf"} <= set(result.history[-1])
    model = masklet.load(result.best)
    assert model.spec["model"] == "sam2"
    assert hasattr(model, "step")


def test_sources_with_options(tmp_path: Path) -> None:
    """Everything after a question mark goes to the reader; sequences can be left out."""
    for name in ("one", "two", "dog"):
        for kind, picture in (("JPEGImages", "jpg"), ("Annotations", "png")):
            folder = tmp_path / kind / "480p" / name
            folder.mkdir(parents=True)
            Image.new("L", (40, 30), 255).save(folder / f"00000.{picture}")
    names = [video.name for video in _share(f"davis:{tmp_path}?split=all&without=dog,two", "train").data.videos]
    assert names == ["one"]
    assert [v.name for v in _share(f"davis:{tmp_path}", "val").data.videos] == ["dog"]
    with pytest.raises(UserError, match=re.escape("davis has no option 'withot'")):
        _share(f"davis:{tmp_path}?withot=dog", "train")


def test_data_in_one_text() -> None:
    found = PromptableRecipe.from_dict({"data": "davis:D?split=all&without=dog,libby * 1.6 + coco:c"})
    assert found.data == {"davis:D?split=all&without=dog,libby": 1.6, "coco:c": 1.0}
    assert found.override(["lr=3e-4"]).lr == 3e-4
    message = """the weight of pets:p is 'much'; write "davis:DAVIS * 1.6 + pets:pets\""""
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        PromptableRecipe.from_dict({"data": "pets:p * much"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {}}, "data is {}; it must be sources with weights"),
        ({"frames": 1}, "frames is 1; it must be at least 3, for the first and the last do not count"),
        ({"trained": "x"}, "trained is 'x'; it must be left out without lora; lr_factors of 0 freeze parts"),
        ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'; choose from "),
    ],
)
def test_values_out_of_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message)):
        replace(SHORT, **change)


def test_drawn_clips_stay_among_themselves(tmp_path: Path) -> None:
    message = "drawn clips are not mixed with others; give kind:path sources, or moving alone"
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        run(replace(SHORT, data={"moving": 1.0, "pets:x": 1.0}), tmp_path, progress=False)


def started(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint to fine-tune, and its tensors."""
    torch.manual_seed(3)
    path = save_checkpoint(tmp_path / "start.safetensors", build("sam2", **TINY))
    return path, load_file(path)


def moved(best: Path, before: dict[str, Any]) -> set[str]:
    after = load_file(best)
    assert after.keys() == before.keys()
    return {key for key, value in after.items() if not torch.equal(value, before[key])}


def test_frozen_parts_stay(tmp_path: Path) -> None:
    path, before = started(tmp_path)
    recipe = replace(SHORT, start=str(path), lr_factors={"encoder": 0.0, "prompts": 0.0})
    changed = {name.partition(".")[0] for name in moved(run(recipe, tmp_path / "run", progress=False).best, before)}
    assert {"decoder", "attention", "writer"} <= changed
    assert not changed & {"encoder", "prompts"}


def test_low_rank_terms_are_all_that_learns_and_are_merged_in_files(tmp_path: Path) -> None:
    path, before = started(tmp_path)
    recipe = replace(SHORT, start=str(path), lora={r"encoder\.backbone": 2, r"attention": 2}, ema=0.5)
    result = run(recipe, tmp_path / "run", progress=False)
    changed = moved(result.best, before)
    assert all(name.endswith(".weight") for name in changed)
    assert {name.partition(".")[0] for name in changed} == {"encoder", "attention"}
    last = {name.partition("/")[2] for name in load_file(tmp_path / "run" / "last.safetensors") if name[:3] == "opt"}
    assert len({name.partition("/")[0] for name in last}) < len(before) / 2  # moments of the thin matrices only
    model = masklet.load(result.best)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    again = run(replace(recipe, epochs=2), tmp_path / "run", resume=True, progress=False)
    assert again.epochs == 2
    half = run(replace(recipe, trained=r"decoder\."), tmp_path / "other", progress=False)
    assert any(name.startswith("decoder.") for name in moved(half.best, before))


def test_low_rank_terms_from_words() -> None:
    recipe = SHORT.override(['lora={"attention": 4}', "trained=decoder"])
    assert (recipe.lora, recipe.trained) == ({"attention": 4}, "decoder")


def test_sam_learns_from_images(tmp_path: Path) -> None:
    small = {"backbone": "vit_b", "side": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2, "whole": (), "window": 2}
    options = {**small, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4}
    recipe = replace(SHORT, model="sam_vit_b", options=options, clips=0, monitor="iou@1", objects=2)
    result = run(recipe, tmp_path / "run", progress=False)
    assert {"iou@1", "iou@3"} <= set(result.history[-1])
    assert "j" not in result.history[-1]
    with pytest.raises(UserError, match=r"^clips of 3 frames; SAM learns from images; train it with clips=0$"):
        run(replace(recipe, clips=1), tmp_path / "clips", progress=False)
