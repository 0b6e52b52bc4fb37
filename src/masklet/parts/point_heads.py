"""Masks rendered: a coarse one at once, then its boundary point by point (Kirillov et al., PointRend, 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.ops import mask_targets
from masklet.parts.box_heads import Sampled
from masklet.parts.mask_heads import Targets, map_of, mean_bce, through_boxes
from masklet.parts.points import (
    PointHead,
    bitmaps_in_boxes,
    closest_to_zero,
    grid_points,
    points_in_boxes,
    sample_points,
    subdivide,
    uncertain_points,
)
from masklet.structures import Masks


class CoarseMaskHead(nn.Module):
    """From `side` x `side` features of a box, at once a map half as large for each class: two fully connected layers.

    They see the whole box, as the points that come later do not.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 1024, side: int = 14) -> None:
        super().__init__()
        self.side = side
        self.shrink = nn.Conv2d(channels, channels, 2, 2)
        self.fc1, self.fc2 = nn.Linear(channels * (side // 2) ** 2, hidden), nn.Linear(hidden, hidden)
        self.predictor = nn.Linear(hidden, num_classes * (side // 2) ** 2)
        for layer in (self.shrink, self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m k t t"]:
        x = self.shrink(x).relu().flatten(1)
        x = self.fc2(self.fc1(x).relu()).relu()
        return self.predictor(x).unflatten(1, (-1, self.side // 2, self.side // 2))


class PointBranch(nn.Module):
    """Masks of boxes, as probabilities on a grid that is fine enough for their boundaries: 224 x 224 after five steps.

    All features come from `level`, the finest map of the pyramid, at single points. Training asks for `count` points
    of every object, predicting for the `asked` least certain cells in each of `steps` doublings.
    """

    def __init__(
        self,
        level: str,
        stride: int,
        coarse: CoarseMaskHead,
        points: PointHead,
        targets: Targets = mask_targets.DETECTRON2,
        count: int = 196,
        asked: int = 784,
        steps: int = 5,
    ) -> None:
        super().__init__()
        self.level, self.stride, self.coarse, self.points, self.targets = level, stride, coarse, points, targets
        self.count, self.asked, self.steps = count, asked, steps

    def pool(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m c s s"]:
        """The features at the middles of a grid over each box."""
        side = self.coarse.side
        grid = grid_points(side, side, rois).expand(rois.shape[0], -1, -1)
        return points_in_boxes(pyramid[self.level], rois, grid, self.stride).unflatten(2, (side, side))

    def at(
        self,
        pyramid: Mapping[str, Tensor],
        rois: Float[Tensor, "m 5"],
        coarse: Float[Tensor, "m k t t"],
        points: Float[Tensor, "m p 2"],
    ) -> Float[Tensor, "m k p"]:
        """The logits of every class at points, which are shares of their box."""
        fine = points_in_boxes(pyramid[self.level], rois, points, self.stride)
        return self.points(fine, sample_points(coarse, points))

    def logits(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        """The map of the class of each box, rendered."""
        coarse = self.coarse(self.pool(pyramid, rois))

        def ask(points: Float[Tensor, "m p 2"]) -> Float[Tensor, "m 1 p"]:
            return map_of(labels, self.at(pyramid, rois, coarse, points))[:, None]

        return subdivide(map_of(labels, coarse)[:, None], ask, closest_to_zero, self.asked, self.steps)[:, 0]

    def forward(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        return self.logits(pyramid, rois, labels).sigmoid()

    def loss(self, pyramid: Mapping[str, Tensor], positives: Sampled, masks: Sequence[Masks]) -> dict[str, Tensor]:
        """Binary cross entropy of the map of the right class, on the coarse grid (`mask`) and at points (`point`)."""
        coarse = self.coarse(self.pool(pyramid, positives.rois))
        plain = map_of(positives.labels, coarse)
        with torch.no_grad():
            points = uncertain_points(plain[:, None], closest_to_zero, self.count)
        logits = map_of(positives.labels, self.at(pyramid, positives.rois, coarse, points))
        size = plain.shape[-1]
        aims = through_boxes(positives, masks, lambda dense, rois, here: self.targets(dense, rois, size))
        truth = through_boxes(positives, masks, lambda dense, rois, here: bitmaps_in_boxes(dense, rois, points[here]))
        return {"mask": mean_bce(plain, aims), "point": mean_bce(logits, truth)}
