"""`masklet predict` from words to files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import masklet
from command_line import answer, mistake, run
from masklet.models import build
from masklet.structures import Classes
from masklet.weights import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = build("unet", classes=Classes(("ground", "square")), base=4, depth=1)
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors", model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of several sizes; `1.jpg` in two folders."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, size in {"1.jpg": (30, 40), "2.jpg": (1, 1), "10.png": (33, 17), "more/1.jpg": (20, 20)}.items():
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / name)
    return root


def test_a_folder_in_every_format(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    found = answer("predict", photos, "--model", checkpoint, "--out", out)
    assert (found["command"], found["model"], found["frames"]) == ("predict", str(checkpoint), 0)
    assert [image["image"] for image in found["images"]] == ["1.jpg", "2.jpg", "10.png"]
    names = [str(Path(file).relative_to(out)) for file in found["files"]]
    assert names[:3] == ["report.html", "coco.json", "summary.json"]
    assert set(names[3:]) == {f"overlay/{n}.jpg" for n in (1, 2, 10)} | {f"index/{n}.png" for n in (1, 2, 10)}
    with Image.open(out / "index" / "10.png") as index:
        assert index.size == (17, 33)
        assert set(np.unique(index)) <= {0, 1}
        labels = np.array(index)
    with Image.open(photos / "10.png") as photo:
        want = masklet.predict(checkpoint, np.array(photo), precision="auto").labels.numpy()
    assert np.array_equal(labels, want)


def test_files_globs_and_options(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    result = run(
        "predict",
        photos / "1.jpg",
        photos / "more" / "*.jpg",
        "--model",
        "unet",
        "--weights",
        checkpoint,
        "--out",
        out,
        "--formats",
        "overlay.png, json",
        "--tile",
        32,
        "--flip",
        "--scales",
        "0.5,1",
        "--precision",
        "fp32",
        "--batch",
        2,
        "--long-side",
        64,
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout.startswith("2 pictures, ")
    assert {str(p.relative_to(out)) for p in out.rglob("*.*")} == {"overlay/1.png", "overlay/1-2.png", "summary.json"}


def test_limit(checkpoint, photos, tmp_path):
    found = json.loads(
        run(
            "predict", photos, "--model", checkpoint, "--out", tmp_path, "--limit", 1, "--formats", "index", "--json"
        ).stdout
    )
    assert found["files"] == [str(tmp_path / "index" / "1.png")]


def test_a_video(checkpoint, tmp_path):
    pytest.importorskip("av")
    from masklet.inference.video import video_writer

    with video_writer(tmp_path / "film.mp4", 10.0) as append:
        for i in range(3):
            append(np.full((32, 48, 3), 60 * i, np.uint8))
    result = run("predict", tmp_path / "film.mp4", "--model", checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "0 pictures and 3 video frames" in result.stdout
    assert (tmp_path / "out" / "overlay" / "film.mp4").stat().st_size
    assert len(list((tmp_path / "out" / "index" / "film").iterdir())) == 3


def test_score_reads_what_predict_wrote(checkpoint, photos, tmp_path):
    run("predict", photos, "--model", checkpoint, "--out", tmp_path, "--formats", "index")
    found = answer("score", tmp_path / "index", tmp_path / "index")
    assert found["metrics"]["miou"] == 1
    assert found["images"] == 3


def test_ctrl_c_leaves_whole_files_only(checkpoint, tmp_path):
    """A real process, stopped while it works through a thousand pictures."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "in" / "0.png")
    for i in range(1, 1000):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{i}.png")
    env = {**os.environ, "PYTHONPATH": str(Path(masklet.__file__).parents[1])}
    words = ["predict", tmp_path / "in", "--model", checkpoint, "--out", tmp_path / "out", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "masklet.cli", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    while not (tmp_path / "out" / "index").is_dir() or len(list((tmp_path / "out" / "index").glob("[0-9]*.png"))) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(stdout)["error"] == "interrupted"
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert 3 <= len(left) < 2000
    assert not [p for p in left if p.name.startswith(".")]
    for path in left:
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ([], "masklet predict needs INPUTS", "see masklet predict --help"),
        (["{photos}/1.jgp", "--model", "{ok}"], "{photos}/1.jgp does not exist", "did you mean {photos}/1.jpg?"),
        (["{photos}/none/1.jpg", "--model", "{ok}"], "{photos}/none/1.jpg does not exist", None),
        (
            ["{photos}/*.gif", "--model", "{ok}"],
            "no picture matches '{photos}/*.gif'",
            "check the folder and the pattern",
        ),
        (["{tmp}", "--model", "{ok}"], "there are no pictures in {tmp}", None),
        (["{photos}/text.jpg", "--model", "{ok}"], "{photos}/text.jpg: this is not an image that can be read", None),
        (["{photos}", "--model", "peds"], "unknown weights 'peds'", None),
        (["{photos}", "--model", "unet"], "unet comes without weights", None),
        (["{photos}", "--model", "none.safetensors"], "no weight file at none.safetensors; check the path", None),
        (["{photos}", "--model", "{ok}", "--formats", "overly"], "--formats has no 'overly'", None),
        (["{photos}", "--model", "{ok}", "--formats", ""], "--formats is empty", None),
        (
            ["{photos}", "--model", "{ok}", "--scales", "big"],
            "--scales is 'big'",
            "write positive numbers with commas, for example --scales 0.75,1,1.25",
        ),
        (
            ["{photos}", "--model", "{ok}", "--precision", "half"],
            "--precision has no 'half'",
            "choose from auto, fp32, bf16",
        ),
        (["{photos}", "--model", "{ok}", "--tile", "big"], None, "see masklet predict --help"),
        (["{photos}", "--model", "{ok}", "--tile", "1"], None, None),
        (["{photos}", "--model", "{ok}", "--batch", "0"], "batch is 0", "give a whole number from 1 up"),
        (["{photos}", "--model", "{ok}", "--limit", "0"], None, "see masklet predict --help"),
        (["{photos}", "--model", "{ok}", "--device", "tpux"], "cannot use device 'tpux'", None),
        (["{photos}", "--model", "{ok}", "--fomats", "index"], "unknown option '--fomats'", "did you mean --formats?"),
    ],
)
def test_wrong_input(checkpoint, photos, tmp_path, words, error, hint):
    text = photos / "text.jpg"
    if any("text.jpg" in word for word in words):
        text.write_text("no picture")
    places = {"photos": photos, "tmp": tmp_path, "ok": checkpoint}
    found = mistake("predict", *(word.format(**places) for word in words), "--out", tmp_path / "out")
    text.unlink(missing_ok=True)
    assert error is None or found["error"] == error.format(**places)
    assert hint is None or found["hint"] == hint.format(**places)
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_read_are_named_after_the_others_are_done(checkpoint, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (20, 30), (200, 0, 0)).save(folder / "1.png")
    (folder / "2.jpg").write_text("no picture")
    (folder / "3.png").touch()
    Image.new("RGB", (20, 30), (0, 200, 0)).save(folder / "4.png")
    result = run("predict", folder, "--model", checkpoint, "--out", out, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 2
    assert found["error"] == "2 of 4 pictures could not be read"
    assert found["hint"] == "the others are done"
    assert found["unreadable"] == [
        f"{folder}/2.jpg: this is not an image that can be read; convert it to PNG or JPEG, or remove it",
        f"{folder}/3.png: the file is empty (0 bytes); copy it again, or remove it",
    ]
    assert [image["image"] for image in found["images"]] == ["1.png", "4.png"]
    assert sorted(path.name for path in (out / "index").iterdir()) == ["1.png", "4.png"]
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 2
    result = run("predict", folder, "--model", checkpoint, "--out", out)
    assert result.exit_code == 2
    assert "\n".join(["2 of 4 pictures could not be read:", *found["unreadable"]]) in result.stdout


def test_a_folder_without_one_picture_that_can_be_read(checkpoint, tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    found = mistake("predict", tmp_path, "--model", checkpoint, "--out", tmp_path / "out")
    assert found["error"] == f"{tmp_path}/1.png: the file is empty (0 bytes)"
    assert not (tmp_path / "out").exists()
