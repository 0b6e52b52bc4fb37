"""The table of what a promptable model reaches: its means, its correlations, and the command that makes it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from tests.conftest import shared

from masklet.inference.evaluate_clicks import Outcome
from masklet.models import build
from masklet.recipes.click_scores import Scores, correlations, main, recorded, table
from masklet.weights import save_checkpoint

TINY = {"side": 64, "channels": 16, "memory_channels": 8, "decoder_hidden": 8, "memory_hidden": 8, "decoder_heads": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build("sam2", **TINY, own_layers=1, memory_layers=1, backbone="resnet18")
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.safetensors", model)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nuclei in each of three pictures, and a video of a square."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    folders = ["nuclei/images/val", "nuclei/instance_ids/val"]
    folders += [f"davis2016/{part}/480p/dog" for part in ("JPEGImages", "Annotations")]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for i in range(3):
        ids = np.zeros((48, 60), np.uint8)
        ids[8:24, 8 + i : 24], ids[30:46, 30:50] = 1, 2
        picture = (rng.integers(0, 40, (48, 60, 3)) + 180 * (ids > 0)[..., None]).astype(np.uint8)
        Image.fromarray(picture).save(root / f"nuclei/images/val/{i}.png")
        Image.fromarray(ids).save(root / f"nuclei/instance_ids/val/{i}.png")
        Image.fromarray(picture).save(root / f"davis2016/JPEGImages/480p/dog/{i:05d}.png")
        Image.fromarray(np.uint8(255) * (ids == 1)).save(root / f"davis2016/Annotations/480p/dog/{i:05d}.png")
    return root


def test_means_of_data_sets_and_of_objects():
    one = [Outcome("a", (0.5, 0.7), (0.4, 0.9)), Outcome("a", (0.9,), (0.8,))]  # the second was perfect at once
    two = [Outcome("b", (0.1, 0.2, 0.3, 0.4, 0.6), (0.1,) * 5)]
    boxes = [Outcome("a", (0.8,), (0.8,)), Outcome("a", (0.6,), (0.9,))]
    scores = Scores({"one": one, "two": two}, {"one": boxes, "two": [Outcome("b", (0.4,), (0.5,))]})
    rows = scores.rows()
    assert [rows["one"][f"iou@{k}"] for k in (1, 3, 5)] == pytest.approx([0.7, 0.8, 0.8])
    assert [rows["two"][f"iou@{k}"] for k in (1, 3, 5)] == pytest.approx([0.1, 0.3, 0.6])
    assert rows["overall"]["iou@1"] == pytest.approx(0.4)
    assert rows["overall"]["box"] == pytest.approx((0.7 + 0.4) / 2)
    assert rows["objects"]["iou@1"] == pytest.approx(1.5 / 3)
    assert [rows[name]["objects"] for name in rows] == [2, 1, 3, 3]
    pairs = [(0.4, 0.5), (0.9, 0.7), (0.8, 0.9)]
    assert rows["one"]["pearson_all"] == pytest.approx(stats.pearsonr(*zip(*pairs, strict=True))[0])
    assert rows["one"]["pearson_first"] == pytest.approx(1)
    assert math.isnan(rows["two"]["pearson_all"])  # it always predicted the same


def test_correlations_are_scipys():
    values = np.random.default_rng(0).random((50, 2)).round(1)
    found = correlations([(float(a), float(b)) for a, b in values])
    assert found == pytest.approx((stats.pearsonr(*values.T)[0], stats.spearmanr(*values.T)[0]))
    assert all(map(math.isnan, correlations([(0.5, 0.5)])))
    assert all(map(math.isnan, correlations([])))


def test_a_table_in_markdown():
    scores = Scores({"a": [Outcome("a", (0.25, 0.5), (0.2, 0.6))]}, {"a": [Outcome("a", (1.0,), (1.0,))]})
    scores.videos = {"mask/jf": 0.75, "mask/jf/dog": 0.75}
    lines = table(scores).splitlines()
    assert lines[0] == "| data set | objects | 1 click | 3 clicks | 5 clicks | box | Pearson | Spearman |"
    assert lines[2] == "| a | 1 | .250 | .500 | .500 | 1.000 | 1.000 | 1.000 |"
    assert lines[3].startswith("| **mean of the data sets** | 1 | .250 |")
    assert lines[6:] == ["| J&F from | dog | mean |", "| --- | --: | --: |", "| mask | .750 | .750 |"]
    beside = Scores({"a": [Outcome("a", (0.1,))]}, {"a": [Outcome("a", (0.2,))]}).rows()
    assert table(scores, beside).splitlines()[2].endswith("| 1.000 | 1 | .100 | .100 | .100 | .200 |")


def test_the_command_measures_models_videos_and_grabcut(checkpoint, data, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = [*map(str, ("--data-root", data, "--sets", "nuclei,davis", "--each", 1))]
    assert main(["--model", "grabcut", *words, "--out", str(tmp_path / "cut.json")]) == 0
    cut = json.loads((tmp_path / "cut.json").read_text())
    assert cut["scores"]["nuclei"]["box"] > 0.9  # plain colours
    assert cut["scores"]["nuclei"]["pearson_all"] is None  # it predicts nothing
    assert cut["videos"] == {}
    capsys.readouterr()
    words += ["--model", str(checkpoint)]
    assert main([*words, "--beside", str(tmp_path / "cut.json"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| GrabCut on |" in printed
    assert "| nuclei | 3 |" in printed
    assert "| davis | 1 |" in printed  # one of three frames
    assert "| J&F from | dog | mean |" in printed
    found = json.loads(out.read_text())
    assert 0 <= found["scores"]["overall"]["iou@5"] <= 1
    assert set(found["videos"]) == {"mask/jf", "mask/jf/dog", "3 clicks/jf", "3 clicks/jf/dog"}
    assert main(["--model", str(checkpoint), "--data-root", str(data), "--sets", "cars"]) == 2
    said = "error: there is no data set 'cars'; choose from davis, pets, nuclei, flood, camvid\n"
    assert capsys.readouterr().err == said
    (tmp_path / "cut.json").write_text(json.dumps({"scores": {"nuclei": {}}}))
    assert main([*words, "--beside", str(tmp_path / "cut.json")]) == 2
    said = f"error: {tmp_path / 'cut.json'} has no 'davis'; measure it with --sets nuclei,davis\n"
    assert capsys.readouterr().err == said


def test_what_was_recorded_of_osvos_is_scored_on_the_held_out_sequences():
    shared("data/davis2016_osvos_predictions")
    found = recorded(shared("data"))
    assert {"osvos/jf", "osvos/jf/dog", "osvos/jf/libby", "osvos/jf/car-shadow"} == set(found)
    assert 0.7 < found["osvos/jf"] < 0.85  # J of the three is .711, .623, .928
