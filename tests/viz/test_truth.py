"""The truth of a sample, painted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from masklet.structures import Classes, Instances, Masks, Panoptic, Sample, Segment
from masklet.viz.truth import LINES, truth_overlay

CLASSES = Classes(("ground", "thing"), keypoints=("nose",))
GREY = torch.full((3, 40, 60), 128, dtype=torch.uint8)


def objects() -> Instances:
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:15, 5:25] = masks[1, 10:30, 20:50] = True
    stack = Masks.from_dense(masks)
    found = Instances.from_masks(stack, torch.tensor([1, 1]), CLASSES)
    return replace(found, crowd=torch.tensor([False, True]))


def painted(**truth) -> np.ndarray:
    """Where the picture differs from plain grey."""
    return (truth_overlay(Sample(GREY, classes=CLASSES, **truth)) != 128).any(-1)


def test_masks_and_crowds():
    assert np.array_equal(painted(instances=objects()), objects().masks.union().numpy())
    picture = truth_overlay(Sample(GREY, instances=objects()))
    assert np.allclose(picture[25, 40], np.array(LINES[1]) / 2 + 64, atol=1), "crowds have their own colour"
    assert (picture[12, 22] == picture[7, 10]).all(), "and lie below"


def test_boxes_keypoints_and_rotated_boxes():
    bare = replace(objects(), masks=None)
    assert painted(instances=bare)[5, 5:25].all()
    assert not painted(instances=bare)[7:13, 8:18].any()
    points = torch.tensor([[[30.0, 35.0, 2.0]], [[3.0, 37.0, 0.0]]])
    dotted = painted(instances=replace(bare, keypoints=points))
    assert dotted[34:36, 29:31].all()
    assert not dotted[36:, :6].any(), "not labelled"
    turned = torch.tensor([[30.0, 20, 20, 10, 90], [0, 0, 0, 0, 0]])
    found = painted(instances=replace(bare, rotated=turned))
    assert found[10:31, 25].all(), "20 wide, turned by 90 degrees: 20 high"
    assert found[10:31, 35].all()


def test_maps_and_plain_pictures():
    assert not painted().any()
    assert painted(semantic=torch.ones(40, 60, dtype=torch.uint8)).all()
    ids = torch.zeros(40, 60, dtype=torch.int64)
    ids[5:10] = 3
    assert painted(panoptic=Panoptic(ids, (Segment(3, 1, True),)))[5:10].all()
