"""Every backbone gives what torchvision's net of that name gives with the same weights, and keeps its promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from masklet.parts.backbones import BACKBONES, build_backbone
from masklet.parts.backbones.resnet import BasicBlock, Bottleneck, ResNet, ResNetSize
from masklet.structures.errors import UserError

RESNET = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
GOOGLENET = {"conv1": "c1", "conv3": "c2", "inception3b": "c3", "inception4e": "c4", "inception5b": "c5"}
ALEXNET = {"features.1": "c2", "features.4": "c3", "features.11": "c4", "features.12": "c5"}


def features(*layers: int) -> dict[str, str]:
    return {f"features.{layer}": f"c{i}" for i, layer in enumerate(layers, 1)}


def bottlenecks(**options: Any) -> nn.Module:
    """torchvision's ResNet with few blocks: the same code as its ResNet-50 and relatives."""
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 2, 3], **options)


def dilated_v3() -> nn.Module:
    from torchvision.models.mobilenetv3 import _mobilenet_v3, _mobilenet_v3_conf

    return _mobilenet_v3(*_mobilenet_v3_conf("mobilenet_v3_large", dilated=True), None, False)


def small(groups: int = 1, width: int = 64, **options: Any) -> ResNet:
    return ResNet(ResNetSize((2, 1, 2, 3), groups=groups, width_per_group=width), **options)


Build = Callable[[], nn.Module]
tv = torchvision.models
PARITY: dict[str, tuple[Build, Build, dict[str, str]]] = {  # ours, torchvision's, its layers that give our levels
    "resnet18": (lambda: build_backbone("resnet18"), tv.resnet18, RESNET),
    "bottlenecks": (small, bottlenecks, RESNET),
    "stride 16": (
        lambda: small(output_stride=16),
        lambda: bottlenecks(replace_stride_with_dilation=(False, False, True)),
        RESNET,
    ),
    "stride 8": (
        lambda: small(output_stride=8),
        lambda: bottlenecks(replace_stride_with_dilation=(False, True, True)),
        RESNET,
    ),
    "resnext": (lambda: small(32, 4), lambda: bottlenecks(groups=32, width_per_group=4), RESNET),
    "vgg11": (lambda: build_backbone("vgg11"), tv.vgg11, features(2, 5, 10, 15, 20)),
    "vgg13_bn": (lambda: build_backbone("vgg13_bn"), tv.vgg13_bn, features(6, 13, 20, 27, 34)),
    "alexnet": (lambda: build_backbone("alexnet"), tv.alexnet, ALEXNET),
    "googlenet": (
        lambda: build_backbone("googlenet"),
        lambda: tv.googlenet(aux_logits=False, init_weights=False),
        GOOGLENET,
    ),
    "mobilenet_v2": (lambda: build_backbone("mobilenet_v2"), tv.mobilenet_v2, features(1, 3, 6, 13, 18)),
    "mobilenet_v3_large": (
        lambda: build_backbone("mobilenet_v3_large"), tv.mobilenet_v3_large, features(1, 3, 6, 12, 16),
    ),
    "mobilenet_v3 stride 16": (
        lambda: build_backbone("mobilenet_v3_large", output_stride=16), dilated_v3, features(1, 3, 6, 12, 16),
    ),
    "mobilenet_v3_small": (
        lambda: build_backbone("mobilenet_v3_small"), tv.mobilenet_v3_small, features(0, 1, 3, 8, 12),
    ),
}  # fmt: skip
# What torchvision has under the same name, and names the same; Swin's tensors keep the authors' names (test_swin).
SIBLINGS = sorted(name for name in BACKBONES if hasattr(tv, name) and not name.startswith("swin"))
ONE_OF_EACH = (
    *("alexnet", "caffenet", "efficientnet_lite0", "googlenet", "mobilenet_v2", "mobilenet_v3_small"),
    *("resnet18", "resnet50_deep", "vgg11", "vgg11_bn"),
)


def randomise(net: nn.Module) -> nn.Module:
    """Random weights (He), with statistics and gains that matter, so that a wrong norm or a swapped layer shows."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                *((part.weight, 0.5, 1.5), (part.bias, -0.3, 0.3)),
                *((part.running_mean, -0.3, 0.3), (part.running_var, 0.5, 1.5)),
            ):
                tensor.data.uniform_(low, high)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.1, 0.1)
    return net.eval()


def on_meta(build: Build) -> nn.Module:
    """The net without memory for its tensors, so that no time goes into weights that are overwritten."""
    with torch.device("meta"):
        return build()


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's tensors without its classifier."""
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}


