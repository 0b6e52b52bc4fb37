"""Mask targets against detectron2's, mmdet's and torchvision's, recorded or live, and against worked masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import project_masks_on_boxes

import oracle
from masklet.ops import mask_targets, polygons, rle, rotated
from masklet.ops.mask_targets import DETECTRON2, TORCHVISION


def square(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def recorded():
    folder = oracle.find("ops_masks")
    size = oracle.meta(folder)["image_height"], oracle.meta(folder)["image_width"]
    bits = np.unpackbits(oracle.recorded("polygon.bitmap_bits", folder), axis=1)[:, : size[0] * size[1]]
    bitmaps = torch.from_numpy(bits.reshape(-1, *size).astype(bool))
    boxes = torch.from_numpy(oracle.recorded("target.boxes", folder))
    rings = [[flat.reshape(-1, 2)] for flat in oracle.recorded("target.polygons", folder)]
    return folder, bitmaps, rings, boxes, torch.cat([torch.arange(10.0)[:, None], boxes], 1)


@pytest.mark.parametrize("size", [14, 28, 112])
def test_polygons_recorded_from_detectron2(size):
    folder, _, rings, boxes, _ = recorded()
    expected = oracle.recorded(f"d2.polygon_target_{size}", folder)
    assert np.array_equal(mask_targets.from_polygons(rings, boxes, size), expected)
    assert not np.array_equal(mask_targets.from_polygons(rings, boxes + 0.5, size), expected)


@pytest.mark.parametrize("size", [14, 28])
@pytest.mark.parametrize("zoo", ["d2", "mmdet"])
def test_bitmaps_recorded(zoo, size):
    folder, bitmaps, _, _, rois = recorded()
    expected = oracle.recorded(f"{zoo}.bitmap_target_{size}", folder)
    assert np.array_equal(DETECTRON2(bitmaps, rois, size), expected)
    assert not np.array_equal(TORCHVISION(bitmaps, rois, size) >= 0.5, expected)


def test_bitmaps_equal_torchvision():
    masks = torch.rand(3, 40, 50) < 0.5
    noise = torch.rand(8, 2) * 20
    boxes, which = torch.cat([noise, noise + 2 + torch.rand(8, 2) * 20], 1), torch.arange(8) % 3
    theirs = project_masks_on_boxes(masks, boxes, which, 14)
    rois = torch.cat([which[:, None].float(), boxes], 1)
    assert torch.equal(TORCHVISION(masks, rois, 14), theirs)
    assert torch.equal(TORCHVISION(masks.float(), rois, 14), theirs)
    assert not torch.allclose(DETECTRON2(masks, rois, 14), theirs)


def test_bitmaps_in_parts(monkeypatch):
    _, bitmaps, _, _, rois = recorded()
    rois = rois[[3, 0, 9, 3, 7]]
    whole = TORCHVISION(bitmaps, rois, 14)
    monkeypatch.setattr(mask_targets, "AT_ONCE", 2 * 101 * 149)
    assert torch.equal(TORCHVISION(bitmaps, rois, 14), whole)


def test_polygons_by_hand():
    """A box of 8 x 4 with a square in its left half and a ring in its last column; a box elsewhere is empty."""
    rings = [square(0, 0, 4, 4), square(6, 0, 8, 4)]
    boxes = torch.tensor([[0.0, 0, 8, 4], [50, 50, 60, 60]])
    left, right = mask_targets.from_polygons([rings, rings], boxes, 4)
    assert left.tolist() == [[True, True, False, True]] * 4
    assert not right.any()
    united = mask_targets.from_polygons([[square(0, 0, 4, 4), square(2, 0, 6, 4)]], boxes[:1], 4)
    assert united[0].tolist() == [[True, True, True, False]] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_polygons_equal_coco_ring_by_ring(seed, size):
    """The definition, one object after the other, by COCO's own rules (`polygons.from_coco`)."""
    noise = np.random.default_rng(seed)
    objects = [[noise.uniform(-5, 45, (noise.integers(3, 9), 2)) for _ in range(k)] for k in (1, 0, 3, 2)]
    low = noise.uniform(0, 20, (4, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + noise.uniform(0, 30, (4, 2))], 1))
    found = mask_targets.from_polygons(objects, boxes, size)
    for rings, box, mask in zip(objects, boxes.numpy(), found, strict=True):
        scale = size / np.maximum(box[2:] - box[:2], 0.1)
        flat = [((ring - box[:2]) * scale).reshape(-1).tolist() for ring in rings]
        assert np.array_equal(mask, rle.decode(polygons.from_coco(flat, size, size)))


