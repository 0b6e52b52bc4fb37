"""FCN: parity with pytorch-fcn stage by stage, the paper's numbers, geometry for every size, staged training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masklet
import oracle
from conftest import shared
from masklet.models import build
from masklet.models.fcn import BODIES, FCN, HIDDEN, Pooled, Skip, Upscore, crop, transplant, zero_score
from masklet.parts.dense import receptive_field
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.weights import load

TIGHT = 1e-4  # of the standard deviation of each array


def small(monkeypatch) -> None:
    """16 instead of 4096 units in the fully connected layers."""
    monkeypatch.setattr("masklet.models.fcn.HIDDEN", 16)
    slim = {name: replace(body, channels=16) if body.channels == HIDDEN else body for name, body in BODIES.items()}
    monkeypatch.setattr("masklet.models.fcn.BODIES", slim)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def record(model: FCN) -> dict[str, torch.Tensor]:
    """The maps of the next pass, under the names of the recordings."""
    kept: dict[str, torch.Tensor] = {}
    keep = lambda name: lambda _, args, out: kept.__setitem__(name, out.clone())  # noqa: E731
    pools = [layer for layer in model.backbone.features if isinstance(layer, nn.MaxPool2d)]
    places = {f"stage.pool{i}": pool for i, pool in enumerate(pools, 1)}
    places |= {"input.tensor": model.normalize, "stage.score_fr": model.score}
    places |= {"stage.relu6": model.tail.relu6, "stage.relu7": model.tail.relu7}
    for level, skip, up in zip((4, 3), model.skips, ("upscore2", "upscore_pool4"), strict=False):
        places |= {f"stage.score_pool{level}": skip.score, f"stage.{up}": skip.upscore}
    places["stage.upscore" + ("", "16", "8")[len(model.skips)]] = model.upscore
    for name, module in places.items():
        module.register_forward_hook(keep(name))
    return kept


@pytest.fixture(scope="module")
def known() -> dict[str, torch.Tensor]:
    """Tensors that the three recorded nets share; making 134 million numbers takes seconds."""
    return {}


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_equals_pytorch_fcn(name, tmp_path, known, monkeypatch):
    folder = shared("oracles", f"pytorch_{name}")
    path = tmp_path / "weights.pth"
    torch.save(oracle.state_dict(folder, known), path)
    model = masklet.load(name, weights=path)
    path.unlink()
    image = oracle.image(folder)
    kept = record(model)
    with torch.inference_mode():
        kept["logits"] = model(image)
    arrays = oracle.meta(folder)["arrays"]
    assert {key for key in arrays if key.startswith(("stage.", "logits", "input."))} == set(kept)
    for key, value in kept.items():
        oracle.check(key, value, folder, TIGHT)

    # Negative controls: the right numbers come only with the right order of colours and of classes.
    controls = oracle.meta(folder)["negative_controls"]
    assert oracle.difference("input.tensor", model.normalize(image.flip(1)), folder) > 0.5
    assert oracle.difference("logits", kept["logits"].roll(1, 1), folder) > 0.5 * controls["class_order_shifted_by_one"]
    if name == "fcn32s":
        with torch.inference_mode():
            assert oracle.difference("logits", model(image.flip(1)), folder) > 0.5 * controls["rgb_bgr_swapped"]

    monkeypatch.setattr(
        model, "scores", lambda images, logits=kept["logits"]: logits
    )  # the same image again: no need to run the net
    truth = torch.from_numpy(oracle.recorded("in.sem_gt", folder).astype(np.int64))
    loss = float(oracle.recorded("loss.mean", folder))
    assert abs(sum(model.loss(image, truth[None]).values()).item() - loss) < 1e-5 * loss
    labels = model.predict(oracle.pixels(folder)).labels.numpy()
    best, second = kept["logits"][0].topk(2, 0).values
    certain = (best - second > 1e-3).numpy()
    assert certain.mean() > 0.99
    assert np.array_equal(labels[certain], oracle.recorded("argmax", folder)[0][certain])


def test_at_once_is_8s_with_scaled_skips(monkeypatch):
    small(monkeypatch)
    plain, at_once = (build(name, backbone="vgg11", num_classes=2).eval() for name in ("fcn8s", "fcn8s_at_once"))
    for score in (plain.score, *(skip.score for skip in plain.skips)):
        nn.init.normal_(score.weight)
    at_once.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 20, 30)
    with torch.no_grad():
        want, got = plain(image), at_once(image)
        assert not torch.allclose(got, want, rtol=0.01)
        at_once.skips[0].score.weight *= 100
        at_once.skips[1].score.weight *= 10_000
        assert torch.allclose(at_once(image), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_parameter_counts():
    """134,346,581 and 56,954,261 without the fixed upsampling: the 134 and 57 million of the slide."""
    with torch.device("meta"):
        assert count(build("fcn32s")) == 134_346_581
        assert count(build("fcn16s")) == 134_346_581 + 21 * 513
        assert count(build("fcn8s")) == 134_346_581 + 21 * 513 + 21 * 257
        assert count(build("fcn8s_at_once")) == count(build("fcn8s"))
        assert count(build("fcn32s", backbone="caffenet")) == 56_954_261
        assert count(build("fcn32s", learned=True)) == 134_346_581 + 21 * 21 * 64 * 64
        assert round(count(build("fcn32s", backbone="googlenet")) / 1e6) == 6


def test_receptive_fields():
    with torch.device("meta"):
        for backbone, size in (("vgg16", 404), ("alexnet", 355), ("caffenet", 355)):
            model = build("fcn32s", backbone=backbone)
            assert receptive_field(nn.Sequential(model.backbone.features, model.tail)) == (size, 32)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn8s_at_once"])
def test_every_size_is_covered(name, monkeypatch):
    small(monkeypatch)
    with torch.device("meta"):
        model = build(name, num_classes=2).eval()
        for side in (*range(1, 70), 227, 301, 480):
            assert model(torch.empty(1, 3, side, 2 * side + 1)).shape == (1, 2, side, 2 * side + 1)


@pytest.mark.parametrize("backbone", ["alexnet", "caffenet", "googlenet", "vgg11_bn"])
def test_every_size_is_covered_by_other_bodies(backbone, monkeypatch):
    small(monkeypatch)
    with torch.device("meta"):
        model = build("fcn32s", backbone=backbone, num_classes=2).eval()
        for side in (*range(1, 34), 227, 301):
            assert model(torch.empty(1, 3, side, 2 * side + 1)).shape == (1, 2, side, 2 * side + 1)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8), (32, 16), (64, 32)])
def test_upscore_begins_as_interpolation(kernel, stride):
    x = torch.rand(1, 3, 6, 5)
    up = Upscore(3, kernel, stride)
    assert not list(up.parameters())
    inner = slice(stride, -stride)
    margin = (kernel - stride) // 2
    want = F.interpolate(x, scale_factor=stride, mode="bilinear")
    got = up(x)[..., margin:-margin, margin:-margin]
    assert torch.allclose(got[..., inner, inner], want[..., inner, inner], atol=1e-5)
    assert not torch.allclose(got, want, atol=1e-2)  # at the border it reaches for zeros
    assert [p.requires_grad for p in Upscore(3, kernel, stride, learned=True).parameters()] == [True]


def centre(layers, pixel: float = 0.0, stride: int = 1) -> tuple[float, int]:
    """Where in the image the middle of what the first unit sees is, and how far apart units are."""
    for kernel, step, padding in layers:
        pixel, stride = pixel + ((kernel - 1) / 2 - padding) * stride, stride * step
    return pixel, stride


POOL, SAME, FIRST = (2, 2, 0), (3, 1, 1), (3, 1, 100)
VGG16 = (FIRST, SAME, POOL, SAME, SAME, POOL, *(SAME, SAME, SAME, POOL) * 3, (7, 1, 0))
ALEXNET = ((11, 4, 100), (3, 2, 0), (5, 1, 2), (3, 2, 0), SAME, SAME, SAME, (3, 2, 0), (6, 1, 0))
GOOGLENET = ((7, 2, 3), (3, 2, 0), SAME, (3, 2, 0), SAME, SAME, (3, 2, 0), *(SAME,) * 5, POOL, SAME, SAME)


@pytest.mark.parametrize(
    ("backbone", "layers"), [("vgg16", VGG16), ("alexnet", ALEXNET), ("caffenet", ALEXNET), ("googlenet", GOOGLENET)]
)
def test_scores_lie_over_what_they_saw(backbone, layers, monkeypatch):
    """Unit i of the coarse scores is spread around 32 i + (kernel - 1) / 2; there the image begins at the offset."""
    small(monkeypatch)
    with torch.device("meta"):
        coarse = build("fcn32s", backbone=backbone)
        pixel, stride = centre(layers)
        assert stride == 32
        assert coarse.offset == (coarse.upscore.weight.shape[-1] - 1) / 2 - pixel
        if backbone != "vgg16":
            return
        for name in ("fcn16s", "fcn8s"):
            net, pixel, stride = build(name), centre(VGG16)[0], 32
            for skip, cut in zip(net.skips, (14, 10), strict=False):  # layers up to pool4, pool3
                stride //= 2
                pixel -= (skip.upscore.weight.shape[-1] - 1) / 2 * stride
                assert centre(VGG16[:cut])[1] == stride
                assert skip.offset * stride == pixel - centre(VGG16[:cut])[0]
            assert net.offset == (net.upscore.weight.shape[-1] - 1) / 2 - pixel


def test_crop():
    x = torch.arange(100.0).view(1, 1, 10, 10)
    assert torch.equal(crop(x, 5, torch.empty(1, 1, 3, 4)), x[..., 5:8, 5:9])


def test_stages(monkeypatch):
    """A net with a new skip begins with the answers of the one before it."""
    small(monkeypatch)
    nets = [build(name, num_classes=3, backbone="vgg11").eval() for name in ("fcn32s", "fcn16s", "fcn8s")]
    nn.init.normal_(nets[0].score.weight)
    image = torch.rand(1, 3, 64, 80)
    with torch.no_grad():
        coarse = nets[0](image)
        assert coarse.abs().max() > 0
        for before, after in pairwise(nets):
            assert after(image).abs().max() == 0
            assert transplant(before, after) is after
            assert torch.corrcoef(torch.stack([after(image).flatten(), coarse.flatten()]))[0, 1] > 0.97
            for name, value in before.state_dict().items():
                if not name.startswith("upscore."):
                    assert torch.equal(value, after.state_dict()[name])
    with pytest.raises(UserError, match=r"cannot go from 2 skips to 1; transplant\(coarse, fine\) adds skips"):
        transplant(nets[2], nets[1])
    with pytest.raises(UserError, match=r"the two nets differ in score\.weight; build both with the same"):
        transplant(nets[0], build("fcn16s", num_classes=4, backbone="vgg11"))
    with pytest.raises(UserError, match=r"the two nets differ in backbone\.features"):
        transplant(build("fcn32s", backbone="vgg13", num_classes=3), nets[1])


def tiny(num_classes: int, skips: int) -> FCN:
    """An FCN-32s or, with two skips, 8s of the real geometry with a handful of channels."""
    widths, layers = (3, 12, 16, 24, 24, 24), []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    tail = nn.Sequential(nn.Conv2d(24, 24, 7), nn.ReLU())
    steps = [Skip(24, num_classes, 5, 1.0, False), Skip(24, num_classes, 9, 1.0, True)][:skips]
    upscore, offset = (Upscore(num_classes, 16, 8), 31) if skips else (Upscore(num_classes, 64, 32), 19)
    backbone, score = Pooled(nn.Sequential(*layers)), zero_score(24, num_classes)
    net = FCN(Normalize(*IMAGENET), backbone, tail, score, steps, upscore, offset)
    net.classes = Classes.default(num_classes)
    return net


def test_learns_an_image_by_heart():
    """FCN-8s gets thin bars to the pixel; FCN-32s, with one score per 32 pixels, cannot."""
    truth = torch.zeros(1, 64, 64, dtype=torch.long)
    truth[:, 16:48, 8:24], truth[:, :, 40:48] = 1, 2
    image = F.one_hot(truth, 3).permute(0, 3, 1, 2).float() * 0.8
    truth[:, :4] = 255
    known, miou = truth[0] != 255, {}
    for skips in (0, 2):
        torch.manual_seed(0)
        model = tiny(3, skips).train()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(100):
            losses = model.loss(image, truth)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        assert all(p.grad is not None for p in model.parameters())
        labels = model.predict(image[0]).labels
        both = [((labels == k) & (truth[0] == k) & known).sum().item() for k in range(3)]
        either = [(((labels == k) | (truth[0] == k)) & known).sum().item() for k in range(3)]
        miou[skips] = sum(a / b for a, b in zip(both, either, strict=True)) / 3
    assert miou[2] > 0.98
    assert miou[0] < 0.9


def test_same_weights_through_our_own_checkpoint(monkeypatch, tmp_path):
    from masklet.weights import save_checkpoint

    small(monkeypatch)
    model = build("fcn16s", classes=["sky", "road"], backbone="vgg11", pixels="imagenet").eval()
    nn.init.normal_(model.score.weight)
    again = load(save_checkpoint(tmp_path / "fcn.safetensors", model))
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    assert again.classes == model.classes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "fcn32s",
            {"backbone": "vgg_16"},
            "unknown backbone of fcn32s 'vgg_16'; did you mean 'vgg16'? backbones: alexnet, ",
        ),
        (
            "fcn8s",
            {"backbone": "alexnet"},
            "unknown backbone of an FCN with skips 'alexnet'; backbones: vgg11, vgg11_bn, ",
        ),
        (
            "fcn8s",
            {"pixels": "cafe"},
            "unknown pixels 'cafe'; did you mean 'caffe'? choices: caffe, imagenet, tensorflow",
        ),
    ],
)
def test_mistakes(name, options, message):
    with torch.device("meta"), pytest.raises(UserError) as caught:
        build(name, **options)
    assert str(caught.value).startswith(message)


def test_parts_are_what_they_say():
    features = nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)
    )
    pools = Pooled(features)(torch.rand(1, 3, 5, 6))
    assert [tuple(pool.shape[1:]) for pool in pools] == [(2, 102, 102), (4, 50, 50)]
    skip = Skip(4, 3, 1, 0.5, learned=False)
    assert skip(torch.rand(1, 3, 5, 5), torch.rand(1, 4, 14, 14)).shape == (1, 3, 12, 12)
