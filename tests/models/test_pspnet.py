"""PSPNet against the recorded outputs of semseg and mmsegmentation, and the decoder of segmentation-models-pytorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import masklet
import oracle
from conftest import shared
from masklet.models import build
from masklet.parts.context import PyramidPooling
from masklet.structures.errors import UserError


def load(name, tmp_path_factory):
    folder = shared("oracles", name)
    path = tmp_path_factory.mktemp(name) / "pspnet.safetensors"
    save_file(oracle.state_dict(folder), path)
    return masklet.load("pspnet", weights=path), folder


@pytest.fixture(scope="module")
def semseg(tmp_path_factory):
    return load("semseg_pspnet50", tmp_path_factory)


@pytest.fixture(scope="module")
def mmseg(tmp_path_factory):
    return load("mmseg_pspnet_r50_d8", tmp_path_factory)


def check_labels(logits, folder):
    clear = logits.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 1e-3
    assert (logits.argmax(1).numpy() == oracle.recorded("argmax", folder))[clear.numpy()].all()


def check_controls(model, x, logits, folder):
    """What must not pass: classes or colours in another order, corners of the enlarged scores misplaced."""
    scores = model.scores(x)
    other = F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=not model.align_corners)
    assert oracle.difference("logits", other, folder) > 0.01
    assert oracle.difference("logits", logits.roll(1, 1), folder) > 0.1
    model.pyramid.align_corners = not model.align_corners
    assert oracle.difference("logits", model(x.flip(1)), folder) > 0.1
    model.pyramid.align_corners = model.align_corners


def test_semseg_stage_by_stage(semseg):
    model, folder = semseg
    x = oracle.image(folder)
    with torch.inference_mode():
        oracle.check("input.tensor", model.normalize(x), folder)
        features = model.features(x)
        oracle.check("backbone.stem", F.max_pool2d(features["c1"], 3, 2, 1), folder)
        for i in range(1, 5):
            oracle.check(f"backbone.layer{i}", features[f"c{i + 1}"], folder)
        pyramid = model.pyramid(features["c5"])
        oracle.check("ppm", pyramid, folder)
        oracle.check("logits_stride8", model.head(pyramid), folder)
        oracle.check("aux_logits_stride8", model.aux_head(features["c4"]), folder)
        logits = model(x)
        oracle.check("logits", logits, folder)
        check_labels(logits, folder)
        losses = model.loss(x, torch.from_numpy(oracle.recorded("in.sem_gt", folder)).long()[None])
        check_controls(model, x, logits, folder)
    arrays = oracle.meta(folder)["arrays"]
    assert losses["main"].item() == pytest.approx(arrays["loss.main"]["mean"], rel=1e-5)
    assert losses["aux"].item() == pytest.approx(0.4 * arrays["loss.aux"]["mean"], rel=1e-5)


def test_mmseg_stage_by_stage(mmseg):
    model, folder = mmseg
    assert sum(p.numel() for p in model.parameters()) == 48_975_494
    x = oracle.image(folder)
    with torch.inference_mode():
        oracle.check("input.tensor", model.normalize(x), folder)
        features = model.features(x)
        for i in range(4):
            oracle.check(f"backbone.{i}", features[f"c{i + 2}"], folder)
        pyramid = model.pyramid(features["c5"])
        for i, part in enumerate(pyramid[:, 2048:].split(512, 1)):
            oracle.check(f"stage.decode_head.psp_modules.{i}", part, folder)
        oracle.check("stage.decode_head.bottleneck", torch.nn.Sequential(*list(model.head)[:3])(pyramid), folder)
        oracle.check("logits_small", model.head(pyramid), folder)
        oracle.check("aux_logits_small", model.aux_head(features["c4"]), folder)
        logits = model(x)
        oracle.check("logits", logits, folder)
        check_labels(logits, folder)
        targets = torch.from_numpy(oracle.recorded("in.sem_gt", folder)).long()[None]
        losses = model.loss(x, targets)
        check_controls(model, x, logits, folder)
    arrays = oracle.meta(folder)["arrays"]
    labelled = (targets != 255).float().mean().item()  # mmsegmentation divides by ignored pixels too, by default
    assert losses["main"].item() * labelled == pytest.approx(arrays["loss.decode.loss_ce"]["mean"], rel=1e-5)
    assert losses["aux"].item() * labelled == pytest.approx(arrays["loss.aux.loss_ce"]["mean"], rel=1e-5)


def test_bin_one_is_the_global_mean():
    pyramid = PyramidPooling(8, (1, 2), channels=3).eval()
    x = torch.randn(2, 8, 7, 9)
    with torch.inference_mode():
        out = pyramid(x)
        level = pyramid.levels[0]
        want = level.act(level.norm(level.conv(x.mean((2, 3), keepdim=True))))
    assert torch.equal(out[:, :8], x)
    torch.testing.assert_close(out[:, 8:11], want.expand(2, 3, 7, 9))
    assert out[:, 11:].std((2, 3)).max() > 0


def test_same_features_same_pyramid_as_smp():
    """Theirs puts the averages in front of the map and has a bias instead of a norm in the bin of one."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.PSPNet("resnet18", encoder_weights=None).decoder.psp.eval()
    ours = PyramidPooling(128, align_corners=True).eval()
    for block, level in zip(theirs.blocks, ours.levels, strict=True):
        conv, norm, _ = block.pool[1]
        level.conv.weight.data.copy_(conv.weight)
        if conv.bias is not None:
            level.norm.bias.data.copy_(conv.bias)
            level.norm.running_var.fill_(1 - level.norm.eps)
        else:
            torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
            level.norm.load_state_dict(norm.state_dict())
    x = torch.randn(2, 128, 12, 15)
    with torch.inference_mode():
        want, got = theirs(x), ours(x)
    torch.testing.assert_close(torch.cat([got[:, 128:], got[:, :128]], 1), want, rtol=1e-5, atol=1e-5)


def test_sizes_and_backbones():
    with torch.device("meta"):
        model = build("pspnet")
        assert model.frame.covers(480, 473) == (481, 473)  # one more than a multiple of eight, so that corners meet
        assert model.scores(torch.zeros(1, 3, 480, 473)).shape == (1, 21, 61, 60)
        assert model.backbone.strides["c5"] == 8
        plain = build("pspnet", backbone="resnet50", layout="plain", aux_weight=0.0)
        assert plain.aux_head is None
        assert plain.frame.covers(480, 473) == (480, 473)
        assert not plain.align_corners
        assert build("pspnet", backbone="resnet50_deep", layout="plain").backbone.deep
        assert build("pspnet", backbone="vgg16").backbone.strides["c5"] == 32
    assert str(build_error(layout="caffe")) == "pspnet has no layout 'caffe'; choose from semseg, mmseg, plain"
    assert "unknown backbone 'resnet5'" in str(build_error(backbone="resnet5"))


def build_error(**options):
    with pytest.raises(UserError) as caught:
        build("pspnet", **options)
    return caught.value
