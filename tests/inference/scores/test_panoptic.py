"""Panoptic files against files: the recorded numbers once more, from disk, and what happens when files do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import answer, mistake, run
from conftest import shared
from masklet.data.coco_panoptic import read_ids, write_coco_panoptic, write_ids
from masklet.inference.scores.panoptic import score_human_consistency, score_pq
from masklet.structures.errors import UserError
from panoptic_toys import TOY, Toy, coco_sample, made, random_toy


def save(path: Path, toys: list[Toy], side: int, classes=TOY) -> Path:
    results = [(toy.image_id, f"{toy.image_id}.jpg", toy.pair()[side]) for toy in toys]
    return write_coco_panoptic(path, results, classes, scores=side == 0)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Prediction and truth of four images."""
    toys = [Toy(*random_toy(i).maps(), image_id=i) for i in range(1, 5)]
    return save(tmp_path / "pred.json", toys, 0), save(tmp_path / "truth.json", toys, 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_made_images_equal_panopticapi(tmp_path: Path, threads: int):
    classes, toys, recorded = made()
    steps: list[tuple[int, int]] = []
    found = score_pq(
        save(tmp_path / "pred.json", toys, 0, classes),
        save(tmp_path / "truth.json", toys, 1, classes),
        threads=threads,
        progress=lambda done, total: steps.append((done, total)),
    )
    scores = found.compute()
    for kind, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for q in ("pq", "sq", "rq"):
            assert abs(scores[q + suffix] - recorded[kind][q]) < 1e-12
    assert steps == [(i, 4) for i in range(1, 5)]


def test_official_truth_file(tmp_path: Path):
    classes, toys, recorded = coco_sample()
    truth = shared("data", "coco_panoptic_sample", "panoptic_examples.json")
    found = score_pq(save(tmp_path / "pred.json", toys, 0, classes), truth)
    assert abs(found.compute()["pq"] - recorded["result"]["All"]["pq"]) < 1e-12
    assert set(score_pq(truth, truth.with_suffix("")).compute().values()) >= {1.0}


def test_command(files: tuple[Path, Path], tmp_path: Path):
    said = answer("score", *files, "--metric", "pq", "-o", "alpha=0.25")
    assert said["metrics"]["pq"] == round(score_pq(*files, alpha=0.25).compute()["pq"], 5)
    assert said["images"] == 4
    text = run("score", *files, "--metric", "pq", "--page", tmp_path / "page.html").stdout
    assert score_pq(*files).summary() in text
    assert (tmp_path / "page.html").is_file()
    assert "Cityscapes (published)" in run("score", *files, "--metric", "pq_humans").stdout


def test_two_people(files: tuple[Path, Path]):
    there, back = (score_human_consistency(*pair).compute() for pair in (files, files[::-1]))
    assert there["pq"] == back["pq"]
    assert there["pq_second_as_truth"] == score_pq(*files).compute()["pq"] == back["pq_first_as_truth"]


def test_options(files: tuple[Path, Path], tmp_path: Path):
    (tmp_path / "pred").rename(tmp_path / "elsewhere")
    found = score_pq(*files, prediction_pngs=str(tmp_path / "elsewhere"), threshold=0.25)
    assert found.threshold == 0.25
    assert found.images == 4


def test_sizes(files: tuple[Path, Path]):
    assert score_pq(*files, sizes=[10, 40]).sizes == (10, 40)
    said = answer("score", *files, "--metric", "pq", "-o", "sizes=[1, 1000]")
    assert math.isnan(float(said["metrics"]["pq_large"] or "nan"))
    assert mistake("score", *files, "--metric", "pq", "-o", "sizes=[1]") == {
        "error": "sizes are [1]",
        "hint": "give two areas in pixels, for example [1024, 9216]",
    }


def test_images_beyond_the_truth_are_left_alone(files: tuple[Path, Path]):
    before = score_pq(*files).compute()
    extra = json.loads(files[0].read_text())
    extra["annotations"].append({"image_id": 77, "file_name": "none.png", "segments_info": []})
    files[0].write_text(json.dumps(extra))
    assert score_pq(*files).compute() == pytest.approx(before, nan_ok=True)


def both(pred: Path, truth: Path) -> str:
    return f"image 2 (prediction {pred.parent / 'pred' / '2.png'}, truth {truth.parent / 'truth' / '2.png'})"


def without_an_image(pred: Path, truth: Path) -> str:
    data = json.loads(pred.read_text())
    del data["annotations"][1:3]
    pred.write_text(json.dumps(data))
    return (
        f"{pred}: no prediction for image 2 (2 of 4 are missing); "
        "predict every image; one without segments has a black PNG and an empty segments_info"
    )


def without_a_png(pred: Path, truth: Path) -> str:
    (pred.parent / "pred" / "3.png").unlink()
    return (
        f"{pred.parent / 'pred' / '3.png'}: the PNG of image 3 does not exist; "
        "PNGs lie in a folder named as the JSON, less .json; prediction_pngs names another one"
    )


def without_true_pngs(pred: Path, truth: Path) -> str:
    (truth.parent / "truth").rename(truth.parent / "gone")
    return (
        f"{truth.parent / 'truth' / '1.png'}: the PNG of image 1 does not exist (4 of 4 are missing); "
        "PNGs lie in a folder named as the JSON, less .json; truth_pngs names another one"
    )


def of_another_size(pred: Path, truth: Path) -> str:
    png = pred.parent / "pred" / "2.png"
    write_ids(png, read_ids(png)[:, 1:])
    return (
        f"{both(pred, truth)}: the prediction is 12x15 but the truth is 12x16 (height x width); resize the prediction "
        "to the truth (nearest neighbour), or check that the files belong together"
    )


def grey(pred: Path, truth: Path) -> str:
    png = pred.parent / "pred" / "2.png"
    Image.open(png).convert("L").save(png)
    return (
        f"{png}: the pixels have mode L, but segment ids are colours, R + 256 G + 65536 B; save it as an 8-bit RGB PNG"
    )


def only_in_png(pred: Path, truth: Path) -> str:
    png = pred.parent / "pred" / "2.png"
    write_ids(png, np.full((12, 16), 12345))
    return (
        f"{both(pred, truth)}: the prediction contains id 12345, which no segment describes; "
        "describe it, or set its pixels to 0 (void)"
    )


def only_in_json(pred: Path, truth: Path) -> str:
    png = truth.parent / "truth" / "2.png"
    write_ids(png, np.zeros((12, 16), int))
    first = json.loads(truth.read_text())["annotations"][1]["segments_info"][0]["id"]
    return f"{both(pred, truth)}: segment {first} of the truth has no pixel in the map; leave empty segments out"


def unknown_category(pred: Path, truth: Path) -> str:
    data = json.loads(pred.read_text())
    segment = data["annotations"][0]["segments_info"][0]
    segment["category_id"] = 99
    pred.write_text(json.dumps(data))
    return (
        f"{pred}: segment {segment['id']} of image 1 has category_id 99, which is unknown; "
        "use the ids that the truth lists under categories"
    )


def twice(pred: Path, truth: Path) -> str:
    data = json.loads(pred.read_text())
    data["annotations"].append(data["annotations"][0])
    pred.write_text(json.dumps(data))
    return f"{pred}: image 1 is annotated twice; keep one of the annotations"


def empty_truth(pred: Path, truth: Path) -> str:
    truth.write_text(json.dumps(json.loads(truth.read_text()) | {"annotations": []}))
    return f"{truth}: it has no annotations; name the JSON of the truth"


def no_file(pred: Path, truth: Path) -> str:
    truth.unlink()
    return f"{truth}: the file does not exist; name the JSON of the panoptic annotations"


BREAKS: tuple[Callable[[Path, Path], str], ...] = (
    without_an_image, without_a_png, without_true_pngs, of_another_size, grey, only_in_png, only_in_json,
    unknown_category, twice, empty_truth, no_file,
)  # fmt: skip


@pytest.mark.parametrize("damage", BREAKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scorer", [score_pq, score_human_consistency])
def test_files_that_do_not_fit(files: tuple[Path, Path], damage: Callable[[Path, Path], str], scorer):
    message = damage(*files)
    with pytest.raises(UserError) as caught:
        scorer(*files)
    assert str(caught.value) == message
