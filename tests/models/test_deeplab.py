"""DeepLab v3 against torchvision's own, v3 and v3+ against the recorded outputs of mmsegmentation and detectron2."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import masklet
import oracle
from masklet.models import build
from masklet.models.base import upsample
from masklet.parts.context import ASPP
from masklet.parts.conv import init_kaiming
from masklet.parts.losses import hardest_cross_entropy
from masklet.structures.errors import UserError


def randomise(model: nn.Module) -> nn.Module:
    """Statistics that matter: with those of a fresh batch norm, half of its mistakes would not show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


@pytest.fixture(scope="module", params=["resnet50", "mobilenet_v3_large"])
def pair(request, tmp_path_factory):
    """Torchvision's model, and ours loaded from its file."""
    path = tmp_path_factory.mktemp("deeplab") / f"deeplabv3_{request.param}_coco.pth"
    make = getattr(torchvision.models.segmentation, f"deeplabv3_{request.param}")
    theirs = randomise(init_kaiming(make(weights=None, weights_backbone=None, aux_loss=True))).eval()
    torch.save(theirs.state_dict(), path)
    return theirs, masklet.load("deeplabv3", weights=path)


def test_logits_are_torchvisions(pair):
    theirs, ours = pair
    for size, batch in (((49, 65), 1), ((50, 33), 2)):
        x = torch.rand(batch, 3, *size)
        with torch.inference_mode():
            want, got = theirs(ours.normalize(x)), ours(x)
            aux = F.interpolate(ours.aux_head(ours.features(x)[ours.aux_level]), size, mode="bilinear")
            # What must not pass: colours in another order, corners aligned, other dilations.
            assert (ours(x.flip(1)) - want["out"]).abs().max() / want["out"].std() > 0.05
            ours.align_corners = True
            assert (ours(x) - want["out"]).abs().max() / want["out"].std() > 0.01
            ours.align_corners = False
        assert (got - want["out"]).abs().max() / want["out"].std() < 1e-5
        assert (aux - want["aux"]).abs().max() / want["aux"].std() < 1e-5
    with torch.inference_mode():
        for level in ours.aspp.levels[1:]:
            level.conv.dilation = level.conv.padding = (3, 3)
        assert (ours(x) - want["out"]).abs().max() / want["out"].std() > 0.01


def test_parameters():
    count = lambda name, **options: sum(p.numel() for p in build(name, **options).parameters())  # noqa: E731
    with torch.device("meta"):
        assert count("deeplabv3") == 42_004_074
        assert count("deeplabv3", backbone="resnet101") == 60_996_202
        assert count("deeplabv3", layout="mmseg", num_classes=19) == 68_113_030
        options = {"layout": "mmseg", "backbone": "resnet50", "output_stride": 8, "separable": True, "aux_weight": 0.4}
        assert count("deeplabv3plus", num_classes=19, **options) == 43_589_878
        assert build("deeplabv3", aux_weight=0.0).aux_head is None


@pytest.fixture(scope="module")
def plus(tmp_path_factory):
    folder = oracle.find("d2_deeplab_v3plus_r103")
    path = tmp_path_factory.mktemp("plus") / "model_final.pth"
    torch.save({"model": oracle.state_dict(folder)}, path)
    return masklet.load("deeplabv3plus", weights=path), folder


