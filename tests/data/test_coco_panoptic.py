"""COCO panoptic: official files, round trips, and a sentence for every way the files can disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import shared
from masklet.data.categories import coco_categories, read_categories
from masklet.data.check import check
from masklet.data.coco_panoptic import coco_panoptic, read_ids, read_panoptic_json, write_coco_panoptic, write_ids
from masklet.data.formats import convert
from masklet.data.images import BadFile
from masklet.data.sources import open_source
from masklet.data.synthetic import synthetic
from masklet.structures import Classes, Panoptic, Segment
from masklet.structures.errors import UserError
from panoptic_toys import TOY, png_ids, random_toy

COLORS = [[[1, 2, 3], [0, 0, 0]], [[255, 255, 255], [0, 1, 0]]]


def test_ids_are_colours(tmp_path: Path):
    Image.fromarray(np.array(COLORS, np.uint8)).save(tmp_path / "a.png")
    want = [[1 + 2 * 256 + 3 * 65536, 0], [2**24 - 1, 256]]
    assert read_ids(tmp_path / "a.png").tolist() == want
    Image.fromarray(np.array(COLORS, np.uint8)).convert("RGBA").save(tmp_path / "b.png")
    assert read_ids(tmp_path / "b.png").tolist() == want
    write_ids(tmp_path / "c.png", torch.tensor(want))
    assert np.array(Image.open(tmp_path / "c.png")).tolist() == COLORS


def test_official_sample():
    folder = shared("data", "coco_panoptic_sample")
    dataset = open_source(f"coco_panoptic:{folder / 'panoptic_examples.json'}")
    official = json.loads((folder / "panoptic_examples.json").read_text())
    assert len(dataset) == 2
    assert len(dataset.classes) == 133
    assert dataset.classes.names[0] == "person"
    assert dataset.classes.ids[-1] == 200
    assert sum(dataset.classes.things) == 80
    for i, (sample, entry) in enumerate(zip(dataset, official["annotations"], strict=True)):
        assert sample.panoptic is not None
        assert sample.semantic is not None
        assert np.array_equal(sample.panoptic.ids, png_ids(folder / "panoptic_examples" / entry["file_name"]))
        for segment, s in zip(sample.panoptic.segments, entry["segments_info"], strict=True):
            assert (segment.id, dataset.classes.ids[segment.label]) == (s["id"], s["category_id"])
            assert (segment.area, segment.crowd) == (s["area"], bool(s["iscrowd"]))
            mask = sample.panoptic.mask(segment)
            assert int(mask.sum()) == s["area"]
            assert (sample.semantic[mask] == segment.label).all()
        assert dataset.paths(i)[0].name == f"{sample.name}.jpg"
    part = coco_panoptic(folder / "panoptic_examples.json")[1:]
    assert [s.name for s in part] == ["000000439180"]
    assert check(dataset) == []


def test_another_official_image():
    folder = shared("data", "coco_panoptic_one")
    described = json.loads((folder / "coco_panoptic_annotations.txt").read_text())
    ids, pixels = np.unique(read_ids(folder / "coco_panoptic" / "000000039769.png"), return_counts=True)
    areas = dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    assert {s["id"]: s["area"] for s in described} == {i: n for i, n in areas.items() if i}


def coco(tmp_path: Path, split: str, toys: list, classes: Classes = TOY) -> Path:
    """The official layout with the truth of some toys."""
    results = []
    for i, toy in enumerate(toys, 1):
        name, (_, truth) = f"{split}_{i}.jpg", toy.pair()
        (tmp_path / f"{split}2017").mkdir(exist_ok=True)
        Image.new("RGB", toy.truth.shape[::-1], (i, i, i)).save(tmp_path / f"{split}2017" / name)
        results.append((i, name, truth))
    return write_coco_panoptic(tmp_path / "annotations" / f"panoptic_{split}2017.json", results, classes, scores=False)


def test_layout_of_coco(tmp_path: Path):
    coco(tmp_path, "train", [random_toy(1), random_toy(2)])
    coco(tmp_path, "val", [random_toy(3)])
    assert [s.name for s in coco_panoptic(tmp_path, "train")] == ["train_1", "train_2"]
    assert [s.name for s in coco_panoptic(tmp_path, "val")] == ["val_1"]
    assert [s.name for s in coco_panoptic(tmp_path, "all")] == ["train_1", "train_2", "val_1"]
    assert coco_panoptic(tmp_path, "val").classes == TOY
    with pytest.raises(UserError) as caught:
        coco_panoptic(tmp_path, "test")
    assert str(caught.value) == (
        f"{tmp_path}: no panoptic JSON of split 'test'; "
        "it has panoptic_train2017.json, panoptic_val2017.json; any other JSON can be named itself"
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path: Path, seed: int):
    toy = random_toy(seed)
    path = write_coco_panoptic(tmp_path / "out.json", [(7, "a.jpg", toy.pair()[1])], TOY)
    classes, (annotation,) = read_panoptic_json(path)
    back = annotation.panoptic()
    assert classes == TOY
    assert (annotation.image_id, annotation.image) == (7, "a.jpg")
    assert np.array_equal(back.ids, toy.truth)
    areas = dict(zip(*(v.tolist() for v in np.unique(toy.truth, return_counts=True)), strict=True))
    for segment, written in zip(toy.truth_segments, back.segments, strict=True):
        assert (written.id, written.label, written.thing, written.crowd) == (
            segment.id, segment.label, segment.thing, segment.crowd,
        )  # fmt: skip
        assert written.area == areas[segment.id]
    for s in json.loads(path.read_text())["annotations"][0]["segments_info"]:
        y, x = np.nonzero(toy.truth == s["id"])
        assert s["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]


def test_convert(tmp_path: Path):
    path = coco(tmp_path, "val", [random_toy(3), random_toy(4)])
    out = convert(coco_panoptic(path), tmp_path / "out", "coco_panoptic")
    before, after = coco_panoptic(path), open_source(f"coco_panoptic:{out / 'panoptic.json'}")
    assert after.classes == TOY
    for a, b in zip(before, after, strict=True):
        assert a.name == b.name
        assert a.panoptic is not None
        assert b.panoptic is not None
        assert torch.equal(a.panoptic.ids, b.panoptic.ids)
        assert a.panoptic.segments == b.panoptic.segments
        assert torch.equal(a.image, b.image)
    with pytest.raises(UserError) as caught:
        convert(synthetic("flood", size=24, count=1), tmp_path / "no", "coco_panoptic")
    assert str(caught.value) == "sample 'flood_train_0000' has no panoptic map; use coco or folder"


def test_scores_are_kept(tmp_path: Path):
    result = Panoptic(torch.full((2, 2), 5), (Segment(5, 1, True, score=0.25),))
    path = write_coco_panoptic(tmp_path / "out.json", [(1, "a.jpg", result)], TOY)
    assert read_panoptic_json(path)[1][0].segments[0].score == 0.25


def test_categories_round_trip(tmp_path: Path):
    assert read_categories(coco_categories(TOY), tmp_path) == TOY
    plain = read_categories([{"id": 3, "name": "cat"}, {"id": 9, "name": "dog", "color": [1, 2, 3]}], tmp_path)
    assert (plain.names, plain.ids, plain.things) == (("cat", "dog"), (3, 9), (True, True))
    many = read_categories([{"id": i, "name": str(i)} for i in range(300)], tmp_path)
    assert many.ignore == 65535


# Bad input

SEGMENT = {"id": 1, "category_id": 2, "iscrowd": 0}
CATEGORIES = [{"id": 2, "name": "cat", "isthing": 1}]


def entry(**changes: Any) -> dict[str, Any]:
    return {"image_id": 5, "file_name": "a.png", "segments_info": [SEGMENT]} | changes


TABLE = {
    "text": ("nonsense", "not valid JSON (Expecting value: line 1 column 1 (char 0)); write it again"),
    "list": (
        [1],
        "this is no list of panoptic annotations; "
        'it holds {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [...]}]}',
    ),
    "no categories": (
        {"annotations": []},
        "it has no categories; the truth lists them; was it exchanged?",
    ),
    "bad categories": (
        {"annotations": [], "categories": [{"id": 1}]},
        'its categories cannot be read; each is {"id": 1, "name": "person", "isthing": 1}',
    ),
    "two categories": (
        {"annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        "two classes have the id 1; every id must be different",
    ),
    "twice": (
        {"annotations": [entry(), entry(file_name="b.png")], "categories": CATEGORIES},
        "image 5 is annotated twice; keep one of the annotations",
    ),
    "unknown category": (
        {"annotations": [entry(segments_info=[SEGMENT | {"category_id": 9}])], "categories": CATEGORIES},
        "segment 1 of image 5 has category_id 9, which is unknown; use the ids that the truth lists under categories",
    ),
    "no file name": (
        {"annotations": [{"image_id": 5, "segments_info": []}], "categories": CATEGORIES},
        "the annotation of image 5 lacks image_id, file_name, segments_info, or a segment its id or category_id; "
        'it holds {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [...]}]}',
    ),
    "no annotation": (
        {"annotations": [3], "categories": CATEGORIES},
        "the annotation lacks image_id, file_name, segments_info, or a segment its id or category_id; "
        'it holds {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [...]}]}',
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_json(tmp_path: Path, case: str):
    content, message = TABLE[case]
    path = tmp_path / "pan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadFile) as caught:
        read_panoptic_json(path)
    assert str(caught.value) == f"{path}: {message}"


def test_missing_json(tmp_path: Path):
    for path, fault in (
        (tmp_path / "no.json", "the file does not exist"),
        (tmp_path, "this is a folder, not a JSON file"),
    ):
        with pytest.raises(BadFile) as caught:
            read_panoptic_json(path)
        assert str(caught.value) == f"{path}: {fault}; name the JSON of the panoptic annotations"


def test_bad_pngs(tmp_path: Path):
    Image.new("L", (3, 2)).save(tmp_path / "grey.png")
    with pytest.raises(BadFile) as caught:
        read_ids(tmp_path / "grey.png")
    assert str(caught.value) == (
        f"{tmp_path / 'grey.png'}: the pixels have mode L, but segment ids are colours, R + 256 G + 65536 B; "
        "save it as an 8-bit RGB PNG"
    )
    with pytest.raises(UserError) as caught:
        write_ids(tmp_path / "high.png", torch.tensor([[2**24]]))
    assert str(caught.value) == (
        f"{tmp_path / 'high.png'}: segment id 16777216 does not fit in a colour; ids are 0 to 16777215"
    )
    with pytest.raises(UserError) as caught:
        write_coco_panoptic(tmp_path / "out", [], TOY)
    assert str(caught.value) == f"{tmp_path / 'out'} is no name for a JSON file; call it out.json"


def test_png_and_json_disagree(tmp_path: Path):
    path = coco(tmp_path, "val", [random_toy(3)])
    png = path.with_suffix("") / "val_1.png"
    first = json.loads(path.read_text())["annotations"][0]["segments_info"][0]["id"]
    ids = read_ids(png).astype(np.int64)
    write_ids(png, np.where(ids == first, 999, ids))
    with pytest.raises(BadFile) as caught:
        coco_panoptic(tmp_path, "val")[0]
    assert str(caught.value) == f"{png}: the map contains id 999, which no segment describes; 0 means void"
    write_ids(png, np.where(ids == first, 0, ids))
    with pytest.raises(BadFile) as caught:
        coco_panoptic(tmp_path, "val")[0]
    assert str(caught.value) == f"{png}: segment {first} has no pixel in the map; leave empty segments out"
    write_ids(png, ids[:-1])
    with pytest.raises(BadFile) as caught:
        coco_panoptic(tmp_path, "val")[0]
    assert str(caught.value) == (
        f"{png}: mask is 11x16 but image is 12x16 (height x width); run `masklet data check` on the data set"
    )


def test_photographs_that_are_elsewhere(tmp_path: Path):
    path = coco(tmp_path, "val", [random_toy(3)])
    (tmp_path / "val2017").rename(tmp_path / "photos")
    with pytest.raises(UserError) as caught:
        coco_panoptic(path)
    places = f"{path.parent / 'val2017'} or {tmp_path / 'val2017'}"
    assert str(caught.value) == f"{path}: no photograph val_1.jpg in {places}; pass images=FOLDER"
    assert len(coco_panoptic(path, images=str(tmp_path / "photos"))) == 1


def test_splits_of_different_classes(tmp_path: Path):
    coco(tmp_path, "train", [random_toy(1)])
    path = coco(tmp_path, "val", [random_toy(3)], Classes(tuple("abcd"), things=(True,) * 4))
    with pytest.raises(UserError) as caught:
        coco_panoptic(tmp_path, "all")
    assert str(caught.value) == (
        f"{path}: its categories are not those of panoptic_train2017.json; open one file at a time"
    )
