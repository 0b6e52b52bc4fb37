"""UPerNet against the recorded outputs of mmsegmentation and against transformers' own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import masklet
import oracle
from masklet.models import build
from masklet.parts.norm import Normalize


def test_parameters():
    count = lambda **options: sum(p.numel() for p in build("upernet", **options).parameters())  # noqa: E731
    with torch.device("meta"):
        assert count(num_classes=19) == 59_840_992
        assert count(num_classes=19, backbone="resnet50") == 66_415_238
        assert build("upernet", aux_weight=0.0).aux_head is None


@pytest.fixture(scope="module")
def mmseg(tmp_path_factory):
    folder = oracle.find("mmseg_upernet_swin_t")
    path = tmp_path_factory.mktemp("upernet") / "upernet_swin.pth"
    torch.save({"state_dict": oracle.state_dict(folder)}, path)
    return masklet.load("upernet", weights=path), folder


def test_mmsegmentation_stage_by_stage(mmseg):
    model, folder = mmseg
    assert model.spec["options"] == {
        "num_classes": 150,
        "channels": 512,
        "aux_weight": 0.4,
        "aux_channels": 256,
        "backbone": "swin_t",
        "window": 7,
    }
    x = oracle.image(folder)
    with torch.inference_mode():
        oracle.check("input.tensor", model.normalize(x), folder)
        features = model.features(x)
        for i in range(4):
            oracle.check(f"backbone.{i}", features[f"c{i + 2}"], folder)
        pyramid = model.pyramid(features["c5"])
        for i, part in enumerate(pyramid[:, 768:].split(512, 1)):
            oracle.check(f"stage.decode_head.psp_modules.{i}", part, folder)
        oracle.check("stage.decode_head.bottleneck", model.bottleneck(pyramid), folder)
        oracle.check("stage.decode_head.fpn_bottleneck", model.fused(features), folder)
        scores = model.decode(features)
        oracle.check("logits_small", scores, folder)
        oracle.check("aux_logits_small", model.aux_head(features["c4"]), folder)
        logits = F.interpolate(scores, x.shape[-2:], mode="bilinear")
        oracle.check("logits", logits, folder)
        clear = logits.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 1e-3
        assert (logits.argmax(1).numpy() == oracle.recorded("argmax", folder))[clear.numpy()].all()
        # What must not pass: colours or classes in another order, corners aligned.
        assert oracle.difference("backbone.3", model.features(x.flip(1))["c5"], folder) > 0.1
        assert oracle.difference("logits", logits.roll(1, 1), folder) > 0.1
        aligned = F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=True)
        assert oracle.difference("logits", aligned, folder) > 0.01


def test_mmsegmentation_on_resnet():
    folder = oracle.find("mmseg_upernet_r50")
    model, x = masklet.load("upernet", weights=oracle.state_dict(folder)), oracle.image(folder)
    assert model.spec["options"]["backbone"] == "resnet50"
    with torch.inference_mode():
        features = model.features(x)
        oracle.check("backbone.3", features["c5"], folder)
        oracle.check("logits_small", model.decode(features), folder)
        oracle.check("aux_logits_small", model.aux_head(features["c4"]), folder)
        assert oracle.difference("backbone.3", model.features(x.flip(1))["c5"], folder) > 0.1


def test_loss_is_mmsegmentations(mmseg):
    model, folder = mmseg
    targets = torch.from_numpy(oracle.recorded("in.sem_gt", folder)).long()[None]
    with torch.inference_mode():
        losses = model.loss(oracle.image(folder), targets)
    arrays = oracle.meta(folder)["arrays"]
    labelled = (targets != 255).float().mean().item()  # mmsegmentation divides by ignored pixels too, by default
    assert losses["main"].item() * labelled == pytest.approx(arrays["loss.decode.loss_ce"]["mean"], rel=1e-5)
    assert losses["aux"].item() * labelled == pytest.approx(arrays["loss.aux.loss_ce"]["mean"], rel=1e-5)


def stirred(model: nn.Module) -> nn.Module:
    """Weights of a trained net's size: transformers starts all with 0.02, which leaves nothing to compare."""
    for name, value in model.state_dict().items():
        if "running_var" in name or (value.ndim == 1 and name.endswith("norm.weight")):
            nn.init.uniform_(value, 0.5, 1.5)
        elif value.ndim == 1:
            nn.init.uniform_(value, -0.2, 0.2)
        elif value.ndim > 1 and "logit_scale" not in name:
            nn.init.normal_(value, std=(1.5 / value[0].numel()) ** 0.5 if "table" not in name else 0.5)
    return model.eval()


def theirs(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    levels = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if kind == "v1":
        body = transformers.SwinConfig(**sizes, **levels, window_size=7)
    else:  # an image_size of 512, because theirs does not shift a stage whose map at that size is one window
        body = transformers.Swinv2Config(**sizes, **levels, window_size=8, image_size=512)
    config = transformers.UperNetConfig(backbone_config=body, hidden_size=64, num_labels=5, auxiliary_channels=32)
    return stirred(transformers.UperNetForSemanticSegmentation(config))


def older(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that files on the hub had before version 5."""
    names = {
        "backbone.swin.": "backbone.",
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.o_proj": "attention.output.dense",
        "attention.relative_position_bias.": "attention.self.",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    out = {}
    for key, value in weights.items():
        for new, old in names.items():
            key = key.replace(new, old)
        out[key] = value
    return out


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_logits_are_transformers(kind):
    reference = theirs(kind)
    weights = reference.state_dict()
    if kind == "v1":
        assert set(older(weights)) != set(weights)
        weights = older(weights)
    ours = masklet.load("upernet", weights=weights)
    assert ours.spec["options"]["backbone"] == {"v1": "swin_t", "v2": "swin_v2_t"}[kind]
    assert isinstance(ours.normalize, Normalize)
    for size in ((101, 67), (64, 130)):
        x = torch.rand(1, 3, *size)
        with torch.inference_mode():
            want = reference(ours.normalize(x)).logits
            got = ours(x)
            assert want.std() > 0.1
            assert (got - want).abs().max() / want.std() < 2e-5
            # What must not pass: colours or classes in another order; below, keys taken for queries.
            assert (ours(x.flip(1)) - want).abs().max() / want.std() > 0.05
            assert (got.roll(1, 1) - want).abs().max() / want.std() > 0.1
    if kind == "v1":
        fresh = masklet.load("upernet", weights=reference.state_dict())
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in fresh.state_dict().items())
    swapped = {
        key.replace("query", "KEY").replace("self.key", "self.query").replace("KEY", "key"): value
        for key, value in weights.items()
    }
    if kind == "v1":  # version 2 has no biases for keys
        with torch.inference_mode():
            wrong = masklet.load("upernet", weights=swapped)(x)
        assert (wrong - want).abs().max() / want.std() > 1e-3  # fifty times what is allowed
