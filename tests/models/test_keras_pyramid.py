"""The tf.keras pyramid: TensorFlow's padding exactly, the chapter's shapes, and what it learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masklet
from masklet.metrics.semantic import SemanticScore
from masklet.models import build
from masklet.parts.conv import SameConv2d, SameConvTranspose2d
from masklet.structures.errors import UserError
from masklet.weights import from_keras


def test_same_padding_by_hand():
    """Four pixels, kernel 3, stride 2: TensorFlow's filters sit on 0 1 2 and 2 3 _, torch's on _ 0 1 and 1 2 3."""
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    assert conv(x)[0, 0].tolist() == [[54.0, 45.0], [72.0, 54.0]]
    assert F.conv2d(x, conv.weight, stride=2, padding=1)[0, 0].tolist() == [[14.0, 30.0], [57.0, 99.0]]


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (2, 2), (5, 3), (4, 2)])
def test_same_padding_is_tensorflows(kernel, stride):
    """Against a loop over windows, placed as TensorFlow's documentation says."""
    for height, width in itertools.product((7, 8, 9), (5, 6)):
        conv = SameConv2d(2, 3, kernel, stride)
        x = torch.randn(1, 2, height, width)
        rows, columns = -(-height // stride), -(-width // stride)
        above = max((rows - 1) * stride + kernel - height, 0) // 2
        left = max((columns - 1) * stride + kernel - width, 0) // 2
        room = F.pad(x, (kernel, 3 * kernel, kernel, 3 * kernel))
        want = torch.zeros(1, 3, rows, columns)
        for i, j in itertools.product(range(rows), range(columns)):
            top, start = i * stride - above + kernel, j * stride - left + kernel
            window = room[0, :, top : top + kernel, start : start + kernel]
            want[0, :, i, j] = (conv.weight * window).sum((1, 2, 3)) + conv.bias
        torch.testing.assert_close(conv(x), want)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (2, 2), (4, 2), (3, 1)])
def test_transposed_is_the_adjoint(kernel, stride):
    """<conv(x), y> = <x, transposed(y)> for the same weight: how TensorFlow defines its transposed convolution."""
    conv = SameConv2d(2, 3, kernel, stride, bias=False)
    back = SameConvTranspose2d(3, 2, kernel, stride, bias=False)
    with torch.no_grad():
        back.weight.copy_(conv.weight)
    x, y = torch.randn(1, 2, 6 * stride, 4 * stride), torch.randn(1, 3, 6, 4)
    assert back(y).shape == x.shape
    torch.testing.assert_close((conv(x) * y).sum(), (x * back(y)).sum(), rtol=1e-4, atol=1e-4)


def test_the_chapters_shapes():
    """Input 480x640, four classes: every level, the joined map, and the way back to full size."""
    with torch.device("meta"):
        net = build("keras_pyramid").eval()
        x = torch.zeros(1, 3, 480, 640)
        maps = net.pyramid(x)
        assert [tuple(m.shape[1:]) for m in maps] == [(256, 120, 160), (256, 60, 80), (512, 30, 40), (512, 15, 20)]
        assert net.enlarge.up_x2.conv.in_channels == 256 + 3 * 256
        assert net.enlarge.up_x2(torch.zeros(1, 1024, 120, 160)).shape == (1, 256, 240, 320)
        assert net(x).shape == (1, 4, 480, 640)
        assert net.frame.covers(481, 640) == (512, 640)
        convs = [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) - 3 == 55  # a ResNet56 counts its classifier and not its three shortcuts
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}  # Keras counts what stays: .99
        assert len(build("keras_pyramid", layers=4).deeper) == 3
    with pytest.raises(UserError, match="layers is 0, blocks 6; give at least one of each"):
        build("keras_pyramid", layers=0)


