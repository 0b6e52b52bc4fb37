"""J and F of one frame against recorded numbers of davis2017-evaluation and a plain statement of the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import oracle
from conftest import shared
from masklet.metrics.region_contour import compare, j_and_f
from masklet.metrics.video_protocols import statistics
from masklet.structures import Masks, UserError


def square(y: int = 20, x: int = 20, width: int = 40) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[y : y + 40, x : x + width] = True
    return mask


def plain(pred: np.ndarray, truth: np.ndarray, radius: int) -> tuple[float, float]:
    """J and F of one object, written from their definitions with scipy's dilation."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius

    def outline(mask: np.ndarray) -> np.ndarray:
        grown = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
        return (
            (grown[:-1, 1:] != mask)
            | (grown[1:, :-1] != mask)
            | (np.pad((grown[1:, 1:] != mask)[:-1, :-1], ((0, 1), (0, 1))))
        )

    union = (pred | truth).sum()
    p, t = outline(pred), outline(truth)
    if not p.any() or not t.any():
        f = float(p.any() == t.any())
    else:
        precision = (p & ndimage.binary_dilation(t, disk)).sum() / p.sum()
        recall = (t & ndimage.binary_dilation(p, disk)).sum() / t.sum()
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return ((pred & truth).sum() / union if union else 1.0), f


@pytest.mark.parametrize(
    ("pred", "j", "f"),
    [
        (square(), 1.0, 1.0),
        (square(21, 21), 0.90590, 1.0),
        (square(22, 22), 0.82232, 0.98125),
        (square(24, 20), 0.81818, 0.51250),
        (square(width=20), 0.5, 0.60714),
    ],
)
def test_by_hand(pred: np.ndarray, j: float, f: float):
    assert j_and_f(pred, square()) == pytest.approx((j, f), abs=5e-6)


def test_emptiness():
    nothing = np.zeros((100, 100), bool)
    assert j_and_f(nothing, nothing) == (1.0, 1.0)
    assert j_and_f(nothing, square()) == (0.0, 0.0)
    assert j_and_f(square(), nothing) == (0.0, 0.0)


def test_a_full_picture_has_no_outline():
    full = np.ones((20, 30), bool)
    assert j_and_f(full, full) == (1.0, 1.0)


def made() -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """The recorded case: true and predicted masks of nine frames, and the void pixels."""
    folder = shared("oracles", "davis_metrics", "made")
    image = oracle.keyfill(folder).image
    g, p = (image(f"davis_made_{name}", 120, 214, 1)[0] for name in ("gt", "pr"))
    truth = np.stack([g[:, 5 * t : 5 * t + 160] > 0.6 for t in range(9)])
    pred = np.stack([p[:, 5 * t + 2 : 5 * t + 162] > 0.55 for t in range(9)])
    pred[3] = truth[5] = pred[5] = truth[6] = False
    return oracle.meta(folder), pred, truth, image("davis_made_void", 120, 160, 1)[0] > 0.85


def test_equals_davis_on_made_masks():
    want, pred, truth, void = made()
    scores = np.array([j_and_f(p, t) for p, t in zip(pred, truth, strict=True)])
    np.testing.assert_allclose(scores, np.stack([want["J"], want["F"]], 1), atol=1e-9)
    for column, key in enumerate("JF"):
        assert statistics(scores[:, column]) == pytest.approx(want[f"{key}_stats_mean_recall_decay"], abs=1e-9)
    hidden = [
        compare(p.astype(np.uint8), np.where(void, 255, t).astype(np.uint8), matched=True, void=255)
        for p, t in zip(pred, truth, strict=True)
    ]
    both = [i for i, frame in enumerate(hidden) if frame.j.size]
    assert both == [0, 1, 2, 4, 7, 8]  # elsewhere one side or both are empty
    for key, values in (("J_void", [frame.j for frame in hidden]), ("F_void", [frame.f for frame in hidden])):
        np.testing.assert_allclose([values[i][0, 0] for i in both], np.array(want[key])[both], atol=1e-9)
    wrong = np.array([j_and_f(np.roll(p, 1, 1), t) for p, t in zip(pred, truth, strict=True)])
    assert np.abs(wrong[:, 1] - want["F"]).max() > 1e-3  # the comparison can fail


