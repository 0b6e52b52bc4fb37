"""Outlines, disks and boundary bands against scipy and plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masklet.ops.boundaries import band, band_width, bit_planes, content_box, dilate, meet, outlines, reach
from masklet.ops.masks import boundary


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def plain_outline(mask: np.ndarray) -> np.ndarray:
    """A pixel that differs from its right, lower or lower right neighbour, pixel by pixel."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            out[y, x] = any(mask[p] != mask[y, x] for p in around if p[0] < height and p[1] < width)
    return out


def random_masks(seed: int, n: int, height: int, width: int, grain: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(n, height, width))
    return ndimage.gaussian_filter(noise, (0, grain, grain)) > 0.05


def test_outline_by_hand():
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:3] = 1
    assert outlines(mask).tolist() == [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_the_edge_of_the_image_is_no_outline():
    assert not outlines(np.ones((3, 4), np.uint8)).any()


def test_a_disk_of_radius_two_by_hand():
    point = np.zeros((5, 5), np.uint8)
    point[2, 2] = 1
    rows = ["..#..", ".###.", "#####", ".###.", "..#.."]
    assert dilate(point, 2).tolist() == [[int(c == "#") for c in row] for row in rows]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 13), st.integers(1, 30), st.integers(1, 30), st.integers(1, 20))
def test_dilation_equals_scipy(seed: int, radius: int, height: int, width: int, n: int):
    masks = np.random.default_rng(seed).random((n, height, width)) < 0.03
    planes = bit_planes([*masks], [[1]] * n)
    grown = dilate(planes, radius)
    for k, mask in enumerate(masks):
        want = ndimage.binary_dilation(mask, disk(radius)) if radius else mask
        assert np.array_equal(grown >> planes.dtype.type(k) & 1, want)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_outlines_equal_the_definition(seed: int, height: int, width: int, n: int):
    masks = np.random.default_rng(seed).random((n, height, width)) < 0.4
    planes = outlines(bit_planes([*masks], [[1]] * n))
    for k, mask in enumerate(masks):
        assert np.array_equal(planes >> planes.dtype.type(k) & 1, plain_outline(mask))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 9, 17, 33]), st.integers(0, 4))
def test_meeting_equals_pairs_of_pictures(seed: int, n: int, radius: int):
    masks = random_masks(seed, n, 20, 24)
    met = meet(bit_planes([*masks], [[1]] * n), n, radius)
    edges = [plain_outline(mask) for mask in masks[:4]]
    grown = [ndimage.binary_dilation(edge, disk(radius)) if radius else edge for edge in edges]
    assert np.array_equal(met.shared, np.einsum("ihw,jhw->ij", masks, masks, dtype=np.float64))
    assert np.array_equal(met.near[:4, :4], [[(e & g).sum() for g in grown] for e in edges])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_the_content_box_holds_all_outlines(seed: int, radius: int):
    ids = np.zeros((16, 18), np.uint8)
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 12, 2)
    ids[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = 7
    planes = bit_planes([ids], [[7]])
    whole, part = meet(planes, 1, radius), meet(planes[content_box(ids)], 1, radius)
    assert np.array_equal(whole.shared, part.shared)
    assert np.array_equal(whole.near, part.near)


def test_planes_of_two_maps():
    first, second = np.array([[0, 3], [5, 3]], np.uint8), np.array([[0, 900], [3, 900]], np.int64)
    planes = bit_planes([first, second], [[3, 5], [900, 3]])
    assert planes.tolist() == [[0, 1 + 4], [2 + 8, 1 + 4]]


@pytest.mark.parametrize(("n", "size"), [(8, 1), (9, 2), (17, 4), (33, 8), (64, 8)])
def test_planes_take_the_bytes_they_need(n: int, size: int):
    ids = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    for labels in (ids, ids.astype(np.int64)):
        planes = bit_planes([labels], [list(range(1, n + 1))])
        assert planes.itemsize == size
        assert planes.ravel().tolist() == [1 << i if i < n else 0 for i in range(64)]


def test_too_many_planes():
    with pytest.raises(ValueError, match="65 masks do not fit 64 bits; compare them in parts"):
        bit_planes([np.zeros((2, 2), np.uint8)], [range(65)])


def test_nothing_to_meet():
    assert meet(np.zeros((0, 0), np.uint8), 2, 3).shared.tolist() == [[0, 0], [0, 0]]
    assert meet(np.zeros((3, 3), np.uint8), 2, 3).near.tolist() == [[0, 0], [0, 0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 25), st.integers(1, 25))
def test_bands_equal_erosion(seed: int, width: int, rows: int, columns: int):
    masks = random_masks(seed, 3, rows, columns)
    planes = band(bit_planes([*masks], [[1]] * 3), width)
    square = np.ones((2 * width + 1, 2 * width + 1), bool)
    dense = boundary(torch.from_numpy(masks), width).numpy()
    for k, mask in enumerate(masks):
        want = mask & ~ndimage.binary_erosion(mask, square, border_value=0)
        assert np.array_equal(planes >> k & 1, want)
        assert np.array_equal(dense[k], want)


def test_distances():
    assert [reach(480, 854), reach(1080, 1920), reach(100, 100), reach(100, 100, 3)] == [8, 18, 2, 3]
    assert [band_width(480, 854), band_width(10, 10)] == [20, 1]
