"""Folders of masks against folders of masks: J&F, G and Boundary IoU of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oracle
from conftest import shared
from masklet.inference.scores.vos import score_boundary, score_g, score_jf
from masklet.structures import UserError


def ids(*objects: tuple[int, int, int], size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """A map with a 6x6 square for each (id, y, x)."""
    out = np.zeros(size, np.uint8)
    for number, y, x in objects:
        out[y : y + 6, x : x + 6] = number
    return out


def save(folder: Path, *maps: np.ndarray, step: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, values in enumerate(maps):
        image = Image.fromarray(values).convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([0, 0, 0, 128, 0, 0] * 128)
        image.save(folder / f"{i * step:05d}.png")
    return folder


ONE, TWO = (1, 3, 3), (2, 10, 12)


def test_equals_davis_on_osvos():
    root, recorded = shared("data"), oracle.meta(shared("oracles", "davis_metrics", "osvos_on_davis2016"))
    calls: list[tuple[int, int]] = []
    found = score_jf(
        root / "davis2016_osvos_predictions" / "osvos",
        root / "davis2016",
        sequences="car-shadow,dog",
        joined=True,
        progress=lambda done, total: calls.append((done, total)),
    ).table()
    for row in found:
        want = recorded["sequences"][row["sequence"]]["without_first_and_last"]
        assert [row[f"{k}{part}"] for k in "jf" for part in ("", "_recall", "_decay")] == pytest.approx(
            [*want["J"], *want["F"]], abs=1e-6
        )
    assert [row["sequence"] for row in found] == ["car-shadow", "dog"]
    assert calls[-1] == (100, 100)


def test_a_davis_folder_and_its_list(tmp_path: Path):
    truth, pred = tmp_path / "DAVIS", tmp_path / "results"
    for name in ("dog", "bear", "cow"):
        save(truth / "Annotations" / "480p" / name, *[ids(ONE, TWO)] * 4)
        save(pred / name, *[ids(ONE)] * 4)
    (truth / "val.txt").write_text("dog\nbear\n")
    found = score_jf(pred, truth, sequences=str(truth / "val.txt"))
    assert found.compute() == {
        "jf": 0.5, "j": 0.5, "j_recall": 0.5, "j_decay": 0.0, "f": 0.5, "f_recall": 0.5, "f_decay": 0.0,
        "jf/bear": 0.5, "jf/dog": 0.5,
    }  # fmt: skip
    assert len(score_jf(pred, truth).table()) == 6
    assert score_jf(pred, truth, protocol="unsupervised").compute()["jf"] == 0.5
    assert score_jf(pred, truth, joined=True).compute()["j"] == 0.5  # one of two squares


def test_frames_that_do_not_count_need_no_prediction(tmp_path: Path):
    truth, pred = save(tmp_path / "t" / "dog", *[ids(ONE)] * 5), save(tmp_path / "p" / "dog", *[ids(ONE)] * 5)
    (pred / "00000.png").unlink()
    (pred / "00004.png").unlink()
    assert score_jf(pred.parent, truth.parent).compute()["jf"] == 1
    assert score_jf(pred.parent, truth.parent, protocol="sav").compute()["jf"] == 1
    with pytest.raises(UserError, match="has no mask of frame 0; it has 3 frames, 1 to 3"):
        score_jf(pred.parent, truth.parent, protocol="unsupervised")


def test_predictions_of_every_frame_against_some(tmp_path: Path):
    truth = save(tmp_path / "t" / "v", *[ids(ONE)] * 4, step=4)
    pred = save(tmp_path / "p" / "v", *[ids(ONE)] * 13)
    assert score_jf(pred.parent, truth.parent, protocol="sav").sequences["v"].keys() == {0, 4, 8, 12}


def test_one_folder_for_each_object(tmp_path: Path):
    for number, place in (("000", (255, 3, 3)), ("001", (255, 6, 6))):  # they overlap
        save(tmp_path / "t" / "sav_1" / number, *[ids(place)] * 4)
        save(tmp_path / "p" / "sav_1" / number, *[ids((1, *place[1:]) if number == "000" else (1, 12, 16))] * 4)
    found = score_jf(tmp_path / "p", tmp_path / "t", protocol="sav")
    assert [(r["sequence"], r["jf"]) for r in found.table()] == [("sav_1/000", 1.0), ("sav_1/001", 0.0)]
    assert found.summary() == "Global score: J&F: 50.0 J: 50.0 F: 50.0"


def youtube(tmp_path: Path, frames: list[str] | None = None) -> tuple[Path, Path, Path]:
    truth, pred = tmp_path / "valid", tmp_path / "results"
    save(truth / "Annotations" / "v", ids(ONE), ids(ONE, TWO), ids(ONE, TWO), step=5)
    save(pred / "v", ids(ONE), ids(ONE, TWO), ids(ONE), step=5)
    shown = {"1": ("cat", ["00000", "00005", "00010"]), "2": ("gecko", ["00005", "00010"])}
    objects = {k: {"category": name, "frames": frames or listed} for k, (name, listed) in shown.items()}
    (truth / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    (tmp_path / "seen.txt").write_text("cat\n")
    return pred, truth, tmp_path / "seen.txt"


def test_g(tmp_path: Path):
    pred, truth, seen = youtube(tmp_path)
    scores = score_g(pred, truth, seen=str(seen)).compute()
    assert (scores["g"], scores["j_seen"], scores["j_unseen"]) == (0.75, 1.0, 0.5)
    assert score_g(pred, truth, seen=str(seen), skip_given=True).compute()["j_unseen"] == 0.0


def test_frames_that_meta_lists(tmp_path: Path):
    pred, truth, seen = youtube(tmp_path, ["00005"])
    assert score_g(pred, truth, seen=str(seen)).compute()["g"] == 1.0
    assert score_g(pred, truth, seen=str(seen), listed=False).compute()["g"] == 0.75


def test_boundaries(tmp_path: Path):
    truth = save(tmp_path / "t", ids(ONE), ids(ONE, TWO))
    pred = save(tmp_path / "p", ids(ONE), ids(ONE))
    found = score_boundary(pred, truth)
    assert found.compute() == {
        "boundary_iou": pytest.approx(2 / 3), "iou": pytest.approx(2 / 3), "boundary_iou/1": 1, "boundary_iou/2": 0,
    }  # fmt: skip
    assert [row["id"] for row in score_boundary(pred, truth, background=-1).table()] == [0, 1, 2]


def wrong_size(tmp_path: Path) -> tuple[Path, Path]:
    truth = save(tmp_path / "t" / "dog", *[ids(ONE)] * 3)
    save(tmp_path / "p" / "dog", *[ids(ONE, size=(10, 12))] * 3)
    return tmp_path / "p", truth.parent


def strange_object(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        save(tmp_path / "t" / name, *[ids(ONE)] * 4)
        save(tmp_path / "p" / name, *[ids(ONE, TWO)] * 4)
    return tmp_path / "p", tmp_path / "t"


def black_and_white(tmp_path: Path) -> tuple[Path, Path]:
    for side in ("p", "t"):
        save(tmp_path / side / "dog", *[ids((255, 3, 3))] * 4)
    return tmp_path / "p", tmp_path / "t"


def missing_sequence(tmp_path: Path) -> tuple[Path, Path]:
    pred, truth = strange_object(tmp_path)
    for file in (pred / "b").iterdir():
        file.unlink()
    (pred / "b").rmdir()
    return pred, truth


def missing_frame(tmp_path: Path) -> tuple[Path, Path]:
    pred, truth = strange_object(tmp_path)
    (pred / "a" / "00002.png").unlink()
    return pred, truth


def in_colour(tmp_path: Path) -> tuple[Path, Path]:
    pred, truth = strange_object(tmp_path)
    Image.fromarray(np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)).save(pred / "a" / "00001.png")
    return pred, truth


def empty(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "t").mkdir()
    return save(tmp_path / "p" / "dog", ids(ONE)).parent, tmp_path / "t"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            wrong_size,
            "frame 0 of 'dog': prediction is 10x12 but truth is 20x24; resize the prediction to the truth (nearest)",
        ),
        (
            strange_object,
            "frame 1 of 'a' predicts object 2, but the first true frame has only object 1; "
            "predicted ids are those of the first true frame",
        ),
        (
            black_and_white,
            "the first true frame of 'dog' shows no object; its ids count from 1, and 255 is void; "
            "black and white masks (DAVIS 2016) need joined=true",
        ),
        (missing_sequence, "{t}/p has no sequence 'b'; it has a"),
        (missing_frame, "{t}/p/a has no mask of frame 2; it has 3 frames, 0 to 3"),
        (
            in_colour,
            "{t}/p/a/00001.png: the mask is a colour picture (RGB), not an indexed PNG; "
            "save the object ids themselves, with a palette (mode P) or grey",
        ),
        (empty, "{t}/t holds no videos of masks; expected <sequence>/<frame>.png in it"),
    ],
)
def test_bad_files(tmp_path: Path, files, message: str):
    with pytest.raises(UserError) as error:
        score_jf(*files(tmp_path))
    assert str(error.value) == message.replace("{t}", str(tmp_path))


def test_bad_settings(tmp_path: Path):
    pred, truth, seen = youtube(tmp_path)
    with pytest.raises(UserError) as error:
        score_jf(pred, truth, protocol="davis")
    assert str(error.value) == (
        "there is no protocol 'davis'; choose from sav, semisupervised, unsupervised, youtube_vos"
    )
    with pytest.raises(UserError) as error:
        score_g(pred, truth)
    assert str(error.value) == (
        "nobody said which categories are seen; give -o seen=train/meta.json, or a list of them"
    )
    with pytest.raises(UserError) as error:
        score_jf(pred, truth, sequences="v,w")
    assert str(error.value) == f"{truth}/Annotations has no sequence 'w'; it has v"
    save(pred / "v", ids(ONE, size=(9, 9)), step=5)
    with pytest.raises(UserError, match="frame 0 of 'v': prediction is 9x9 but truth is 20x24"):
        score_g(pred, truth, seen=str(seen))
    with pytest.raises(UserError) as error:
        score_boundary(pred / "v", truth / "Annotations" / "v")
    assert str(error.value) == (
        f"{pred}/v/00000.png: prediction is 9x9 but truth is 20x24; resize the prediction to the truth (nearest)"
    )
