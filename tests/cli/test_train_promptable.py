"""`masklet train` with a system that takes prompts, and clicks with what came out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from command_line import answer, run

TINY = ["side=32", "backbone=hiera_tiny", "channels=32", "decoder_heads=4", "decoder_hidden=16", "memory_channels=16"]
TINY += ["own_layers=1", "memory_layers=1", "memory_hidden=16", "mask_channels=4", "width=8", "depths=[1,1,1,1]"]
TINY += ["whole=[2]", "frames=3", "steps=2", "images=2", "clips=1", "rounds=1", "val_limit=1", "warm_up_steps=1"]
TINY += ["precision=fp32", "workers=0"]


def test_from_masks_to_clicks(tmp_path: Path) -> None:
    for video in ("bear", "cat", "dog"):
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / kind / "480p" / video).mkdir(parents=True)
        for frame in range(3):
            mask = np.zeros((40, 48), np.uint8)
            mask[8:28, 6 + 4 * frame : 30 + 4 * frame] = 255
            Image.fromarray(mask).save(tmp_path / "Annotations/480p" / video / f"{frame:05d}.png")
            Image.fromarray(np.stack([mask, 255 - mask, mask], 2)).save(
                tmp_path / "JPEGImages/480p" / video / f"{frame:05d}.jpg"
            )
    out = tmp_path / "run"
    found = answer("train", *TINY, "--model", "sam2", "--data", f"davis:{tmp_path}", "--epochs", 1, "--out", out)
    assert (found["model"], found["data"], found["epochs"]) == ("sam2", f"davis:{tmp_path}", 1)
    assert {"iou@1", "jf"} <= set(found["metrics"])
    saved = json.loads((out / "recipe.json").read_text())
    assert saved["val_data"] == f"davis:{tmp_path}"
    photo = tmp_path / "JPEGImages/480p/dog/00000.jpg"
    told = ["predict", photo, "--model", out / "best.safetensors", "--point", "18,18", "--out", tmp_path / "out"]
    assert len(answer(*told)["images"]) == 1
    assert answer("train", "--out", out, "--resume")["epochs"] == 1
    wrong = run("train", "--model", "sam2", "--data", "pets:p * much", "--out", str(tmp_path / "no"))
    assert wrong.exit_code == 2
    assert "the weight of pets:p is 'much'" in wrong.stderr
