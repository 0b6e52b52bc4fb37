"""Pasted masks against torchvision live, detectron2's recorded outputs, and grid_sample on the whole canvas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

import oracle
from conftest import shared
from masklet.ops import rle
from masklet.ops.paste import continuous, paste, whole_pixels

THRESHOLDS = (0.05, 0.3, 0.5, 0.7, 0.95)


def objects(n, height, width, side=28, seed=0, outside=0.0):
    """Blobs of probabilities and boxes of every size; with `outside`, boxes reach that share beyond the image."""
    noise = torch.Generator().manual_seed(seed)
    probs = F.interpolate(torch.rand(n, 1, 5, 5, generator=noise), size=(side, side), mode="bicubic").clamp(0, 1)[:, 0]
    centre = torch.rand(n, 2, generator=noise) * torch.tensor([width, height])
    half = (torch.rand(n, 2, generator=noise) * 3 - 2).exp() * min(height, width) / 8
    boxes = torch.cat([centre - half, centre + half], 1)
    if not outside:
        limit = boxes.new_tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
    return probs, boxes


def dense(probs, boxes, size, **options):
    return rle.decode_many(paste(probs, boxes, size, **options), *size)


def same_but_for_rounding(soft, probs, boxes, **options):
    """Where a mask is not `soft >= threshold`, soft is within 1e-5 of the threshold; the share of such pixels."""
    soft, differing = np.asarray(soft), 0
    for threshold in THRESHOLDS:
        mine = dense(probs, boxes, soft.shape[1:], threshold=threshold, **options)
        wrong = mine != (soft >= threshold)
        assert (np.abs(soft[wrong] - threshold) <= 1e-5).all()
        differing += wrong.sum()
    return differing / max((soft > 0).sum(), 1) / len(THRESHOLDS)


@pytest.mark.parametrize(("side", "seed"), [(28, 0), (14, 1), (7, 2), (112, 3)])
def test_torchvision(side, seed):
    size = (270, 480)
    probs, boxes = objects(40, *size, side=side, seed=seed)
    soft = paste_masks_in_image(probs[:, None], boxes, size)[:, 0]
    assert same_but_for_rounding(soft, probs, boxes, placement=whole_pixels) < 1e-3
    with pytest.raises(AssertionError):  # the other convention is another answer
        same_but_for_rounding(soft, probs, boxes, placement=continuous)
    with pytest.raises(AssertionError):
        same_but_for_rounding(soft, probs, boxes + 0.5, placement=whole_pixels)


def test_torchvision_beyond_the_image():
    size = (120, 200)
    probs, boxes = objects(60, *size, seed=4, outside=0.5)
    whole = boxes.long()
    soft = paste_masks_in_image(probs[:, None], boxes, size)[:, 0]
    reaching = ((whole[:, :2] < 0).any(1) | (whole[:, 2:] > torch.tensor([size[1], size[0]])).any(1)).sum()
    assert reaching >= 10
    assert same_but_for_rounding(soft, probs, boxes, placement=whole_pixels) < 1e-3


def sampled(probs, boxes, height, width):
    """The definition: every pixel's middle, in the coordinates of its box, bilinear, zero outside; in float64."""
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    n = len(boxes)
    grid = torch.stack([x[:, None].expand(n, height, width), y[:, :, None].expand(n, height, width)], -1)
    return F.grid_sample(probs[:, None].double(), grid, align_corners=False)[:, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_continuous_boxes_are_sampled_at_the_middle_of_pixels(seed, h, w, outside):
    size, noise = (37, 53), torch.Generator().manual_seed(seed)
    _, boxes = objects(6, *size, seed=seed, outside=float(outside))
    probs = torch.rand(6, h, w, generator=noise)
    soft = sampled(probs, boxes.double(), *size)
    column, row = torch.arange(size[1]), torch.arange(size[0])[:, None]
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes.unbind(1))
    near = (column >= x0.floor() - 1) & (column < x1.ceil() + 1) & (row >= y0.floor() - 1) & (row < y1.ceil() + 1)
    same_but_for_rounding(torch.where(near, soft, 0), probs, boxes)


def test_detectron2_recorded():
    folder = shared("oracles", "ops_masks")
    probs, boxes = (torch.from_numpy(oracle.recorded(f"paste.{name}", folder)) for name in ("masks", "boxes"))
    size = oracle.meta(folder)["image_height"], oracle.meta(folder)["image_width"]
    for threshold in (0.5, 0.3):
        bits = oracle.recorded(f"d2.paste@{threshold}.bits", folder)
        theirs = np.unpackbits(bits, axis=1)[:, : size[0] * size[1]].reshape(-1, *size).astype(bool)
        found = paste(probs, boxes, size, threshold=threshold)
        assert np.array_equal(rle.decode_many(found, *size), theirs)
        assert rle.area(found).tolist() == oracle.recorded(f"d2.paste@{threshold}.area", folder).tolist()
        assert not np.array_equal(dense(probs, boxes, size, threshold=threshold, placement=whole_pixels), theirs)
    soft = oracle.recorded("paste.soft", folder)
    for threshold in np.linspace(0.02, 0.98, 49).tolist():
        mine = dense(probs, boxes, size, threshold=threshold)[:, ::3, ::3]
        assert (np.abs(soft[mine != (soft >= threshold)] - threshold) <= 1e-5).all()


