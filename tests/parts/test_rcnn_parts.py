"""The parts of two-stage detectors: known answers, rules of assignment, bad cases."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from masklet.ops.boxes import pairwise_iou
from masklet.ops.roi import roi_align
from masklet.parts.anchors import Anchors, by_share, ratio_major, rounded, size_major
from masklet.parts.box_heads import BoxBranch, BoxPredictor, Pick, Sampled, TwoFC
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch
from masklet.parts.matching import IGNORED, NEGATIVE, POSITIVE, Matcher
from masklet.parts.proposals import RPN, Budget, Proposals, RPNHead, clip_to, of_asked, of_sampled, survivors
from masklet.parts.pyramid import FPN, PyramidPooler, as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures import Masks

CHANNELS, STRIDES = {"c2": 8, "c3": 12, "c4": 6, "c5": 4}, {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
BOXES = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])


def random_boxes(count: int, seed: int, side: float = 100) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat([corners.amin(1), corners.amax(1) + 1], 1)


def features(height: int = 64, width: int = 96) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        c: torch.randn(2, CHANNELS[c], -(-height // s), -(-width // s), generator=random) for c, s in STRIDES.items()
    }


@pytest.mark.parametrize("size", [(64, 96), (50, 77)])
def test_pyramid_is_torchvisions(size):
    ours, theirs = FPN(CHANNELS, STRIDES, 16), FeaturePyramidNetwork(list(CHANNELS.values()), 16, LastLevelMaxPool())
    weights = list(ours.laterals.parameters()) + list(ours.outputs.parameters())
    with torch.no_grad():
        for mine, other in zip(weights, theirs.parameters(), strict=True):
            other.copy_(mine)
    x = features(*size)
    found, want = ours(x), theirs(dict(x))
    assert list(found) == ["p2", "p3", "p4", "p5", "p6"] == list(ours.strides)
    assert ours.strides["p6"] == 64
    for mine, other in zip(found.values(), want.values(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("aligned", "samples"), [(False, 2), (True, 0)])
def test_boxes_are_read_off_the_level_of_their_size(aligned, samples):
    pool = PyramidPooler(
        {"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 7, partial(roi_align, aligned=aligned, samples=samples)
    )
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 2000])
    rois = torch.stack([sides * 0, sides * 0, sides * 0, sides, sides], 1)
    assert pool.levels(rois).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # 112 -> P3, 224 -> P4, 448 -> P5
    maps = {name: torch.randn(2, 3, 1024 // s, 1024 // s) for name, s in pool.strides.items()}
    boxes = [random_boxes(20, 1, 900), random_boxes(7, 2, 900)]
    if not aligned:
        theirs = MultiScaleRoIAlign(list(pool.strides), 7, samples)
        want = theirs(maps, boxes, [(1024, 1024)] * 2)
        torch.testing.assert_close(pool(maps, as_rois(boxes)), want, rtol=0, atol=1e-4)  # coordinates are rounded
    assert pool(maps, torch.zeros(0, 5)).shape == (0, 3, 7, 7)


def test_cells_of_the_zoos():
    half, double = math.sqrt(0.5), math.sqrt(2)
    assert rounded((32,), (0.5,)).tolist() == [[-23, -11, 23, 11]]
    torch.testing.assert_close(
        size_major((32,), (0.5,)), torch.tensor([[-16 * double, -16 * half, 16 * double, 16 * half]])
    )
    sides = lambda cells: (cells[:, 3] - cells[:, 1]).div(cells[:, 2] - cells[:, 0]).tolist()  # noqa: E731
    assert sides(size_major((32, 64), (1, 2))) == pytest.approx([1, 2, 1, 2])
    assert sides(ratio_major((32, 64), (1, 2))) == pytest.approx([1, 1, 2, 2])


@pytest.mark.parametrize("size", [(224, 320), (64, 96)])
def test_anchors_are_torchvisions(size):
    sizes, ratios = ((32,), (64, 80)), (0.5, 1.0, 2.0)
    theirs, image = AnchorGenerator(sizes, (ratios,) * 2), torch.zeros(1, 3, *size)
    maps = [torch.zeros(1, 1, -(-size[0] // s), -(-size[1] // s)) for s in (4, 64)]
    ours = Anchors(sizes, ratios, rounded, by_share)(maps, (4, 64), size)
    torch.testing.assert_close(torch.cat(ours), theirs(ImageList(image, [size]), maps)[0])
    exact = Anchors(((32,), (64,)), ratios)(maps, (4, 64), size)
    assert exact[0][3 * 1].sub(exact[0][0]).tolist() == [4, 0, 4, 0]  # the next position to the right


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(0, 6), n=st.integers(1, 40), seed=st.integers(0, 10**6), rescue=st.booleans(), tie=st.booleans()
)
def test_matches_are_torchvisions(count, n, seed, rescue, tie):
    boxes, objects = random_boxes(n, seed, 40), random_boxes(count, seed + 1, 40)
    if tie and count:
        boxes = torch.cat([boxes, boxes[:1], objects[:1], objects[:1]])
        objects = torch.cat([objects, objects[:1]])
    which, labels = Matcher(0.3, 0.7, rescue)(boxes, objects)
    if not count:
        assert labels.eq(NEGATIVE).all()
        return
    overlap = pairwise_iou(objects, boxes)
    want = TorchvisionMatcher(0.7, 0.3, rescue)(overlap.clone())
    touched = (overlap.amax(1) > 0).all()
    if not rescue or touched:  # theirs takes every anchor for an object that none touches
        expected = torch.where(want >= 0, POSITIVE, torch.where(want == -1, NEGATIVE, IGNORED))
        assert labels.tolist() == expected.tolist()
        assert which[want >= 0].tolist() == want[want >= 0].tolist()


def test_an_object_that_nothing_touches_rescues_nothing():
    _, labels = Matcher(0.3, 0.7, rescue=True)(BOXES, torch.tensor([[50.0, 50, 60, 60]]))
    assert labels.tolist() == [0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORED]), max_size=60), st.integers(1, 40))
def test_samples_are_mixed(labels, count):
    kinds = torch.tensor(labels, dtype=torch.int64)
    sampler, generator = RandomSampler(count, 0.25), torch.Generator().manual_seed(0)
    positive, negative = sampler(kinds, generator)
    assert len(positive) == min(labels.count(POSITIVE), count // 4)
    assert len(negative) == min(labels.count(NEGATIVE), count - len(positive))
    assert (kinds[positive] == POSITIVE).all()
    assert (kinds[negative] == NEGATIVE).all()
    assert len(set(positive.tolist() + negative.tolist())) == len(positive) + len(negative)


def test_survivors_of_nms():
    assert survivors(BOXES, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [True, False, True]
    assert survivors(BOXES[:0], torch.zeros(0), 0.5).tolist() == []


def rpn(**options) -> RPN:
    torch.manual_seed(0)
    anchors = Anchors(((8,), (16,)))
    return RPN(RPNHead(4, anchors.count), anchors, {"p2": 4, "p3": 8}, Budget(50, 30), Budget(40, 20), **options)


def maps() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"p2": torch.randn(2, 4, 8, 12), "p3": torch.randn(2, 4, 4, 6)}


def test_proposals_lie_inside_and_are_sorted():
    net = rpn().eval()
    found = net.propose(net(maps(), (32, 48)), [(32, 48), (20, 31)])
    assert found.boxes.shape == (2, 20, 4)
    assert (found.logits.diff(dim=1) <= 0).all()
    assert (clip_to(found.boxes, [(32, 48), (20, 31)]) == found.boxes).all()
    assert len(net.train().propose(net(maps(), (32, 48)), [(32, 48)] * 2).boxes[0]) == 30


def test_what_is_not_a_number_is_not_proposed():
    net = rpn().eval()
    broken = maps()
    for x in broken.values():
        x[0] = torch.nan
    found = net.propose(net(broken, (32, 48)), [(32, 48)] * 2)
    assert found.boxes.isfinite().all()
    assert [len(boxes) for boxes in found.each()] == [0, 20]
    none = Proposals(found.boxes, torch.full_like(found.logits, -torch.inf))
    assert none.trimmed().boxes.shape == (2, 0, 4)
    assert [len(boxes) for boxes in none.each()] == [0, 0]


def test_divisors_of_the_loss():
    objects = [BOXES, BOXES[:0]]
    net, other = rpn(divisor=of_sampled), rpn(divisor=of_asked)
    for model in (net, other):
        model.sampler = RandomSampler(1000, 0.5)
    found = net.loss(net(maps(), (32, 48)), objects)
    asked = other.loss(other(maps(), (32, 48)), objects)
    anchors = torch.cat(net(maps(), (32, 48)).anchors)
    sampled = len(anchors) + int((net.matcher(anchors, BOXES)[1] != IGNORED).sum())
    assert found["rpn_box"].detach() > 0
    for key, value in found.items():
        torch.testing.assert_close(value * sampled, asked[key] * 2000)


def branch() -> BoxBranch:
    torch.manual_seed(0)
    pool = PyramidPooler({"p2": 4}, 7)
    return BoxBranch(pool, TwoFC(4, 7, 8), BoxPredictor(8, 3), pick=Pick(threshold=0.0, count=5))


def test_detections_have_fixed_places():
    net, boxes = branch(), random_boxes(6, 0, 30)[None]
    found = net(maps(), Proposals(boxes, torch.zeros(1, 6)), [(32, 48)])
    assert found.boxes.shape == (1, 5, 4)
    assert (found.scores > 0).all()
    nothing = net(maps(), Proposals(boxes, torch.full((1, 6), -torch.inf)), [(32, 48)])
    assert nothing.scores.tolist() == [[0] * 5]
    assert nothing.trimmed().rois().shape == (0, 5)
    assert net(maps(), Proposals(boxes[:, :0], torch.zeros(1, 0)), [(32, 48)]).boxes.shape == (1, 0, 4)


def test_samples_know_their_objects():
    net = branch()
    objects, labels = [BOXES[:2] * 2, BOXES[:0]], [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)]
    sampled = net.sample([random_boxes(4, 3, 20), random_boxes(4, 4, 20)], objects, labels)
    own = sampled.positives()
    assert {tuple(row) for row in own.rois.tolist()} >= {(0, 0, 0, 20, 20), (0, 6, 0, 26, 20)}  # the truth itself
    assert [labels[0][i] for i in own.objects] == own.labels.tolist()
    assert (own.rois[:, 0] == 0).all()
    assert (sampled.labels[sampled.rois[:, 0] == 1] == 3).all()
    assert net.loss(maps(), sampled)["box"].isfinite()


def test_only_the_map_of_the_right_class_learns():
    torch.manual_seed(0)
    head = FCNMaskHead(4, 3, 8, depth=1)
    mask = MaskBranch(PyramidPooler({"p2": 4}, 4), head)
    rois, labels = torch.tensor([[0.0, 2, 3, 22, 25]]), torch.tensor([1])
    sampled = Sampled(rois, labels, rois[:, 1:], torch.tensor([0]), 3)
    truth = Masks.from_dense(torch.rand(1, 32, 48) > 0.5)
    mask.loss(maps(), sampled, [truth, Masks(32, 48)])["mask"].backward()
    assert [bool(g.any()) for g in head.predictor.weight.grad] == [False, True, False]
    assert mask(maps(), rois, labels).shape == (1, 8, 8)


def test_one_map_for_all_classes():
    mask = MaskBranch(PyramidPooler({"p2": 4}, 4), FCNMaskHead(4, 1, 8, depth=1))
    rois = torch.tensor([[0.0, 2, 3, 22, 25]])
    both = (mask(maps(), rois, torch.tensor([i])) for i in (0, 2))
    assert torch.equal(*both)
