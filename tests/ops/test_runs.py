"""Many masks in flat arrays against pycocotools, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from masklet.ops import rle, runs


@st.composite
def albums(draw):
    """Masks of different images: noise of any density, of sizes from 1x1."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sizes = rng.integers(1, 30, (draw(st.integers(1, 10)), 2))
    return [rng.random(size) < rng.choice([0, 0.05, 0.3, 0.5, 0.9, 1]) for size in sizes], sizes


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@settings(max_examples=80, deadline=None)
@given(albums())
def test_strings_areas_and_boxes_equal_pycocotools(album):
    masks, sizes = album
    theirs = [reference(mask) for mask in masks]
    texts = [item["counts"] for item in theirs]
    for found in (
        runs.from_strings(texts, *sizes.T),
        runs.from_strings([text.decode() for text in texts], *sizes.T),
        runs.from_rles([rle.encode(mask) for mask in masks]),
    ):
        assert found.areas.tolist() == coco.area(theirs).tolist()
        for i, mask in enumerate(masks):
            assert np.array_equal(rle.decode(found[i]), mask)
            assert tuple(found.boxes[i]) == rle.encode(mask).box
        chosen = np.array([len(masks) - 1, 0, 0])
        assert found.take(chosen).areas.tolist() == found.areas[chosen].tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 1]))
def test_polygons_equal_pycocotools(seed, digits):
    """Also outside of the image, with repeated points, and where rings overlap."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, (rng.integers(1, 8), 2))
    objects = [
        [rng.uniform(-10, 60, 2 * rng.integers(3, 10)).round(digits).tolist() for _ in range(rng.integers(1, 4))]
        for _ in sizes
    ]
    found = runs.from_polygons(objects, *sizes.T)
    for i, (rings, (h, w)) in enumerate(zip(objects, sizes.tolist(), strict=True)):
        assert rle.to_string(found[i]) == coco.merge(coco.frPyObjects(rings, h, w))["counts"].decode()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31))
def test_iou_of_pairs_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    n, h, w = rng.integers(1, 30, 3)
    masks = rng.random((n, h, w)) < rng.choice([0, 0.05, 0.3, 0.5, 0.9, 1], (n, 1, 1))
    theirs, crowd = [reference(mask) for mask in masks], rng.random(n) < 0.4
    found = runs.from_rles([rle.encode(mask) for mask in masks])
    i, j = np.divmod(np.arange(n * n), n)
    want = coco.iou(theirs, theirs, crowd.astype(np.uint8)).reshape(-1)
    full = found.areas[i] > 0  # theirs says 1 for two empty masks and nan for crowds
    assert np.array_equal(runs.iou(found, found, i, j, crowd)[full], want[full])
    some = runs.iou(found, found, i, j, crowd, least=0.5)
    assert np.array_equal(some[full & (want >= 0.5)], want[full & (want >= 0.5)])
    assert np.array_equal(runs.intersections(found, found, i, j), (masks[i] & masks[j]).sum((1, 2)))


def test_nothing():
    empty = np.zeros(0, np.int64)
    for none in (runs.from_rles([]), runs.from_strings([], empty, empty), runs.from_polygons([], empty, empty)):
        assert len(none) == 0
        assert none.areas.shape == (0,)
        assert none.boxes.shape == (0, 4)
    one = runs.from_polygons([[], [[0, 0, 2, 0, 2, 2]]], np.array([3, 3]), np.array([3, 3]))
    assert one.areas[0] == 0
    assert one.areas[1] > 0


def test_long_numbers_and_many_pieces(monkeypatch):
    counts = [2**31 + 5, 1, 3, 2**29, 2**20 - 9, 7]
    text = rle.to_string(rle.from_counts(counts, 1, sum(counts)))
    found = runs.from_strings([text, "4"], np.array([1, 2]), np.array([sum(counts), 2]))
    assert found.areas.tolist() == [1 + 2**29 + 7, 0]
    masks = [np.random.default_rng(i).random((9, 11)) < 0.4 for i in range(40)]
    texts = [rle.to_string(rle.encode(mask)) for mask in masks]
    monkeypatch.setattr(runs, "_PIECE", 50)
    pieces = runs.from_strings(texts, np.full(40, 9), np.full(40, 11))
    assert pieces.areas.tolist() == [mask.sum() for mask in masks]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["4", "4P"],
            "mask 1: these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)",
        ),
        (["5"], "mask 0: RLE counts add up to 5 pixels, but 2x2 has 4"),
        (["4", "O5"], "mask 1: RLE counts must not be negative, but one is -1"),
        (
            ["4", ""],
            "mask 1: these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)",
        ),
    ],
)
def test_broken_strings(texts, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        runs.from_strings(texts, np.full(len(texts), 2), np.full(len(texts), 2))
    assert str(caught.value) == message


def test_broken_polygons_and_sizes():
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        runs.from_polygons([[[0, 0, 2, 0, 2, 2]], [[1, 2, 3]]], np.full(2, 3), np.full(2, 3))
    assert str(caught.value) == "mask 1: a polygon has 3 numbers; COCO polygons are x y x y ..., at least 3 points"
    with pytest.raises(ValueError, match=r"^a polygon has a coordinate that is not a finite number$"):
        runs.from_polygons([[[0, 0, 2, 0, 2, float("nan")]]], np.full(1, 3), np.full(1, 3))
    found = runs.from_strings(["4", "6"], np.array([2, 2]), np.array([2, 3]))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        runs.intersections(found, found, np.array([0]), np.array([1]))
    assert str(caught.value) == "masks differ in size: 2x2, 2x3"
