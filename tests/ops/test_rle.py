"""Run lengths against pycocotools, bit for bit, and against the pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from masklet.ops import rle


@st.composite
def stacks(draw, least=1, most=1):
    """Random masks: noise of any density, or whole columns (whose runs go on in the next column)."""
    count, h, w = draw(st.integers(least, most)), draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    masks = rng.random((count, h, w)) < rng.choice([0, 0.05, 0.3, 0.5, 0.9, 1], (count, 1, 1))
    if draw(st.booleans()):
        a, b = sorted(rng.integers(0, w + 1, 2))
        masks[0] = False
        masks[0, :, a:b] = True
    return masks


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@settings(max_examples=120, deadline=None)
@given(stacks())
def test_encode_equals_pycocotools(masks):
    (mask,) = masks
    ours, theirs = rle.encode(mask), reference(mask)
    assert rle.to_coco(ours) == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert rle.from_coco(theirs) == ours
    assert rle.from_string(theirs["counts"].decode(), *mask.shape) == ours
    assert ours.area == coco.area(theirs)
    assert np.array_equal(rle.decode(ours), mask)


@settings(max_examples=60, deadline=None)
@given(stacks())
def test_box_is_tight(masks):
    (mask,) = masks
    y, x = np.nonzero(mask)
    tight = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 0, 0)
    assert rle.encode(mask).box == tight
    x0, y0, w, h = coco.toBbox(reference(mask))
    assert (x0, y0, x0 + w, y0 + h) == tight


@settings(max_examples=50, deadline=None)
@given(stacks(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_from_crop_equals_the_canvas(masks, left, top, right, bottom):
    (crop,) = masks
    canvas = np.pad(crop, ((top, bottom), (left, right)))
    assert rle.from_crop(crop, left, top, *canvas.shape) == rle.encode(canvas)


@settings(max_examples=50, deadline=None)
@given(stacks())
def test_crop_is_the_mask_inside_its_box(masks):
    (mask,) = masks
    part, x0, y0 = rle.crop(rle.encode(mask))
    canvas = np.zeros_like(mask)
    canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    assert np.array_equal(canvas, mask)
    assert not part.size or (part.any(0)[[0, -1]].all() and part.any(1)[[0, -1]].all())


@settings(max_examples=60, deadline=None)
@given(stacks(1, 5), st.booleans())
def test_merge_equals_pycocotools(masks, intersect):
    merged = rle.merge(rle.encode_many(masks), intersect)
    assert np.array_equal(rle.decode(merged), masks.all(0) if intersect else masks.any(0))
    assert rle.to_string(merged) == coco.merge([reference(m) for m in masks], intersect)["counts"].decode()


@settings(max_examples=60, deadline=None)
@given(stacks(2, 6), st.integers(0, 2**31))
def test_iou_equals_pycocotools(masks, seed):
    crowd = np.random.default_rng(seed).random(len(masks)) < 0.5
    a, theirs = rle.encode_many(masks), [reference(m) for m in masks]
    ours = rle.iou(a, a, crowd.tolist())
    full = rle.area(a) > 0  # theirs says 1 for two empty masks and nan for crowds
    np.testing.assert_allclose(ours[full], coco.iou(theirs, theirs, crowd.astype(np.uint8))[full], atol=1e-12)
    assert not ours[~full].any()
    np.testing.assert_allclose(rle.iou(a, a)[full], coco.iou(theirs, theirs, [0] * len(a))[full], atol=1e-12)


def test_many_strings_at_once_equal_one_by_one():
    masks = [rle.encode(np.random.default_rng(i).random((40, 9 + i)) < 0.02 * i) for i in range(20)]
    assert rle.to_strings(masks) == [rle.to_string(m) for m in masks]
    assert rle.to_strings([]) == []


def test_long_runs_take_seven_letters():
    counts = [2**31 + 5, 1, 3, 2**29, 2**20 - 9, 7]
    (height, width) = (1, sum(counts))
    ours = rle.from_counts(counts, height, width)
    theirs = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    assert rle.to_string(ours) == theirs.decode()
    assert rle.from_string(theirs, height, width) == ours


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools.mask.decode
def test_uncompressed_counts_with_empty_runs():
    """Files of others may hold runs of no pixels; the mask is what counts."""
    counts = [0, 2, 0, 3, 4, 0, 0, 3]
    ours = rle.from_coco({"size": [3, 4], "counts": counts})
    theirs = coco.decode(coco.frPyObjects({"size": [3, 4], "counts": counts}, 3, 4))
    assert np.array_equal(rle.decode(ours), theirs)
    assert ours.box == (0, 0, 4, 3)


def test_tensors_and_stacks():
    masks = torch.rand(3, 9, 7) < 0.5
    encoded = rle.encode_many(masks)
    assert encoded[1] == rle.encode(masks[1]) == rle.encode(masks[1].numpy())
    assert np.array_equal(rle.decode_many(encoded, 9, 7), masks)
    assert rle.decode_many([], 9, 7).shape == (0, 9, 7)
    assert rle.encode(masks.permute(0, 2, 1)[0]) == rle.encode(masks[0].T.contiguous()), "any memory layout"


def test_areas_and_boxes_of_many():
    masks = np.random.default_rng(0).random((4, 6, 8)) < 0.1
    encoded = rle.encode_many(masks)
    assert rle.area(encoded).tolist() == masks.sum((1, 2)).tolist()
    assert rle.boxes(encoded).tolist() == [list(map(float, m.box)) for m in encoded]
    assert rle.boxes([]).shape == (0, 4)


def test_equality_and_hash():
    a, b = rle.encode(np.eye(4, dtype=bool)), rle.encode(np.eye(4, dtype=bool))
    assert a == b
    assert hash(a) == hash(b)
    assert a != rle.encode(np.ones((4, 4), bool))
    assert a != "text"


def test_iou_of_nothing():
    a = rle.encode_many(np.ones((2, 3, 3), bool))
    assert rle.iou(a, []).shape == (2, 0)
    assert rle.iou([], a).shape == (0, 2)


def test_memory_of_a_crop_is_that_of_the_crop():
    """One pixel in a billion costs nothing."""
    one = rle.from_crop(np.ones((1, 1), bool), 20_000, 10_000, 30_000, 30_000)
    assert one.counts.nbytes == 12
    assert one.box == (20_000, 10_000, 20_001, 10_001)
    part, x0, y0 = rle.crop(one)
    assert (part.tolist(), x0, y0) == ([[True]], 20_000, 10_000)


ONE = np.ones((2, 2), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rle.encode(np.ones((2, 2), np.uint8)), "masks are bool, this one is uint8; threshold it first"),
        (lambda: rle.encode(torch.ones(2, 2)), "masks are bool, this one is float32; threshold it first"),
        (
            lambda: rle.encode(ONE[None]),
            "a mask has two axes, this one has shape (1, 2, 2); use encode_many for a stack",
        ),
        (lambda: rle.encode_many(ONE), "a stack of masks has three axes, this one has shape (2, 2)"),
        (lambda: rle.from_crop(ONE[0], 0, 0, 4, 4), "a crop has two axes, this one has shape (2,)"),
        (lambda: rle.from_crop(ONE, 3, 0, 4, 4), "a 2x2 crop at x=3, y=0 leaves the 4x4 image; clip it first"),
        (lambda: rle.from_crop(ONE, 0, -1, 4, 4), "a 2x2 crop at x=0, y=-1 leaves the 4x4 image; clip it first"),
        (
            lambda: rle.from_string("", 2, 2),
            "these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)",
        ),
        (
            lambda: rle.from_string("4 4", 2, 2),
            "these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)",
        ),
        (
            lambda: rle.from_string("4P", 2, 2),
            "these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)",
        ),
        (
            lambda: rle.from_string("PPPPPPPP0", 2, 2),
            "these are not COCO's compressed RLE counts (a run is longer than 32 bits)",
        ),
        (lambda: rle.from_string("5", 2, 2), "RLE counts add up to 5 pixels, but 2x2 has 4"),
        (lambda: rle.from_string("O5", 2, 2), "RLE counts must not be negative, but one is -1"),
        (lambda: rle.from_counts([1, 2], 2, 2), "RLE counts add up to 3 pixels, but 2x2 has 4"),
        (lambda: rle.from_counts(np.array([1.5, 2.5]), 2, 2), "RLE counts are a flat list of whole numbers"),
        (lambda: rle.from_coco({"counts": "4"}), 'a COCO RLE is {"size": [height, width], "counts": ...}'),
        (lambda: rle.from_coco({"size": 4, "counts": "4"}), 'a COCO RLE is {"size": [height, width], "counts": ...}'),
        (lambda: rle.merge([]), "nothing to merge: give at least one mask"),
        (lambda: rle.merge([rle.encode(ONE), rle.encode(ONE[:1])]), "masks differ in size: 1x2, 2x2"),
        (lambda: rle.iou([rle.encode(ONE)], [rle.encode(ONE[:1])]), "masks differ in size: 1x2, 2x2"),
    ],
)
def test_bad_run_lengths(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("shape", [(7, 9), (1, 5), (5, 1), (0, 3), (3, 0), (40, 31)])
@pytest.mark.parametrize("most", [1, 2, 5, 60_000])
def test_id_maps_fall_into_masks(shape: tuple[int, int], most: int):
    rng = np.random.default_rng(most)
    ids = np.sort(rng.integers(0, most, shape).astype(np.uint16), axis=0)  # runs of many lengths
    numbers, masks = rle.from_ids(ids)
    assert numbers.tolist() == sorted({*ids.ravel().tolist()} - {0})
    assert masks == [rle.encode(ids == number) for number in numbers]


def test_toggles_of_many_masks():
    height, width = 3, 4
    positions = np.array([2, 2, 4, 7, 0, 12, 5, 9, 9, 12])  # [2, 2) and [4, 7); all; [5, 9) and [9, 12); nothing
    masks = rle.from_toggles(positions, np.array([0, 4, 6, 10, 10]), height, width)
    for mask, runs in zip(masks, ([4, 3, 5], [0, 12], [5, 7], [12]), strict=True):
        assert mask == rle.from_counts(runs, height, width)
    assert rle.from_toggles(np.empty(0, np.int64), np.zeros(1, np.int64), height, width) == []


@settings(max_examples=30, deadline=None)
@given(stacks(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_crops_together_equal_crops_one_by_one(masks, left, top):
    size = masks.shape[1] + top + 1, masks.shape[2] + left + 2
    together = rle.from_crops(masks, [(left, top)] * len(masks), *size)
    assert together == [rle.from_crop(mask, left, top, *size) for mask in masks]
    assert together == rle.encode_many(np.pad(masks, ((0, 0), (top, 1), (left, 2))))