@pytest.mark.parametrize("bound", ["0.004", "0.008", "0.02", "3"])
def test_equals_davis_at_other_distances(bound: str):
    want, pred, truth, _ = made()
    assert j_and_f(pred[1], truth[1], float(bound))[1] == pytest.approx(
        want["f_measure_frame1_by_bound_th"][bound], abs=1e-9
    )


def random_ids(seed: int, objects: int, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(objects + 1, 3, 40, 50)), (0, 1, 4, 4))
    truth, _, pred = fields.argmax(0).astype(dtype)
    pred[rng.integers(0, 40) :, rng.integers(0, 50) :] = 0
    return np.roll(pred, 1, 1), truth


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 5, 40]), st.sampled_from([0.008, 0.03, 2.0]))
def test_all_objects_at_once_equal_one_by_one(seed: int, objects: int, bound: float):
    pred, truth = random_ids(seed, objects)
    frame = compare(pred, truth, bound)
    radius = int(bound) if bound >= 1 else int(np.ceil(bound * np.hypot(40, 50)))
    assert frame.ids.tolist() == np.union1d(pred[pred > 0], truth[truth > 0]).tolist()
    for k, j, f in zip(frame.ids[:6], frame.j, frame.f, strict=False):
        assert (j, f) == plain(pred == k, truth == k, radius)
    pairs = compare(pred, truth, bound, matched=True)
    assert pairs.j.shape == pairs.f.shape == (len(pairs.pred), len(pairs.truth))
    for i, k in ((0, len(pairs.truth) - 1), (len(pairs.pred) - 1, 0)):
        assert (pairs.j[i, k], pairs.f[i, k]) == plain(pred == pairs.pred[i], truth == pairs.truth[k], radius)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]))
def test_properties(seed: int, objects: int):
    pred, truth = random_ids(seed, objects)
    there, back, same = compare(pred, truth), compare(truth, pred), compare(truth, truth)
    assert (there.j >= 0).all()
    assert (there.j <= 1).all()
    assert (there.f >= 0).all()
    assert (there.f <= 1).all()
    np.testing.assert_array_equal(there.j, back.j)
    np.testing.assert_allclose(there.f, back.f, atol=1e-15)
    assert (same.j == 1).all()
    assert (same.f == 1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.int64, np.uint16, np.int32]))
def test_any_kind_of_map(seed: int, dtype: type):
    pred, truth = random_ids(seed, 3)
    want = compare(pred, truth)
    for a, b in (
        (pred.astype(dtype), truth.astype(dtype)),
        (torch.from_numpy(pred), torch.from_numpy(truth)),
        *((Masks.from_dense(np.stack([m == k for k in (1, 2, 3)])) for m in (pred, truth)),),
    ):
        got = compare(a, b)
        np.testing.assert_array_equal(got.j, want.j)
        np.testing.assert_array_equal(got.f, want.f)
    far = compare(np.where(pred, pred.astype(np.int64) * 1000, 0), np.where(truth, truth.astype(np.int64) * 1000, 0))
    assert far.ids.tolist() == [k * 1000 for k in want.ids.tolist()]
    np.testing.assert_array_equal(far.f, want.f)


def test_ids_of_one_side_only():
    near, far = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.int64)
    near[2:5, 2:5], far[2:5, 2:5] = 7, 700
    frame = compare(near, far)
    assert frame.ids.tolist() == [7, 700]
    assert frame.j.tolist() == frame.f.tolist() == [0, 0]


def test_masks_may_overlap():
    inner, outer = square(25, 25, 10), square()
    masks = Masks.from_dense(np.stack([inner, outer]))
    frame = compare(masks, masks)
    assert frame.j.tolist() == frame.f.tolist() == [1, 1]
    none = Masks(100, 100)
    assert compare(none, masks).j.tolist() == [0, 0]
    assert compare(none, none).ids.tolist() == []


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (
            np.zeros((3, 4), np.uint8),
            "prediction is 3x4 but truth is 4x4; resize the prediction to the truth (nearest)",
        ),
        (np.zeros((4, 4), np.float32), "prediction holds float32, not object ids; give whole numbers, 0 is background"),
        (np.full((4, 4), -1), "prediction has the object id -1; ids count from 1, and 0 is background"),
        (np.zeros((1, 4, 4), np.uint8), "prediction has shape (1, 4, 4); expected (H, W) object ids, or Masks"),
    ],
)
def test_bad_input(pred: np.ndarray, message: str):
    with pytest.raises(UserError) as error:
        compare(pred, np.zeros((4, 4), np.uint8))
    assert str(error.value) == message
