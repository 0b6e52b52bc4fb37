"""`masklet score`: folders of index pictures, ours or anybody's."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import answer, mistake, run
from masklet.inference.scores import SCORERS, options, scorer

TRUTH = [[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
PRED = [[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]]


def save(folder: Path, **maps) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in maps.items():
        Image.fromarray(np.array(values, np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    return save(tmp_path / "pred", a=PRED, b_index=TRUTH, extra=TRUTH), save(tmp_path / "truth", a=TRUTH, b=TRUTH)


def test_scores_of_two_folders(folders):
    found = answer("score", *folders)
    assert found["command"] == "score"
    assert found["images"] == 2
    assert found["metrics"]["iou/0"] == pytest.approx((3 + 4) / (6 + 4), abs=1e-6)
    assert found["metrics"]["pixel_accuracy"] == pytest.approx(17 / 20)
    assert found["data"] == str(folders[1])
    assert found["split"] is None


def test_hand_values_for_people_with_class_names(tmp_path):
    pred, truth = save(tmp_path / "pred", a=PRED), save(tmp_path / "truth", a=TRUTH)
    result = run("score", pred, truth, "--classes", "dry, flooded")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["miou", "0.5357"] in lines
    assert ["flooded", "0.5714", "0.7273", "0.6667"] in lines
    assert answer("score", pred, truth, "--classes", "3", "--absent", "zero")["metrics"]["miou"] == pytest.approx(
        0.535714 * 2 / 3, abs=1e-5
    )


def test_ignore_and_image_mode(tmp_path):
    pred = save(tmp_path / "pred", a=[[0, 1]], b=[[1, 1]])
    truth = save(tmp_path / "truth", a=[[0, 0]], b=[[9, 1]])
    found = answer("score", pred, truth, "--ignore", "9", "--mode", "image")
    assert found["metrics"]["miou"] == pytest.approx((0.5 + 1) / 2)
    assert found["mode"] == "image"


def test_truth_can_be_a_data_set(tmp_path):
    root = tmp_path / "set"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    Image.new("RGB", (5, 2)).save(root / "images" / "10.png")
    save(root / "labels", **{"10": TRUTH})
    pred = save(tmp_path / "pred", **{"10": PRED})
    found = answer("score", pred, f"flood:{root}")
    assert found["metrics"]["iou/flooded"] == pytest.approx(4 / 7, abs=1e-6)
    assert found["split"] == "val"


def test_page_for_people(tmp_path, folders):
    page = tmp_path / "scores.html"
    found = answer("score", *folders, "-o", "classes=dry,flooded", "--page", page)
    assert found["files"] == [str(page)]
    assert "<span>miou</span>" in page.read_text()
    assert "<td class=word>flooded</td>" in page.read_text()


def test_list_of_metrics():
    lines = run("score", "--list").stdout.splitlines()
    assert lines[0] == "miou: folders of index pictures: mIoU, accuracies and Dice"
    assert lines[1] == "    -o classes=None ignore=255 mode=dataset absent=skip"
    assert [line.partition(":")[0] for line in lines[::2]] == list(SCORERS)


def test_every_scorer_is_there_and_takes_named_options():
    for name in SCORERS:
        assert "progress" in inspect.signature(scorer(name)).parameters, name
        assert all(p.default is not p.empty for p in options(name).values()), name


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["{pred}", "{truth}", "--metric", "mioux"], "--metric has no 'mioux'", None),
        (["{pred}", "{truth}", "--mode", "mean"], "mode is 'mean'", "choose 'dataset' or 'image'"),
        (["{pred}", "{truth}", "--absent", "nan"], "absent is 'nan'", "choose 'skip' or 'zero'"),
        (["{pred}", "{truth}", "--classes", ","], "--classes is empty", "write names with commas"),
        (["{pred}/x", "{truth}"], "{pred}/x does not exist", "name the folder of the pictures"),
        (["{pred}/a.png", "{truth}"], "{pred}/a.png is not a folder", "name the folder of the pictures"),
        (["{pred}", "{tmp}"], "the truth holds no label pictures", "they should be index pictures, for example PNG"),
        (
            ["{truth}", "{more}"],
            "{truth} has no prediction for 'c' (2 of 3 are missing)",
            "call it c.png or c_index.png",
        ),
        (
            ["{pred}", "{truth}", "--classes", "1"],
            "{pred}/a.png: truth contains the label 1; labels are 0..0, and 255 to ignore",
            None,
        ),
        (
            ["{wide}", "{truth}"],
            "{wide}/a.png: prediction is 1x2 but truth is 2x5; resize the prediction to the truth (nearest)",
            None,
        ),
        (
            ["{pred}", "{truth}", "-o", "igonre=3"],
            "-o of miou has no 'igonre'",
            "did you mean ignore? choose from classes, ignore, mode, absent",
        ),
        (["{pred}", "{truth}", "-o", "ignore=void"], "-o ignore is 'void'", "write it like its default, -o ignore=255"),
        (["{pred}", "{truth}", "-o", "ignore"], "--option 'ignore' is not key=value", None),
        (["{pred}", "flod:x"], "unknown kind of data 'flod'", None),
        (["{pred}", "{truth}", "--ignore", "void"], None, "see masklet score --help"),
    ],
)
def test_wrong_input(tmp_path, folders, words, error, hint):
    places = {
        "pred": folders[0],
        "truth": folders[1],
        "tmp": tmp_path,
        "more": save(tmp_path / "more", a=TRUTH, c=TRUTH, d=TRUTH),
        "wide": save(tmp_path / "wide", a=[[0, 1]], b=[[0, 1]]),
    }
    found = mistake("score", *(word.format(**places) for word in words))
    if error is not None:
        assert found["error"] == error.format(**places)
    if hint is not None:
        assert found["hint"] == hint
