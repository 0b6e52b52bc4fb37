"""U-Net: the published sizes, the recorded mmsegmentation outputs, the decoder of segmentation-models-pytorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import masklet
import oracle
from conftest import shared
from masklet.data.collate import collate_semantic
from masklet.data.synthetic import synthetic
from masklet.metrics.semantic import SemanticScore
from masklet.models import build
from masklet.models.unet import border_cross_entropy
from masklet.parts.decoders import Bilinear, Transposed, UpBlock, center_crop, skip_decoder
from masklet.parts.frames import Mirror, Multiple, mirror_pad
from masklet.parts.losses import cross_entropy
from masklet.structures.errors import UserError


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_paper_572_in_388_out():
    model = build("unet", num_classes=2, in_channels=1, norm=None, padding="valid").eval()
    assert parameters(model) == 31_030_658
    assert model.frame.covers(388, 388) == (388, 388)
    assert model.frame.pad(torch.zeros(1, 1, 388, 388)).shape == (1, 1, 572, 572)


def test_valid_shapes_level_by_level():
    model = build("unet", in_channels=1, norm=None, padding="valid", base=2).eval()
    with torch.inference_mode():
        down = model.encoder(torch.zeros(1, 1, 572, 572))
        up = model.decoder(down)
    assert [x.shape[-1] for x in down.values()] == [568, 280, 136, 64, 28]  # Ronneberger et al., 2015, fig. 1
    assert [x.shape[-1] for x in up] == [28, 52, 100, 196, 388]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_mirror_frame_is_exact_for_every_size(depth):
    frame = Mirror(depth)
    for side in range(1, 70):
        covered = frame.covers(side, side)[0]
        n = covered + 2 * frame.margin
        for _ in range(depth):
            assert (n - 4) % 2 == 0  # max pooling loses nothing
            n = (n - 4) // 2
        n -= 4
        for _ in range(depth):
            n = 2 * n - 4
        assert side <= n == covered < side + 2**depth
    assert [Multiple(8, plus=1).covers(n, n + 8) for n in (1, 2, 9, 10)] == [(1, 9), (9, 17), (9, 17), (17, 25)]


def test_valid_output_depends_only_on_what_is_near():
    """The middle of a large picture gets the same scores whatever is done to its border: nothing was padded there."""
    model = build("unet", base=2, depth=2, padding="valid", norm=None).eval()
    x = torch.rand(1, 3, 96, 96)
    changed = x.clone()
    changed[..., :8, :] = 0
    with torch.inference_mode():
        a, b = model(x), model(changed)
    assert torch.equal(a[..., 48:, :], b[..., 48:, :])
    assert not torch.equal(a[..., :8, :], b[..., :8, :])


def test_mirror_pad_goes_on_for_ever():
    row = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirror_pad(row, 0, 0, 5, 4).flatten().tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    x = torch.rand(2, 3, 5, 6)
    assert torch.equal(mirror_pad(x, 4, 3, 2, 5), F.pad(x, (2, 5, 4, 3), mode="reflect"))
    assert torch.equal(mirror_pad(x[..., :1, :1], 2, 0, 0, 1), x[..., :1, :1].expand(2, 3, 3, 2))


@pytest.mark.parametrize("up", ["transposed", "bilinear", "interp_conv"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_every_part_fits(up, padding):
    model = build("unet", up=up, padding=padding, base=4, depth=2, norm="group")
    assert model(torch.rand(1, 3, 19, 30)).shape == (1, 2, 19, 30)


def test_up_parts():
    x = torch.rand(1, 8, 5, 6)
    assert Bilinear(8)(x, (9, 13)).shape == (1, 8, 9, 13)
    assert Bilinear(8, factor=2)(x, (99, 99)).shape == (1, 8, 10, 12)
    assert Bilinear(8)(x, (5, 6)) is x
    assert Transposed(8)(x, (9, 12)).shape == (1, 4, 9, 12)
    assert center_crop(x, (3, 9)).shape == (1, 8, 3, 6)
    assert torch.equal(center_crop(x, (3, 2)), x[..., 1:4, 2:4])


def test_same_features_same_decoder_as_smp():
    """The decoder of segmentation-models-pytorch with copied weights; it joins [map, skip], we [skip, map]."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=3).decoder.eval()
    channels, widths = {"c0": 0, "c1": 64, "c2": 64, "c3": 128, "c4": 256, "c5": 512}, (256, 128, 64, 32, 16)
    ours = skip_decoder(channels, ("c5", "c4", "c3", "c2", "c1", "c0"), widths).eval()
    deep = 512
    for block, step in zip(theirs.blocks, ours.steps, strict=True):
        for source in (block.conv1, block.conv2):
            nn.init.uniform_(source[1].running_mean, -0.2, 0.2)
            nn.init.uniform_(source[1].running_var, 0.5, 2)
        assert isinstance(step, UpBlock)
        for source, target in zip((block.conv1, block.conv2), step.convs, strict=True):
            weight = source[0].weight.detach()
            if source is block.conv1:  # skip channels to the front
                weight = torch.cat([weight[:, deep:], weight[:, :deep]], 1)
            target.conv.load_state_dict({"weight": weight})
            target.norm.load_state_dict(source[1].state_dict())
        deep = step.convs[1].conv.out_channels
    sizes = {"c1": 48, "c2": 24, "c3": 12, "c4": 6, "c5": 3}
    features = {level: torch.randn(2, channels[level], n, n + n // 3) for level, n in sizes.items()}
    features["c0"] = torch.zeros(2, 0, 96, 128)
    with torch.inference_mode():
        for block in theirs.blocks:  # theirs enlarges by repetition; interpolation is ours
            block.interpolation_mode = "bilinear"
        want = theirs([features["c0"], *(features[f"c{i}"] for i in range(1, 6))])
        got = ours(features)[-1]
    assert (got - want).abs().max() / want.std() < 1e-5


def test_backbones_and_head_stride():
    quick = build("unet", backbone="efficientnet_lite0", num_classes=5)
    fine = build("unet", backbone="efficientnet_lite0", num_classes=5, head_stride=2, bins=(1, 2), dropout=0.1)
    with torch.inference_mode():
        assert quick.eval().scores(torch.rand(1, 3, 64, 96)).shape == (1, 5, 16, 24)
        assert fine.eval().scores(torch.rand(1, 3, 64, 96)).shape == (1, 5, 32, 48)
    assert quick.padded_size(33, 64) == (64, 64)


def test_border_loss_counts_seams_more():
    targets = torch.zeros(1, 16, 16, dtype=torch.long)
    targets[:, 4:12, 2:7] = targets[:, 4:12, 9:14] = 1  # two objects, two pixels apart
    good = F.one_hot(targets, 2).permute(0, 3, 1, 2) * 8.0
    merged, speck = targets.clone(), targets.clone()
    merged[:, 4:12, 7:9] = 1
    speck[:, 0, :] = 1  # as many wrong pixels, away from the seam
    as_logits = [F.one_hot(t, 2).permute(0, 3, 1, 2) * 8.0 for t in (merged, speck)]
    plain = [cross_entropy(logits, targets).item() for logits in as_logits]
    border = [border_cross_entropy(logits, targets).item() for logits in as_logits]
    assert plain[0] == pytest.approx(plain[1], rel=1e-3)
    assert border[0] > 3 * border[1]
    assert border_cross_entropy(good, torch.full_like(targets, 255)) == 0
    model = build("unet", base=2, loss="border")
    assert model.loss(torch.rand(1, 3, 16, 16), targets)["main"].isfinite()


def test_it_learns_cells():
    cells = synthetic("cells", "train", size=64, count=40)
    model = build("unet", base=8, depth=3, classes=cells.classes)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 40)
    for step in range(40):
        images, targets = collate_semantic([cells[(8 * step + i) % 40] for i in range(8)])
        optimizer.zero_grad()
        sum(model.loss(images, targets).values()).backward()
        optimizer.step()
        schedule.step()
    score = SemanticScore(cells.classes)
    for sample in synthetic("cells", "val", size=64, count=10):
        score.update(model.predict(sample.image).labels, sample.semantic)
    assert score.compute()["iou/cell"] > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "full"}, "unet has no padding 'full'; choose from same, valid"),
        ({"up": "nearest"}, "unet has no up 'nearest'; choose from transposed, interp_conv, bilinear"),
        ({"loss": "hinge"}, "unet has no loss 'hinge'; choose from cross_entropy, border"),
        (
            {"padding": "valid", "aux_weight": 0.4},
            "padding='valid' is for the classic U-Net; leave out backbone and aux_weight",
        ),
        (
            {"weights": "imagenet"},
            "the classic U-Net has no ready weights; leave weights out or name a backbone",
        ),
        ({"in_channels": 2}, "in_channels is 2, depth 4; take 1 or 3 channels, depth >= 1"),
        (
            {"backbone": "efficientnet_lite0", "widths": (8,)},
            "head_stride is 4 and widths (8,); efficientnet_lite0 has strides "
            "{'c1': 2, 'c2': 4, 'c3': 8, 'c4': 16, 'c5': 32}; let head_stride be finer than the last stride, "
            "and give one width per step up",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError) as caught:
        build("unet", **options)
    assert str(caught.value) == message


