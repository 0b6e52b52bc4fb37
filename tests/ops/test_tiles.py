"""Tiles cover the image, stay inside it, overlap as asked, and blend to a positive weight everywhere."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.ops.tiles import fades, windows


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(9, 90), st.integers(9, 90)),
    st.floats(0, 0.9),
)
def test_windows_cover_everything(size, tile, overlap):
    cover = torch.zeros(size)
    found = windows(size, tile, overlap)
    for y0, x0, y1, x1 in found:
        assert 0 <= y0 < y1 <= size[0]
        assert 0 <= x0 < x1 <= size[1]
        assert (y1 - y0, x1 - x0) == (min(tile[0], size[0]), min(tile[1], size[1]))
        cover[y0:y1, x0:x1] += 1
    assert cover.min() >= 1
    assert len(set(found)) == len(found)
    starts = sorted({w[1] for w in found})
    shared = [a + min(tile[1], size[1]) - b for a, b in itertools.pairwise(starts)]
    assert all(s >= math.floor(tile[1] * overlap - 1e-6) for s in shared)


def test_semseg_grid():
    """Stride ceil(2/3 crop), ceil((H - crop) / stride) + 1 windows a side, the last one shifted back inside."""
    found = windows((101, 149), (65, 81), overlap=1 / 3)
    assert sorted({w[0] for w in found}) == [0, 36]
    assert sorted({w[1] for w in found}) == [0, 54, 68]


def test_one_window_for_a_small_image():
    assert windows((30, 40), 64) == [(0, 0, 30, 40)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((10, 10), 0, 0.2), "cannot cut 10x10 into tiles of 0x0; sides need a pixel at least"),
        (((0, 10), 4, 0.2), "cannot cut 0x10 into tiles of 4x4; sides need a pixel at least"),
        (((10, 10), 4, 1.0), "overlap is the shared part of a tile, 0 <= overlap < 1, not 1.0"),
        (((10, 10), 4, -0.1), "overlap is the shared part of a tile, 0 <= overlap < 1, not -0.1"),
    ],
)
def test_bad_tiles(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        windows(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("starts", "length"), [([0], 40), ([0, 48], 64), ([0, 48, 49], 64), ([0, 64, 100], 64), ([0, 16, 32, 41], 64)]
)
def test_weights_of_overlapping_windows_add_up_to_one(starts, length):
    total = torch.zeros(starts[-1] + length)
    for start, weight in zip(starts, fades(starts, length), strict=True):
        assert (weight >= 0).all()
        total[start : start + length] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_outer_quarter_of_an_overlap_belongs_to_one_window():
    first, second = fades([0, 48], 64)  # they share 16 pixels, 48 to 63
    assert (second[:4] == 0).all()
    assert (second[12:] == 1).all()
    assert (first[60:] == 0).all()
    assert (first[:52] == 1).all()
    assert 0 < second[8] < 1