def test_rotated_by_hand():
    """A bar of 16 x 4 at 45 degrees fills its rotated box, and half of a box twice as high."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    along, across = ((x - 32) - (y - 32)) / 2**0.5, ((x - 32) + (y - 32)) / 2**0.5
    bar = ((along.abs() <= 20) & (across.abs() <= 6))[None]
    rois = torch.tensor([[0.0, 32, 32, 40, 12, 45], [0, 32, 32, 40, 24, 45], [0, 32, 32, 40, 12, -45]])
    own, high, crossed = mask_targets.from_bitmaps_rotated(bar, rois, 28)
    assert own[1:-1, 1:-1].all()
    assert high.mean() == pytest.approx(0.5, abs=0.03)
    assert high[8:20, 1:-1].all()
    assert crossed.mean() == pytest.approx(12 / 40, abs=0.05)


def test_rotated_polygons_by_hand():
    """The outline of a bar at 45 degrees fills its rotated box, and half of a box twice as high."""
    boxes = torch.tensor([[32.0, 32, 40, 12, 45], [32, 32, 40, 24, 45]])
    outline = rotated.corners(boxes[0]).double().numpy()
    own, high = mask_targets.from_polygons_rotated([[outline]] * 2, boxes, 28)
    assert own.all()
    assert high[7:21].all()
    assert high.float().mean() == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_rotated_polygons_without_rotation(seed):
    noise = np.random.default_rng(seed)
    objects = [[noise.integers(0, 32, (5, 2)).astype(float)] for _ in range(3)]
    boxes = torch.tensor([[0.0, 0, 32, 32], [4, 8, 20, 24], [-8, 0, 24, 8]])  # exact in binary
    expected = mask_targets.from_polygons(objects, boxes, 16)
    assert torch.equal(mask_targets.from_polygons_rotated(objects, rotated.from_xyxy(boxes), 16), expected)


def test_no_objects():
    assert mask_targets.from_polygons([], torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not mask_targets.from_polygons([[]], torch.ones(1, 4), 28).any()
    assert mask_targets.from_polygons_rotated([], torch.zeros(0, 5), 28).shape == (0, 28, 28)
    for masks in (torch.zeros(0, 5, 6, dtype=torch.bool), torch.ones(2, 5, 6, dtype=torch.bool)):
        assert DETECTRON2(masks, torch.zeros(0, 5), 28).shape == (0, 28, 28)
        assert mask_targets.from_bitmaps_rotated(masks, torch.zeros(0, 6), 28).shape == (0, 28, 28)


def test_bad_input():
    ring, box = square(0, 0, 4, 4), torch.tensor([[0.0, 0, 8, 4]])
    with pytest.raises(ValueError, match=r"^2 objects but 1 boxes; give one box for each object$"):
        mask_targets.from_polygons([[ring], [ring]], box, 28)
    with pytest.raises(ValueError, match=r"^object 0: a polygon needs at least 3 points, this one has 2$"):
        mask_targets.from_polygons([[ring, ring[:2]]], box, 28)
    with pytest.raises(ValueError, match=r"^cannot draw masks of 0x0; the side needs at least one pixel$"):
        mask_targets.from_polygons([[ring]], box, 0)
    masks = torch.ones(2, 5, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^boxes name masks 1..2, but there are 2$"):
        DETECTRON2(masks, torch.tensor([[1.0, 0, 0, 4, 4], [2, 0, 0, 4, 4]]), 14)
