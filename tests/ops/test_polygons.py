"""Polygons against the pixels, scipy's components, pycocotools and detectron2's recorded masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy import ndimage

from conftest import shared
from masklet.ops import polygons, rle


@st.composite
def noise(draw):
    side = st.integers(1, 16)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.random((draw(side), draw(side))) < rng.choice([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1])


@settings(max_examples=120, deadline=None)
@given(noise())
def test_trace_and_fill_are_inverse(mask):
    rings = polygons.trace(mask)
    assert np.array_equal(polygons.fill(rings, *mask.shape), mask)
    areas = [polygons.area(ring) for ring in rings]
    assert sum(areas) == mask.sum()
    assert sum(a > 0 for a in areas) == ndimage.label(mask)[1], "an outer ring for every component"
    ground = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1]
    assert sum(a < 0 for a in areas) == ground - 1, "a ring for every hole"


@settings(max_examples=60, deadline=None)
@given(noise())
def test_rings_have_corners_only(mask):
    for ring in polygons.trace(mask):
        sides = np.diff(np.vstack([ring, ring[:1]]), axis=0)
        assert ((sides == 0).sum(1) == 1).all(), "sides run along the pixels"
        assert ((sides[:, 0] == 0) != (np.roll(sides[:, 0], 1) == 0)).all(), "and turn at every point"


def test_a_frame_by_hand():
    mask = np.ones((3, 4), bool)
    mask[1, 1:3] = False
    outer, hole = polygons.trace(torch.from_numpy(mask))
    assert outer.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert polygons.area(outer) == 12
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [3, 1], [3, 2]]
    assert polygons.area(hole) == -2
    assert polygons.to_coco([outer, hole]) == [[0, 0, 4, 0, 4, 3, 0, 3]]


def test_corners_that_touch_are_two_rings():
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [polygons.area(ring) for ring in polygons.trace(mask)] == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 9), st.integers(0, 2**31))
def test_fill_takes_centres_inside_an_odd_number_of_rings(points, seed):
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-4, 24, (points, 2)) for _ in range(2)]
    filled = polygons.fill(rings, 20, 18)
    y, x = np.mgrid[:20, :18] + 0.5
    inside = np.zeros((20, 18), bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            across = (y0 <= y) != (y1 <= y)
            inside ^= across & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    assert np.array_equal(filled, inside)


def test_fill_of_nothing():
    assert not polygons.fill([], 3, 4).any()
    assert not polygons.fill([np.array([[9.0, 9], [12, 9], [12, 12]])], 3, 4).any()
    assert polygons.trace(np.zeros((0, 5), bool)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(3, 12),
    st.sampled_from(["float", "int", "half", "repeated"]),
    st.integers(0, 2**31),
)
def test_rasterize_equals_pycocotools(size, points, kind, seed):
    ring = np.random.default_rng(seed).uniform(-5, 45, (points, 2))
    if kind == "int":
        ring = ring.round()
    elif kind == "half":
        ring = (ring * 2).round() / 2
    elif kind == "repeated":
        ring[1] = ring[0]
    (theirs,) = coco.frPyObjects([ring.reshape(-1).tolist()], *size)
    assert rle.to_string(polygons.rasterize(ring, *size)) == theirs["counts"].decode()


def test_several_polygons_are_united_as_in_pycocotools():
    rng = np.random.default_rng(0)
    flat = [rng.uniform(0, 60, 2 * k).tolist() for k in (3, 5, 8)]
    theirs = coco.merge(coco.frPyObjects(flat, 50, 60))
    assert rle.to_string(polygons.from_coco(flat, 50, 60)) == theirs["counts"].decode()
    assert polygons.from_coco([], 5, 6).area == 0


def test_detectron2_bitmaps():
    recorded = np.load(shared("oracles", "ops_masks") / "outputs.npz")
    masks = [polygons.from_coco([flat.tolist()], 101, 149) for flat in recorded["target.polygons"]]
    assert np.array_equal(
        np.packbits(rle.decode_many(masks, 101, 149).reshape(10, -1), 1), recorded["polygon.bitmap_bits"]
    )
    np.testing.assert_array_equal(rle.boxes(masks), recorded["polygon.bitmap_boxes"])
    areas = [abs(polygons.area(flat.reshape(-1, 2))) for flat in recorded["target.polygons"]]
    np.testing.assert_allclose(areas, recorded["polygon.area"], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: polygons.from_coco([[1, 2, 3, 4]], 9, 9),
            "polygon 0 has 4 numbers; COCO polygons are x y x y ..., at least 3 points",
        ),
        (
            lambda: polygons.from_coco([[1, 2, 3, 4, 5, 6], [1.0] * 7], 9, 9),
            "polygon 1 has 7 numbers; COCO polygons are x y x y ..., at least 3 points",
        ),
        (lambda: polygons.rasterize(np.zeros((2, 2)), 9, 9), "a polygon needs at least 3 points, this one has 2"),
        (lambda: polygons.trace(np.zeros((2, 2))), "masks are bool, this one is float64; threshold it first"),
    ],
)
def test_bad_polygons(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message
