"""COCO's instances and keypoints: equal to pycocotools, written and read again, exact words for faults."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from conftest import shared
from masklet.data.check import check
from masklet.data.formats import convert
from masklet.data.sources import open_source
from masklet.structures import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in pycocotools
TRUTH = {
    "images": [
        {"id": 42, "file_name": "b.png", "height": 8, "width": 10},
        {"id": 7, "file_name": "a.png", "height": 6, "width": 9},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "person", "keypoints": ["nose", "tail"]}],
    "annotations": [
        {"id": 1, "image_id": 42, "category_id": 90, "bbox": [1, 1.5, 4, 4], "area": 16, "iscrowd": 0,
         "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5], [7, 1, 9, 1, 9, 3]]},
        {"id": 2, "image_id": 42, "category_id": 3, "bbox": [0, 0, 2, 8], "area": 16, "iscrowd": 1,
         "segmentation": {"size": [8, 10], "counts": [0, 16, 64]}, "keypoints": [0, 0, 0, 3, 4, 2]},
    ],
}  # fmt: skip


def write(folder: Path, truth=TRUTH, name="annotations.json") -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for image in TRUTH["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / "images" / image["file_name"])
    (folder / name).write_text(json.dumps(truth))
    return folder / name


def same(a, b) -> None:
    """Two samples with the same objects."""
    assert (a.size, a.classes) == (b.size, b.classes)
    assert a.instances.labels.tolist() == b.instances.labels.tolist()
    assert a.instances.masks.items == b.instances.masks.items
    assert torch.equal(a.image, b.image)
    for field in ("crowd", "keypoints", "rotated"):
        one, other = getattr(a.instances, field), getattr(b.instances, field)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_by_hand(tmp_path: Path):
    data = open_source(f"coco:{write(tmp_path)}", "all")
    assert [sample.name for sample in data] == ["a", "b"]
    assert data.classes.names == ("person", "dog")
    assert data.classes.ids == (3, 90)
    assert data.classes.keypoints == ("nose", "tail")
    assert len(data[0].instances) == 0
    assert data.image_id(0) == 7
    found = data[1].instances
    assert found.labels.tolist() == [1, 0]
    assert found.boxes.tolist() == [[1, 1.5, 5, 5.5], [0, 0, 2, 8]]
    assert found.crowd.tolist() == [False, True]
    assert found.masks.areas().tolist()[1] == 16
    assert found.keypoints.tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [3.5, 4.5, 2]]]
    assert data[1:].paths(0) == (tmp_path / "images" / "b.png", tmp_path / "annotations.json")


def test_every_fifth_image_is_val_where_nothing_says_more(tmp_path: Path):
    path = write(tmp_path)
    names = {split: [s.name for s in open_source(f"coco:{path}", split)] for split in ("train", "val", "all")}
    assert names == {"train": ["b"], "val": ["a"], "all": ["a", "b"]}
    named = write(tmp_path, name="instances_val2017.json")
    assert len(open_source(f"coco:{named}", "train")) == 2, "a file that is named itself is taken whole"


@pytest.mark.parametrize(
    ("folder", "split", "kind"),
    [("coco_instances_mini", "val", "instances"), ("coco_keypoints_mini", "val", "person_keypoints")],
)
def test_masks_and_areas_equal_pycocotools(folder: str, split: str, kind: str, capsys):
    root = shared("data", folder)
    data = open_source(f"coco:{root}", split)
    official = COCO(str(root / "annotations" / f"{kind}_{split}2017.json"))
    capsys.readouterr()
    assert len(data) == len(official.imgs)
    crowds = 0
    for i in range(0, len(data), 5 if kind == "person_keypoints" else 1):
        objects = data[i].instances
        truth = official.loadAnns(official.getAnnIds(imgIds=[data.image_id(i)]))
        assert [data.classes.ids[k] for k in objects.labels.tolist()] == [a["category_id"] for a in truth]
        assert objects.crowd.tolist() == [bool(a["iscrowd"]) for a in truth]
        dense = objects.masks.dense().numpy()
        assert all(np.array_equal(mask, official.annToMask(a)) for mask, a in zip(dense, truth, strict=True))
        boxes = np.array([a["bbox"] for a in truth]).reshape(-1, 4)
        assert np.allclose(objects.boxes[:, :2], boxes[:, :2], atol=1e-4)
        assert np.allclose(objects.boxes[:, 2:] - objects.boxes[:, :2], boxes[:, 2:], atol=1e-4)
        if kind == "person_keypoints":
            points = np.array([a["keypoints"] for a in truth], float).reshape(-1, 17, 3)
            points[..., :2] += 0.5 * (points[..., 2:] > 0)
            assert np.array_equal(objects.keypoints, points)
        crowds += int(objects.crowd.sum())
    assert crowds == (1 if kind == "instances" else 0)


@pytest.mark.parametrize("folder", ["coco_instances_mini", "coco_keypoints_mini"])
def test_written_and_read_again(folder: str, tmp_path: Path, capsys):
    data = open_source(f"coco:{shared('data', folder)}", "val")[:4]
    convert(data, tmp_path / "out", "coco", lost=pytest.fail)
    again = open_source(f"coco:{tmp_path / 'out'}", "all")
    assert again.classes == data.classes
    assert [again.image_id(i) for i in range(4)] == [data.image_id(i) for i in range(4)]
    for old, new in zip(data, again, strict=True):
        same(old, new)
        assert torch.allclose(old.instances.boxes, new.instances.boxes, atol=1e-4)
    official = COCO(str(tmp_path / "out" / "annotations.json"))
    capsys.readouterr()
    assert sum(a["iscrowd"] for a in official.anns.values()) == sum(int(s.instances.crowd.sum()) for s in data)


def test_both_splits_of_a_folder():
    data = open_source(f"coco:{shared('data', 'coco_instances_mini')}", "all")
    assert len(data) == 38
    assert (data[0].name, data[37].name) == ("train2017/000000006818", "val2017/000000565004")
    assert check(data, limit=4) == []


def test_the_index_is_small_and_travels():
    data = open_source(f"coco:{shared('data', 'coco_instances_mini')}", "val")
    text = (shared("data", "coco_instances_mini") / "annotations" / "instances_val2017.json").stat().st_size
    packed = pickle.dumps(data)
    assert len(packed) < text
    same(data[2], pickle.loads(packed)[2])


def test_boxes_without_masks(tmp_path: Path):
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    found = open_source(f"coco:{write(tmp_path, truth)}", "all")[1].instances
    assert found.masks is None
    assert found.boxes.tolist() == [[1, 1.5, 5, 5.5], [0, 0, 2, 8]]


def broken(change) -> dict:
    truth = copy.deepcopy(TRUTH)
    change(truth)
    return truth


def on_annotation(k: int, **values):
    return broken(lambda t: t["annotations"][k].update(values))


COUNTS = {"size": [10, 8], "counts": [80]}
BAD = {
    "unknown category": (
        on_annotation(0, category_id=5),
        "annotation 1 has category_id 5, but no category of the truth has this id; the truth has 2: 3, 90",
    ),
    "unknown image": (
        on_annotation(0, image_id=5),
        "annotation 1 has image_id 5, but no image of the truth has this id; the truth has 2: 7, 42",
    ),
    "two points": (
        on_annotation(0, segmentation=[[1, 1, 2, 2]]),
        "annotation 1 has a broken mask (a polygon has 4 numbers; COCO polygons are x y x y ..., at least 3 points); "
        "write it again",
    ),
    "odd count": (
        on_annotation(0, segmentation=[[1, 1, 2, 2, 3, 3, 4]]),
        "annotation 1 has a broken mask (a polygon has 7 numbers; COCO polygons are x y x y ..., at least 3 points); "
        "write it again",
    ),
    "run lengths of another size": (
        on_annotation(1, segmentation=COUNTS),
        "annotation 2 has a mask of 10x8 but its image is 8x10; a mask is of the size of its image, [height, width]",
    ),
    "run lengths that do not fill the image": (
        on_annotation(1, segmentation={"size": [8, 10], "counts": [3, 4]}),
        "annotation 2 has a broken mask (RLE counts add up to 7 pixels, but 8x10 has 80); write it again",
    ),
    "no segmentation": (
        on_annotation(0, segmentation=[]),
        "annotation 1 has no segmentation, but others have; draw it, or remove the annotation",
    ),
    "a box turned round": (
        on_annotation(0, bbox=[5, 5, -4, 2]),
        "annotation 1 has a bbox of -4x2; width and height are not negative",
    ),
    "keypoints": (
        on_annotation(1, keypoints=[1, 2, 2]),
        "annotation 2 has a keypoints of 3 numbers; a keypoints is x y v for each of the 2 points that the category "
        "names",
    ),
    "different keypoints": (
        broken(lambda t: t["categories"][0].update(keypoints=["ear"])),
        "dog and person name different keypoints; keep categories with one list of keypoints in a file",
    ),
    "an annotation twice": (
        on_annotation(1, id=1),
        "two annotations have the id 1; give each its own id",
    ),
    "an image twice": (
        broken(lambda t: t["images"][0].update(id=7)),
        "the image id 7 occurs twice; give every image its own id",
    ),
    "a photograph twice": (
        broken(lambda t: t["images"][0].update(file_name="a.png")),
        "two images have the file_name 'a.png'; list each photograph once, with all that is in it",
    ),
    "a category twice": (
        broken(lambda t: t["categories"][0].update(id=3)),
        "the category id 3 occurs twice; give every category its own id",
    ),
    "no list": ({"images": []}, "there are no categories; "
        'the truth is {"images": [...], "categories": [...], "annotations": [...]}'),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path):
    truth, message = BAD[case]
    path = write(tmp_path, truth)
    with pytest.raises(UserError) as caught:
        [*open_source(f"coco:{path}", "all")]
    assert str(caught.value) == f"{path}: {message}"
    assert [str(finding).split(": ", 1)[1] for finding in check(f"coco:{path}")] == [message]


def test_files_that_are_missing_or_of_another_size(tmp_path: Path):
    path = write(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").unlink()
    found = check(f"coco:{path}")
    assert [(f.code, f.message) for f in found] == [
        ("size_mismatch", "annotations.json says 6x9 but image is 9x9 (height x width)"),
        ("missing_file", "the file does not exist"),
    ]
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(UserError) as caught:
        open_source(f"coco:{path}")
    looked = f"{tmp_path.parent}/annotations or {tmp_path.parent}/images/annotations or {tmp_path}/images"
    assert str(caught.value) == f"{path}: no photograph a.png in {looked}; pass images=FOLDER"
    path.write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON \(Expecting property name .*\); write it again$"):
        open_source(f"coco:{path}")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"no JSON of split 'test'; it has annotations.json, b.json; any other can be"):
        open_source(f"coco:{tmp_path}", "test")
    with pytest.raises(UserError, match="unknown kind 'boxes' of COCO's annotations; choose from instances, person_k"):
        open_source(f"coco:{tmp_path}", kind="boxes")
