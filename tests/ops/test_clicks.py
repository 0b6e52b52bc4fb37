"""The simulated annotator: worked by hand, and against the whole distance transform of the padded masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masklet.ops.clicks import RITM, SAM2, Click, first_clicks, next_click


def by_the_definition(pred, truth, taken=()):
    """SAM 2's evaluation: transform both padded error masks, take the deepest pixel, negative when in doubt."""
    depth = [
        ndimage.distance_transform_edt(np.pad(m, 1))[1:-1, 1:-1] if m.any() else np.zeros(m.shape)
        for m in (truth & ~pred, pred & ~truth)
    ]
    for d in depth:
        for click in taken:
            d[click.y, click.x] = 0
    positive = depth[0].max() > depth[1].max()
    best = depth[0] if positive else depth[1]
    y, x = np.unravel_index(best.argmax(), best.shape)
    return Click(int(x), int(y), bool(positive)) if best.max() else None


def masks(seed, blur=2.0):
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.standard_normal((40, 56)), blur) for _ in range(2)]
    return [n > rng.uniform(-0.5, 0.5) * n.std() for n in noise]


def test_the_centre_of_a_square():
    assert next_click(np.zeros((5, 5), bool), np.ones((5, 5), bool)) == Click(2, 2, True)  # the image ends in zeros
    truth = np.zeros((20, 30), bool)
    truth[4:9, 10:15] = True
    assert next_click(np.zeros_like(truth), truth) == Click(12, 6, True)


def test_the_first_in_reading_order_of_equally_deep_pixels():
    truth = np.zeros((20, 30), bool)
    truth[4:8, 10:20] = True
    assert next_click(np.zeros_like(truth), truth) == Click(11, 5)
    truth[10:14, 2:8] = True
    assert next_click(np.zeros_like(truth), truth) == Click(11, 5)


def test_the_deeper_mistake_is_clicked_and_in_doubt_the_wrong_one():
    truth, pred = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    truth[2:9, 2:9] = True
    pred[10:15, 20:25] = True
    assert next_click(pred, truth) == Click(5, 5, True)
    pred[9:16, 20:27] = True
    assert next_click(pred, truth) == Click(23, 12, False)
    assert next_click(truth, truth) is None


def test_ritm_does_not_click_a_pixel_twice():
    truth, none = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    first = next_click(none, truth)
    assert first is not None
    assert next_click(none, truth, [first], rule=SAM2) == first
    assert next_click(none, truth, [first], rule=RITM) == Click(1, 1)
    one = np.zeros((5, 5), bool)
    one[3, 1] = True
    assert next_click(none, one, [Click(1, 3)], rule=RITM) is None


def test_pixels_that_do_not_count_are_no_mistakes():
    truth, valid = np.ones((5, 9), bool), np.ones((5, 9), bool)
    valid[:, 5:] = False
    assert next_click(np.zeros_like(truth), truth, valid=valid) == Click(2, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 2.0, 5.0]), st.booleans())
def test_equal_to_the_definition(seed, blur, ritm):
    pred, truth = masks(seed, blur)
    taken = []
    for _ in range(3 if ritm else 1):
        click = next_click(pred, truth, taken, rule=RITM if ritm else SAM2)
        assert click == by_the_definition(pred, truth, taken if ritm else ())
        taken += [click] if click else []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_many_objects_at_once(seed):
    many = np.stack([*masks(seed), np.zeros((40, 56), bool)])
    points = first_clicks(torch.from_numpy(many))
    assert points[2].isnan().all()
    for mask, (x, y) in zip(many[:2], points[:2].tolist(), strict=True):
        assert mask[int(y), int(x)]
        assert next_click(np.zeros_like(mask), mask) == Click(int(x), int(y))


@pytest.mark.parametrize("kind", [torch.from_numpy, lambda m: m])
def test_tensors_and_arrays(kind):
    pred, truth = masks(3)
    assert next_click(kind(pred), kind(truth)) == by_the_definition(pred, truth)
