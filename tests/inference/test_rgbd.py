"""A model that looks at depth at every door: predict, evaluate, tiles, the command line, an exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

import masklet
from command_line import answer, mistake
from masklet.data.formats import convert
from masklet.data.rgbd import RGBDPhoto, read_rgbd
from masklet.data.sources import open_source
from masklet.data.synthetic import synthetic
from masklet.export.program import export_program, read_description
from masklet.inference.evaluate import evaluate
from masklet.inference.image import predict
from masklet.models import fcn_rgbd
from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.weights import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return convert(synthetic("rooms", size=(48, 64), count=5), tmp_path_factory.mktemp("rgbd") / "rooms", to="rgbd")


class Level(nn.Module):
    """Floor where the angle of HHA is nearer to that of a floor than to that of a wall."""

    align_corners, depth_as, spec = False, "hha", {"model": "level", "options": {}}
    classes = Classes(("floor", "wall", "furniture"))

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def scores(self, images: Float[Tensor, "b 6 h w"]) -> Float[Tensor, "b 3 h w"]:
        angle = images[:, 5] * 255 - 38
        return self.gain * torch.stack([45 - angle, angle - 45, torch.full_like(angle, -99)], 1)

    def forward(self, images: Float[Tensor, "b 6 h w"]) -> Float[Tensor, "b 3 h w"]:
        return self.scores(images)

    def loss(self, images: Tensor, targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return {"main": nn.functional.cross_entropy(self.scores(images), targets)}


def test_predict(folder):
    model, name = Level(), sorted(p.name for p in (folder / "images").iterdir())[0]
    photo, depth = folder / "images" / name, folder / "depth" / name
    want = model(read_rgbd(photo, depth, "hha")[None])[0].argmax(0)
    assert torch.equal(predict(model, photo, depth=depth).labels.long(), want)
    assert torch.equal(predict(model, RGBDPhoto(photo, depth)).labels.long(), want)
    assert torch.equal(predict(model, read_rgbd(photo, depth, "hha")).labels.long(), want)
    assert torch.equal(predict(model, photo, depth=depth, tile=32).labels.long(), want)
    assert len(predict(model, folder / "images", depth=folder / "depth")) == 5
    flat = predict(model, RGBDPhoto(photo, np.full((48, 64), 2.0))).labels
    assert (flat == 1).all()  # a wall
    hint = r"pass depth=... \(masklet predict --depth\), or an RGBDPhoto"
    with pytest.raises(UserError, match=f"level looks at depth, and the picture has none; {hint}"):
        predict(model, photo)
    unaware = masklet.build("unet", num_classes=2, base=4, depth=1)
    with pytest.raises(UserError, match="unet does not look at depth; leave the depth out"):
        predict(unaware, photo, depth=depth)


def test_evaluate(folder, tmp_path):
    drawn = synthetic("rooms", size=(48, 64), count=5)
    scores = evaluate(Level(), drawn)
    assert scores["iou/floor"] > 0.75  # tops of furniture are level too
    assert evaluate(Level(), drawn, batch=2) == scores
    on_disk = evaluate(Level(), open_source(f"rgbd:{folder}", "all"))
    assert on_disk["miou"] == pytest.approx(scores["miou"], abs=0.01)
    flat = convert(drawn.seeing(None), tmp_path / "flat")
    with pytest.raises(UserError, match="depth is wanted, and folder has none; give data of the kind rgbd:"):
        evaluate(Level(), open_source(f"folder:{flat}", "all"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A fusion net of the smallest kind."""
    torch.manual_seed(0)
    model = masklet.build("fcn_rgbd_early", classes=Classes(("floor", "wall", "furniture")), backbone="googlenet")
    assert isinstance(model, fcn_rgbd.RGBDFCN)
    nn.init.normal_(model.fusion.fcn.score.weight, std=0.05)
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "rgbd.safetensors", model)


def test_command_line(folder, checkpoint, tmp_path):
    one = sorted((folder / "images").iterdir())[0]
    words = ("predict", one, "--model", checkpoint, "--formats", "index,overlay", "--out", tmp_path / "out")
    assert answer(*words, "--depth", folder / "depth" / one.name)["images"][0]["image"] == one.name
    with Image.open(tmp_path / "out" / "index" / one.name) as index:
        labels = np.array(index)
    want = masklet.predict(checkpoint, one, depth=folder / "depth" / one.name).labels.numpy()
    assert np.array_equal(labels, want)
    assert len(answer("predict", folder / "images", *words[2:], "--depth", folder / "depth")["images"]) == 5
    answer(*words, "--depth", folder / "depth", "--camera", "80,80,32,24")
    assert mistake(*words) == {
        "error": f"{checkpoint} looks at depth, and the picture has none",
        "hint": "pass depth=... (masklet predict --depth), or an RGBDPhoto",
    }
    assert mistake(*words, "--depth", folder / "depth", "--camera", "80,80") == {
        "error": "--camera is '80,80'",
        "hint": "give fx,fy,cx,cy in pixels, such as 518.9,519.5,325.6,253.7",
    }
    found = answer("evaluate", "--model", checkpoint, "--data", f"rgbd:{folder}", "--split", "val")
    assert 0 <= found["metrics"]["miou"] <= 1
    assert answer("data", "convert", f"rgbd:{folder}", tmp_path / "again", "--to", "rgbd")["samples"] == 5


def test_export(checkpoint, tmp_path):
    done = export_program(masklet.load(checkpoint), tmp_path / "rgbd.pt2", size=(32, 40))
    about = read_description(done.path)["input"]
    assert about["layout"] == "b 4 h w"
    assert about["depth"] == "metres, 0 where unknown"