def test_by_hand():
    """A mask of ones in a box of 4 x 2 pixels: the pixels whose middle is inside, at the half where it is not whole."""
    ones = torch.ones(1, 2, 2)
    (found,) = paste(ones, torch.tensor([[2.0, 1.0, 6.0, 3.0]]), (5, 8))
    assert found.box == (2, 1, 6, 3)
    assert found.area == 8
    (found,) = paste(ones, torch.tensor([[2.4, 1.0, 6.4, 3.0]]), (5, 8))  # middles from 2.5 to 5.5 are inside
    assert found.box == (2, 1, 6, 3)
    # torchvision: grown by a cell (2 and 1 pixels) to nine pixels from x = 0, weights 0 .167 .611 1 1 1 .611 .167 0,
    # and five from y = 0, weights 0 .7 1 .7 0; the corners have .611 * .7 < .5
    (found,) = paste(ones, torch.tensor([[2.0, 1.0, 6.0, 3.0]]), (5, 8), placement=whole_pixels)
    assert found.box == (2, 1, 7, 4)
    assert found.area == 5 * 3 - 4


@pytest.mark.parametrize("placement", [continuous, whole_pixels])
def test_boxes_elsewhere_and_without_area(placement):
    boxes = torch.tensor(
        [
            [-50.0, -40, -20, -20],  # beyond the corner
            [30.0, 5, 60, 9],  # beyond the right side
            [5.0, 5, 4, 9],  # ends before it begins
            [float("nan"), 0, 5, 5],
            [float("-inf"), 0, float("inf"), 5],
            [1e30, 1e30, 2e30, 2e30],
            [-1e6, -1e6, 1e6, 1e6],  # the image is a speck in it
            [7.0, 3.0, 7.01, 3.01],  # smaller than a pixel
        ]
    )
    masks = paste(torch.ones(8, 28, 28), boxes, (10, 20), placement=placement)
    assert [rle.area([mask])[0] for mask in masks[:4]] == [0, 0, 0, 0]
    assert masks[5].area == 0
    assert masks[6].area == 200
    assert masks[7].area <= 9


def test_a_box_without_extent():
    ones, flat, size = torch.ones(1, 28, 28), torch.tensor([[3.0, 3, 3, 8]]), (10, 20)
    assert paste(ones, flat, size)[0].area == 0
    theirs = paste_masks_in_image(ones[:, None], flat, size)[:, 0] >= 0.5  # y grows to 2..8
    assert np.array_equal(dense(ones, flat, size, placement=whole_pixels), theirs.numpy())
    assert paste(ones, flat, size, placement=whole_pixels)[0].box == (3, 2, 4, 9)


def test_nothing_to_paste():
    assert paste(torch.empty(0, 28, 28), torch.empty(0, 4), (10, 20)) == []
    (empty,) = paste(torch.zeros(1, 28, 28), torch.tensor([[1.0, 1, 9, 9]]), (10, 20))
    assert empty == rle.encode(np.zeros((10, 20), bool))
    (none,) = paste(torch.ones(1, 28, 28), torch.tensor([[1.0, 1, 9, 9]]), (0, 20))
    assert (none.area, none.height, none.width) == (0, 0, 20)


def test_masks_do_not_know_of_each_other():
    size = (64, 48)
    probs, boxes = objects(9, *size, outside=0.5)
    order = torch.tensor([3, 1, 8, 0])
    together = paste(probs, boxes, size)
    assert paste(probs[order], boxes[order], size) == [together[i] for i in order]
    assert [paste(p[None], b[None], size)[0] for p, b in zip(probs, boxes, strict=True)] == together
    assert paste(probs.half().float(), boxes.double(), size) == paste(probs.half(), boxes, size)


def test_bad_input():
    with pytest.raises(ValueError, match=r"^2 masks but 3 boxes; give one box for each mask$"):
        paste(torch.ones(2, 28, 28), torch.ones(3, 4), (9, 9))
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"^threshold is {threshold}; choose one above 0, where the .* up to 1$"):
            paste(torch.ones(1, 28, 28), torch.ones(1, 4), (9, 9), threshold=threshold)


def test_boxes_without_height_or_width_are_empty_masks():
    boxes = torch.tensor([[2.0, 5.0, 9.0, 5.0], [4.0, 2.0, 4.0, 9.0], [2.0, 2.0, 9.0, 9.0]])
    items = paste(torch.ones(3, 4, 4), boxes, (12, 12))
    assert [item.area for item in items] == [0, 0, 49]
