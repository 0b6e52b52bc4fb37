"""Mask IoU and what a head learns about it: numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from masklet.parts.mask_iou_heads import MaskIoUHead, mask_iou_loss, mask_ious, shares_in_boxes


def test_a_truncated_object_counts_whole():
    """Predicted 8 cells, truth 6 in the box, 5 in common; a quarter of the object lies outside: 5 / (8 + 8 - 5)."""
    masks, aims = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4)
    masks[0, :2] = True
    aims[0, 0], aims[0, 1, 0], aims[0, 3, 3] = 1, 1, 1
    assert mask_ious(masks, aims, torch.tensor([0.75])).item() == pytest.approx(5 / 11)
    assert mask_ious(masks, aims, torch.tensor([1.0])).item() == pytest.approx(5 / 9)
    assert mask_ious(masks, 0 * aims, torch.tensor([0.0])).item() == 0
    assert mask_ious(~masks & False, 0 * aims, torch.tensor([0.0])).item() == 0


def test_shares_of_an_object_in_boxes():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:5, 2:6] = True  # 16 pixels
    rois = torch.tensor(
        [
            [0.0, 0, 0, 8, 6],
            [0.0, 2, 1, 4, 5],
            [0.0, 3.9, 1.2, 9.0, 3.9],  # cut to 3, 1, 8, 3
            [0.0, 2.2, 1.3, 2.8, 1.9],  # one pixel
            [0.0, 6, 0, 8, 6],
            [1.0, 0, 0, 8, 6],  # nothing there
        ]
    )
    assert shares_in_boxes(masks, rois).tolist() == [1.0, 0.5, 6 / 16, 1 / 16, 0.0, 0.0]
    assert shares_in_boxes(masks, rois[:0]).shape == (0,)


def test_shares_are_counts_of_pixels():
    torch.manual_seed(3)
    masks = torch.rand(3, 11, 9) > 0.4
    for _ in range(20):
        which, (x0, y0) = int(torch.randint(0, 3, ())), torch.randint(0, 8, (2,)).tolist()
        x1, y1 = x0 + int(torch.randint(1, 9, ())), y0 + int(torch.randint(1, 9, ()))
        share = shares_in_boxes(masks, torch.tensor([[which, x0, y0, x1, y1]]).float()).item()
        assert share == pytest.approx(masks[which, y0:y1, x0:x1].sum().item() / masks[which].sum().item())


def test_masks_beside_the_truth_do_not_count():
    guesses = torch.tensor([0.5, 0.9, 0.2], requires_grad=True)
    loss = mask_iou_loss(guesses, torch.tensor([0.7, 0.0, 0.6]))
    assert loss.item() == pytest.approx(0.5 * (0.04 + 0.16) / 2)
    loss.backward()
    assert guesses.grad.tolist() == [pytest.approx(-0.1), 0.0, pytest.approx(-0.2)]
    assert mask_iou_loss(guesses[:0], torch.zeros(0)).item() == 0
    assert mask_iou_loss(guesses, torch.zeros(3)).item() == 0


def test_the_head_sees_the_mask_at_the_size_of_the_features():
    head = MaskIoUHead(2, 3, width=4, hidden=5, side=6)
    assert head(torch.rand(7, 2, 6, 6), torch.rand(7, 12, 12)).shape == (7, 3)
    features, mask = torch.rand(1, 2, 6, 6), torch.zeros(1, 12, 12)
    mask[0, 3, 8] = 1.0
    spread = mask.clone()
    spread[0, 2:4, 8:10] = 1.0  # the other cells under the same feature: the largest is what counts
    torch.testing.assert_close(head(features, mask), head(features, spread))
    assert not torch.allclose(head(features, mask), head(features, 0 * mask))
