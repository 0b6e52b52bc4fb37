"""`score_noc` on records and on folders of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from command_line import answer, run
from masklet.inference.scores.clicks import score_noc
from masklet.structures import UserError

A = {"image": "cat.jpg", "object": 1, "ious": [0.5, 0.95], "dataset": "pets"}
B = {"image": "cat.jpg", "object": 2, "ious": [0.9]}
HINT = 'write {"image": ..., "object": ..., "ious": [...]} for each object'


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def test_records(tmp_path):
    pred = write(tmp_path / "pred.json", [A, B])
    found = answer("score", pred, pred, "--metric", "noc")
    assert found["metrics"]["noc90"] == (2 + 1) / 2
    assert found["metrics"]["iou@1"] == 0.7
    assert {row["data set"] for row in found["table"]} == {"all", "pets"}
    lines = write(tmp_path / "pred.jsonl", f"{json.dumps(A)}\n\n{json.dumps(B)}\n")
    coco = write(tmp_path / "truth.json", {"annotations": [{"id": i, "image_id": "cat.jpg"} for i in (2, 1)]})
    assert score_noc(lines, coco).compute() == score_noc(pred, pred).compute()
    result = run("score", lines, coco, "--metric", "noc", "-o", "targets=0.95", "-o", "clicks=3")
    assert result.stdout.splitlines()[0].split() == ["data", "set", "objects", "NoC@95%", ">=3@95%", "mIoU@1", "mIoU@3"]
    one = write(tmp_path / "one.jsonl", json.dumps(B))
    assert score_noc(one, one).objects == 1


def test_folders_of_masks(tmp_path):
    truth = np.zeros((4, 6))
    truth[1:3, 1:5], truth[3] = 255, 128
    save(tmp_path / "truth" / "sub" / "a.png", truth)
    save(tmp_path / "truth" / "b.png", truth > 200)
    for name in ("sub/a", "b"):
        half = np.zeros((4, 6))
        half[1:4, 1:3] = 1
        save(tmp_path / "pred" / name / "1.png", half)
        save(tmp_path / "pred" / name / "2.png", truth == 255)
    calls = []
    found = score_noc(tmp_path / "pred", tmp_path / "truth", ignore=128, progress=lambda *now: calls.append(now))
    assert [row["iou@1"] for row in found.table()] == [4 / 10, 4 / 8]  # b, where all counts, and a, without row 3
    assert [row["iou@20"] for row in found.table()] == [1, 1]
    assert [row["data set"] for row in found.table()] == ["all", "sub"]
    assert calls == [(1, 2), (2, 2)]


def mistake(*arguments, **options):
    with pytest.raises(UserError) as error:
        score_noc(*arguments, **options)
    return str(error.value)


def test_wrong_records_are_named(tmp_path):
    both, one = write(tmp_path / "both.json", [A, B]), write(tmp_path / "one.json", [A])
    gone = "object '2' of image 'cat.jpg'"
    assert mistake(one, both) == f"{one} has no {gone}; give a record for every object"
    assert mistake(both, one) == f"{both}: {gone} is not in {one}; score the objects of the truth"
    twice = write(tmp_path / "twice.json", [B, B])
    assert mistake(twice, both) == f"{twice}: {gone} is there twice; keep one record per object"
    bad = write(tmp_path / "bad.json", [A, {**B, "ious": [2]}])
    assert mistake(bad, both) == f"{bad}: {gone}: 2 is not an IoU; give fractions between 0 and 1"
    for value, fault in (
        ([{**B, "ious": "0.5"}], "record 0 has ious that are not a list of numbers; give the IoU after each click"),
        ([A, {"image": 1, "object": 2}], f"record 1 has no 'ious'; {HINT}"),
        ([A, 5], f"record 1 is not an object; {HINT}"),
    ):
        assert mistake(write(bad, value), both) == f"{bad}: {fault}"
    assert mistake(write(bad, 5), both) == f"{bad} holds no list of records; {HINT}"
    assert mistake(both, write(bad, 5)) == f"{bad} holds neither records nor COCO annotations; {HINT}"
    assert mistake(write(bad, "{}\nno"), both) == f"{bad} is not JSON (line 2); write it with json.dump"
    bad.write_bytes(b"\xff\xfe\x00")
    assert mistake(bad, both) == f"{bad} cannot be read; name a JSON file"


def test_wrong_folders_are_named(tmp_path):
    truth, pred, file = tmp_path / "truth", tmp_path / "pred", write(tmp_path / "x.json", [A])
    save(truth / "a.png", np.ones((4, 6)))
    pred.mkdir()
    where, hint = pred / "a", "it should hold 1.png, 2.png, ...: the mask after each click"
    assert mistake(pred, truth) == f"{where} does not exist; {hint}"
    where.mkdir()
    assert mistake(pred, truth) == f"{where} holds no masks; {hint}"
    save(where / "2.png", np.ones((4, 6)))
    assert mistake(pred, truth) == f"{where} has no mask after click 1; count the clicks from 1 without a gap"
    save(where / "1.png", np.ones((4, 5)))
    assert mistake(pred, truth) == f"{where / '1.png'} is 4x5 but its truth is 4x6; resize it to the image"
    save(where / "last.png", np.ones((4, 6)))
    assert mistake(pred, truth) == f"{where / 'last.png'} is not the number of a click; call it 1.png, 2.png, ..."
    (where / "last.png").unlink()
    empty = save(truth / "a.png", np.zeros((4, 6)))
    assert mistake(pred, truth) == f"{empty}: the truth mask is empty; leave out objects that are not there"
    assert mistake(truth, pred / "a" / "nothing") == (
        f"{pred / 'a' / 'nothing'} does not exist; name two JSON files or two folders"
    )
    assert mistake(file, truth) == f"{file} is a file but {truth} is a folder; give two JSON files or two folders"
    (tmp_path / "none").mkdir()
    assert (
        mistake(pred, tmp_path / "none") == f"{tmp_path / 'none'} holds no masks; it should hold one picture per object"
    )