def listen(net: nn.Module, layers: dict[str, str]) -> dict[str, Tensor]:
    """A dict that these layers of `net` fill when it runs."""
    maps: dict[str, Tensor] = {}
    for layer, level in layers.items():
        net.get_submodule(layer).register_forward_hook(
            lambda _, __, out, level=level: maps.__setitem__(level, out.clone())
        )
    return maps


def worst(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest difference over all levels, relative to the largest value of the level."""
    assert got.keys() == want.keys()
    assert all(got[level].shape == want[level].shape for level in want)
    return max(float((got[level] - want[level]).abs().max() / want[level].abs().max()) for level in want)


@pytest.mark.parametrize("case", PARITY)
@torch.inference_mode()
def test_maps_equal_torchvisions(case: str) -> None:
    ours, theirs, layers = PARITY[case]
    classifier = on_meta(theirs)
    classifier.fc = classifier.classifier = nn.Identity()
    randomise(classifier.to_empty(device="cpu"))
    want = listen(classifier, layers)
    net = on_meta(ours).eval()
    net.load_state_dict(classifier.state_dict(), assign=True)
    images = torch.randn(1, 3, 75, 107)
    classifier(images)
    got = net(images)
    assert worst(got, want) < 1e-5
    for level, x in got.items():
        assert x.shape[1] == net.channels[level]
        assert x.shape[-1] == pytest.approx(107 / net.strides[level], abs=2)
    # Negative control: the last convolution one percent stronger.
    *_, last = (p for p in net.parameters() if p.ndim == 4)
    last.data = last * 1.01
    assert worst(net(images), want) > 1e-4


@pytest.mark.parametrize("name", SIBLINGS)
def test_tensors_have_torchvisions_names_and_shapes(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    ours, theirs = on_meta(lambda: build_backbone(name)), on_meta(lambda: getattr(tv, name)(**options))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in body(theirs.state_dict()).items()
    }


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_name_builds_and_promises(name: str) -> None:
    net = on_meta(lambda: build_backbone(name))
    levels = [f"c{i}" for i in range(1 if "c1" in net.channels else 2, 6)]
    levels = ["c4"] if name.startswith("vit_") else levels  # one scale throughout
    assert list(net.channels) == list(net.strides) == levels
    assert [net.strides[level] for level in levels] == [2 ** int(level[1]) for level in levels]
    assert len(net.pixels.mean) == 3


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trains_on_any_size(name: str) -> None:
    net = build_backbone(name).train()
    net(torch.rand(1, 3, 1, 1))
    maps = net(torch.rand(1, 3, 64, 96))
    assert maps.keys() == net.channels.keys()
    for level, x in maps.items():
        assert x.shape[:2] == (1, net.channels[level])
        assert x.shape[2:] == pytest.approx((64 / net.strides[level], 96 / net.strides[level]), abs=2)
    sum(x.square().mean() for x in maps.values()).backward()
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    assert all(x.isfinite().all() for x in net.eval()(torch.rand(1, 3, 2, 70)).values())


def test_other_options_build_other_nets() -> None:
    wide = on_meta(lambda: build_backbone("googlenet", large=5))
    assert wide.inception3a.branch3[1].conv.kernel_size == (5, 5)
    v2 = on_meta(lambda: build_backbone("mobilenet_v2", output_stride=8))
    assert v2.strides == {"c1": 2, "c2": 4, "c3": 8, "c4": 8, "c5": 8}
    assert v2(torch.empty(1, 3, 65, 97, device="meta"))["c5"].shape == (1, 1280, 9, 13)


@torch.inference_mode()
def test_dilated_resnet_contains_the_strided_one() -> None:
    coarse = randomise(build_backbone("resnet18"))
    fine = build_backbone("resnet18", output_stride=8).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 97, 129)
    got, want = fine(images)["c5"], coarse(images)["c5"]
    assert (got[..., ::4, ::4] - want).abs().max() < 1e-4 * want.abs().max()
    assert (got[..., 1::4, 1::4] - want[..., :3, :4]).abs().max() > 1e-2 * want.abs().max()


def test_dilations_follow_the_origin() -> None:
    def dilations(**options: Any) -> list[list[int]]:
        net = on_meta(lambda: build_backbone("resnet50_deep", output_stride=8, **options))
        return [[block.conv2.dilation[0] for block in layer] for layer in (net.layer2, net.layer3, net.layer4)]

    torchvisions = [[1, 1, 1, 1], [1, 2, 2, 2, 2, 2], [2, 4, 4]]
    semsegs = [[1, 1, 1, 1], [2, 2, 2, 2, 2, 2], [4, 4, 4]]
    assert dilations() == torchvisions
    assert dilations(contract_dilation=False) == semsegs
    assert dilations(multi_grid=(1, 2, 4)) == [*torchvisions[:2], [4, 8, 16]]


@torch.inference_mode()
def test_deep_stem_is_three_small_convolutions() -> None:
    net = randomise(build_backbone("resnet18_deep", stem_width=32))
    images = x = torch.randn(1, 3, 33, 47)
    for conv, norm in ((net.conv1, net.bn1), (net.conv2, net.bn2), (net.conv3, net.bn3)):
        x = norm(conv(x)).relu()
    torch.testing.assert_close(net(images)["c1"], x)
    assert [tuple(c.weight.shape) for c in (net.conv1, net.conv2, net.conv3)] == [
        (32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3),
    ]  # fmt: skip
    assert net.channels["c1"] == 64


def test_stride_sits_where_asked() -> None:
    with torch.device("meta"):
        caffe, torchs = (build_backbone("resnet50", stride_in_1x1=first).layer2[0] for first in (True, False))
        small = build_backbone("resnet18").layer2[0]
    assert isinstance(caffe, Bottleneck)
    assert isinstance(small, BasicBlock)
    assert (caffe.conv1.stride, caffe.conv2.stride) == ((2, 2), (1, 1))
    assert (torchs.conv1.stride, torchs.conv2.stride) == ((1, 1), (2, 2))


def test_frozen_and_group_norm() -> None:
    from masklet.parts.norm import FrozenBatchNorm2d

    with torch.device("meta"):
        frozen = build_backbone("resnet18", norm=FrozenBatchNorm2d)
        assert all("bn" not in name for name, _ in frozen.named_parameters())
        assert isinstance(build_backbone("resnet18", norm="group").bn1, nn.GroupNorm)


@torch.inference_mode()
def test_caffenet_by_hand() -> None:
    net = build_backbone("caffenet").eval()
    assert sum(p.numel() for p in net.parameters()) == 2_334_080  # 56,954,261 with FCN's fc6, fc7 and 21 scores
    assert sum(p.numel() for p in build_backbone("caffenet", groups=1).parameters()) == 3_747_200
    images = torch.rand(1, 3, 67, 99) * 100
    layers, x = net.features, images
    x = F.max_pool2d(layers.conv1(x).relu(), 3, 2, ceil_mode=True)
    # The responses of 5 neighbouring channels divide: x / (1 + alpha / 5 * sum x^2) ** beta (Caffe's LRN).
    around = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    x = x / (1 + 1e-4 / 5 * around) ** 0.75
    halves = [F.conv2d(half, w, b, padding=2) for half, w, b in zip(
        x.chunk(2, 1), layers.conv2.weight.chunk(2), layers.conv2.bias.chunk(2), strict=True
    )]  # fmt: skip
    torch.testing.assert_close(net(images)["c3"], torch.cat(halves, 1).relu(), rtol=1e-4, atol=1e-4)


def test_unknown_names_and_options_are_told_the_nearest() -> None:
    for call, message in (
        (lambda: build_backbone("resnet5O"), r"unknown backbone 'resnet5O'; did you mean 'resnet50'\? choose from a"),
        (lambda: build_backbone("qqq"), "unknown backbone 'qqq'; choose from alexnet, "),
        (lambda: build_backbone("resnet18", dilation=2), "resnet18 has no option 'dilation'; its options: stem, "),
        (lambda: build_backbone("alexnet", depth=2), "alexnet has no option 'depth'; its options: none"),
        (lambda: build_backbone("vgg16", weights="imagenet"), "no 'imagenet' weights come with vgg16; pip installs"),
        (lambda: build_backbone("resnet18", stem="v1"), 'stem is \'v1\'; "basic" is one 7x7'),
        (lambda: build_backbone("resnet18", output_stride=2), "output_stride is 2; a ResNet has 32, 16, 8 and 4"),
        (lambda: build_backbone("resnet18", multi_grid=(1, 2, 4)), r"multi_grid is \(1, 2, 4\); give one factor "),
        (lambda: build_backbone("mobilenet_v2", output_stride=4), "output_stride is 4; a MobileNet has 32, 16 and 8"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(ValueError, match="large is 7; the third branch"):
        build_backbone("googlenet", large=7)
