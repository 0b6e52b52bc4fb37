"""Cuts of graphs: every mask of a small picture tried, OpenCV's GrabCut, and pictures whose answer is plain."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.ops import graphcut
from masklet.ops.graphcut import BACKGROUND, MAYBE_BACKGROUND, MAYBE_OBJECT, OBJECT, GrabCut


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3))
def test_no_mask_is_cheaper(seed, height, width):
    """All masks of up to nine pixels, whole prices: nothing is rounded."""
    draw = np.random.default_rng(seed)
    inside, outside = draw.integers(0, 9, (2, height, width)).astype(float)
    neighbours = [
        draw.integers(0, 5, (max(0, height - down), max(0, width - abs(right)))).astype(float)
        for down, right in graphcut.STEPS
    ]
    found = graphcut.cheapest_cut(inside, outside, neighbours)
    masks = [np.array(m).reshape(height, width) for m in itertools.product([False, True], repeat=height * width)]
    costs = [graphcut.energy(mask, inside, outside, neighbours) for mask in masks]
    assert found.price == pytest.approx(min(costs))
    cheapest = [mask for mask, cost in zip(masks, costs, strict=True) if cost < min(costs) + 1e-9]
    assert found.mask.sum() == min(mask.sum() for mask in cheapest)


def test_a_line_of_three_by_hand():
    """The middle would rather be background by 1, but breaking the links costs 2 against 3."""
    inside, outside = np.array([[0.0, 1.0, 9.0]]), np.array([[9.0, 0.0, 0.0]])
    nothing = np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 2))
    strong = graphcut.cheapest_cut(inside, outside, [np.array([[3.0, 0.5]]), *nothing])
    assert strong.mask.tolist() == [[True, True, False]]
    assert strong.price == pytest.approx(1.5)
    weak = graphcut.cheapest_cut(inside, outside, [np.array([[0.5, 0.5]]), *nothing])
    assert weak.mask.tolist() == [[True, False, False]]
    assert weak.price == pytest.approx(0.5)


def test_prices_of_borders_by_hand():
    image = np.array([[[0.0], [2.0]], [[0.0], [0.0]]])
    right, down, falling, rising = graphcut.neighbour_prices(image, 8.0)
    # squares of differences: 4 0 | 0 4 | 0 | 4, mean 2, beta 1/4
    assert right[:, 0] == pytest.approx([8 * np.exp(-1), 8])
    assert down[0] == pytest.approx([8, 8 * np.exp(-1)])
    assert falling[0, 0] == pytest.approx(8 / np.sqrt(2))
    assert rising[0, 0] == pytest.approx(8 * np.exp(-1) / np.sqrt(2))
    assert graphcut.neighbour_prices(np.zeros((2, 2, 3)), 8.0)[0] == pytest.approx(8.0)  # no edges at all


def test_a_mixture_by_hand():
    colors = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [9.0, 9.0]])
    found = graphcut.Mixture.of(colors, np.array([0, 0, 0, 0, 3]), 5)
    assert found.weights == pytest.approx([0.8, 0.2])
    assert found.means == pytest.approx(np.array([[1.0, 1.0], [9.0, 9.0]]))
    # the first spread is the unit matrix: half the squared distance, minus the logarithm of the weight
    assert found.prices(np.array([[1.0, 3.0]]))[0, 0] == pytest.approx(2 - np.log(0.8))
    assert found.prices(colors).argmin(1).tolist() == [0, 0, 0, 0, 1]


def disc(side: int = 64, noise: float = 25.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy picture of stripes with a disc, the disc, and a box around it."""
    y, x = np.mgrid[:side, :side]
    mask = (y - side * 0.45) ** 2 + (x - side * 0.55) ** 2 < (side * 0.27) ** 2
    color = np.where(mask[..., None], [180, 60, 50], [60, 130, 80]) + np.where((x // 9 % 2 == 0)[..., None], 20, -20)
    image = color + np.random.default_rng(0).normal(0, noise, (side, side, 3))
    hints = np.full((side, side), BACKGROUND, np.uint8)
    hints[int(side * 0.1) : int(side * 0.8), int(side * 0.2) : int(side * 0.9)] = MAYBE_OBJECT
    return np.clip(image, 0, 255).astype(np.uint8), mask, hints


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(("noise", "least"), [(10.0, 0.99), (35.0, 0.97)])
def test_opencv_cuts_the_same(noise, least):
    image, mask, hints = disc(noise=noise)
    cv2.setRNGSeed(0)
    theirs = hints.copy()
    cv2.grabCut(image, theirs, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    mine = graphcut.grabcut(image, hints)
    assert iou(mine, theirs % 2 == 1) > least
    assert iou(mine, mask) > 0.9
    assert np.array_equal(mine, graphcut.grabcut(image, hints))  # nothing is drawn at random
    assert not np.array_equal(mine, graphcut.grabcut(image[:, ::-1].copy(), hints))


def test_two_colours_and_two_strokes():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 13:] = 200
    hints = np.full((20, 30), MAYBE_BACKGROUND, np.uint8)
    hints[5, 16:20], hints[12, 2:6] = OBJECT, BACKGROUND
    want = np.zeros((20, 30), bool)
    want[:, 13:] = True
    assert np.array_equal(graphcut.grabcut(image, hints, GrabCut(rounds=10)), want)


def test_strokes_are_obeyed_and_a_first_cut_is_no_worse_than_the_start():
    image, _, hints = disc(noise=40.0)
    hints[2, 3], hints[28, 35] = OBJECT, BACKGROUND  # both wrong, and said
    rounds = list(graphcut.grabcut_rounds(image, hints))
    assert rounds[-1].mask[2, 3]
    assert not rounds[-1].mask[28, 35]
    assert 1 <= len(rounds) <= 5
    with pytest.raises(ValueError, match=r"all pixels are on one side; mark object and background"):
        graphcut.grabcut(image, np.full_like(hints, BACKGROUND))
