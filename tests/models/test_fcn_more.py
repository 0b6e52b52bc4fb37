"""FCN with two heads, and FCN on colour and depth."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masklet
from masklet.data.formats import convert
from masklet.data.synthetic import synthetic
from masklet.models import build, fcn
from masklet.models.fcn import fcn16s, fcn32s
from masklet.models.fcn_rgbd import LOG_DEPTH
from masklet.models.fcn_two_heads import GEOMETRY
from masklet.recipes.semantic import SemanticRecipe, run
from masklet.structures import Classes
from masklet.structures.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def _narrow():
    """64 instead of 4096 units in what was fully connected."""
    bodies = {n: replace(b, channels=64) if b.channels == fcn.HIDDEN else b for n, b in fcn.BODIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcn, "BODIES", MappingProxyType(bodies))
        patch.setattr(fcn, "HIDDEN", 64)
        yield


def stir(model: nn.Module) -> nn.Module:
    """Scores start at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def heads():
    torch.manual_seed(0)
    names = ("sky", "road", "house", "thing")
    return stir(build("fcn_two_heads", classes=Classes(names), backbone="vgg11", geometry_of=(2, 0, 1, 255)))


def test_two_heads_share_everything_but_the_scores(heads):
    x = torch.rand(1, 3, 41, 53)
    with torch.inference_mode():
        semantic, geometric = heads.both(x)
        assert torch.equal(semantic, heads(x))
        assert geometric.shape == (1, 3, 41, 53)
        plain = fcn16s("vgg11", 3)
        own = {k.removeprefix("geometric."): v for k, v in heads.state_dict().items() if k.startswith("geometric.")}
        shared = {
            k.removeprefix("semantic."): v
            for k, v in heads.state_dict().items()
            if k.startswith(("semantic.backbone", "semantic.tail"))
        }
        plain.load_state_dict({**shared, **own})  # each head is an FCN-16s of its own on the same features
        torch.testing.assert_close(plain.eval()(x), geometric)
        assert (heads.predict_geometry(x[0]).labels == geometric[0].argmax(0)).all()
        assert heads.predict_geometry([x[0]])[0].classes == GEOMETRY
        assert (heads.predict(x[0]).labels == semantic[0].argmax(0)).all()


def test_loss_of_two_heads(heads):
    x, targets = torch.rand(2, 3, 20, 24), torch.randint(0, 4, (2, 20, 24))
    targets[:, :3] = 255
    with torch.inference_mode():
        losses = heads.loss(x, targets)
        semantic, geometric = heads.both(x)
        table = torch.full((256,), 255)
        table[:4] = torch.tensor([2, 0, 1, 255])
        want = F.cross_entropy(geometric, table[targets], ignore_index=255)
        assert losses["geometry"].item() == pytest.approx(want.item())
        assert losses["main"].item() == pytest.approx(F.cross_entropy(semantic, targets, ignore_index=255).item())
        given = torch.randint(0, 3, (2, 20, 24))
        other = heads.loss(x, targets, given)["geometry"]
        assert other.item() == pytest.approx(F.cross_entropy(geometric, given).item())
    with pytest.raises(
        UserError,
        match=r"geometry_of is \(0, 3\) for 2 classes; give one of 0 \(horizontal\), 1 \(vertical\), 2 \(sky\), 255",
    ):
        build("fcn_two_heads", num_classes=2, backbone="vgg11", geometry_of=(0, 3))


def test_late_fusion_adds_scores():
    torch.manual_seed(0)
    net = stir(build("fcn_rgbd_late", num_classes=5, backbone="alexnet"))
    photo, hha = torch.rand(1, 3, 37, 45), torch.rand(1, 3, 37, 45)
    both = torch.cat([photo, hha], 1)
    with torch.inference_mode():
        torch.testing.assert_close(net(both), net.fusion.colour(photo) + net.fusion.depth(hha))
        seen = net.fusion.depth.normalize(hha)
        torch.testing.assert_close(seen[0, :, 0, 0], hha[0, :, 0, 0] * 255 - torch.tensor([132.431, 94.076, 118.477]))
        # Before the enlarging, as in the published net: the enlarging is linear.
        fused = net.fusion.colour.upscore(
            net.fusion.colour.score(
                net.fusion.colour.tail(net.fusion.colour.backbone(net.fusion.colour.normalize(photo))[-1])
            )
            + net.fusion.depth.score(
                net.fusion.depth.tail(net.fusion.depth.backbone(net.fusion.depth.normalize(hha))[-1])
            )
        )
        torch.testing.assert_close(fused[..., 18:55, 18:63], net(both), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        UserError,
        match=r"the model reads 6 channels but the picture is \(3, 37, 45\); give each picture its depth: "
        r"masklet.data.rgbd.read_rgbd makes \(6, height, width\) of both",
    ):
        net.predict(photo[0])
    with pytest.raises(UserError, match=r"unknown stride '4'; strides: 16, 32, 8"):
        build("fcn_rgbd_late", stride=4)


def test_early_fusion_reads_depth():
    torch.manual_seed(0)
    net = stir(build("fcn_rgbd_early", num_classes=5, backbone="alexnet"))
    first = net.fusion.fcn.backbone.features[0].weight
    torch.testing.assert_close(first[:, 3], first[:, :3].mean(1))
    photo, depth = torch.rand(1, 3, 37, 45), torch.rand(1, 1, 37, 45) * 4
    with torch.no_grad():  # as after a training: a logarithm is a small number beside colours up to 255
        first[:, 3] *= 300
    plain = fcn32s("alexnet", 5).eval()
    weights = net.fusion.fcn.state_dict()
    weights["backbone.features.0.weight"] = weights["backbone.features.0.weight"][:, :3]
    plain.load_state_dict(weights)
    middle = torch.full_like(depth, torch.tensor(LOG_DEPTH).exp().item() / 1000)
    both = lambda far: torch.cat([photo, far], 1)  # noqa: E731
    with torch.inference_mode():
        torch.testing.assert_close(net(both(middle)), plain(photo), rtol=1e-3, atol=1e-3)  # depth as usual: no news
        assert (net(both(depth)) - plain(photo)).abs().max() > 0.01
        assert net(both(torch.zeros_like(depth))).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("fcn_rgbd_early", 0.25), ("fcn_rgbd_late", 0.4)])
def test_the_recipe_trains_on_rooms(tmp_path, name, least):
    """From files to a checkpoint; at stride 32 a room of 64 pixels is learned in outline."""
    convert(synthetic("rooms", size=(48, 64), count=3), tmp_path / "rooms", to="rgbd")
    recipe = SemanticRecipe(
        data=f"rgbd:{tmp_path / 'rooms'}", split="all", val_split="all", model=name, options={"backbone": "alexnet"},
        epochs=30, validate_every=30, batch=3, crop=None, scale=(1.0, 1.0), rotate=0.0, blur=0.0, jitter=0.0, ema=0.0,
        precision="fp32",
    )  # fmt: skip
    result = run(recipe, tmp_path / "run", progress=False)
    assert result.history[-1]["loss"] < 0.75 * result.history[0]["loss"]
    assert result.scores["miou"] > least
    room = next((tmp_path / "rooms" / "images").iterdir())
    assert masklet.predict(result.best, room, depth=tmp_path / "rooms" / "depth").size == (48, 64)
