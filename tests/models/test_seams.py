from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.models.seams import find_in_tiles, join
from masklet.ops.tiles import windows
from masklet.structures import Classes, Instances, Masks

CLASSES = Classes(("disc", "box"))


def seen(truth: Instances, window: tuple[int, int, int, int], order: np.random.Generator | None = None) -> Instances:
    """What a perfect model finds in a window: the part of every object that lies in it, with the object's score."""
    y0, x0, y1, x1 = window
    dense = truth.masks.dense()[:, y0:y1, x0:x1]
    there = dense.flatten(1).any(1)
    keep = there.nonzero()[:, 0]
    if order is not None:
        keep = keep[torch.from_numpy(order.permutation(len(keep)))]
    masks = Masks.from_dense(dense[keep])
    found = Instances.from_masks(masks, truth.labels[keep], CLASSES, truth.scores[keep])
    if truth.keypoints is not None:
        corner = torch.tensor([x0, y0, 0.0])
        found = replace(found, keypoints=truth.keypoints[keep] - corner)
    return found


def discs(seed: int, size: tuple[int, int], count: int, radius: tuple[float, float]) -> Instances:
    """Discs that do not touch, each with a score of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    taken, masks = np.zeros(size, bool), []
    for _ in range(count):
        r = rng.uniform(*radius)
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        distance = np.hypot(y - cy, x - cx)
        if not (taken & (distance < r + 2)).any() and (distance < r).any():
            taken |= distance < r
            masks.append(distance < r)
    masks = Masks.from_dense(np.stack(masks))
    labels = torch.from_numpy(rng.integers(0, 2, len(masks)))
    return Instances.from_masks(masks, labels, CLASSES, torch.from_numpy(rng.permutation(len(masks)) + 1.0).float())


def whole(truth: Instances) -> Instances:
    return truth[truth.scores.argsort(descending=True)]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(40, 110),
    width=st.integers(40, 110),
    tile=st.integers(32, 80),
    overlap=st.sampled_from((0.1, 0.25, 0.4)),
)
def test_tiles_give_what_the_whole_picture_gives(seed, height, width, tile, overlap):
    """Every object once and pixel by pixel, however often borders cut it: smaller and larger than overlap and tile."""
    truth = discs(seed, (height, width), 40, (1.5, 45))
    rng = np.random.default_rng(seed)
    parts = [(window, seen(truth, window, rng)) for window in windows((height, width), tile, overlap)]
    joined, wanted = join(parts, (height, width)), whole(truth)
    assert joined.scores.tolist() == wanted.scores.tolist()
    assert joined.labels.equal(wanted.labels)
    assert joined.masks == wanted.masks
    assert joined.boxes.equal(wanted.boxes)


def test_boxes_without_masks_are_joined_too():
    truth = discs(3, (120, 130), 30, (3, 20))
    parts = [(w, replace(seen(truth, w), masks=None)) for w in windows((120, 130), 64, 0.3)]
    joined, wanted = join(parts, (120, 130)), whole(truth)
    assert joined.masks is None
    assert joined.scores.tolist() == wanted.scores.tolist()
    assert joined.boxes.equal(wanted.boxes)


def test_of_two_views_the_whole_one_stays_whatever_its_score():
    size = (20, 40)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, 5:15, 14:20] = True  # the left window ends at 16 and sees two columns
    truth = Instances.from_masks(Masks.from_dense(mask), torch.tensor([0]), CLASSES, torch.tensor([0.4]))
    left, right = (0, 0, 20, 16), (0, 10, 20, 40)
    cut = replace(seen(truth, left), scores=torch.tensor([0.9]))
    joined = join([(left, cut), (right, seen(truth, right))], size)
    assert joined.scores.tolist() == [pytest.approx(0.4)]
    assert joined.masks == truth.masks


def test_of_two_whole_views_the_better_one_stays_and_neighbours_do_too():
    size, left, right = (20, 60), (0, 0, 20, 40), (0, 20, 20, 60)
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 4:14, 24:30] = True
    masks[1, 4:14, 30:36] = True  # touches the first
    truth = Instances.from_masks(Masks.from_dense(masks), torch.tensor([0, 0]), CLASSES, torch.tensor([0.5, 0.6]))
    worse = replace(seen(truth, right), scores=torch.tensor([0.3, 0.9]))
    joined = join([(left, seen(truth, left)), (right, worse)], size)
    assert joined.scores.tolist() == [pytest.approx(0.9), pytest.approx(0.5)]
    assert joined.masks == truth.masks[[1, 0]]


def test_what_a_better_view_does_not_find_is_not_there():
    """The right window begins in the middle of a disc that the left one sees whole and takes for nothing."""
    size, left, right = (20, 60), (0, 0, 20, 40), (0, 20, 20, 60)
    mask = torch.zeros(2, *size, dtype=torch.bool)
    mask[0, 5:15, 14:28] = True
    mask[1, 5:15, 30:50] = True  # the left window sees only a part of this one: no better view
    truth = Instances.from_masks(Masks.from_dense(mask), torch.tensor([0, 0]), CLASSES, torch.tensor([0.8, 0.7]))
    joined = join([(left, Instances.empty((20, 40), CLASSES)), (right, seen(truth, right))], size)
    assert joined.masks == truth.masks[[1]]


def test_objects_of_two_classes_are_two():
    truth = discs(0, (40, 40), 1, (6, 6))
    one = truth[[0]]
    other = replace(one, labels=1 - one.labels)
    joined = join([((0, 0, 40, 40), one), ((0, 0, 40, 40), other)], (40, 40))
    assert sorted(joined.labels.tolist()) == [0, 1]


def test_points_move_with_their_window():
    truth = discs(1, (100, 100), 12, (4, 8))
    places = torch.cat([(truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2, torch.ones(len(truth), 1)], 1)[:, None]
    truth = replace(truth, keypoints=places)
    joined = join([(w, seen(truth, w)) for w in windows((100, 100), 60, 0.3)], (100, 100))
    assert joined.keypoints.equal(whole(truth).keypoints)


def test_nothing_found_is_nothing():
    empty = Instances.empty((64, 64), CLASSES)
    found = find_in_tiles(lambda part: replace(empty, size=tuple(part.shape[1:])), torch.zeros(3, 64, 64), 64)
    assert len(found) == 0
    parts = [(w, Instances.empty((32, 32), CLASSES)) for w in windows((64, 64), 32, 0.0)]
    assert join(parts, (64, 64)).size == (64, 64)


def test_the_finder_sees_tiles():
    asked = []

    def find(part: torch.Tensor) -> Instances:
        asked.append(tuple(part.shape))
        return Instances.empty((part.shape[1], part.shape[2]), CLASSES)

    find_in_tiles(find, torch.zeros(3, 50, 90), 40, 0.25)
    assert asked == [(3, 40, 40)] * 6


def test_memory_is_that_of_run_lengths():
    """1000 objects in 2000 x 2000 pixels: as a stack they would be 4 GB."""
    size = 2000

    def find(part: torch.Tensor) -> Instances:
        ids = torch.arange(100).view(10, 10).repeat_interleave(20, 0).repeat_interleave(20, 1) + 1
        masks, _ = Masks.from_ids(ids)
        boxes = masks.boxes()
        return Instances(boxes, torch.zeros(100, dtype=torch.int64), torch.rand(100), masks, (200, 200), CLASSES)

    tracemalloc.start()
    found = find_in_tiles(find, torch.zeros(1, size, size).expand(3, -1, -1), 200, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) > 1000
    assert peak < 200e6
