"""Boxes against worked numbers, torchvision and a recorded matcher."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import (
    box_iou,
    generalized_box_iou,
    generalized_box_iou_loss,
    masks_to_boxes,
    remove_small_boxes,
)

import oracle
from conftest import shared
from masklet.ops import boxes
from masklet.ops.boxes import CASCADE_DETECTRON2, CASCADE_MMDET, ROI_CODER, RPN_CODER, SSD_CODER, DeltaCoder

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


def random_boxes(n, seed=0, side=30.0):
    noise = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=noise) * 50
    return torch.cat([corner, corner + torch.rand(n, 2, generator=noise) * side + 0.5], 1)


def test_giou_by_hand():
    """Two squares of 4, corners touching over 1: IoU 1 / 7, and 2 of the 9 around both are empty."""
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    torch.testing.assert_close(boxes.giou(a, b), torch.tensor(1 / 7 - 2 / 9))
    assert boxes.giou(a, a) == 1
    assert boxes.giou(a, torch.tensor([4.0, 0, 6, 2])) == pytest.approx(-1 / 3)
    assert boxes.giou(torch.zeros(4), torch.zeros(4)) == 0


def test_giou_equals_torchvision():
    a, b = random_boxes(20), random_boxes(7, seed=1)
    torch.testing.assert_close(boxes.pairwise_giou(a, b), generalized_box_iou(a, b))
    torch.testing.assert_close(1 - boxes.giou(a[:7], b), generalized_box_iou_loss(a[:7], b))
    assert not torch.allclose(boxes.pairwise_giou(a, b), boxes.pairwise_iou(a, b))


def test_no_area_gives_no_nan_gradient():
    a = torch.zeros(3, 4, requires_grad=True)
    (boxes.giou(a, torch.zeros(3, 4)) + boxes.iou(a, torch.zeros(3, 4))).sum().backward()
    assert a.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_overlaps_in_range_and_symmetric(seed):
    a, b = random_boxes(5, seed), random_boxes(6, seed + 1)
    iou, giou = boxes.pairwise_iou(a, b), boxes.pairwise_giou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou >= -1) & (giou <= iou + 1e-6)).all()
    torch.testing.assert_close(boxes.pairwise_giou(b, a).T, giou)
    torch.testing.assert_close(boxes.iou(a, b[:5]), iou[:, :5].diag())


def test_coverage_and_inclusive_overlap_by_hand():
    """The half of a box in a crowd is covered, whatever the size of the crowd."""
    crowd = torch.tensor([[5.0, -50, 100, 50]])
    assert boxes.pairwise_coverage(BOXES, crowd).flatten().tolist() == pytest.approx([0.5, 0.8, 1, 0])
    assert boxes.inclusive_iou(torch.tensor([0.0, 0, 0, 0]), torch.tensor([0.0, 0, 1, 0])) == 0.5


def test_small_boxes():
    some = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4.5, 5], [0, 0, 9, 3], [5, 5, 1, 9]])
    assert boxes.larger_than(some, 4.0).tolist() == [False, True, False, False]
    assert boxes.at_least(some, 4.0).nonzero().flatten().tolist() == remove_small_boxes(some, 4).tolist() == [0, 1]


P, G = torch.tensor([[40.0, 30, 60, 70]]), torch.tensor([[40.0, 29, 70, 79]])


def test_deltas_by_hand():
    """The worked example of the lecture: a quarter to the right, a tenth down, half as wide again, 50 for 40 high."""
    for coder, expected in [
        (RPN_CODER, (0.25, 0.1, 0.4055, 0.2231)),
        (ROI_CODER, (2.5, 1, 2.0273, 1.1157)),
        (CASCADE_DETECTRON2[1], (5, 2, 4.0547, 2.2314)),
        (CASCADE_DETECTRON2[2], (7.5, 3, 6.0820, 3.3472)),
        (CASCADE_MMDET[2], (7.5758, 3.0303, 6.0517, 3.3305)),
    ]:
        assert coder.encode(P, G)[0].tolist() == pytest.approx(expected, abs=1e-4)
        torch.testing.assert_close(coder.decode(P, coder.encode(P, G)), G)


@pytest.mark.parametrize(
    ("name", "coder"), [("1_1", RPN_CODER), *zip(("10_5", "20_10", "30_15"), CASCADE_DETECTRON2, strict=True)]
)
def test_deltas_recorded_from_detectron2(name, coder):
    folder = oracle.find("ops_boxes")
    proposals, targets, deltas = _coder_inputs(folder)
    oracle.check(f"d2.encode_w{name}", coder.encode(proposals, targets), folder)
    oracle.check(f"d2.decode_w{name}", coder.decode(proposals, deltas), folder)
    wrong = DeltaCoder(coder.weights[::-1] if name != "1_1" else (1.0, 1.0, 2.0, 1.0))
    assert oracle.difference(f"d2.encode_w{name}", wrong.encode(proposals, targets), folder) > 0.1


def test_deltas_of_classes_and_clipping_recorded_from_detectron2():
    folder = oracle.find("ops_boxes")
    proposals, _, deltas = _coder_inputs(folder)
    size = oracle.meta(folder)["image_height"], oracle.meta(folder)["image_width"]
    oracle.check("d2.decode_w10_5_clipped", boxes.clip(ROI_CODER.decode(proposals, deltas), *size), folder)
    classes = torch.from_numpy(oracle.recorded("coder.deltas_per_class", folder)).view(30, -1, 4)
    decoded = ROI_CODER.decode(proposals[:, None], classes)
    oracle.check("d2.decode_per_class_w10_5", decoded.flatten(1), folder)


@pytest.mark.parametrize(
    ("name", "coder"),
    [("1.0_1.0", RPN_CODER), *zip(("0.1_0.2", "0.05_0.1", "0.033_0.067"), CASCADE_MMDET, strict=True)],
)
def test_deltas_recorded_from_mmdet(name, coder):
    folder = oracle.find("ops_boxes")
    proposals, targets, deltas = _coder_inputs(folder)
    size = oracle.meta(folder)["image_height"], oracle.meta(folder)["image_width"]
    oracle.check(f"mmdet.encode_std{name}", coder.encode(proposals, targets), folder)
    oracle.check(f"mmdet.decode_std{name}", boxes.clip(coder.decode(proposals, deltas), *size), folder)
    if name == "0.033_0.067":  # the third stages are not interchangeable
        other = CASCADE_DETECTRON2[2].encode(proposals, targets)
        assert oracle.difference(f"mmdet.encode_std{name}", other, folder) > 5e-3


def _coder_inputs(folder):
    return (torch.from_numpy(oracle.recorded(f"coder.{name}", folder)) for name in ("proposals", "targets", "deltas"))


def test_deltas_equal_torchvision():
    a, b = random_boxes(20), random_boxes(20, seed=1)
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(ROI_CODER.encode(a, b), theirs.encode_single(b, a))
    deltas = torch.randn(20, 12) * 8
    decoded = ROI_CODER.decode(a[:, None], deltas.view(20, 3, 4))
    torch.testing.assert_close(decoded.flatten(1), theirs.decode_single(deltas, a))


def test_named_coders_agree_where_the_zoos_do():
    a, b = random_boxes(9), random_boxes(9, seed=1)
    for one, other in [(ROI_CODER, SSD_CODER), *zip(CASCADE_DETECTRON2[:2], CASCADE_MMDET[:2], strict=True)]:
        torch.testing.assert_close(one.encode(a, b), other.encode(a, b))


def test_growth_is_limited():
    grown = RPN_CODER.decode(torch.tensor([0.0, 0, 2, 2]), torch.tensor([0.0, 0, 99, 1]))
    assert (grown[2:] - grown[:2]).tolist() == pytest.approx([125, 2 * np.e])
    assert DeltaCoder(limit=2.0).decode(P, torch.full((1, 4), 9.0))[0, 2:].sub(P[0, 2:]).isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_deltas_round_trip(seed):
    a, b = random_boxes(8, seed, side=8), random_boxes(8, seed + 1, side=8)
    for coder in (RPN_CODER, *CASCADE_MMDET):
        torch.testing.assert_close(coder.decode(a, coder.encode(a, b)), b, atol=2e-4, rtol=1e-5)


def test_distances_recorded_from_mmdet():
    folder = oracle.find("ops_boxes")
    points, targets = (torch.from_numpy(oracle.recorded(n, folder)) for n in ("dist.points", "coder.targets"))
    size = oracle.meta(folder)["image_height"], oracle.meta(folder)["image_width"]
    oracle.check("mmdet.distance_encode", boxes.to_distances(points, targets), folder)
    decoded = boxes.clip(boxes.from_distances(points, 0.2 * targets.abs()), *size)
    oracle.check("mmdet.distance_decode", decoded, folder)
    torch.testing.assert_close(boxes.from_distances(points, boxes.to_distances(points, targets)), targets)


def test_no_boxes():
    none = torch.zeros(0, 4)
    assert boxes.pairwise_iou(none, BOXES).shape == boxes.pairwise_giou(none, BOXES).shape == (0, 4)
    assert boxes.pairwise_coverage(BOXES, none).shape == (4, 0)
    assert ROI_CODER.encode(none, none).shape == ROI_CODER.decode(none, none).shape == (0, 4)
    assert boxes.larger_than(none, 1.0).shape == boxes.clip(none, 3, 3)[:, 0].shape == (0,)


def test_bad_coders():
    with pytest.raises(ValueError, match=r"^weights are \(1.0, 1.0, 0.0, 1.0\); give four numbers above 0$"):
        DeltaCoder((1.0, 1.0, 0.0, 1.0))
    with pytest.raises(
        ValueError, match=r"^standard deviations are \(1.0, -1.0, 1.0, 1.0\); give four numbers above 0$"
    ):
        DeltaCoder.with_stds((1.0, -1.0, 1.0, 1.0))
    with pytest.raises(
        ValueError, match=r"^limit is 0.5; boxes must be allowed to keep their size, so give 1 or more$"
    ):
        DeltaCoder(limit=0.5)
