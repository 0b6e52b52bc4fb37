from __future__ import annotations

import json

from PIL import Image

from masklet.recipes import flood_study


def test_the_lectures_numbers():
    blocks = {b["taken_as"]: b for b in flood_study.lecture()["blocks"]}
    ends = {name: (b["epochs_25"][0], b["epochs_25"][-1]) for name, b in blocks.items()}
    assert ends["seed_fcn"] == (0.6961, 0.2950)
    assert ends["seed_fcns, ImageNet weights"] == (0.6776, 0.1531)
    assert ends["seed_fcns"] == (0.7695, 0.3588)
    assert ends["seed_unet"] == (0.6906, 0.3677)
    assert all(len(b["epochs_25"]) == len(b["epochs_100"]["losses"]) == 25 for b in blocks.values())
    assert set(flood_study.MODELS) <= blocks.keys()


def test_recipe_is_the_lectures():
    recipe = flood_study.recipe("seed_fcn", "flood:x", 224, 25)
    assert (recipe.resize, recipe.optimizer, recipe.loss, recipe.schedule) == (
        (224, 224),
        "adam",
        "cross_entropy",
        "constant",
    )
    assert not any((recipe.flip, recipe.jitter, recipe.blur, recipe.rotate, recipe.ema, recipe.weight_decay))


def test_study_in_two_sittings(lakes, tmp_path, capsys):
    words = ["--data", f"flood:{lakes}", "--out", str(tmp_path), "--size", "32", "--epochs", "1"]
    assert flood_study.main([*words, "--models", "seed_fcn", "--minutes", "0.000001"]) == 0
    assert json.loads((tmp_path / "flood_study.json").read_text())["ours"] == {"seed_fcn": []}
    assert flood_study.main([*words, "--models", "seed_fcn"]) == 0
    ours = json.loads((tmp_path / "flood_study.json").read_text())["ours"]["seed_fcn"]
    assert [r["epoch"] for r in ours] == [1]
    assert 0 < ours[0]["loss"] < 2
    assert "iou/flooded" in ours[0]
    with Image.open(tmp_path / "seed_fcn.png") as picture:
        assert picture.size[0] > 500
    assert "| seed_fcn | 1 |" in capsys.readouterr().out
    late = flood_study.study(f"flood:{lakes}", tmp_path, 32, 1, ["seed_fcn", "seed_unet"], minutes=0.0)
    assert [r["loss"] for r in late["seed_fcn"]] == [ours[0]["loss"]]
    assert late["seed_unet"] == []


def test_table_and_rows_stand_beside_the_lectures():
    history = [{"epoch": e, "step": e, "loss": 1 / e, "miou": 0.5, "iou/flooded": 0.4} for e in range(1, 101)]
    text = flood_study.table({"seed_unet": history}, 224)
    assert "| seed_unet | 25 | 0.0400 | 0.3677 | 0.4000 | 0.5000 |" in text
    assert "| seed_unet | 100 | 0.0100 | 0.3093 (at 59, the last shown) | 0.4000 | 0.5000 |" in text
    rows = flood_study.beside(history[:2], {b["taken_as"]: b for b in flood_study.lecture()["blocks"]}["seed_unet"])
    assert rows[0] == {
        "epoch": 1,
        "ours, training loss": 1.0,
        "IoU of flooded, held out": 0.4,
        "lecture, loss of the 25 epochs": 0.6906,
    }
    assert rows[-1] == {"epoch": 59, "lecture, loss of the 100 epochs": 0.3093}


def test_mistakes_exit_with_2(tmp_path, capsys):
    assert flood_study.main(["--data", f"flood:{tmp_path / 'nowhere'}", "--out", str(tmp_path)]) == 2
    assert "the folder does not exist" in capsys.readouterr().err
