"""Id maps against np.unique on combined codes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masklet.ops.panoptic import overlaps


def test_by_hand():
    first = np.array([[1, 1, 2], [0, 2, 2]])
    second = np.array([[7, 7, 7], [0, 0, 7]])
    found = overlaps(first, second)
    assert [part.tolist() for part in found] == [[0, 1, 2, 2], [0, 7, 0, 7], [1, 2, 1, 2]]


def test_clips_count_over_time():
    clip = np.stack([np.full((2, 2), 3), np.full((2, 2), 4)])
    found = overlaps(clip, np.full((2, 2, 2), 9))
    assert found.first.tolist() == [3, 4]
    assert found.pixels.tolist() == [4, 4]


def test_nothing():
    none = np.zeros((0, 5), np.int64)
    assert [len(part) for part in overlaps(none, none)] == [0, 0, 0]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.uint32, np.int64]),
    st.sampled_from([1, 3, 40]),
    st.booleans(),
)
def test_equals_unique(seed: int, dtype: type, segments: int, noise: bool):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, np.iinfo(dtype).max, (2, segments), dtype=dtype, endpoint=True)
    shape = (24, 32) if noise else (6, 8)
    patch = np.ones((1, 1) if noise else (4, 4), dtype)
    first, second = (np.kron(row[rng.integers(0, segments, shape)], patch) for row in numbers)
    found = overlaps(first, second)
    counted = Counter(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    assert list(zip(*(part.tolist() for part in found), strict=True)) == sorted((*p, n) for p, n in counted.items())


def test_a_view_that_is_not_contiguous():
    first = np.arange(12).reshape(3, 4) // 6
    assert overlaps(first.T, first.T).pixels.tolist() == overlaps(first, first).pixels.tolist()
