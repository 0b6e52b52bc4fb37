"""Boxes against worked numbers, torchvision and a recorded matcher."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, masks_to_boxes

from conftest import shared
from masklet.ops import boxes

BOXES = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [5, 5, 5, 9]])


def test_iou_by_hand():
    iou = boxes.pairwise_iou(BOXES, BOXES)
    torch.testing.assert_close(iou[0, 1:], torch.tensor([7 / 13, 4 / 16, 0]))
    assert iou[3, 3] == 0, "an empty box overlaps nothing, not even itself"
    assert iou[0, 0] == 1


def test_iou_equals_torchvision():
    corner = torch.rand(20, 2) * 50
    a = torch.cat([corner, corner + torch.rand(20, 2) * 30], 1)
    torch.testing.assert_close(boxes.pairwise_iou(a, a[:7]), box_iou(a, a[:7]))


def test_iou_equals_the_recorded_matcher():
    folder = shared("oracles", "ops_boxes")
    assert "match.iou" in json.loads((folder / "meta.json").read_text())["arrays"]
    recorded = np.load(folder / "outputs.npz")
    iou = boxes.pairwise_iou(*(torch.from_numpy(recorded[name]) for name in ("match.gt", "match.anchors")))
    np.testing.assert_allclose(iou, recorded["match.iou"], atol=1e-6)


def test_area_and_clip():
    assert boxes.area(BOXES).tolist() == [100, 100, 100, 0]
    assert boxes.area(torch.tensor([[5.0, 5, 3, 9]])).tolist() == [0]
    clipped = boxes.clip(torch.tensor([[-4.0, 3, 30, 50], [40, 40, 50, 50]]), height=20, width=25)
    assert clipped.tolist() == [[0, 3, 25, 20], [25, 20, 25, 20]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-100, 100)] * 4), max_size=5))
def test_xywh_round_trip(rows):
    came = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    assert torch.equal(boxes.xyxy_to_xywh(boxes.xywh_to_xyxy(came)), came)


def test_xywh_by_hand():
    assert boxes.xywh_to_xyxy(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[1, 2, 4, 6]]


def test_boxes_of_masks():
    masks = torch.rand(6, 11, 13) < 0.05
    masks[2] = False
    found = boxes.of_masks(masks)
    assert found[2].tolist() == [0, 0, 0, 0]
    full = masks.flatten(1).any(1)
    expected = masks_to_boxes(masks[full]) + torch.tensor([0.0, 0, 1, 1])  # torchvision's ends are inclusive
    torch.testing.assert_close(found[full], expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5)])
def test_boxes_of_no_masks(shape):
    assert boxes.of_masks(torch.zeros(shape, dtype=torch.bool)).shape == (shape[0], 4)
