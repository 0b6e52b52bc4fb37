"""Classifiers as convolutions, receptive fields, shift-and-stitch against dilation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from masklet.parts.dense import Field, atrous, compose, convolutionize, receptive_field, shift_and_stitch
from masklet.structures.errors import UserError

ALEXNET = ((11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2), (6, 1))
VGG16 = (*((3, 1), (3, 1), (2, 2)) * 2, *((3, 1), (3, 1), (3, 1), (2, 2)) * 3, (7, 1))
INCEPTION = (5, 1)
GOOGLENET = (
    *((7, 2), (3, 2), (1, 1), (3, 1), (3, 2)),
    *(INCEPTION, INCEPTION, (3, 2), *(INCEPTION,) * 5, (3, 2), INCEPTION, INCEPTION),
    (7, 1),
)


@pytest.fixture(scope="module", autouse=True)
def _quick_init():
    """Torchvision's classifiers with plain small weights: its own initialisation takes longer than the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "trunc_normal_", "normal_", "kaiming_uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor.data.uniform_(-0.03, 0.03))
        yield


def test_receptive_fields_of_the_lecture():
    assert [compose(net) for net in (ALEXNET, VGG16, GOOGLENET)] == [Field(355, 32), Field(404, 32), Field(907, 32)]
    assert compose(VGG16[:-1]) == (212, 32)
    assert compose(GOOGLENET[:-1]) == (715, 32)
    assert [compose([(3, 1)] * n).size for n in range(4)] == [1, 3, 5, 7]  # 1 + 2 L


def test_receptive_field_of_modules():
    with torch.device("meta"):
        vgg, alexnet = torchvision.models.vgg16(), torchvision.models.alexnet()
        assert receptive_field(nn.Sequential(vgg.features, nn.Conv2d(512, 8, 7))) == (404, 32)
        assert receptive_field(nn.Sequential(alexnet.features, nn.Conv2d(256, 8, 6))) == (355, 32)


def test_receptive_field_takes_the_widest_branch_and_counts_holes():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(3, 2, 1, 2), nn.Conv2d(3, 2, 3, 2, 2, dilation=2)

        def forward(self, x):
            a, b = self.narrow(x), self.wide(x)
            return {"c1": a, "sum": a + F.max_pool2d(b, 3, 1, 1), "mean": F.adaptive_avg_pool2d(b, 1)}

    net = Branches().train()
    assert receptive_field(net, "c1", 32) == (1, 2)
    assert receptive_field(net, "sum", 32) == (5 + 2 * 2, 2)
    assert receptive_field(net, "mean", 32) == (5 + 15 * 2, 2 * 16)
    assert net.training
    with pytest.raises(UserError, match="no feature 'c9'; level is one of c1, sum, mean"):
        receptive_field(net, "c9", 32)
    with pytest.raises(UserError, match="the receptive field ends where upsampling begins"):
        receptive_field(nn.Upsample(scale_factor=2), size=8)


def test_receptive_field_is_what_gradient_reaches():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AvgPool2d(3, 2), nn.Conv2d(4, 4, 3, dilation=2))
    size, stride = receptive_field(net, size=128)
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    out = net(x)
    out[0, :, 3, 3].sum().backward()
    reached = (x.grad[0].abs().sum(0) > 0).nonzero()
    assert (reached.max(0).values - reached.min(0).values + 1).tolist() == [size, size]
    assert reached.min(0).values.tolist() == [3 * stride, 3 * stride]


def narrow_vgg16() -> nn.Module:
    """VGG16 with 64 instead of 4096 hidden units, for time and memory."""
    with torch.device("meta"):
        net = torchvision.models.vgg16(init_weights=False)
    net.classifier[0], net.classifier[3] = nn.Linear(512 * 7 * 7, 64), nn.Linear(64, 64)
    net.classifier[6] = nn.Linear(64, 1000)
    net.features = net.features.to_empty(device="cpu")
    for part in net.features:
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return net


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "resnet18", "googlenet", "mobilenet_v2"])
def test_classifiers_slide(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    net = narrow_vgg16() if name == "vgg16" else getattr(torchvision.models, name)(**options)
    net.train()
    dense = convolutionize(net)
    assert net.training
    net, dense = net.eval(), dense.eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        want, got = net(image), dense(image)
        assert got.shape == (1, 1000, 1, 1)
        assert (got.flatten(1) - want).abs().max() <= 1e-4 * want.std()
        assert dense(torch.rand(1, 3, 288, 320)).shape == (1, 1000, 3, 4)


def test_refuses_what_would_be_miscounted():
    class Hidden(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    layers = nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5)
    assert convolutionize(nn.Sequential(*layers), 8)[-1].weight.shape == (5, 4, 3, 3)
    with pytest.raises(UserError, match=r"Hidden does more than run its children in order; pass an nn.Sequential"):
        convolutionize(Hidden(*layers), 8)
    with pytest.raises(UserError, match="a layer of 36 inputs follows a 4x7x7 map; give the size="):
        convolutionize(nn.Sequential(*layers), 16)
    with pytest.raises(UserError, match=r"Sequential ends in a \(7, 7\) map"):
        convolutionize(nn.Sequential(layers[0]), 16)
    with pytest.raises(UserError, match=r"pooling 7x7 to \(2, 2\) does not slide"):
        convolutionize(nn.Sequential(layers[0], nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(16, 5)), 16)


@pytest.mark.parametrize("stride", [2, 3])
def test_shift_and_stitch_is_dilation(stride):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride), nn.ReLU(), nn.Conv2d(6, 5, 3)).double()
    image = torch.rand(2, 3, 21, 26, dtype=torch.float64)
    with torch.no_grad():
        stitched, dense = shift_and_stitch(net, image, stride), atrous(net)(image)
    assert stitched.shape == dense.shape == (2, 5, 21 - 2 - 2 * stride, 26 - 2 - 2 * stride)
    assert torch.allclose(stitched, dense, rtol=0, atol=1e-12)
    assert torch.allclose(dense[..., ::stride, ::stride], net(image), rtol=0, atol=1e-12)


def test_shift_and_stitch_with_pooling():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 2), nn.Conv2d(4, 4, 2), nn.MaxPool2d(2, 2), nn.Conv2d(4, 2, 2)
    )
    net, image = net.double(), torch.rand(1, 3, 24, 31, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(shift_and_stitch(net, image, 4), atrous(net)(image), rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="is smaller than the stride 4"):
        shift_and_stitch(net, image[..., :3], 4)
    with pytest.raises(UserError, match="atrous cannot open a Sequential"):
        atrous(nn.Sequential(net))
