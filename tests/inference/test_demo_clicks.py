"""The part of the demo that is clicked on: a clip with exact truth, and a page that says what is true of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.inference import demo
from masklet.inference.demo_clicks import COINS, ROCKET, rolling_coin
from masklet.models import build
from masklet.structures import Classes
from masklet.viz.prompts import with_prompts

TINY = {"backbone": "resnet18", "side": 64, "channels": 16, "decoder_heads": 2, "decoder_hidden": 16}
TINY |= {"memory_channels": 8, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16}


def photographs() -> dict[str, Path]:
    return demo.sample_photographs({**demo.PHOTOGRAPHS, **demo.ROUND_THINGS})


def test_a_coin_rolls_with_exact_truth():
    found = photographs()
    clip = rolling_coin(found[COINS], found[ROCKET], frames=5)
    assert clip.frames.shape == (5, 3, 320, 480)
    areas = clip.masks[0].flatten(1).sum(1).tolist()
    assert areas == pytest.approx([np.pi * (31 * (1.2 + 0.5 * t) - 1) ** 2 for t in (0, 0.25, 0.5, 0.75, 1)], rel=0.01)
    colours = clip.frames.float()
    for t in range(5):
        inside = torch.nn.functional.max_pool2d((~clip.masks[0, t])[None].float(), 3, 1, 1)[0] == 0  # not the soft rim
        grey = (colours[t].amax(0) - colours[t].amin(0))[inside]
        assert (grey <= 1).all()  # the coin has no colour, and nothing but the coin is under the mask
        other = (t + 2) % 5
        bare = ~(clip.masks[0, t] | clip.masks[0, other])
        rim = torch.nn.functional.max_pool2d((~bare)[None].float(), 7, 1, 3)[0] > 0
        assert torch.equal(clip.frames[t][:, ~rim], clip.frames[other][:, ~rim])  # the ground stands still


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root, rng = tmp_path / "data" / "nuclei", np.random.default_rng(0)
    for part in ("images", "instance_ids"):
        (root / part / "val").mkdir(parents=True)
    for i in range(3):
        ids = np.zeros((64, 64), np.uint8)
        ids[10:30, 10 + i : 30], ids[40:60, 30:50] = 1, 2
        picture = rng.integers(0, 40, (64, 64, 3)) + 180 * (ids > 0)[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(root / f"images/val/{i}.png")
        Image.fromarray(ids).save(root / f"instance_ids/val/{i}.png")
    return root.parent


def test_the_page_shows_prompts_masks_and_both_ious(data, tmp_path):
    torch.manual_seed(0)
    model = build("sam2", **TINY, classes=Classes(("object",))).eval()
    model.decoder.object[-1].bias.data.fill_(3.0)
    steps = []
    told = {"models": {"click": model}, "data": data, "examples": 2}
    made = demo.run_demo(tmp_path / "out", **told, progress=lambda done, total: steps.append((done, total)))
    assert set(made.metrics) == {"tracked_iou/click", "iou@1/click", "iou@3/click"}
    assert all(0 <= value <= 1 for value in made.metrics.values())
    text = made.page.read_text()
    assert len(re.findall(r"predicted IoU -?\d\.\d\d", text)) == 2 + 3 + 3  # cat, cup, astronaut
    assert len(re.findall(r"true IoU \d\.\d\d, predicted -?\d\.\d\d<", text)) == 4  # of the coin
    assert len(re.findall(r"true IoU \d\.\d\d, predicted -?\d\.\d\d \(", text)) == 2  # of nuclei
    assert re.search(r"<b>\d+ objects in \d+\.\d s</b>", text)
    assert text.count("<svg") == 1
    assert f"mean IoU {made.metrics['tracked_iou/click']:.3f}" in text
    assert "ms for each click after that" in text
    assert "$" not in re.sub(r"base64,[^\"]*", "", text)
    assert all(path.stat().st_size for path in made.files)
    names = {path.name for path in (tmp_path / "out" / "click").iterdir()}
    assert {"chelsea_2.png", "coffee_1c.png", "astronaut_1.png", "coins_everything.png", "coin_16.png"} <= names
    done, totals = zip(*steps, strict=True)
    assert done == tuple(range(1, len(done) + 1))
    assert done[-1] == totals[-1]


def test_prompts_are_drawn():
    picture = np.full((110, 220, 3), 128, np.uint8)
    drawn = with_prompts(picture, [(50, 60), (150, 60)], [1, 0], (10, 20, 200, 100))
    assert (picture == 128).all()  # a copy
    assert drawn[60, 50].tolist() == [0, 158, 115]
    assert drawn[60, 150].tolist() == [213, 94, 0]
    assert drawn[20, 100].tolist() == drawn[99, 100].tolist() == drawn[50, 199].tolist() == [240, 228, 66]
    assert drawn[60, 47].tolist() == [255, 255, 255]
    assert drawn[5, 5].tolist() == [128, 128, 128]
    assert with_prompts(picture, [(5, 5)])[5, 5].tolist() == [0, 158, 115]
