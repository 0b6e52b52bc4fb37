"""Boundary IoU against its definition with scipy's erosion, and examples worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masklet.metrics.boundary import BoundaryIoU, boundary_iou
from masklet.structures import Masks, UserError


def square(size: int, at: int = 20, canvas: int = 100) -> np.ndarray:
    out = np.zeros((canvas, canvas), bool)
    out[at : at + size, at : at + size] = True
    return out


def plain(pred: np.ndarray, truth: np.ndarray, depth: int) -> float:
    """|G_d ∩ P_d| / |G_d ∪ P_d|, eroding step by step as mask_to_boundary does."""
    p, t = (m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=depth) for m in (pred, truth))
    return (p & t).sum() / (p | t).sum()


def test_by_hand():
    # 2 % of the diagonal of 100 x 100 is 2.83, so boundaries are 3 deep: rings of a 40 and a 50 square share a corner
    inner, outer = 40**2 - 34**2, 50**2 - 44**2
    both = 3 * 40 + 3 * 37  # the rings meet along the upper and the left side
    assert boundary_iou(square(40), square(50)) == both / (inner + outer - both)
    assert boundary_iou(square(40), square(40)) == 1
    assert boundary_iou(square(6), square(6, 26)) == 0
    assert boundary_iou(square(0), square(0)) == 1
    assert boundary_iou(square(0), square(9)) == 0


def test_big_objects_gain_nothing_from_their_insides():
    small, big = (boundary_iou(square(size), square(size + 2, 19)) for size in (12, 60))
    metric = BoundaryIoU()
    metric.update(square(60), square(62, 19))
    assert metric.compute()["iou"] > 0.93
    assert big < 0.6
    assert abs(big - small) < 0.1


def test_beyond_the_image_is_background():
    full = np.ones((50, 50), bool)
    half = full.copy()
    half[:, 25:] = False
    ring = 50 * 50 - 48 * 48  # 1 deep: 2 % of 70.7 rounds to 1
    both = 50 + 2 * 24  # left side, and what is left of the upper and lower ones
    assert boundary_iou(half, full) == both / (ring + 48)  # the half adds its right side


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 40]), st.sampled_from([0.02, 0.1, 2]))
def test_equals_the_definition(seed: int, objects: int, fraction: int | float):
    rng = np.random.default_rng(seed)
    truth, _, pred = ndimage.gaussian_filter(rng.normal(size=(objects + 1, 3, 30, 40)), (0, 1, 3, 3)).argmax(0)
    metric = BoundaryIoU(fraction)
    metric.update(pred, truth)
    depth = 2 if fraction == 2 else {0.02: 1, 0.1: 5}[fraction]
    want = {}
    for k in np.union1d(pred, truth):
        if k:
            want[k] = plain(pred == k, truth == k, depth)
    scores = metric.compute()
    assert {row["id"]: row["boundary_iou"] for row in metric.table()} == want
    if want:
        assert scores["boundary_iou"] == pytest.approx(np.mean([*want.values()]))
        assert 0 <= scores["boundary_iou"] <= 1
    back = BoundaryIoU(fraction)
    back.update(truth, pred)
    assert back.compute() == scores or not want


def test_classes_from_zero():
    pred, truth = np.zeros((2, 40, 40), np.uint8)
    pred[:20], truth[:22] = 1, 1
    objects, classes, above = BoundaryIoU(), BoundaryIoU(background=None), BoundaryIoU(background=1)
    for metric in (objects, classes, above):
        metric.update(pred, truth)
    assert [row["id"] for row in objects.table()] == [1]
    assert [row["id"] for row in classes.table()] == [0, 1]
    assert [row["id"] for row in above.table()] == [0]
    assert classes.compute()["boundary_iou/0"] == above.compute()["boundary_iou"] == plain(pred == 0, truth == 0, 1)


def test_ignored_pixels_count_nowhere():
    pred, truth = square(40).astype(np.uint8), square(40).astype(np.uint8)
    pred[30:, :] = 0
    truth[25:, :] = 255
    metric = BoundaryIoU()
    metric.update(pred, truth)
    p, t = (m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=3) for m in (pred == 1, truth == 1))
    seen = truth != 255
    assert metric.compute()["boundary_iou"] == (p & t & seen).sum() / ((p | t) & seen).sum()
    nothing = BoundaryIoU()
    nothing.update(pred, np.full_like(truth, 255))
    assert np.isnan(nothing.compute()["boundary_iou"])
    assert nothing.table() == []


def test_masks_by_position():
    metric = BoundaryIoU()
    metric.update(Masks.from_dense(np.stack([square(40), square(20)])), Masks.from_dense(np.stack([square(40)])))
    assert metric.table() == [
        {"id": 1, "masks": 1, "boundary_iou": 1.0, "iou": 1.0},
        {"id": 2, "masks": 1, "boundary_iou": 0.0, "iou": 0.0},
    ]
    assert metric.summary() == "Boundary IoU: 0.500  IoU: 0.500  (2 masks)"


def test_halves_merge_into_the_whole():
    whole, parts = BoundaryIoU(), [BoundaryIoU(), BoundaryIoU()]
    for i in range(5):
        pair = square(30 + i).astype(np.uint8) * (1 + i % 2), square(36).astype(np.uint8)
        whole.update(*pair, f"{i}")
        parts[i % 2].update(*pair, f"{i}")
    parts[1].merge(parts[0])
    assert parts[1].compute() == whole.compute()
    assert parts[1].table() == whole.table()


def twice() -> None:
    metric = BoundaryIoU()
    for _ in range(2):
        metric.update(square(9), square(9), "a.png")


def merged_twice() -> None:
    parts = [BoundaryIoU(), BoundaryIoU()]
    for part in parts:
        part.update(square(9), square(9), "a.png")
    parts[0].merge(parts[1])


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: BoundaryIoU().update(square(9), square(9, canvas=50)),
            "prediction is 100x100 but truth is 50x50; resize the prediction to the truth (nearest)",
        ),
        (twice, "a.png came twice; score every image once"),
        (merged_twice, "a.png came twice; give every image a name of its own"),
        (
            lambda: BoundaryIoU().merge(BoundaryIoU(0.01)),
            "cannot merge scores of different settings: (0.02, 0, 255) and (0.01, 0, 255)",
        ),
        (lambda: BoundaryIoU(0), "fraction is 0; give a share of the image diagonal, such as 0.02"),
    ],
)
def test_bad_input(call, message: str):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message
