"""Rotated anchors and proposals: detectron2's recorded grid, and what stays as it was when nothing is turned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import oracle
from masklet.data.synthetic import synthetic
from masklet.models import build
from masklet.models.rotated_mask_rcnn import turned
from masklet.models.seams import join
from masklet.ops.rotated import bounds, from_xyxy, of_masks, paste
from masklet.parts.anchors import RotatedAnchors
from masklet.parts.box_heads import Sampled, upright_distinct
from masklet.parts.matching import Matcher
from masklet.parts.proposals import UPRIGHT
from masklet.parts.rotated_boxes import NMS, ROTATED, _survivors_traced, shares_of, survivors
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError


def test_anchors_recorded_from_detectron2():
    folder = oracle.find("ops_rotated")
    anchors = RotatedAnchors(((32, 64),), (0.5, 1, 2), (-90, -60, -30, 0, 30, 60))
    (found,) = anchors([torch.zeros(1, 1, 3, 4)], [16], (48, 64))
    assert anchors.count == 36
    oracle.check("anchors", found, folder)
    turned = RotatedAnchors(((32, 64),), (0.5, 1, 2), (60, 30, 0, -30, -60, -90))
    assert oracle.difference("anchors", turned([torch.zeros(1, 1, 3, 4)], [16], (48, 64))[0], folder) > 0.5


def sheaf() -> torch.Tensor:
    """Five rods side by side at 45 degrees, and the first one again, a little off."""
    across = torch.arange(5) * 6.0
    rods = torch.stack(
        [40 + across, 40 + across, torch.full((5,), 60.0), torch.full((5,), 4.0), torch.full((5,), 45.0)]
    )
    return torch.cat([rods.T, rods.T[:1] + torch.tensor([0.5, 0.5, 0, 0, 1])])


@pytest.mark.parametrize("name", ["greedy", "soft_linear", "soft_gaussian"])
def test_neighbours_stay_and_doubles_go(name):
    boxes, scores = sheaf(), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.85])
    share = NMS[name](boxes, scores, torch.zeros(6, dtype=torch.int64), 0.5, (128, 128)).float()
    assert share[:5].min() > 0.99
    assert share[5] < 0.7
    other = NMS[name](boxes, scores, torch.tensor([0, 0, 0, 0, 0, 1]), 0.5, (128, 128)).float()
    assert other.min() > 0.99
    upright = upright_distinct(bounds(boxes), scores, torch.zeros(6, dtype=torch.int64), 0.5, (128, 128))
    assert upright.sum() < 5


def test_survivors_traced_are_the_same(monkeypatch):
    """The operator that an exported program runs (`test_contract`) is a loop in Python here."""

    def loop(condition, body, state):
        while condition(*state):
            state = body(*state)
        return state

    monkeypatch.setattr(torch, "while_loop", loop)
    random = torch.Generator().manual_seed(0)
    middle, sides = torch.rand(2, 80, 2, generator=random) * 60, torch.rand(2, 80, 2, generator=random) * 30 + 1
    boxes = torch.cat([middle, sides, torch.rand(2, 80, 1, generator=random) * 360 - 180], 2)
    scores, labels = torch.randint(20, (2, 80), generator=random) / 20, torch.randint(3, (2, 80), generator=random)
    for own in (None, labels):
        want = survivors(boxes, scores, 0.3, own)
        assert torch.equal(_survivors_traced(boxes, scores, 0.3, own), want)
        assert 0 < want.sum() < 160


def test_boxes_that_stand_are_upright_ones():
    """Without rotation the two geometries match, keep and encode the same."""
    random = torch.Generator().manual_seed(1)
    low = torch.rand(60, 2, generator=random) * 60
    upright = torch.cat([low, low + torch.rand(60, 2, generator=random) * 30 + 2], 1)
    standing, scores = from_xyxy(upright), torch.rand(60, generator=random)
    torch.testing.assert_close(ROTATED.overlap(standing, standing[:9]), UPRIGHT.overlap(upright, upright[:9]))
    kept = UPRIGHT.survivors(upright[None], scores[None], 0.5)
    assert torch.equal(ROTATED.survivors(standing[None], scores[None], 0.5), kept)
    deltas = UPRIGHT.coder.encode(upright[:30], upright[30:])
    turned = ROTATED.coder.encode(standing[:30], standing[30:])
    torch.testing.assert_close(turned, torch.cat([deltas, torch.zeros(30, 1)], 1), atol=1e-5, rtol=1e-4)
    which, kind = Matcher(0.3, 0.7, rescue=True)(upright, upright[::7])
    found = Matcher(0.3, 0.7, rescue=True, iou=ROTATED.overlap)(standing, standing[::7])
    assert torch.equal(found[1], kind)
    assert torch.equal(found[0][kind == 1], which[kind == 1])


def rod_model(**options):
    torch.manual_seed(0)
    return build(
        "rotated_mask_rcnn", num_classes=1, backbone="resnet18", channels=8, hidden=8, mask_channels=8, **options
    )


def test_predictions_come_back_at_the_size_of_the_image():
    """Twice as wide and high inside: boxes, the upright ones around them and masks are in pixels of the picture."""
    net = rod_model(short_side=64, threshold=0.0, angles=(-45.0,), ratios=(1.0,)).eval()
    found = net.predict(torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)))
    assert found.rotated.shape == (len(found), 5)
    assert ((found.rotated[:, 4] >= -45) & (found.rotated[:, 4] < 45)).all()
    limit = torch.tensor([48.0, 32, 48, 32])
    around = bounds(found.rotated)
    torch.testing.assert_close(torch.minimum(around.clamp(min=0), limit), found.boxes, atol=1e-2, rtol=1e-3)
    some = found.masks.areas() > 0
    assert (found.masks.boxes()[some, :2] >= found.boxes[some, :2] - 1.5).all()


def test_truth_is_turned_where_it_is_not_given():
    (sample,) = synthetic("rods", size=128, count=1)
    objects, boxes = turned(sample.instances)
    assert len(objects) == len(boxes) == len(sample.instances)
    assert (boxes[:, 2:4].amax(1) / boxes[:, 2:4].amin(1)).min() > 8
    given, same = turned(replace(sample.instances, rotated=boxes * torch.tensor([1, 1, 1, 1, 0.0])))
    assert (same[:, 4] == 0).all()
    flat, _ = turned(replace(sample.instances, rotated=boxes * torch.tensor([1, 1, 1, 0.0, 1])))
    assert (len(given), len(flat)) == (len(boxes), 0)


def test_a_rod_that_windows_cut_is_turned_as_a_whole():
    box = torch.tensor([[60.0, 40, 90, 8, 25]])
    (item,), size = paste(torch.ones(1, 28, 28), box, (80, 120)), (80, 120)
    classes, parts = Classes(("rod",)), []
    for x0, x1 in ((0, 70), (50, 120)):
        seen = Masks.from_dense(Masks(*size, (item,)).dense()[:, :, x0:x1])
        found = Instances.from_masks(seen, torch.tensor([0]), classes, torch.tensor([0.9]))
        parts.append(((0, x0, 80, x1), replace(found, rotated=of_masks(seen.items))))
    joined = join(parts, size)
    assert joined.masks.items == (item,)
    torch.testing.assert_close(joined.rotated, of_masks([item]))


def test_the_share_of_an_object_in_its_box():
    """A rectangle of 40 x 10: its own box holds all of it, a box of half its length half, one elsewhere nothing."""
    drawn = Masks(80, 120, tuple(paste(torch.ones(1, 28, 28), torch.tensor([[60.0, 40, 40, 10, 30]]), (80, 120))))
    boxes = torch.tensor([[60.0, 40, 44, 14, 30], [60, 40, 20, 14, 30], [60, 40, 14, 20, 120], [10, 10, 9, 9, 0]])
    rois = torch.cat([torch.zeros(4, 1), boxes], 1)
    sampled = Sampled(rois, torch.zeros(4, dtype=torch.int64), boxes, torch.zeros(4, dtype=torch.int64), 1)
    torch.testing.assert_close(shares_of(sampled, [drawn]), torch.tensor([1.0, 0.5, 0.5, 0]), atol=0.03, rtol=0)


@pytest.mark.parametrize("options", [{"levels": "c4"}, {"pool": "pool"}])
def test_how_rotated_boxes_are_not_read(options):
    message = (
        'rotated boxes are read off maps, by rotated RoIAlign; choose levels="fpn", "dc5" or "c5", and pool="align"'
    )
    with pytest.raises(UserError) as caught:
        rod_model(**{"anchor_sizes": (32,) if "levels" in options else (16, 28, 40, 56, 80), **options})
    assert str(caught.value) == message
