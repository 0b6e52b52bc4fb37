"""Which object each box is for, against torchvision's rules (live) and mmdetection's (restated), on 200 random sets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

from masklet.models.base import objects_of
from masklet.ops.boxes import pairwise_iou
from masklet.parts.matching import IGNORED, NEGATIVE, POSITIVE, ClaimingMatcher, Matcher
from masklet.structures import Classes, Instances

SIDE = 100


def case(seed: int) -> tuple[Tensor, Instances]:
    """Proposals and objects: none, crowds, ties, boxes of a thousandth of a pixel and larger than the image."""
    random = torch.Generator().manual_seed(seed)
    n, count = (int(torch.randint(low, high, (), generator=random)) for low, high in ((0, 60), (0, 8)))

    def draw(many: int) -> Tensor:
        size = 10 ** (torch.rand(many, 2, generator=random) * 5.5 - 3)  # .001 to 300 pixels
        low = torch.rand(many, 2, generator=random) * SIDE - size / 2
        return torch.cat([low, low + size], 1)

    boxes, objects = draw(n), draw(count)
    if seed % 3 == 0 and count:  # ties: proposals that are objects, twice; two objects at one place
        boxes, objects = torch.cat([boxes, objects, objects]), torch.cat([objects, objects[:1]])
    if seed % 4 == 0 and count:  # proposals near objects
        boxes = torch.cat([boxes, objects + torch.randn(len(objects), 4, generator=random)])
    crowd = torch.rand(len(objects), generator=random) < (0.3 if seed % 5 == 0 else 0.0)
    labels = torch.randint(0, 3, (len(objects),), generator=random)
    known = Classes(("a", "b", "c"))
    return boxes, Instances(objects, labels, torch.ones(len(objects)), None, (SIDE, SIDE), known, crowd)


def mmdetections(overlap: Tensor, low: float, high: float, least: float) -> tuple[list[int], list[int]]:
    """The rule of its MaxIoUAssigner, box by box and object by object."""
    objects, boxes = overlap.shape
    labels, which = [IGNORED] * boxes, [0] * boxes
    for b in range(boxes):
        best, which[b] = max((overlap[g, b].item(), -g) for g in range(objects))
        which[b] = -which[b]
        labels[b] = NEGATIVE if best < low else POSITIVE if best >= high else IGNORED
    for g in range(objects):
        most = overlap[g].max().item()
        if most >= least:
            for b in range(boxes):
                if overlap[g, b].item() == most:
                    labels[b], which[b] = POSITIVE, g
    return labels, which


@pytest.mark.parametrize(("low", "high", "rescue", "least"), [(0.3, 0.7, True, 0.3), (0.5, 0.5, False, 0.5)])
def test_two_hundred_sets(low, high, rescue, least):
    seen = {"none": 0, "rescued": 0, "stolen": 0}
    for seed in range(200):
        boxes, target = case(seed)
        (kept,) = objects_of(torch.zeros(1, 3, SIDE, SIDE), [target])
        assert len(kept) == int((~target.crowd).sum())
        objects = kept.boxes
        which, labels = Matcher(low, high, rescue)(boxes, objects)
        theirs_which, theirs_labels = ClaimingMatcher(low, high, least)(boxes, objects)
        if not len(objects) or not len(boxes):
            seen["none"] += 1
            assert labels.tolist() == theirs_labels.tolist() == [NEGATIVE] * len(boxes)
            continue
        overlap = pairwise_iou(objects, boxes)
        # What no box touches makes every box positive in torchvision and detectron2; here it makes none.
        touched = overlap[overlap.amax(1) > 0] if rescue else overlap
        full = TorchvisionMatcher(high, low, False)(overlap.clone())
        if rescue and len(touched):
            rescued = TorchvisionMatcher(high, low, True)(touched.clone()) >= 0
        else:
            rescued = full >= 0
        want = torch.where(rescued, POSITIVE, torch.where(full == -1, NEGATIVE, IGNORED))
        assert labels.tolist() == want.tolist(), seed
        assert which.tolist() == overlap.max(0).indices.tolist()
        seen["rescued"] += int((rescued & (full < 0)).sum())
        labels_there, which_there = mmdetections(overlap, low, high, least)
        assert theirs_labels.tolist() == labels_there, seed
        positive = theirs_labels == POSITIVE
        assert theirs_which[positive].tolist() == torch.tensor(which_there)[positive].tolist(), seed
        seen["stolen"] += int((theirs_which[positive] != which[positive]).sum())
    assert seen["none"] > 10
    assert seen["stolen"] > 10
    assert (seen["rescued"] > 10) == rescue
