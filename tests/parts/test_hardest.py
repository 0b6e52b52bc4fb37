"""The hardest proposals, against a reference that is the paper's text in loops."""

from __future__ import annotations

import pytest
import torch

from masklet.models import build
from masklet.parts.box_heads import Truth
from masklet.parts.sampling import Hardest, RandomSampler
from masklet.structures import Instances


def restated(rois, losses, count, overlap):
    """Every image: worst first, what overlaps a worse one by more than `overlap` is out, the first `count`."""
    out = set()
    for image in set(rois[:, 0].tolist()):
        kept = []
        for i in sorted((j for j in range(len(rois)) if rois[j, 0] == image), key=lambda j: -losses[j].item()):
            x0, y0, x1, y1 = rois[i, 1:].tolist()
            for j in kept:
                a0, b0, a1, b1 = rois[j, 1:].tolist()
                inter = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
                union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - inter
                if inter / union > overlap:
                    break
            else:
                kept.append(i)
        out |= set(kept[:count])
    return out


@pytest.mark.parametrize("seed", range(30))
def test_the_worst_once_each(seed):
    torch.manual_seed(seed)
    n, images = (0, 1, 40, 90)[seed % 4], 1 + seed % 3
    corner = (torch.rand(n, 2) * 20).round()
    rois = torch.cat([torch.randint(0, images, (n, 1)).float(), corner, corner + 4 + torch.rand(n, 2) * 9], 1)
    losses = torch.rand(n)
    found = Hardest(10, 0.5)(rois, losses)
    assert set(found.tolist()) == restated(rois, losses, 10, 0.5)
    assert len(set(found.tolist())) == len(found)
    for image in range(images):
        own = losses[found[rois[found, 0] == image]]
        assert (own.diff() <= 0).all()


def test_only_the_hardest_are_learned_from():
    torch.manual_seed(0)
    options = {"num_classes": 2, "backbone": "resnet18", "channels": 8, "hidden": 8}
    net = build("faster_rcnn", hard_examples=3, **options).train()
    boxes, labels = torch.tensor([[4.0, 4, 30, 30], [40, 40, 60, 63]]), torch.tensor([0, 1])
    truth = Instances(boxes, labels, torch.ones(2), None, (64, 64), net.classes)
    pyramid = net.features(torch.rand(1, 3, 64, 64))
    corner = torch.rand(50, 2) * 40
    proposals = torch.cat([corner, corner + 8 + torch.rand(50, 2) * 16], 1)
    with torch.no_grad():
        everything = net.box.sample([proposals], [boxes], [labels])
        kind, place = net.box.each(*net.box.classify(pyramid, everything.rois), everything)
    assert len(everything.labels) == 52  # the objects' boxes are proposals too
    worst = restated(everything.rois, kind + place, 3, 0.7)
    sampled, losses = net.box.learn(pyramid, [proposals], Truth([boxes], [labels], [(64, 64)]))
    wanted = everything.rois[sorted(worst)]
    assert {tuple(r) for r in sampled.rois.tolist()} == {tuple(r) for r in wanted.tolist()}
    index = torch.tensor(sorted(worst))
    assert losses["class"].item() == pytest.approx(kind[index].mean().item(), rel=1e-5)
    assert losses["box"].item() == pytest.approx(place[index].sum().item() / 3, rel=1e-5)
    assert isinstance(build("faster_rcnn", **options).box.sampler, RandomSampler)
    assert all(value.isfinite() for value in net.loss(torch.rand(1, 3, 64, 64), [truth]).values())
    assert all(value.isfinite() for value in net.loss(torch.rand(1, 3, 64, 64), [truth[:0]]).values())
