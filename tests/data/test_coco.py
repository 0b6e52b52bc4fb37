"""COCO's files: what is read, and the words for what is wrong."""

import copy
import json
import math

import numpy as np
import pytest

from conftest import shared
from masklet.data.coco import kind_of_results, parse_results, parse_truth, pieces, read_json, read_results, read_truth
from masklet.ops import rle

DOT = rle.to_string(rle.from_crop(np.ones((1, 1), bool), 0, 0, 8, 10))
SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]
TRUTH = {
    "images": [{"id": 9, "height": 8, "width": 10, "file_name": "b.jpg"}, {"id": 4, "height": 8, "width": 10}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 18, "bbox": [2, 1, 4, 4], "area": 15.5, "segmentation": [SQUARE]},
        {
            "id": 2,
            "image_id": 4,
            "category_id": 3,
            "bbox": [0, 0, 2, 8],
            "iscrowd": 1,
            "segmentation": {"size": [8, 10], "counts": [0, 16, 64]},
        },
        {
            "id": 3,
            "image_id": 9,
            "category_id": 3,
            "bbox": [0, 0, 1, 1],
            "segmentation": {"size": [8, 10], "counts": DOT},
        },
    ],
}
RESULTS = [
    {"image_id": 9, "category_id": 3, "score": 0.5, "bbox": [0, 0, 1, 1]},
    {"image_id": 4, "category_id": 3, "score": 0.25, "bbox": [1, 2, 3, 4]},
]


def test_ids_become_numbers():
    """Images and classes by rising id, rows by image; boxes stay as they are written."""
    truth = parse_truth(TRUTH, "box")
    assert truth.ids == (4, 9)
    assert truth.names == ("", "b.jpg")
    assert truth.classes.names == ("cat", "dog")
    assert truth.classes.ids == (3, 18)
    assert truth.table.image.tolist() == [0, 1, 1]
    assert truth.table.labels.tolist() == [0, 1, 0]
    assert truth.table.crowd.tolist() == [True, False, False]
    assert truth.table.areas.tolist() == [16, 15.5, 1], "of the box where not given"
    assert truth.table.boxes.tolist() == [[0, 0, 2, 8], [2, 1, 4, 4], [0, 0, 1, 1]]
    found = parse_results(RESULTS, truth)
    assert found.table.image.tolist() == [0, 1]
    assert found.table.scores.tolist() == [0.25, 0.5]
    assert found.objects(1, 2).boxes.tolist() == [[0, 0, 1, 1]]
    assert [*pieces(truth, found, 2)] == [(0, 1), (1, 2)]
    assert [*pieces(truth, found, 100)] == [(0, 2)]


def test_masks_of_every_form():
    """Polygons, plain and compressed counts, in their order; areas of masks where not given."""
    part = parse_truth(TRUTH).objects(0, 2)
    masks = [rle.decode(part.masks[i]) for i in range(3)]
    square, crowd, dot = np.zeros((3, 8, 10), bool)
    square[1:5, 2:6] = crowd[:, :2] = dot[0, 0] = True
    assert np.array_equal(masks, [crowd, square, dot])
    assert part.areas.tolist() == [16, 15.5, 1]
    assert np.array_equal(rle.decode(parse_truth(TRUTH).objects(1, 2).masks[0]), square)


def test_real_files():
    folder = shared("data", "coco_instances_mini", "annotations")
    file = next(folder.glob("*.json"))
    truth, data = read_truth(file), json.loads(file.read_bytes())
    part = truth.objects(0, len(truth.ids))
    assert len(part) == len(data["annotations"])
    near = np.abs(part.masks.areas - part.areas) / np.maximum(part.areas, 30)
    assert np.median(near) < 0.03, "the areas in the file are those of the masks"


def changed(where, **values):
    truth = copy.deepcopy(TRUTH)
    truth[where][0].update(values)
    return truth


def without(where, key):
    truth = copy.deepcopy(TRUTH)
    del truth[where][0][key]
    return truth


def result(kind=None, **values):
    results = copy.deepcopy(RESULTS)
    results[0].update(values)
    found = parse_results(results, parse_truth(TRUTH, "box"), kind)
    return found.objects(0, 2)


