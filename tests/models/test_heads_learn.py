"""What was built on Mask R-CNN goes downhill: a dozen steps on two drawn pictures."""

from __future__ import annotations

import pytest
import torch

from masklet.data.collate import collate_instances
from masklet.data.synthetic import synthetic
from masklet.models import build
from masklet.parts.proposals import Budget
from masklet.parts.sampling import RandomSampler

COMMON = {"backbone": "resnet18", "norm": "group", "channels": 64, "hidden": 32, "anchor_sizes": (8, 16, 24, 32, 48)}
OPTIONS = {
    "mask_scoring_rcnn": {"mask_channels": 16, "iou_hidden": 32},
    "panet": {"mask_channels": 16},
    "point_rend": {"coarse_hidden": 32, "point_channels": 16},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_fall(name):
    torch.manual_seed(0)
    pictures = synthetic("shapes3", "train", 64, 2)
    net = build(name, classes=pictures.classes, **COMMON, **OPTIONS[name]).train()
    net.box.sampler, net.rpn.budgets[True] = RandomSampler(24, 0.25), Budget(100, 50)
    images, targets = collate_instances([pictures[i] for i in range(2)])
    optimizer, totals = torch.optim.Adam(net.parameters(), 2e-3), []
    for _ in range(12):
        losses = net.loss(images, targets)
        optimizer.zero_grad(set_to_none=True)
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert all(value.isfinite() for value in losses.values())
    assert sum(totals[-3:]) < 0.75 * sum(totals[:3])