def keras_names(net: nn.Module) -> dict[str, str]:
    """Our tensors under the names that Keras gives them, in the order in which the chapter's code makes the layers.

    Written from that order, not from the rules: stem; per block three convolutions, then the shortcut; the rest.
    """
    norms = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    counts = {"conv2d": itertools.count(), "batch_normalization": itertools.count()}
    names: dict[str, str] = {}

    def add(path: str, name: str | None = None) -> None:
        layer = net.get_submodule(path)
        kind = "batch_normalization" if isinstance(layer, nn.BatchNorm2d) else "conv2d"
        if name is None:
            number = next(counts[kind])
            name = f"{kind}_{number}" if number else kind
        for ours in layer.state_dict():
            if ours != "num_batches_tracked":
                theirs = norms[ours] if kind != "conv2d" else {"weight": "kernel", "bias": "bias"}[ours]
                names[f"{path}.{ours}"] = f"{name}/{theirs}:0"

    add("backbone.stem.conv")
    add("backbone.stem.norm")
    for i, block in enumerate(net.backbone.blocks):
        for part in "abc":
            if hasattr(getattr(block, part), "norm"):
                add(f"backbone.blocks.{i}.{part}.norm")
            add(f"backbone.blocks.{i}.{part}.conv")
        if not isinstance(block.shortcut, nn.Identity):
            add(f"backbone.blocks.{i}.shortcut")
    add("backbone.norm")
    for i in range(len(net.deeper)):
        add(f"deeper.{i}.conv", f"conv__layer{i + 2}")
        add(f"deeper.{i}.norm", f"bn__layer{i + 2}")
    for i in range(len(net.lateral)):
        add(f"lateral.{i}.conv", f"conv_fcn_{8 << i}")
        add(f"lateral.{i}.norm", f"bn_fcn_{8 << i}")
    for step in ("up_x2", "up_x4"):
        add(f"enlarge.{step}.conv", f"tconv_{step}")
        add(f"enlarge.{step}.norm", f"bn_{step}")
    add("classifier", "pre_activation")
    return names


def write_h5(path, net: nn.Module) -> None:
    """A file as tf.keras' save_weights lays it out; the backbone is a model inside the model."""
    h5py = pytest.importorskip("h5py")
    state, groups = net.state_dict(), {}
    for ours, theirs in keras_names(net).items():
        array = state[ours].numpy()
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        layer = "model" if ours.startswith(("backbone", "deeper")) else theirs.split("/")[0]
        groups.setdefault(layer, {})[theirs] = np.ascontiguousarray(array)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ["input_2", *groups]]
        file.create_group("input_2").attrs["weight_names"] = np.zeros(0, "S1")
        for layer, arrays in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(name, data=array)


def test_h5_round_trip(tmp_path):
    torch.manual_seed(0)
    net = build("keras_pyramid", num_classes=4, pyramid_filters=512, filters=256).eval()
    for value in net.state_dict().values():
        if value.ndim == 1:
            nn.init.uniform_(value, 0.5, 1.5)
    path = tmp_path / "ResNet56v2-3layer-drinks-best-iou.h5"
    write_h5(path, net)
    again = masklet.load("keras_pyramid", weights=path)
    assert again.spec["options"] == {"num_classes": 4, "layers": 3, "blocks": 6}
    ours = net.state_dict()
    different = [key for key, value in again.state_dict().items() if not torch.equal(value, ours[key])]
    assert [key for key in different if not key.endswith("num_batches_tracked")] == []


def test_kernels_of_keras_are_height_width_in_out():
    """And height, width, out, in for a transposed one: the same turn fits both."""
    rule = next(r for r in from_keras.ORIGIN.layouts[0].rules if r.to == "enlarge.up_x2.conv.weight")
    kernel = torch.zeros(3, 3, 256, 1024)  # takes 1024
    assert rule.fix(kernel).shape == SameConvTranspose2d(1024, 256, 3, 2).weight.shape


def score(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> float:
    table = SemanticScore(net.classes, mode="image")
    for result, target in zip(net.predict(images), targets, strict=True):
        table.update(result.labels, target)
    return table.compute()["miou"]


@pytest.mark.slow
def test_learns_two_images():
    from masklet.data.synthetic import synthetic

    torch.manual_seed(0)
    samples = synthetic("drinks", size=64)[:2]
    images = torch.stack([sample.image for sample in samples]) / 255
    targets = torch.stack([sample.semantic for sample in samples]).long()
    net = build(
        "keras_pyramid", classes=list(samples.classes.names), blocks=2, pyramid_filters=64, filters=32, momentum=0.1
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)  # the chapter's
    for _step in range(120):
        loss = sum(net.train().loss(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    assert score(net, images, targets) > 0.98


@pytest.mark.slow
def test_learns_drinks(tmp_path):
    """Drawn drinks, small, a thinner net: mIoU over .9 on pictures that it has not seen."""
    from masklet.recipes.semantic import SemanticRecipe, run

    recipe = SemanticRecipe(
        data="synthetic:drinks@96x128",
        model="keras_pyramid",
        options={"blocks": 2, "pyramid_filters": 64, "filters": 32, "momentum": 0.1},
        crop=None,
        scale=(1.0, 1.0),
        rotate=0.0,
        blur=0.0,
        batch=8,
        epochs=6,
        lr=3e-3,
        ema=0.0,
        workers=0,
    )
    result = run(recipe, tmp_path, progress=False)
    assert result.scores["miou"] > 0.9
