from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import masklet
from masklet.recipes import bundled, click_scores
from masklet.recipes.click import STAGES
from masklet.weights import CATALOG, read_note

TINY = ['options={"base":4,"depth":2}', "lr_factors={}", "epochs=2", "batch=4", "crop=[24,24]", "warm_up_epochs=0"]


def test_recipes_are_the_catalog():
    names = {name for name, entry in CATALOG.items() if entry.bundled}
    assert set(bundled.RECIPES) == names == set(bundled.SOURCES)


def test_train_export_install(lakes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "installed")
    (tmp_path / "installed").mkdir()
    command = ["flood", "--data-root", str(lakes.parent), "--out", str(tmp_path / "out"), "--install", *TINY]
    assert bundled.main([*command, "time_budget_minutes=0.0000001"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "stopped after 0 epochs; run the same command to go on" in captured.err
    assert bundled.main(command) == 0
    model_file, card_file = capsys.readouterr().out.split()
    assert model_file.endswith("flood.safetensors")
    note = read_note(model_file)
    assert note["recipe"]["data"] == "flood:flood_area", "no folder of this machine in the file"
    assert str(lakes) not in str(note)
    card = Path(card_file).read_text()
    for words in (
        "# flood",
        "Flood Area Segmentation",
        "python -m masklet.recipes.bundled flood",
        "seed 0",
        "| flooded |",
    ):
        assert words in card
    assert f"{note['scores']['miou']:.4f}" in card
    assert str(lakes) not in card
    assert {p.name for p in (tmp_path / "installed").iterdir()} == {"flood.safetensors", "flood.md"}
    model = masklet.load(tmp_path / "installed" / "flood.safetensors")
    assert model.classes.names == ("dry", "flooded")


def test_click_is_scored_by_clicks(tmp_path, monkeypatch, capsys):
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for part in ("images", "instance_ids"):
        (root / "nuclei" / part / "val").mkdir(parents=True)
        Image.fromarray(rng.integers(0, 2, (40, 50), dtype=np.uint8)).save(root / f"nuclei/{part}/val/1.png")
    monkeypatch.setattr(click_scores, "SETS", {"nuclei": ("nuclei:nuclei", 1)})
    options = {"backbone": "resnet18", "side": 64, "channels": 16, "decoder_hidden": 8, "decoder_heads": 2}
    options |= {"memory_channels": 8, "memory_hidden": 8, "own_layers": 1, "memory_layers": 1}
    each = ['data={"moving":1}', "val_data=moving", f"options={json.dumps(options)}", "epochs=1", "steps=2"]
    each += ["images=2", "clips=1", "frames=3", "rounds=1", "val_limit=1", "lr_factors={}", "monitor=jf"]
    changes = [f"{stage}.{word}" for stage in STAGES for word in each]
    assert bundled.main(["click", "--data-root", str(root), "--out", str(tmp_path / "out"), *changes]) == 0
    model_file, card_file = capsys.readouterr().out.split()
    assert set(read_note(model_file)["scores"]) >= {"iou@1", "iou@3", "iou@5", "box", "iou@3/nuclei"}
    card = Path(card_file).read_text()
    for words in ("# click", "DAVIS 2016", "simulated clicks and true boxes", "| nuclei | 1 |", "- images: 2"):
        assert words in card
    assert read_note(model_file)["recipe"]["val_data"] == "davis:davis2016"


def test_mistakes_exit_with_2(tmp_path, capsys):
    command = ["flood", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert bundled.main([*command, "epocs=3"]) == 2
    assert "error: a recipe has no 'epocs'; did you mean 'epochs'?" in capsys.readouterr().err
    assert bundled.main(command) == 2
    with pytest.raises(ValueError, match=r"unknown bundled model 'streets'; did you mean 'street'\?"):
        bundled.train("streets", tmp_path, tmp_path)


def test_hardware_without_proc(monkeypatch):
    monkeypatch.setattr(bundled, "_cpu_info", lambda: [])
    assert "threads of" in bundled.hardware()