@pytest.fixture(scope="module")
def mmseg(tmp_path_factory):
    """The U-Net of mmsegmentation with the recorded weights, loaded from a file as a user would."""
    folder = shared("oracles", "mmseg_unet_s5_d16")
    path = tmp_path_factory.mktemp("unet") / "unet_s5-d16.safetensors"
    save_file(oracle.state_dict(folder), path)
    model = masklet.load("unet", weights=path)
    assert parameters(model) == 29_060_676
    return model, folder


def test_mmseg_stage_by_stage(mmseg):
    model, folder = mmseg
    x = oracle.image(folder)
    with torch.inference_mode():
        oracle.check("input.tensor", model.normalize(x), folder)
        features = model.features(x)
        for i in range(5):
            oracle.check(f"backbone.{i}", features[f"d{i}"], folder)
        logits = model(x)
        oracle.check("logits", logits, folder)
        oracle.check("logits_small", model.head(features["out"]), folder)
        oracle.check("aux_logits_small", model.aux_head(features["d3"]), folder)
        targets = torch.from_numpy(oracle.recorded("in.sem_gt", folder)).long()[None]
        losses = model.loss(x, targets)
    arrays = oracle.meta(folder)["arrays"]
    labelled = (targets != 255).float().mean().item()  # mmsegmentation divides by ignored pixels too, by default
    assert losses["main"].item() * labelled == pytest.approx(arrays["loss.decode.loss_ce"]["mean"], rel=1e-5)
    assert losses["aux"].item() * labelled == pytest.approx(arrays["loss.aux.loss_ce"]["mean"], rel=1e-5)
    clear = torch.topk(logits, 2, 1).values.diff(dim=1).abs()[:, 0] > 1e-3
    assert (logits.argmax(1).numpy() == oracle.recorded("argmax", folder))[clear.numpy()].all()
    # What must not pass: classes in another order, colours in another order.
    assert oracle.difference("logits", logits.flip(1), folder) > 0.1
    with torch.inference_mode():
        assert oracle.difference("logits", model(x.flip(1)), folder) > 0.1


def test_a_long_side_below_one_pixel_is_refused():
    with pytest.raises(UserError, match="long_side is 0; give a number of pixels, or None for pictures of any size"):
        build("unet", backbone="efficientnet_lite0", long_side=0)