FORM = 'the truth is {"images": [...], "categories": [...], "annotations": [...]}'
RESULT = 'results are [{"image_id": 7, "category_id": 18, "score": 0.9, "bbox": [x, y, w, h]}, ...]'
EITHER = 'write [[x, y, ...], ...] or {"size": [h, w], "counts": ...}'


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_truth([]), f"truth: this holds a list, not COCO's truth; {FORM}"),
        (lambda: parse_truth({"images": [], "categories": []}), f"truth: there are no annotations; {FORM}"),
        (lambda: parse_truth({"annotations": [], "categories": []}), f"truth: there are no images; {FORM}"),
        (
            lambda: parse_truth(changed("images", id=4)),
            "truth: the image id 4 occurs twice; give every image its own id",
        ),
        (
            lambda: parse_truth(changed("images", id="a")),
            "truth: the image ids are partly numbers and partly text; use one kind, best numbers",
        ),
        (
            lambda: parse_truth(changed("categories", id=3)),
            "truth: the category id 3 occurs twice; give every category its own id",
        ),
        (lambda: parse_truth(without("images", "id")), f"truth: image 0 (counted from 0) has no id; {FORM}"),
        (
            lambda: parse_truth(changed("annotations", id=2)),
            "truth: two annotations have the id 2; give each its own id",
        ),
        (
            lambda: parse_truth(changed("annotations", image_id=5)),
            "truth: annotation 1 has image_id 5, but no image of the truth has this id; the truth has 2: 4, 9",
        ),
        (
            lambda: parse_truth(changed("annotations", category_id=[1])),
            "truth: annotation 1 has category_id [1], but no category of the truth has this id; the truth has 2: 3, 18",
        ),
        (lambda: parse_truth(without("annotations", "bbox"), "box"), f"truth: annotation 1 has no bbox; {FORM}"),
        (
            lambda: parse_truth(without("annotations", "segmentation")),
            f"truth: annotation 1 has no segmentation; {FORM}",
        ),
        (
            lambda: parse_truth(changed("annotations", segmentation="x")).objects(0, 2),
            f"truth: annotation 1 has a segmentation that is neither polygons nor run lengths; {EITHER}",
        ),
        (
            lambda: parse_truth(changed("annotations", segmentation=[[1, 2, 3]])).objects(0, 2),
            "truth: annotation 1 has a broken mask (a polygon has 3 numbers; COCO polygons are x y x y ..., "
            "at least 3 points); write it again",
        ),
        (
            lambda: parse_truth(changed("annotations", segmentation={"size": [8, 10], "counts": "1"})).objects(0, 2),
            "truth: annotation 1 has a broken mask (RLE counts add up to 1 pixels, but 8x10 has 80); write it again",
        ),
        (
            lambda: parse_truth(changed("annotations", segmentation={"size": [8, 10], "counts": [1]})).objects(0, 2),
            "truth: annotation 1 has a broken mask (RLE counts add up to 1 pixels, but 8x10 has 80); write it again",
        ),
        (
            lambda: parse_truth(without("images", "height")).objects(0, 2),
            "truth: annotation 1 has polygons, but its image no height and width; add them to the image",
        ),
        (lambda: parse_results({}, parse_truth(TRUTH)), f"results: this holds a dict, not a list of results; {RESULT}"),
        (
            lambda: result(image_id=5),
            "results: result 0 (counted from 0) has image_id 5, but no image of the truth has this id; "
            "the truth has 2: 4, 9",
        ),
        (
            lambda: result(category_id="dog"),
            "results: result 0 (counted from 0) has category_id 'dog', but no category of the truth has this id; "
            "the truth has 2: 3, 18",
        ),
        (
            lambda: result(score=math.nan),
            "results: result 0 (counted from 0) has the score nan; give a finite number as score",
        ),
        (
            lambda: result(score="1"),
            "results: result 0 (counted from 0) has the score '1'; give a finite number as score",
        ),
        (
            lambda: result(bbox=[1, 2, 3]),
            "results: result 0 (counted from 0) has a bbox of 3 numbers; a bbox is x y width height in pixels",
        ),
        (
            lambda: result(bbox=[1, 2, 3, None]),
            "results: result 0 (counted from 0) has a bbox of [1, 2, 3, None]; a bbox is x y width height in pixels",
        ),
        (lambda: result("mask"), f"results: result 1 (counted from 0) has no segmentation; {RESULT}"),
        (
            lambda: result("keypoints", keypoints=[1, 2]),
            f"results: result 1 (counted from 0) has no keypoints; {RESULT}",
        ),
        (
            lambda: parse_results([7], parse_truth(TRUTH)),
            f"results: result 0 (counted from 0) has no image_id; {RESULT}",
        ),
    ],
)
def test_bad_files(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message


def test_masks_of_another_size():
    found = [{**RESULTS[1], "segmentation": {"size": [10, 8], "counts": [80]}}]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        parse_results(found, parse_truth(TRUTH), "mask").objects(0, 2)
    assert str(caught.value) == (
        "results: result 0 (counted from 0) has a mask of 10x8 but its image is 8x10; "
        "a mask is of the size of its image, [height, width]"
    )


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for path, message in (
        (tmp_path / "b.json", "the file does not exist; name a JSON file in COCO's format"),
        (tmp_path, "this is a folder, not a JSON file; name a JSON file in COCO's format"),
        (
            tmp_path / "a.json",
            "not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "
            "write it again",
        ),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
            read_json(path)
        assert str(caught.value) == f"{path}: {message}"


def test_what_results_are_about(tmp_path):
    assert kind_of_results([]) == kind_of_results(RESULTS) == "box"
    assert kind_of_results([{**RESULTS[0], "segmentation": {"size": [8, 10], "counts": "1"}}]) == "mask"
    assert kind_of_results([{**RESULTS[0], "keypoints": [1, 2, 3]}]) == "keypoints"
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    (tmp_path / "t.json").write_text(json.dumps(TRUTH))
    truth = read_truth(tmp_path / "t.json", "box")
    assert len(read_results(tmp_path / "r.json", truth)) == 2


def test_keypoints_of_the_classes_that_name_them():
    truth = copy.deepcopy(TRUTH)
    truth["categories"][0]["keypoints"] = ["nose", "tail"]
    truth["annotations"][0]["keypoints"] = [1, 2, 2, 3, 4, 0]
    known = parse_truth(truth, "keypoints")
    assert known.classes.names == ("dog",)
    assert known.table.keypoints.tolist() == [[[1, 2, 2], [3, 4, 0]]]
    assert known.table.ignore.tolist() == [False]
    truth["annotations"][0]["keypoints"] = [1, 2, 0, 3]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        parse_truth(truth, "keypoints")
    assert str(caught.value) == "truth: annotation 1 has keypoints of 4 numbers; keypoints are x y v x y v ..."