def test_detectron2_stage_by_stage(plus):
    model, folder = plus
    assert model.spec["options"]["backbone"] == "resnet101"
    x = oracle.image(folder)
    with torch.inference_mode():
        oracle.check("input.tensor", model.normalize(x), folder)
        features = model.features(x)
        oracle.check("backbone.res2", features["c2"], folder)
        oracle.check("backbone.res5", features["c5"], folder)
        oracle.check("logits_small", model.decode(features), folder)
        logits = model(x)
        oracle.check("logits", logits, folder)
        clear = logits.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 1e-3
        assert (logits.argmax(1).numpy() == oracle.recorded("argmax", folder))[clear.numpy()].all()
        targets = torch.from_numpy(oracle.recorded("in.sem_gt", folder)).long()[None]
        loss = model.loss(x, targets)["main"].item()
        # What must not pass: colours or classes in another order, the fine map behind the deep one.
        assert oracle.difference("logits", model(x.flip(1)), folder) > 0.1
        assert oracle.difference("logits", logits.roll(1, 1), folder) > 0.1
        fine = model.reduce(features["c2"])
        deep = F.interpolate(model.aspp(features["c5"]), fine.shape[-2:], mode="bilinear")
        assert oracle.difference("logits_small", model.head(torch.cat([deep, fine], 1)), folder) > 0.1
    assert loss == pytest.approx(oracle.meta(folder)["arrays"]["loss.loss_sem_seg"]["mean"], rel=1e-5)


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus"])
def test_mmsegmentation_stage_by_stage(name):
    folder = oracle.find(f"mmseg_{name}_r50_d8")
    model, x = masklet.load(name, weights=oracle.state_dict(folder)), oracle.image(folder)
    with torch.inference_mode():
        features = model.features(x)
        oracle.check("backbone.3", features["c5"], folder)
        pyramid = model.aspp(features["c5"])
        oracle.check("aspp_project", pyramid, folder)
        scores = model.head(pyramid) if name == "deeplabv3" else model.decode(features)
        oracle.check("logits_small", scores, folder)
        oracle.check("aux_logits_small", model.aux_head(features["c4"]), folder)
        logits = upsample(model, scores, x.shape[-2:])
        oracle.check("logits", logits, folder)
        # What must not pass: colours or classes in another order, corners aligned, the average before the levels.
        assert oracle.difference("backbone.3", model.features(x.flip(1))["c5"], folder) > 0.1
        assert oracle.difference("logits", logits.roll(1, 1), folder) > 0.1
        model.align_corners = True
        assert oracle.difference("logits", upsample(model, scores, x.shape[-2:]), folder) > 0.05
        weight = model.aspp.project.conv.weight
        weight.copy_(weight.roll(512, 1))
        assert oracle.difference("aspp_project", model.aspp(features["c5"]), folder) > 0.1


def test_scores_reach_past_odd_images(plus):
    """detectron2 enlarges by four whatever comes out, then cuts."""
    model = plus[0]
    x = torch.rand(1, 3, 37, 50)
    with torch.inference_mode():
        want = F.interpolate(model.scores(x), scale_factor=4, mode="bilinear")[..., :37, :50]
        torch.testing.assert_close(model(x), want)
        assert model.scores(x).shape[-2:] == (10, 13)


def test_windowed_average():
    aspp = ASPP(4, 6, rates=(1,), window=(3, 9)).eval()
    assert ASPP(4, 6, rates=(1,), average_norm=None).average.conv.bias is not None
    x = torch.randn(1, 4, 5, 7)
    with torch.inference_mode():
        mean = aspp._mean(x)
        assert mean.shape == (1, 4, 3, 1)  # three places for the window's rows; its nine columns do not fit: all seven
        torch.testing.assert_close(mean[..., 0, 0], x[..., :3, :].mean((2, 3)))
        aspp.window = None
        whole = aspp(x)
        aspp.window = (50, 50)
        torch.testing.assert_close(aspp(x), whole)
    with pytest.raises(ValueError, match=r"rates is \(\); give at least one positive dilation, as \(6, 12, 18\)"):
        ASPP(4, 6, rates=())


def test_hardest_pixels_by_hand():
    """Four of five pixels are labelled; the worst two of the five count."""
    logits = torch.tensor([[2.0, 0.0, -1.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]])[None]  # b k n
    target = torch.tensor([[0, 0, 0, 0, 255]])
    each = F.cross_entropy(logits[..., :4], target[:, :4], reduction="none")[0]
    want = (each[1] + each[2]) / 2
    torch.testing.assert_close(hardest_cross_entropy(logits, target, share=0.4), want)
    assert hardest_cross_entropy(logits, torch.full_like(target, 255)) == 0
    all_wrong = hardest_cross_entropy(logits, target.clamp(max=1), share=1.0)
    torch.testing.assert_close(all_wrong, F.cross_entropy(logits, target.clamp(max=1)))


def test_dilations_follow_the_stride():
    with torch.device("meta"):

        def rates(**options) -> list[int]:
            aspp = build("deeplabv3", backbone="resnet18", **options).aspp
            return [level.conv.dilation[0] for level in aspp.levels[1:]]

        assert rates() == [12, 24, 36]
        assert rates(output_stride=16) == [6, 12, 18]
        assert rates(rates=(2, 3)) == [2, 3]
        spread = build("deeplabv3plus", backbone="resnet18", multi_grid=(1, 2), separable=True)
        assert [block.conv1.dilation[0] for block in spread.backbone.layer4] == [2, 4]
        assert spread.aspp.levels[1].depthwise.conv.groups == 512
    assert message("deeplabv3", layout="caffe") == (
        "unknown layout of deeplabv3 'caffe'; layouts: detectron2, mmseg, torchvision"
    )
    assert message("deeplabv3plus", loss="dice") == (
        "unknown loss of deeplabv3plus 'dice'; losses: cross_entropy, hard_pixels"
    )


def message(name: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        build(name, **options)
    return str(caught.value)
