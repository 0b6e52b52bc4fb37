"""Grad and Conn of mattes against the published formulas written out: full filters, one labelling per threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import oracle
from conftest import shared
from masklet.ops import alpha
from masklet.ops.alpha import connectivity_difference, gaussian_pair, gradient_difference, passed_levels


def plain_gradient(a, b, region):
    x = np.arange(-4, 5)
    smooth = np.exp(-(x**2) / (2 * 1.4**2))
    across = np.outer(smooth, x * smooth)
    across /= np.linalg.norm(across)
    steep = [np.hypot(*(ndimage.correlate(m, k, mode="nearest") for k in (across, across.T))) for m in (a, b)]
    return ((steep[0] - steep[1]) ** 2)[region].sum(dtype=np.float64)


def plain_connectivity(a, b, region):
    connected = np.full(a.shape, -1.0, np.float32)
    for i in range(1, 11):
        labels, found = ndimage.label((a >= np.float32(i / 10)) & (b >= np.float32(i / 10)))
        largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax() if found else np.zeros(a.shape, bool)
        connected[(connected == -1) & ~largest] = (i - 1) / 10
    connected[connected == -1] = 1
    phi = [1 - d * (d >= np.float32(0.15)) for d in (a - connected, b - connected)]
    return np.abs(phi[0] - phi[1])[region].sum(dtype=np.float64)


def mattes(seed, kind):
    """Two mattes of any size: clouds, clouds in few levels (ties), noise, or nearly equal ones."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 100, 2))

    def cloud(blur):
        z = ndimage.gaussian_filter(rng.standard_normal(shape), blur)
        return np.clip(0.5 + z / max(z.std(), 1e-9) / 2, 0, 1).astype(np.float32)

    a, b = cloud(0 if kind == "noise" else 3), cloud(0 if kind == "noise" else 3)
    if kind == "few levels":
        a, b = (np.rint(m * 10).astype(np.float32) / np.float32(10) for m in (a, b))
    if kind == "nearly equal":
        b = np.clip(a + 0.4 * cloud(1) * (rng.random(shape) < 0.05), 0, 1).astype(np.float32)
    region = rng.random(shape) < 0.5 if seed % 2 else np.ones(shape, bool)
    return a, b, region


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["clouds", "few levels", "noise", "nearly equal"]))
def test_equal_to_the_formulas_written_out(seed, kind):
    a, b, region = mattes(seed, kind)
    given_region = None if region.all() else region
    found = gradient_difference(a, b, given_region)
    assert found == pytest.approx(plain_gradient(a, b, region), rel=1e-4, abs=1e-9)
    found = connectivity_difference(a, b, given_region)
    assert found == pytest.approx(plain_connectivity(a, b, region), rel=1e-5, abs=1e-9)
    assert gradient_difference(a, a) == connectivity_difference(a, a) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["clouds", "few levels", "noise", "nearly equal"]))
def test_one_graph_of_runs_equals_a_labelling_per_level(seed, kind):
    levels = np.minimum((mattes(seed, kind)[0] * np.float32(10)).astype(np.uint8), alpha.LEVELS)
    starts = np.ones(levels.shape, bool)
    starts[:, 1:] = levels[:, 1:] != levels[:, :-1]
    runs = np.cumsum(starts, dtype=np.int32) - np.int32(1)
    by_pixels = alpha._levels_of_pixels(levels, (slice(None), slice(None)))
    assert (alpha._levels_of_runs(levels, starts, runs)[runs].reshape(levels.shape) == by_pixels).all()
    assert (passed_levels(levels)(np.arange(levels.size)) == by_pixels.ravel()).all()


def test_a_pixel_that_left_the_largest_component_does_not_come_back():
    levels = np.zeros((9, 40), np.uint8)
    levels[1:8, 1:20] = 3  # the largest up to level 3
    levels[1:4, 25:38] = 9  # the largest from level 4 on, but not of the object
    levels[2:4, 3:6] = 9
    passed = passed_levels(levels)(np.arange(levels.size)).reshape(levels.shape)
    assert passed[5, 10] == 3
    assert passed[2, 30] == 0
    assert passed[2, 4] == 3  # at level 4 the other one is larger


def test_of_two_equally_large_components_the_first_in_reading_order_counts():
    levels = np.zeros((4, 9), np.uint8)
    levels[1:3, 5:8] = levels[2:4, 1:3] = 9
    levels[1, 1:3] = 9  # 2 x 3 pixels on either side; both begin in row 1, and the left one first
    assert passed_levels(levels)(np.array([10, 14])).tolist() == [9, 0]


def test_multiplying_by_ten_finds_the_level_of_every_float():
    """The product is monotonic, so it suffices to try each threshold and the float just below it."""
    threshold = (np.arange(1, 11) / 10).astype(np.float32)
    for value, level in ((threshold, np.arange(1, 11)), (np.nextafter(threshold, np.float32(0)), np.arange(10))):
        assert (np.multiply(value, 10).astype(np.uint8) == level).all()


def test_the_filter_is_the_recorded_one():
    want = np.array(oracle.meta(shared("oracles", "matting_metrics", "made"))["gauss_gradient_filter_x"]["values"])
    smooth, slope = gaussian_pair()
    assert np.allclose(-np.outer(smooth, slope), want.reshape(9, 9), atol=1e-7)
