"""timm's own networks, with random weights and norms, give our backbones the same maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from masklet.parts.backbones import build_backbone
from masklet.structures.errors import UserError
from masklet.weights import fill, recognise

timm = pytest.importorskip("timm")


def random_net(name: str) -> nn.Module:
    """Norms that do something: a fresh one is the identity and would hide a mix-up."""
    net = timm.create_model(name, pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.normal_(0, 0.1)
    return net.eval()


def before_head(net: nn.Module, images: Tensor) -> Tensor:
    """EfficientNet counts one convolution to its features that we count to its head."""
    return net.blocks(net.bn1(net.conv_stem(images)))


def features(net: nn.Module, images: Tensor) -> Tensor:
    return net.forward_features(images)


@pytest.mark.parametrize(
    ("theirs", "ours", "origin", "options", "last_map"),
    [
        ("resnet18", "resnet18", "torchvision", {}, features),
        ("resnet50c", "resnet50_deep", "timm", {"stem_width": 32}, features),
        ("mobilenetv2_100", "mobilenet_v2", "timm", {}, features),
        ("mobilenetv3_large_100", "mobilenet_v3_large", "timm", {}, features),
        ("mobilenetv3_small_100", "mobilenet_v3_small", "timm", {}, features),
        ("tf_efficientnet_lite0", "efficientnet_lite0", "timm", {}, before_head),
    ],
)
def test_the_same_maps(theirs, ours, origin, options, last_map):
    net, body = random_net(theirs), build_backbone(ours, **options).eval()
    state = net.state_dict()
    assert recognise(state, "backbone")[0] == origin
    report = fill(body, state)
    assert len(report.loaded) + len(report.dropped) == len(state)
    assert all(key.startswith(("fc.", "classifier.", "conv_head.", "bn2.")) for key in report.dropped)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        want, got, swapped = last_map(net, images), body(images)["c5"], body(images.flip(1))["c5"]
    scale = want.std()
    assert scale > 1e-4
    assert (got - want).abs().max() < 1e-4 * scale
    assert (swapped - want).abs().max() > 1e-2 * scale, "colours do not matter: vacuous"


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg16"])
def test_vgg(name):
    with torch.device("meta"):
        report = fill(build_backbone(name), timm.create_model(name, pretrained=False).state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"pre_logits", "head"}


def test_the_same_names_with_other_padding_are_another_network():
    """Why the rules name the networks that they are for."""
    net, body = random_net("efficientnet_lite0"), build_backbone("efficientnet_lite0").eval()
    fill(body, net.state_dict(), origin="timm")
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        want = before_head(net, images)
        assert (body(images)["c5"] - want).abs().max() > 0.1 * want.std()


def test_relatives_are_not_taken_for_these():
    with torch.device("meta"):
        for name in ("efficientnet_lite1", "mobilenetv3_large_075"):
            state = timm.create_model(name, pretrained=False).state_dict()
            for ours in ("mobilenet_v2", "mobilenet_v3_large", "efficientnet_lite0"):
                with pytest.raises(UserError):
                    fill(build_backbone(ours), state)
