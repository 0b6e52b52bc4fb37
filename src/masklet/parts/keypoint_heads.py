"""The points of every detected object, each a one-hot mask over its box (He et al., Mask R-CNN, 2017, sec. 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from masklet.parts.box_heads import Sampled
from masklet.parts.pyramid import Reader

Points = Float[Tensor, "_ _ 3"]  # for each object: x, y, visible (above 0)


class KeypointHead(nn.Module):
    """3x3 convolutions, then one map of logits for every point at four times the resolution."""

    def __init__(self, channels: int, num_keypoints: int, width: int = 512, depth: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width if i else channels, width, 3, padding=1) for i in range(depth))
        self.up = nn.ConvTranspose2d(width, num_keypoints, 4, 2, 1)
        for layer in (*self.convs, self.up):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m k t t"]:
        for conv in self.convs:
            x = conv(x).relu()
        return F.interpolate(self.up(x), scale_factor=2, mode="bilinear", align_corners=False)


class KeypointBranch(nn.Module):
    """Points of boxes, as logits on a grid over each box that compete with one another for where the point is."""

    def __init__(self, pool: Reader, head: nn.Module) -> None:
        super().__init__()
        self.pool, self.head = pool, head

    def forward(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m k t t"]:
        return self.head(self.pool(pyramid, rois))

    def loss(self, pyramid: Mapping[str, Tensor], positives: Sampled, points: Sequence[Points]) -> dict[str, Tensor]:
        """Cross entropy over the cells of a box, averaged over the visible points that lie in their box."""
        maps = self(pyramid, positives.rois)
        images = positives.rois[:, 0].long().tolist()
        own = [points[i][j] for i, j in zip(images, positives.objects.tolist(), strict=True)]
        if not own:
            return {"keypoint": maps.sum()}  # of nothing
        cells, valid = cells_of(torch.stack(own).to(maps), positives.rois[:, 1:], maps.shape[-1])
        loss = F.cross_entropy(maps.flatten(2)[valid], cells[valid], reduction="sum")
        return {"keypoint": loss / max(int(valid.sum()), 1)}


def cells_of(
    points: Float[Tensor, "m k 3"], boxes: Float[Tensor, "m 4"], size: int
) -> tuple[Int64[Tensor, "m k"], Bool[Tensor, "m k"]]:
    """The cell of a `size` x `size` grid over its box that each point is in, and whether it is visible and in the box.

    A point on the right or lower edge is in the last cell (detectron2 `keypoints_to_heatmap`, torchvision).
    """
    place, low, high = points[..., :2], boxes[:, None, :2], boxes[:, None, 2:]
    cell = ((place - low) * size / (high - low)).floor().where(place != high, size - 1)
    valid = ((cell >= 0) & (cell < size)).all(-1) & (points[..., 2] > 0)
    column, row = cell.where(valid[..., None], 0).long().unbind(-1)
    return row * size + column, valid


def decode_points(maps: Float[Tensor, "n k t t"], boxes: Float[Tensor, "n 4"]) -> Points:
    """x, y and probability of every point: the largest value of its map, resized to the pixels of the box.

    Bicubically, to whole pixels, rounded up. The probability is the value's share of the map before it was resized
    (detectron2 `heatmaps_to_keypoints`).
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil().long().tolist()
    out = []
    for own, (width, height) in zip(maps, pixels, strict=True):  # each has its own size; together they fill gigabytes
        fine = F.interpolate(own[None], (height, width), mode="bicubic", align_corners=False)[0]
        best, where = fine.flatten(1).max(1)
        share = 1 / (own.flatten(1) - best[:, None]).exp().sum(1)
        out.append(torch.stack([where % width, where // width, share], 1))
    if not out:
        return maps.new_zeros(0, maps.shape[1], 3)
    found = torch.stack(out)
    place = (found[..., :2] + 0.5) * (sides / sides.ceil())[:, None] + boxes[:, None, :2]
    return torch.cat([place, found[..., 2:]], -1)
