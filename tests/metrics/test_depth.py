"""Depth errors: values worked by hand, plain formulas on random maps, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.metrics.depth import KEYS, DepthScore

HAND_TRUTH = torch.tensor([[10.0, 10.0], [20.0, 0.0]])
HAND_PRED = torch.tensor([[12.0, 5.0], [20.0, 7.0]])


def score(pred, truth, **options) -> DepthScore:
    s = DepthScore(**options)
    s.update(pred, truth)
    return s


def plain(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The formulas once more, as printed in the papers."""
    d, t = pred[truth > 0], truth[truth > 0]
    e = np.log(d) - np.log(t)
    ratio = np.maximum(d / t, t / d)
    return {
        "absrel": np.mean(np.abs(d - t) / t),
        "sqrel": np.mean((d - t) ** 2 / t),
        "sqrel_kitti": np.mean(((d - t) / t) ** 2),
        "rmse": np.sqrt(np.mean((d - t) ** 2)),
        "rmse_log": np.sqrt(np.mean(e**2)),
        "silog": 100 * np.std(e),
        **{f"delta{n}": np.mean(ratio < 1.25**n) for n in (1, 2, 3)},
    }


def test_by_hand():
    found = score(HAND_PRED, HAND_TRUTH).compute()  # errors 2 of 10, 5 of 10, 0 of 20; one depth is unknown
    assert found["absrel"] == pytest.approx((0.2 + 0.5) / 3)
    assert found["sqrel"] == pytest.approx((4 / 10 + 25 / 10) / 3)
    assert found["sqrel_kitti"] == pytest.approx((0.04 + 0.25) / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(29 / 3))
    logs = math.log(1.2), math.log(0.5)
    assert found["rmse_log"] == pytest.approx(math.sqrt((logs[0] ** 2 + logs[1] ** 2) / 3))
    assert found["silog"] == pytest.approx(100 * math.sqrt(sum(v**2 for v in logs) / 3 - (sum(logs) / 3) ** 2))
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == pytest.approx([2 / 3] * 3)  # ratio 2 is above 1.25³ = 1.953


def test_a_ratio_of_exactly_the_threshold_is_outside():
    assert score(torch.tensor([[1.25]]).double(), torch.ones(1, 1)).compute()["delta1"] == 0


def test_images_count_the_same_or_pixels_do():
    a, b = (torch.tensor([[2.0, 2.0, 2.0]]), torch.ones(1, 3)), (torch.tensor([[1.0]]), torch.ones(1, 1))
    by_image, by_pixel = DepthScore(), DepthScore(mode="dataset")
    for s in (by_image, by_pixel):
        s.update(*a)
        s.update(*b)
    assert by_image.compute()["rmse"] == pytest.approx((1 + 0) / 2)
    assert by_pixel.compute()["rmse"] == pytest.approx(math.sqrt(3 / 4))
    assert (by_image.images, by_image.count, by_pixel.count) == (2, 2, 4)


def test_a_range_of_depths_clamps_predictions_and_leaves_out_truth():
    truth, pred = torch.tensor([[50.0, 90.0, 80.0, 1e-4]]), torch.tensor([[200.0, 1.0, 0.0, 5.0]])
    found = score(pred, truth, min_depth=1e-3, max_depth=80.0).compute()  # 50 called 80, 80 called .001
    assert found["absrel"] == pytest.approx((30 / 50 + 79.999 / 80) / 2)


maps = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0.1, 90), min_size=n, max_size=n),
        st.lists(st.one_of(st.just(0.0), st.floats(0.1, 90)), min_size=n, max_size=n),
    )
)


@settings(max_examples=50, deadline=None)
@given(st.lists(maps, min_size=1, max_size=4), st.integers(0, 4), st.sampled_from(["image", "dataset"]))
def test_agrees_with_plain_formulas_and_merges(cases, cut, mode):
    images = [tuple(np.array([row]) for row in case) for case in cases]
    whole, left, right = (DepthScore(mode=mode) for _ in range(3))
    for i, image in enumerate(images):
        for s in (whole, left if i < cut else right):
            s.update(*(torch.from_numpy(m) for m in image))
    known = [image for image in images if (image[1] > 0).any()]
    if mode == "image":
        each = [plain(*image) for image in known]
        wanted = {key: float(np.mean([e[key] for e in each])) if each else math.nan for key in KEYS}
    else:
        flat = [np.concatenate(side, 1) for side in zip(*known, strict=True)] if known else None
        wanted = plain(*flat) if flat else dict.fromkeys(KEYS, math.nan)
    assert whole.compute() == pytest.approx(wanted, nan_ok=True, abs=1e-5)  # silog is a difference of two near sums
    right.merge(left)
    assert right.compute() == pytest.approx(whole.compute(), nan_ok=True, abs=1e-9)
    assert right.images == whole.images == len(images)


def test_perfect_depth_and_summary():
    s = score(HAND_TRUTH + 1e-9 * (HAND_TRUTH == 0), HAND_TRUTH)
    assert s.compute() == {**dict.fromkeys(KEYS[:6], 0.0), **dict.fromkeys(KEYS[6:], 1.0)}
    names, numbers = s.summary().splitlines()
    assert names.split() == list(KEYS)
    assert numbers.split() == ["0.0000"] * 6 + ["1.0000"] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DepthScore(mode="mean"), "mode is 'mean'; choose 'dataset' or 'image'"),
        (lambda: DepthScore(5, 2), "depths from 5 to 2 are no range; start at 0 or above"),
        (
            lambda: score(torch.ones(2, 2), torch.ones(2, 3)),
            "the predicted depth is 2x2 but the true depth is 2x3; resize the depth",
        ),
        (
            lambda: score(torch.ones(1, 2, 2), torch.ones(2, 2)),
            "the predicted depth has shape (1, 2, 2); expected (H, W)",
        ),
        (
            lambda: score(torch.zeros(1, 2), torch.ones(1, 2)),
            "the prediction is 0 where the true depth is known; give positive depths, or clamp with min_depth=1e-3",
        ),
        (
            lambda: score(torch.full((1, 2), torch.nan), torch.ones(1, 2)),
            "the prediction is nan where the true depth is known; give positive depths, or clamp with min_depth=1e-3",
        ),
        (
            lambda: DepthScore().merge(DepthScore(max_depth=80)),
            "cannot merge scores of different settings: (0.0, inf, 'image') and (0.0, 80, 'image')",
        ),
    ],
)
def test_bad_input_says_what_came_and_what_to_do(call, message, as_user):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        call()
    assert str(caught.value) == message
