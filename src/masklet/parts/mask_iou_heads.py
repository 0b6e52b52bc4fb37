"""How well a predicted mask fits, guessed from what it was predicted from (Huang et al., Mask Scoring R-CNN, 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from masklet.parts.box_heads import Sampled
from masklet.parts.mask_heads import through_boxes
from masklet.structures import Masks


class MaskIoUHead(nn.Module):
    """From the features of a box and its mask: the IoU of the mask with the truth, for every class.

    The mask joins the features as one more channel, the largest of each of its cells. Four convolutions, the last with
    stride 2, and two fully connected layers; nothing keeps the answer within 0..1.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 256, hidden: int = 1024, side: int = 14) -> None:
        super().__init__()
        convs = [nn.Conv2d(width if i else channels + 1, width, 3, 2 if i == 3 else 1, padding=1) for i in range(4)]
        self.convs = nn.ModuleList(convs)
        self.fc1, self.fc2 = nn.Linear(width * ((side + 1) // 2) ** 2, hidden), nn.Linear(hidden, hidden)
        self.predictor = nn.Linear(hidden, num_classes)
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for dense in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(dense.weight, a=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        layers: tuple[nn.Conv2d | nn.Linear, ...] = (*convs, self.fc1, self.fc2, self.predictor)
        for layer in layers:
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "m c s s"], masks: Float[Tensor, "m t t"]) -> Float[Tensor, "m k"]:
        """`masks` are probabilities on a grid a whole number of times as fine as the features."""
        x = torch.cat([x, F.max_pool2d(masks[:, None], masks.shape[-1] // x.shape[-1])], 1)
        for conv in self.convs:
            x = conv(x).relu()
        x = self.fc2(self.fc1(x.flatten(1)).relu()).relu()
        return self.predictor(x)


def shares_in_boxes(masks: Bool[Tensor, "g h w"], rois: Float[Tensor, "m 5"]) -> Float[Tensor, " m"]:
    """How much of an object lies in each box; `rois` are the number of its mask, then x0 y0 x1 y1 in pixels.

    Coordinates are cut to whole pixels, and a box has one at least (mmdet `MaskIoUHead._get_area_ratio`).
    """
    height, width = masks.shape[-2:]
    areas = F.pad(masks.to(torch.int32).cumsum(1).cumsum(2), (1, 0, 1, 0))  # of all above and left of a corner
    which = rois[:, 0].long()
    x0, y0, x1, y1 = (
        side.clamp(0, most).long() for side, most in zip(rois[:, 1:].unbind(1), (width, height) * 2, strict=True)
    )
    x1, y1 = torch.maximum(x1, x0 + 1).clamp(max=width), torch.maximum(y1, y0 + 1).clamp(max=height)
    inside = areas[which, y1, x1] - areas[which, y0, x1] - areas[which, y1, x0] + areas[which, y0, x0]
    return inside / areas[which, -1, -1].clamp(min=1)


def mask_ious(
    masks: Bool[Tensor, "m t t"], aims: Float[Tensor, "m t t"], shares: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """The IoU of masks and true masks seen through the same box, the part of the truth that lies outside included.

    `shares` of the objects lie in the boxes, so their whole area is the seen one over the share (sec. 3.3).
    """
    overlap, seen = (masks * aims).sum((1, 2)), aims.sum((1, 2))
    whole = seen / shares.clamp(min=1e-7)
    return overlap / (masks.sum((1, 2)) + whole - overlap).clamp(min=1e-7)


def shares_of(positives: Sampled, masks: Sequence[Masks]) -> Float[Tensor, " m"]:
    """How much of its object lies in each box."""
    return through_boxes(positives, masks, lambda dense, rois, here: shares_in_boxes(dense, rois))


def mask_iou_loss(guesses: Float[Tensor, " m"], ious: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Half the mean squared error of the masks that touch the truth; 0 where there are none."""
    touching = ious > 0
    error = 0.5 * F.mse_loss(guesses, ious, reduction="none")
    return (error * touching).sum() / touching.sum().clamp(min=1)
