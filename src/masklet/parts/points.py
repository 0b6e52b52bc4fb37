"""Points between the cells of a map: what it says there, and where it is unsure (Kirillov et al., PointRend, 2020).

Points are (x, y) as shares of the map's width and height: (0, 0) is the upper left corner of the first cell, and the
middle of cell i of n is (i + .5) / n. Maps of any resolution over the same region so share their points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor, nn

Uncertainty = Callable[[Float[Tensor, "n k *points"]], Float[Tensor, " n *points"]]  # the larger, the less sure
Ask = Callable[[Float[Tensor, "n p 2"]], Float[Tensor, "n k p"]]  # logits at points


def sample_points(
    maps: Float[Tensor, "n c h w"], points: Float[Tensor, "n p 2"], mode: str = "bilinear"
) -> Float[Tensor, "n c p"]:
    """The values of each map at its points, interpolated between the middles of cells; beyond the map there is 0."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode=mode, align_corners=False)[..., 0]


def grid_points(height: int, width: int, like: Tensor) -> Float[Tensor, "p 2"]:
    """The middles of the cells of a grid, row by row."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=like.device) + 0.5) / n for n in (height, width))
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1)


def points_in_boxes(
    feature: Float[Tensor, "b c h w"], rois: Float[Tensor, "m 5"], points: Float[Tensor, "m p 2"], stride: int
) -> Float[Tensor, "m c p"]:
    """Features at points of boxes; `rois` are the number of the image, then x0 y0 x1 y1 in its pixels.

    Points are shares of their box here. A map of `stride` covers stride pixels of the image with each cell.
    """
    height, width = feature.shape[-2:]
    corner, sides = rois[:, None, 1:3], (rois[:, 3:] - rois[:, 1:3])[:, None]
    shares = (corner + points * sides) / (stride * rois.new_tensor([width, height]))
    out = rois.new_zeros(rois.shape[0], feature.shape[1], points.shape[1])
    for i in range(feature.shape[0]):  # image by image: boxes share its features without a copy of them
        here = (rois[:, 0] == i).nonzero()[:, 0]
        found = F.grid_sample(feature[i : i + 1].to(rois.dtype), 2 * shares[here][None] - 1, align_corners=False)
        out.index_copy_(0, here, found[0].transpose(0, 1))
    return out


def bitmaps_in_boxes(
    masks: Bool[Tensor, "g h w"], rois: Float[Tensor, "m 5"], points: Float[Tensor, "m p 2"]
) -> Float[Tensor, "m p"]:
    """True masks at points of boxes, 0..1; `rois` are the number of the mask, then x0 y0 x1 y1 in pixels."""
    height, width = masks.shape[-2:]
    pixels = rois[:, None, 1:3] + points * (rois[:, 3:] - rois[:, 1:3])[:, None] - 0.5  # from the middle of the first
    low = pixels.floor()
    right, below = (pixels - low).unbind(-1)
    x, y = low.long().unbind(-1)
    out = torch.zeros_like(right)
    for i, down in enumerate((1 - below, below)):
        for j, across in enumerate((1 - right, right)):
            column, row = x + j, y + i
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            here = masks[rois[:, :1].long(), row.clamp(0, height - 1), column.clamp(0, width - 1)] & inside
            out += here * down * across
    return out


def labels_at(labels: Integer[Tensor, "n h w"], points: Float[Tensor, "n p 2"]) -> Integer[Tensor, "n p"]:
    """The label of the cell that each point is in; points must lie on the map."""
    height, width = labels.shape[1:]
    x, y = (points * points.new_tensor([width, height])).long().unbind(-1)
    return labels.flatten(1).gather(1, y.clamp(max=height - 1) * width + x.clamp(max=width - 1))


def closest_to_zero(logits: Float[Tensor, "n 1 *points"]) -> Float[Tensor, " n *points"]:
    """Of one binary logit: the nearer to the threshold, the less sure."""
    return -logits[:, 0].abs()


def closest_classes(logits: Float[Tensor, "n k *points"]) -> Float[Tensor, " n *points"]:
    """Of several classes: the less the best one is ahead of the second, the less sure."""
    best = logits.topk(min(2, logits.shape[1]), 1).values
    return best[:, -1] - best[:, 0]


def uncertain_points(
    logits: Float[Tensor, "n k h w"],
    uncertainty: Uncertainty,
    count: int,
    oversample: float = 3.0,
    share: float = 0.75,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n count 2"]:
    """`count` points of each map to learn from, `share` of them where it is least sure, the rest anywhere.

    The unsure ones are the least sure of `oversample` as many drawn evenly. How sure a point is, is asked of the
    logits interpolated there: interpolating how sure the cells are would find the two sides of a boundary and miss the
    boundary between them (detectron2 `get_uncertain_point_coords_with_randomness`).
    """
    n, device = logits.shape[0], logits.device
    points = torch.rand(n, int(oversample * count), 2, device=device, generator=generator, dtype=logits.dtype)
    unsure = int(share * count)
    where = uncertainty(sample_points(logits, points)).topk(unsure, 1).indices
    hard = points.gather(1, where[..., None].expand(-1, -1, 2))
    return torch.cat(
        [hard, torch.rand(n, count - unsure, 2, device=device, generator=generator, dtype=logits.dtype)], 1
    )


def unsure_cells(
    uncertainty: Float[Tensor, "n h w"], count: int
) -> tuple[Int64[Tensor, "n p"], Float[Tensor, "n p 2"]]:
    """The `count` cells of each map where it is least sure: their numbers, row by row, and their middles."""
    height, width = uncertainty.shape[-2:]
    where = uncertainty.flatten(1).topk(min(count, height * width), 1).indices
    x, y = (where % width + 0.5) / width, (where // width + 0.5) / height
    return where, torch.stack([x, y], -1)


def subdivide(
    logits: Float[Tensor, "n k h w"], ask: Ask, uncertainty: Uncertainty, count: int, steps: int
) -> Float[Tensor, "n k h2 w2"]:
    """Twice the resolution, `steps` times, and after each time new logits for the `count` least certain cells.

    Most of a mask is plain, and enlarging it costs nothing; the boundary gets what all of it would need. Maps that are
    still so small that every cell would be asked again the next time are only enlarged (PointRend, sec. 3.1).
    """
    for step in range(steps):
        height, width = 2 * logits.shape[-2], 2 * logits.shape[-1]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        if count >= 4 * height * width and step < steps - 1:
            continue
        where, points = unsure_cells(uncertainty(logits), count)
        where = where[:, None].expand(-1, logits.shape[1], -1)
        logits = logits.flatten(2).scatter(2, where, ask(points)).unflatten(2, (height, width))
    return logits


class PointHead(nn.Module):
    """The classes of a point from the fine features there and what the coarse map says there.

    Fully connected layers, the same at every point, each seeing the coarse logits again (PointRend, sec. 4: they are
    the only thing that knows what lies around the point).
    """

    def __init__(self, channels: int, num_classes: int, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        wide = width + num_classes
        layers = [nn.Conv1d(wide if i else channels + num_classes, width, 1) for i in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.predictor = nn.Conv1d(wide if depth else channels + num_classes, num_classes, 1)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (*layers, self.predictor):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, fine: Float[Tensor, "n c p"], coarse: Float[Tensor, "n k p"]) -> Float[Tensor, "n k p"]:
        x = fine
        for layer in self.layers:
            x = layer(torch.cat([x, coarse], 1)).relu()
        return self.predictor(torch.cat([x, coarse], 1))
