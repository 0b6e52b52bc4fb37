"""`masklet train`, then the commands that use what it made: one path through the whole library in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import answer, mistake, run
from masklet.cli.train import gather

SMALL = ["options.base=4", "depth=1", "batch=2", "crop=[32,32]", "warm_up_epochs=0", "precision=fp32"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Six pictures with a bright square each, and their masks."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    (root / "classes.txt").write_text("ground\nsquare\n")
    for i in range(6):
        mask = np.zeros((40, 48), np.uint8)
        y, x = rng.integers(0, 20, 2)
        mask[y : y + 16, x : x + 16] = 1
        image = (rng.integers(0, 60, (40, 48, 3)) + 150 * mask[..., None]).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "squares"
    return out, answer("train", *SMALL, "--data", f"folder:{photos}", "--epochs", 2, "--out", out)


def test_train_reports_its_best_epoch_and_files(trained, photos):
    out, found = trained
    assert (found["command"], found["model"], found["data"], found["split"]) == (
        "train",
        "unet",
        f"folder:{photos}",
        "train",
    )
    assert 0 <= found["metrics"]["miou"] <= 1
    assert found["epochs"] == 2
    assert found["files"][0] == str(out / "best.safetensors")
    assert all(Path(file).exists() for file in found["files"])
    assert {"history.csv", "recipe.json"} <= {Path(file).name for file in found["files"]}
    assert json.loads((out / "recipe.json").read_text())["options"] == {"base": 4, "depth": 1}


def test_a_second_training_needs_another_folder_or_resume(trained, photos):
    out, _ = trained
    again = run("train", *SMALL, "--data", f"folder:{photos}", "--epochs", 2, "--out", out)
    assert again.exit_code == 2
    assert f"error: {out} holds a training at epoch 2" in again.stderr
    assert "resume" in again.stderr
    resumed = answer("train", "--out", out, "--resume")
    assert resumed["epochs"] == 2
    other = run("train", "--out", out, "--resume", "lr=1")
    assert other.exit_code == 2
    assert "lr=0.001, not 1" in other.stderr


def test_a_recipe_file_with_changes(trained, tmp_path):
    found = answer("train", "--recipe", trained[0] / "recipe.json", "--epochs", 1, "--out", tmp_path / "new", "lr=1e-2")
    assert found["epochs"] == 1
    assert json.loads((tmp_path / "new" / "recipe.json").read_text())["lr"] == 0.01


def test_evaluate_what_was_trained(trained, photos):
    best = trained[0] / "best.safetensors"
    found = answer("evaluate", "--model", best, "--data", f"folder:{photos}", "--split", "all", "--precision", "fp32")
    assert (found["command"], found["model"], found["split"]) == ("evaluate", str(best), "all")
    assert found["images"] == 6
    assert {"miou", "dice", "iou/ground", "iou/square"} <= set(found["metrics"])
    views = answer(
        "evaluate",
        "--model",
        best,
        "--data",
        f"folder:{photos}",
        "--flip",
        "--scales",
        "1,0.5",
        "--tile",
        32,
        "--mode",
        "image",
        "--batch",
        2,
    )
    assert views["mode"] == "image"
    named = answer("evaluate", "--model", "unet", "--weights", best, "--data", f"folder:{photos}")
    assert named["model"] == "unet"
    text = run("evaluate", "--model", best, "--data", f"folder:{photos}").stdout
    assert "square" in text
    assert "miou" in text


def test_export_what_was_trained(trained, tmp_path):
    import torch

    out = tmp_path / "squares.pt2"
    found = answer("export", "--model", trained[0] / "best.safetensors", "--out", out, "--size", "32x48", "--batch", 1)
    assert found["metrics"]["difference"] < 1e-4
    assert torch.export.load(out).module()(torch.rand(1, 3, 32, 48)).shape == (1, 2, 32, 48)


def test_convert_a_plain_state_dict(trained, tmp_path):
    import torch

    import masklet

    model = masklet.load(trained[0] / "best.safetensors")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    wrong = run("weights", "convert", tmp_path / "plain.pth", "--model", "unet", "--out", tmp_path / "ours.pth")
    assert wrong.exit_code == 2
    assert "but checkpoints are safetensors files" in wrong.stderr


def test_gather_joins_the_options_of_the_model():
    known, accepted = {"lr", "loss", "options"}, {"base", "backbone", "bins", "loss"}
    words = ["lr=1", "options.base=8", "backbone=resnet18", "bins=[1,2]", "loss=focal", "options.loss=dice", "x=1"]
    assert gather(words, known, accepted, {"depth": 3}) == [
        "lr=1",
        "loss=focal",
        "x=1",
        'options={"depth": 3, "base": 8, "backbone": "resnet18", "bins": [1, 2], "loss": "dice"}',
    ]
    assert gather(["lr=1", "options={}"], known, accepted, {"depth": 3}) == ["lr=1", "options={}"]


def test_under_torchrun_only_the_first_process_speaks(trained, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = run("train", "--out", trained[0], "--resume", "--json")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["train"], "train needs --data", "for example --data folder:photos; see masklet train --help"),
        (["train", "--data", "folder:{tmp}", "lrr=1"], "a recipe has no 'lrr'", "did you mean 'lr'?"),
        (["train", "--data", "folder:{tmp}", "fast"], "'fast' is not key=value", None),
        (["train", "--data", "folder:{tmp}", "--epochs", "0"], "epochs is 0", "it must be at least 1"),
        (
            ["train", "--data", "folder:{tmp}/none"],
            "{tmp}/none: the folder does not exist",
            "check the path after `kind:`",
        ),
        (["train", "--data", "foldr:{tmp}"], "unknown kind of data 'foldr'", None),
        (["train", "--data", "folder:{photos}", "--model", "unett"], "unknown model 'unett'", None),
        (["train", "--data", "folder:{photos}", "options.bse=4"], "unknown option of unet 'bse'", None),
        (["train", "--recipe", "{photos}/classes.txt"], None, None),
        (["train", "--recipe", "{photos}/none.json"], "{photos}/none.json: No such file or directory", None),
        (["train", "--data", "folder:{photos}", "optimizer=lion"], "unknown optimizer 'lion'", None),
        (["evaluate", "--model", "{best}"], "masklet evaluate needs --data", "see masklet evaluate --help"),
        (["evaluate", "--model", "streat", "--data", "folder:{photos}"], "unknown weights 'streat'", None),
        (["evaluate", "--model", "unet", "--data", "folder:{photos}"], "unet comes without weights", None),
        (
            ["evaluate", "--model", "{best}", "--data", "{photos}"],
            "data source '{photos}' is not of the form `kind:path`",
            None,
        ),
        (
            ["evaluate", "--model", "{best}", "--data", "folder:{photos}", "--split", "vall"],
            "unknown split 'vall'",
            None,
        ),
        (["evaluate", "--model", "{best}", "--data", "folder:{photos}", "--scales", "0"], "--scales is '0'", None),
        (
            ["evaluate", "--model", "{best}", "--data", "folder:{photos}", "--precision", "fp16"],
            "--precision has no 'fp16'",
            "did you mean bf16? choose from auto, fp32, bf16",
        ),
        (["evaluate", "--model", "{best}", "--data", "synthetic:drinks"], None, None),
        (["evaluate", "--model", "{photos}/classes.txt", "--data", "folder:{photos}"], None, None),
        (
            ["export", "--model", "{best}", "--size", "12x"],
            "--size is '12x'",
            "write HEIGHTxWIDTH in pixels, for example --size 360x480",
        ),
        (["export", "--model", "{best}", "--out", "{tmp}/a.onnx"], "a.onnx does not end in .pt2", None),
        (
            ["export", "--model", "{best}", "--outputs", "label"],
            "--outputs has no 'label'",
            "did you mean labels? choose from logits, labels",
        ),
    ],
)
def test_wrong_input(tmp_path, photos, trained, words, error, hint):
    places = {"tmp": tmp_path, "photos": photos, "best": trained[0] / "best.safetensors"}
    words = [word.format(**places) for word in words]
    if words[0] == "train":
        words += ["--out", str(tmp_path / "out")]
    found = mistake(*words)
    assert error is None or found["error"] == error.format(**places)
    assert hint is None or found["hint"] == hint
    assert not (tmp_path / "out" / "best.safetensors").exists()
