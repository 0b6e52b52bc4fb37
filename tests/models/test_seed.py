"""The lecture's three networks: sizes, names, and the behaviour that its code intends."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from masklet.data.collate import collate_semantic
from masklet.data.synthetic import synthetic
from masklet.metrics.semantic import SemanticScore
from masklet.models import build


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"), [("seed_fcn", 13_334_050), ("seed_fcns", 18_643_746), ("seed_unet", 31_031_810)]
)
def test_parameter_counts_are_the_printed_ones(name, count):
    assert parameters(build(name)) == count


def test_state_dict_names_are_the_lectures():
    names = set(build("seed_fcn").state_dict())
    assert {"block1.0.weight", "block1.2.bias", "block5.2.weight", "deconv1.weight", "bn5.running_var"} <= names
    assert {name.split(".")[0] for name in names} == {
        *(f"{part}{i}" for part in ("block", "deconv", "bn") for i in range(1, 6)),
        "classifier",
    }
    unet = build("seed_unet").state_dict()
    assert {name.split(".")[0] for name in unet} == {
        *(f"down_conv{i}" for i in range(1, 6)),
        *(f"{part}{i}" for part in ("trans", "up_conv") for i in range(1, 5)),
        "out",
    }
    assert unet["trans1.weight"].shape == (1024, 512, 2, 2)
    assert unet["up_conv1.0.weight"].shape == (512, 1024, 3, 3)


def test_seed_fcns_holds_torchvisions_vgg16_features():
    features = torchvision.models.vgg16(weights=None).features
    model = build("seed_fcns").eval()
    wanted = {f"pretrained_net.features.{k}": v for k, v in features.state_dict().items()}
    assert {k: v.shape for k, v in wanted.items()} == {
        k: v.shape for k, v in model.state_dict().items() if k.startswith("pretrained_net")
    }
    model.load_state_dict({**model.state_dict(), **wanted})
    x, maps = torch.rand(1, 3, 64, 96), []
    with torch.inference_mode():
        got = model.pretrained_net(x)
        for begin, end in ((0, 5), (5, 10), (10, 17), (17, 24), (24, 31)):  # the lecture's ranges
            x = features[begin:end](x)
            maps.append(x)
    assert len(got) == 5
    assert all(torch.equal(a, b) for a, b in zip(got, maps, strict=True))


def as_intended(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The lecture's `FCN.forward` with `self.relu` made, word for word otherwise."""
    relu = nn.ReLU()
    x1 = net.block1(x)
    x2 = net.block2(x1)
    x3 = net.block3(x2)
    x4 = net.block4(x3)
    score = net.bn1(relu(net.deconv1(net.block5(x4)))) + x4
    score = net.bn2(relu(net.deconv2(score))) + x3
    score = net.bn3(relu(net.deconv3(score))) + x2
    score = net.bn4(relu(net.deconv4(score))) + x1
    return net.classifier(net.bn5(relu(net.deconv5(score))))


def test_seed_fcn_computes_the_lectures_forward():
    net = build("seed_fcn").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(net(x), as_intended(net, net.normalize(x)))


def crop_as_intended(target: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The lecture's `crop_tensor` with the two sizes the right way round: the larger map is cut to the smaller."""
    delta = (target.shape[2] - like.shape[2]) // 2
    return target[:, :, delta : target.shape[2] - delta, delta : target.shape[2] - delta]


def test_seed_unet_computes_the_lectures_forward():
    net, pool = build("seed_unet").eval(), nn.MaxPool2d(2)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        x1 = net.down_conv1(net.normalize(image))
        x3 = net.down_conv2(pool(x1))
        x5 = net.down_conv3(pool(x3))
        x7 = net.down_conv4(pool(x5))
        x = net.down_conv5(pool(x7))
        for i, skip in enumerate((x7, x5, x3, x1), 1):
            x = getattr(net, f"trans{i}")(x)
            x = getattr(net, f"up_conv{i}")(torch.cat((x, crop_as_intended(skip, x)), 1))
        assert torch.equal(net(image), net.out(x))


def test_odd_sizes_are_padded_with_the_middling_colour():
    net = build("seed_fcn").eval()
    x = torch.rand(1, 3, 33, 57)
    larger = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1).repeat(1, 1, 64, 64)
    larger[..., :33, :57] = x
    with torch.inference_mode():
        torch.testing.assert_close(net(x), net(larger)[..., :33, :57], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seed_fcn", "seed_fcns"])
def test_they_learn_to_find_the_flood(name):
    """60 steps of 8 drawn floods; the U-Net, which has no normalisation, takes longer to start."""
    floods = synthetic("flood", "train", size=64)
    model = build(name, classes=floods.classes)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, 60)
    for step in range(60):
        images, targets = collate_semantic([floods[(8 * step + i) % len(floods)] for i in range(8)])
        optimizer.zero_grad()
        sum(model.loss(images, targets).values()).backward()
        optimizer.step()
        schedule.step()
    score = SemanticScore(floods.classes)
    for sample in synthetic("flood", "val", size=64):
        score.update(model.predict(sample.image).labels, sample.semantic)
    assert score.compute()["iou/flooded"] > 0.9
