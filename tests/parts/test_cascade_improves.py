"""The comparison of Cascade R-CNN's paper in small: who brings displaced boxes nearest to their objects."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.ops.boxes import DeltaCoder, iou
from masklet.parts.box_heads import BoxBranch, BoxPredictor, Truth, TwoFC
from masklet.parts.cascade import CascadeBoxes, Cascading, IterativeBoxes, moved, nearest
from masklet.parts.pyramid import PyramidPooler, as_rois
from masklet.parts.sampling import RandomSampler

SIDE, BATCH, TRIES, STEPS = 96, 8, 30, 120


def scene(random: torch.Generator) -> tuple[dict[str, Tensor], Truth, list[Tensor]]:
    """A map that shows how much of each cell is covered, the two objects of every picture, and boxes near them."""
    corners = torch.rand(BATCH, 2, 2, generator=random) * 44
    corners[:, 1] += 26
    boxes = torch.cat([corners, corners + 16 + 10 * torch.rand(BATCH, 2, 2, generator=random)], -1)
    at = torch.arange(SIDE)
    inside = (at >= boxes[..., 0, None]) & (at < boxes[..., 2, None])  # b 2 x
    below = (at >= boxes[..., 1, None]) & (at < boxes[..., 3, None])
    seen = (below[..., :, None] & inside[..., None, :]).any(1, keepdim=True).float()
    cells = F.avg_pool2d(seen, 4)
    noise = 0.05 * torch.randn(BATCH, 3, *cells.shape[2:], generator=random)
    edges = cells.diff(dim=2, prepend=cells[:, :, :1]), cells.diff(dim=3, prepend=cells[..., :1])
    pyramid = {"p2": torch.cat([cells, *edges], 1) + noise}
    sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    away = 0.16 * sides[:, None] * torch.randn(BATCH, TRIES, 2, 4, generator=random)
    near = (boxes[:, None] + away).flatten(1, 2).clamp(0, SIDE)
    near = torch.cat([near[..., :2], torch.maximum(near[..., 2:], near[..., :2] + 4)], -1)
    truth = Truth(list(boxes), [torch.zeros(2, dtype=torch.int64)] * BATCH, [(SIDE, SIDE)] * BATCH)
    return pyramid, truth, list(near)


def stage(coder: DeltaCoder, overlap: float) -> BoxBranch:
    branch = BoxBranch(PyramidPooler({"p2": 4}, 7), TwoFC(3, 7, 48), BoxPredictor(48, 1, True), coder, nearest(overlap))
    branch.sampler = RandomSampler(64, 0.5)
    return branch


def learned(net: Any) -> None:
    optimizer, random = torch.optim.Adam(net.parameters(), 2e-3), torch.Generator().manual_seed(1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, STEPS)
    for _ in range(STEPS):
        pyramid, truth, near = scene(random)
        losses = net.learn(pyramid, near, truth)[1]
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def overlaps(stages: list[BoxBranch]) -> list[float]:
    """Mean IoU with their objects of boxes that overlap them by half or more, before and after each stage."""
    pyramid, truth, near = scene(torch.Generator().manual_seed(2))
    aims = torch.stack(list(truth.boxes))[:, None].expand(BATCH, TRIES, 2, 4).reshape(-1, 4)
    rois, number = torch.cat(near), as_rois(near)[:, :1]
    keep = iou(rois, aims) >= 0.5
    rois, aims, number = rois[keep], aims[keep], number[keep]
    out = [float(iou(rois, aims).mean())]
    for one in stages:
        deltas = one.classify(pyramid, torch.cat([number, rois], 1))[1]
        rois = moved(one, rois, deltas, torch.zeros(len(rois), dtype=torch.int64))
        out.append(float(iou(rois, aims).mean()))
    return out


def test_a_cascade_goes_on_where_one_stage_applied_again_stops():
    torch.manual_seed(0)
    alike = Cascading(weights=(1.0, 1.0, 1.0))
    cascade = CascadeBoxes([stage(*one) for one in zip(alike.coders, alike.overlaps, strict=True)], alike)
    again = IterativeBoxes(stage(alike.coders[0], 0.5))
    for net in (cascade, again):
        learned(net)
    ours, theirs = overlaps(list(cascade.stages)), overlaps([again.stage] * again.times)
    assert ours[1] > ours[0] + 0.1
    assert ours[2] > ours[1] + 0.01
    assert theirs[2] - theirs[1] < ours[2] - ours[1]
    assert ours[3] > theirs[3]
