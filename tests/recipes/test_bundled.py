from __future__ import annotations

from pathlib import Path

import pytest

import masklet
from masklet.recipes import bundled
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
