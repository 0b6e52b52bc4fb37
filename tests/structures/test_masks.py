"""Masks stay small, and are the same masks whichever way they came in."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from masklet.ops import masks as dense_ops
from masklet.structures import Masks
from masklet.structures.selection import positions


@pytest.fixture
def stack() -> torch.Tensor:
    stack = torch.rand(5, 12, 9) < torch.tensor([0.05, 0.3, 0.6, 0.0, 1.0])[:, None, None]
    stack[0, 3, 4] = True
    return stack


def test_three_ways_in_one_way_out(stack):
    masks = Masks.from_dense(stack)
    parts = [masks.crop(i) for i in range(len(masks))]
    from_crops = Masks.from_crops([c for c, _, _ in parts], [(x, y) for _, x, y in parts], 12, 9)
    assert masks == Masks.from_dense(stack.numpy()) == Masks.from_rle(masks.rle()) == from_crops
    assert masks == Masks.from_crops(list(stack), torch.zeros(5, 2, dtype=torch.int64), 12, 9)
    assert torch.equal(masks.dense(), stack)
    assert masks.size == (12, 9)


def test_coco_form(stack):
    for ours, mask in zip(Masks.from_dense(stack).rle(), stack.numpy(), strict=True):
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert ours == {"size": [12, 9], "counts": theirs["counts"].decode()}


def test_measures(stack):
    masks = Masks.from_dense(stack)
    assert masks.areas().tolist() == stack.sum((1, 2)).tolist()
    assert masks.boxes()[4].tolist() == [0, 0, 9, 12]
    assert masks.boxes()[3].tolist() == [0, 0, 0, 0]
    assert torch.equal(masks.union(), stack.any(0))
    torch.testing.assert_close(masks.iou(masks[1:3]).float(), dense_ops.pairwise_iou(stack, stack[1:3]))


def test_no_masks():
    empty = Masks(12, 9)
    assert len(empty) == 0
    assert empty.dense().shape == (0, 12, 9)
    assert empty.boxes().shape == (0, 4)
    assert empty.rle() == []
    assert not empty.union().any()
    assert Masks.from_rle([], 12, 9) == empty == Masks.from_dense(torch.zeros(0, 12, 9, dtype=torch.bool))


@pytest.mark.parametrize(
    ("keep", "chosen"),
    [
        (2, [2]),
        (-1, [4]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [4, 3, 2, 1, 0]),
        ([3, 0], [3, 0]),
        ([], []),
        (torch.tensor([4, -5]), [4, 0]),
        (torch.tensor(2), [2]),
        ([True, False, False, True, False], [0, 3]),
        (torch.tensor([False] * 5), []),
        (np.array([1, 1]), [1, 1]),
        (torch.zeros(0, dtype=torch.int64), []),
    ],
)
def test_one_index_for_all(stack, keep, chosen):
    assert torch.equal(Masks.from_dense(stack)[keep].dense(), stack[chosen])
    assert positions(keep, 5) == chosen


def test_iteration_ends(stack):
    assert [len(one) for one in Masks.from_dense(stack)] == [1] * 5


def test_a_hundred_masks_at_1080p_stay_small():
    """Dense they are 207 MB; coming in as crops, going out as COCO's JSON, they never get near that."""
    rng = np.random.default_rng(0)
    crops = [rng.random((1, 200, 200)).cumsum(2)[0] < rng.uniform(20, 80) for _ in range(100)]
    corners = [(int(x), int(y)) for x, y in rng.integers(0, (1720, 880), (100, 2))]
    tracemalloc.start()
    masks = Masks.from_crops(crops, corners, 1080, 1920)
    kept = tracemalloc.get_traced_memory()[0]
    again = Masks.from_rle(masks.rle())[torch.arange(99, -1, -1)]
    overlap, union = again.iou(masks), masks[:50].union()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept < 1_000_000, "100 masks of some 400 runs"
    assert peak < 20_000_000, "one canvas of 2 MB (the union) and the runs"
    assert overlap.shape == (100, 100)
    assert union.sum() > 0
    assert again[::-1].items == masks.items


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_round_trip(n, height, width, seed):
    stack = torch.rand(n, height, width, generator=torch.Generator().manual_seed(seed)) < 0.4
    masks = Masks.from_dense(stack)
    assert torch.equal(Masks.from_rle(masks.rle(), height, width).dense(), stack)
