"""What every model in the table promises; a new model adds a line to the table, and here only if its default is big."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

import masklet
from masklet.models import MODELS, build, fcn
from masklet.structures import Classes, SemanticMap
from masklet.weights import save_checkpoint

SMALL: dict[str, dict[str, Any]] = {  # cheaper choices of the same code, where the default would take seconds
    "deeplabv3": {"backbone": "resnet18"},
    "deeplabv3plus": {"backbone": "resnet18", "multi_grid": (1, 2)},
    "fcn32s": {"backbone": "alexnet"},
    "fcn16s": {"backbone": "vgg11"},
    "fcn8s": {"backbone": "vgg11"},
    "fcn8s_at_once": {"backbone": "vgg11"},
    "fcn_resnet101": {"aux_weight": 0.0},
    "fcn_two_heads": {"backbone": "vgg11", "geometry_of": (0, 1, 2)},
    "pspnet": {"backbone": "resnet18", "channels": 64},
    "deconvnet": {"side": 32, "hidden": 64},
    "keras_pyramid": {"blocks": 1, "pyramid_filters": 32, "filters": 32},
    "unet": {"base": 8},
    "upernet": {"channels": 32, "aux_channels": 16},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # options that make another graph
    "unet valid": ("unet", {"base": 4, "padding": "valid", "norm": None, "in_channels": 1}),
    "unet lite": ("unet", {"backbone": "efficientnet_lite0", "bins": (1, 2), "aux_weight": 0.4}),
    "deeplabv3plus lite": (
        "deeplabv3plus",
        {"backbone": "mobilenet_v3_small", "separable": True, "layout": "mmseg", "window": (64, 64), "aux_weight": 0.4},
    ),
    "upernet v2": (
        "upernet",
        {"backbone": "swin_v2_t", "channels": 32, "window": 4, "norms": False, "aux_weight": 0.0},
    ),
    "pspnet lite": ("pspnet", {"backbone": "efficientnet_lite0", "channels": 32, "layout": "plain"}),
}
CASES = {name: (name, SMALL.get(name, {})) for name in sorted(MODELS)} | VARIANTS


@pytest.fixture(scope="module")
def narrow():
    """FCNs with 64 instead of 4096 units in what was fully connected: 120 million weights fewer, the same code."""
    bodies = {n: replace(b, channels=64) if b.channels == fcn.HIDDEN else b for n, b in fcn.BODIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcn, "BODIES", MappingProxyType(bodies))
        patch.setattr(fcn, "HIDDEN", 64)
        yield


@pytest.fixture(scope="module", params=CASES)
def net(request, narrow):
    """The model of a case, with three classes; pytest runs all tests of one case before it makes the next."""
    name, options = CASES[request.param]
    torch.manual_seed(0)
    made: Any = build(name, classes=Classes(("sky", "land", "sea")), **options)
    for module in made.modules():  # scores that start at zero would make everything below true of nothing
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.01)
    return made.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_any_size_comes_back(net):
    with torch.inference_mode():
        for size in ((1, 1), (33, 57), (64, 96)):
            logits = net(images(1, 3, *size))
            assert logits.shape == (1, 3, *size)
            assert logits.isfinite().all()


def test_images_of_a_batch_do_not_meet(net):
    batch = images(3, 3, 32, 48)
    with torch.inference_mode():
        together = net(batch)
        scale = together.std().clamp(min=1e-6)
        assert ((net(batch.flip(0)).flip(0) - together).abs().max() / scale) < 1e-4
        assert ((net(batch[1:2]) - together[1:2]).abs().max() / scale) < 1e-4


def test_loss_is_finite_and_reaches_every_parameter(net):
    net.train()
    targets = torch.randint(0, 3, (2, 33, 40))
    targets[:, :4] = net.classes.ignore
    try:
        losses = net.loss(images(2, 3, 33, 40), targets)
        assert all(value.isfinite() and value.ndim == 0 for value in losses.values())
        sum(losses.values()).backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        nothing = net.loss(images(2, 3, 33, 40), torch.full_like(targets, net.classes.ignore))
        assert all(value == 0 for value in nothing.values())
    finally:
        net.eval().zero_grad(set_to_none=True)


def test_predict_speaks_image_coordinates(net):
    photo = images(37, 50, 3).mul(255).byte().numpy()
    result = net.predict(photo)
    assert isinstance(result, SemanticMap)
    assert result.size == (37, 50)
    assert result.classes == net.classes
    assert result.labels.dtype == torch.uint8
    both = net.predict([photo, photo[:9]])
    assert [r.size for r in both] == [(37, 50), (9, 50)]
    with torch.inference_mode():
        logits = net(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)[0]
    best = logits.topk(2, 0).values
    clear = best[0] - best[1] > 1e-4 * logits.std()
    assert torch.equal(result.labels[clear].long(), logits.argmax(0)[clear])
    assert not net.training


@pytest.fixture
def unchecked():
    """Shapes are not checked while a graph is traced: it has symbols for numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_exports(net):
    x = images(1, 3, 40, 56)
    with torch.no_grad():
        program = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(program(x), net(x))


def test_checkpoint_builds_it_again(net, tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", net)
    again = masklet.load(path)
    assert again.spec == net.spec
    assert again.classes == net.classes
    with torch.inference_mode():
        x = images(1, 3, 33, 40)
        assert torch.equal(again(x), net(x))
