"""Deformable convolutions against loops over a small map, and inside a ResNet."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.parts.backbones import build_backbone
from masklet.parts.deformable import DeformableConv2d
from masklet.structures.errors import UserError


def value(plane: Tensor, y: float, x: float) -> float:
    """Interpolated between the four cells around a place; beyond the map everything is 0."""
    top, left, out = math.floor(y), math.floor(x), 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            out += plane[row, column].item() * (1 - abs(y - row)) * (1 - abs(x - column))
    return out


@pytest.mark.parametrize(("version", "stride", "dilation"), [(1, 1, 1), (2, 1, 2), (2, 2, 1)])
def test_every_tap_goes_where_it_is_told(version, stride, dilation):
    layer = DeformableConv2d(2, 3, 3, stride, dilation, dilation, version=version)
    torch.nn.init.normal_(layer.offset.weight, std=0.3)
    torch.nn.init.normal_(layer.offset.bias)
    x = torch.randn(1, 2, 5, 6)
    with torch.no_grad():
        found, said = layer(x)[0], layer.offset(x)[0]
    assert found.shape == F.conv2d(x, layer.weight, None, stride, dilation, dilation).shape[1:]
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            want = layer.bias.detach().clone()
            for tap in range(9):
                y = row * stride - dilation + tap // 3 * dilation + said[2 * tap, row, column].item()
                z = column * stride - dilation + tap % 3 * dilation + said[2 * tap + 1, row, column].item()
                share = said[18 + tap, row, column].sigmoid().item() if version == 2 else 1.0
                seen = share * torch.tensor([value(plane, y, z) for plane in x[0]])
                want += layer.weight.detach()[:, :, tap // 3, tap % 3] @ seen
            torch.testing.assert_close(found[:, row, column], want, rtol=1e-4, atol=1e-5)


def test_a_new_one_is_a_plain_convolution():
    x = torch.randn(2, 4, 7, 5)
    for version, share in ((1, 1.0), (2, 0.5)):
        layer = DeformableConv2d(4, 6, 3, padding=1, bias=False, version=version)
        torch.testing.assert_close(layer(x), share * F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-5)
        layer(x).square().sum().backward()
        assert layer.offset.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="version is 3; deformable convolutions have 1 and 2"):
        DeformableConv2d(4, 6, 3, version=3)


def test_a_resnet_has_them_where_it_should():
    with torch.device("meta"):
        plain, body = build_backbone("resnet50"), build_backbone("resnet50", deformable=2, deformable_interval=3)
    moving = [name for name, part in body.named_modules() if isinstance(part, DeformableConv2d)]
    assert moving == [f"layer{i}.{j}.conv2" for i, blocks in ((2, 4), (3, 6), (4, 3)) for j in range(0, blocks, 3)]
    extra = sum(p.numel() for p in body.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == sum(27 * (9 * width + 1) * count for width, count in ((128, 2), (256, 2), (512, 1)))
    small = build_backbone("resnet50", deformable=1, deformable_stages=(5,))
    assert all(not part.offset.weight.any() for part in small.modules() if isinstance(part, DeformableConv2d))
    assert small(torch.rand(1, 3, 33, 40))["c5"].shape == (1, 2048, 2, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"deformable": 1}, "only bottlenecks have deformable convolutions; take resnet50 or a deeper one"),
        ("resnet50", {"deformable": 3}, "deformable is 3; 0 is none, 1 moves the taps, 2 weighs them as well"),
    ],
)
def test_a_resnet_that_cannot_have_them(name, options, message):
    with pytest.raises(UserError) as caught:
        build_backbone(name, **options)
    assert str(caught.value) == message
