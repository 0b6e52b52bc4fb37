"""`masklet train` for objects, then evaluate and predict with what it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import answer, run

SMALL = [
    *("backbone=resnet18", "channels=8", "hidden=8", "mask_channels=4", "short_side=0", "norm=batch", "threshold=0.0"),
    *("anchor_sizes=[8,16,32,64,128]", "batch=2", "framing=window", "crop=[64,64]", "rois=16", "precision=fp32"),
    *("max_objects=5", "warm_up_steps=0"),
]


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    """Four pictures with two discs each, as outlines in a COCO file."""
    root, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    images, annotations = [], []
    for n in range(1, 5):
        picture = rng.integers(0, 40, (64, 64, 3))
        for _ in range(2):
            cy, cx = rng.uniform(10, 54, 2)
            picture[np.hypot(y - cy, x - cx) < 8] = 220
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ring = np.stack([cx + 8 * np.cos(angles), cy + 8 * np.sin(angles)], 1).flatten().round(1).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": n, "category_id": 7, "segmentation": [ring], "iscrowd": 0,
                 "bbox": [cx - 8, cy - 8, 16, 16], "area": 200}
            )  # fmt: skip
        Image.fromarray(picture.astype(np.uint8)).save(root / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "height": 64, "width": 64})
    names = [{"id": 7, "name": "dot"}]
    (root / "dots.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return root


@pytest.fixture(scope="module")
def trained(dots, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "dots"
    source = f"coco:{dots / 'dots.json'}"
    told = ["--model", "mask_rcnn", "--data", source, "--epochs", 1, "--recipe", "microscopy", "--out", out]
    return out, answer("train", *told, "split=all", "val_split=all", "val_limit=2", *SMALL)


def test_the_model_decides_the_recipe(trained):
    out, found = trained
    assert found["model"] == "mask_rcnn"
    assert {"ap", "ap50", "box_ap"} <= set(found["metrics"])
    saved = json.loads((out / "recipe.json").read_text())
    assert (saved["turns"], saved["rois"], saved["options"]["max_objects"]) == (True, 16, 5)
    assert answer("train", "--out", out, "--resume")["epochs"] == 1


def test_evaluate_counts_objects(trained, dots):
    told = ["--model", trained[0] / "best.safetensors", "--data", f"coco:{dots / 'dots.json'}", "--split", "all"]
    found = answer("evaluate", *told, "--max-dets", 3, "--tile", 48)
    assert {"ap", "ap50", "ap/dot", "box_ap", "ar@3"} <= set(found["metrics"])
    assert found["max_dets"] == 3
    wrong = run("evaluate", *map(str, told), "--mode", "image")
    assert wrong.exit_code == 2
    assert "mode and absent are for one class per pixel" in wrong.stderr


def test_predict_leaves_out_what_is_unlikely(trained, dots, tmp_path):
    told = ["predict", dots / "1.png", "--model", trained[0] / "best.safetensors"]
    found = answer(*told, "--threshold", 0, "--out", tmp_path / "all")
    assert {p.name for p in (tmp_path / "all").iterdir()} == {
        "overlay", "index", "coco.json", "summary.json", "report.html",
    }  # fmt: skip
    objects = json.loads((tmp_path / "all/coco.json").read_text())["annotations"]
    assert found["images"][0]["classes"][0]["objects"] == len(objects) == 5
    answer(*told, "--threshold", 1, "--out", tmp_path / "none")
    assert json.loads((tmp_path / "none/coco.json").read_text())["annotations"] == []
    wrong = run(*map(str, told), "--threshold", "2", "--out", str(tmp_path / "wrong"))
    assert (wrong.exit_code, wrong.stderr.splitlines()[0]) == (2, "error: threshold is 2.0")


def test_a_preset_does_not_fit_every_model(dots, tmp_path):
    told = ["--recipe", "coco_1x", "--model", "unet", "--data", f"coco:{dots / 'dots.json'}"]
    wrong = run("train", *told, "--out", str(tmp_path))
    assert wrong.exit_code == 2
    assert "unet does not find objects" in wrong.stderr
