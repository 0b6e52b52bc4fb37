"""What two stages must know about rotated boxes: cx cy w h in pixels and degrees, counter-clockwise (`ops.rotated`).

`ROTATED` goes into an RPN, `ROI_CODER`, `HALF` and one of `NMS` into a box branch, which work as for upright boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.ops import rotated
from masklet.ops.nms import Gaussian, Linear
from masklet.ops.roi import rotated_roi_align
from masklet.parts.box_heads import Distinct, Sampled, SoftDistinct
from masklet.parts.mask_heads import through_boxes
from masklet.parts.matching import Matcher
from masklet.parts.proposals import Geometry, Sizes
from masklet.structures import Masks

CANDIDATES = 1000  # of the boxes of an image, all classes together, so many are compared with each other


def anywhere(boxes: Float[Tensor, "b *n 5"], sizes: Sizes) -> Float[Tensor, "b *n 5"]:
    """Boxes as they are: no rotated box is the part of another one that lies inside the image."""
    return boxes


def some_extent(boxes: Float[Tensor, "*n 5"]) -> Bool[Tensor, "*n"]:
    """Which boxes are more than a line."""
    return (boxes[..., 2:4] > 0).all(-1)


def survivors(
    boxes: Float[Tensor, "b n 5"],
    scores: Float[Tensor, "b n"],
    overlap: float,
    labels: Int64[Tensor, "b n"] | None = None,
) -> Bool[Tensor, "b n"]:
    """Which boxes of every image NMS keeps, where there are `labels` in every class for itself."""
    if torch.compiler.is_compiling():
        return _survivors_traced(boxes, scores, overlap, labels)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for i, own in enumerate(boxes):
        kept[i, rotated.nms(own, scores[i], overlap, None if labels is None else labels[i])] = True
    return kept


def _survivors_traced(
    boxes: Float[Tensor, "b n 5"], scores: Float[Tensor, "b n"], overlap: float, labels: Int64[Tensor, "b n"] | None
) -> Bool[Tensor, "b n"]:
    """The same for an exported program: all pairs are compared, whatever the boxes, and the rounds are one operator."""
    place = torch.arange(scores.shape[1], device=boxes.device)
    one, other = scores[:, :, None], scores[:, None]
    better = (one > other) | ((one == other) & (place[:, None] < place))
    above = better & (rotated.iou(boxes[:, :, None], boxes[:, None]) > overlap)
    if labels is not None:
        above = above & (labels[:, :, None] == labels[:, None])

    def settle(keep: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        settled = ~(above & keep[:, :, None]).any(1)  # as in `ops.nms.greedy`
        return settled, (settled != keep).any()

    loop: Any = torch.while_loop
    start = torch.ones_like(scores, dtype=torch.bool), torch.ones((), dtype=torch.bool, device=boxes.device)
    return loop(lambda keep, changes: changes.clone(), settle, start)[0]


def distinct(
    boxes: Float[Tensor, "n 5"],
    scores: Float[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    overlap: float,
    size: tuple[int, int],
) -> Bool[Tensor, " n"]:
    """Which of the best `CANDIDATES` boxes NMS keeps in every class for itself; scores of 0 are no objects."""
    best, where = scores.topk(min(CANDIDATES, len(scores)))
    kept = survivors(boxes[where][None], best[None], overlap, labels[where][None])[0] & (best > 0)
    return torch.zeros_like(scores, dtype=torch.bool).index_put((where,), kept)


NMS: Mapping[str, Distinct] = MappingProxyType(
    {
        "greedy": distinct,
        "soft_linear": SoftDistinct(Linear(0.3), iou=rotated.iou),
        "soft_gaussian": SoftDistinct(Gaussian(0.5), iou=rotated.iou),
    }
)

# Angles count in radians; both weigh them as rotated_maskrcnn does.
RPN_CODER = rotated.RotatedDeltaCoder((1.0, 1.0, 1.0, 1.0, 1.0), rotated.eighth_turn)
ROI_CODER = rotated.RotatedDeltaCoder((10.0, 10.0, 5.0, 5.0, 1.0), rotated.eighth_turn)
ROTATED = Geometry(5, RPN_CODER, rotated.pairwise_iou, anywhere, survivors)
HALF = Matcher(0.5, 0.5, iou=rotated.pairwise_iou)


def shares_of(positives: Sampled, masks: Sequence[Masks]) -> Float[Tensor, " m"]:
    """How much of its object lies in each rotated box, from the mean of the bitmap over 28 x 28 parts of the box."""

    def share(
        dense: Bool[Tensor, "g h w"], rois: Float[Tensor, "m 6"], here: Bool[Tensor, " n"]
    ) -> Float[Tensor, " m"]:
        inside = rotated_roi_align(dense[:, None].float(), rois, 28, 1.0)[:, 0].mean((1, 2)) * rotated.area(rois[:, 1:])
        whole = dense.flatten(1).sum(1).float()[rois[:, 0].long()]
        return (inside / whole.clamp(min=1)).clamp(max=1)

    return through_boxes(positives, masks, share)
