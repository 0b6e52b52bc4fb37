"""Features of a region: each box cut out of its image's feature map and brought to one size.

Regions ("rois") are rows of image number and box, x0 y0 x1 y1 or cx cy w h degrees, in pixels of the image; `scale` is
the feature map's size over the image's, 1 / stride. All have the form `pool(features, rois, size, scale)` when the rest
of their arguments is fixed, and stand in for each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision import ops as tv

AT_ONCE = 1 << 21  # points sampled at a time, where a region takes as many as it is large: some 100 bytes each

Size = int | tuple[int, int]  # height and width of what comes out, or both in one


def pyramid_level(
    boxes: Float[Tensor, "n 4"], lowest: int = 2, highest: int = 5, canonical_size: float = 224.0
) -> Int64[Tensor, " n"]:
    """Which level of a pyramid a box is cut from: 4 at `canonical_size`, one less for half the size, within bounds.

    Level k has stride 2^k. Source: Lin et al., Feature Pyramid Networks, 2017, equation 1; detectron2, mmdet.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    return (4 + (side / canonical_size + 1e-8).log2()).floor().clamp(lowest, highest).long()


def roi_pool(
    features: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], size: Size, scale: float
) -> Float[Tensor, "n c oh ow"]:
    """The largest value in each bin; box and bins are rounded to whole cells, so nothing is learned about the box.

    The gradient goes to the cell that was largest. Source: Girshick, Fast R-CNN, 2015, section 2.1; torchvision.
    """
    return tv.roi_pool(features, rois, _check(rois, 5, size, scale), scale)


def roi_align(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 5"],
    size: Size,
    scale: float,
    samples: int = 0,
    aligned: bool = True,
) -> Float[Tensor, "n c oh ow"]:
    """The mean of `samples` x `samples` interpolated values in each bin; nothing is rounded.

    0 samples are as many as the bin has cells. `aligned` puts cell (0, 0)'s middle at (0.5, 0.5) as everywhere in
    masklet (detectron2, mmdet); False puts it at (0, 0) and makes regions at least a cell large, as networks of
    torchvision and maskrcnn-benchmark were trained. Boxes get no gradient. Source: He et al., Mask R-CNN, 2017, section
    3; torchvision.
    """
    size = _check(rois, 5, size, scale)
    if not samples or features.device.type != "cpu":
        return tv.roi_align(features, rois, size, scale, samples or -1, aligned)
    (h, w), (x0, y0, x1, y1) = size, (rois[:, 1:].detach() * scale - aligned / 2).unbind(1)
    wide, high = x1 - x0, y1 - y0
    if not aligned:
        wide, high = wide.clamp(min=1), high.clamp(min=1)
    x = (x0[:, None] + (_middles(w * samples, rois) + 0.5) * wide[:, None]).view(-1, 1, w, 1, samples)
    y = (y0[:, None] + (_middles(h * samples, rois) + 0.5) * high[:, None]).view(-1, h, 1, samples, 1)
    shape = (-1, h, w, samples, samples)
    return _mean_at(features, rois[:, 0].long(), x.expand(shape).flatten(3), y.expand(shape).flatten(3))


def roi_align_max(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 5"],
    size: Size,
    scale: float,
    samples: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "n c oh ow"]:
    """The largest of `samples` x `samples` interpolated values in each bin (Mask R-CNN, table 2c, "max")."""
    h, w = _check(rois, 5, size, scale)
    _check_samples(samples)
    fine = tv.roi_align(features, rois, (h * samples, w * samples), scale, 1, aligned)
    return F.max_pool2d(fine, samples)


def roi_warp(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 5"],
    size: Size,
    scale: float,
    samples: int = 2,
    reduce: Callable[[Tensor, int], Tensor] = F.max_pool2d,
) -> Float[Tensor, "n c oh ow"]:
    """Interpolated values of each bin, with a gradient for the box too, so that a later stage can move it.

    `reduce` makes one of the `samples` x `samples` values: `F.max_pool2d` or `F.avg_pool2d`. Source: Dai et al.,
    Multi-task Network Cascades, 2016, section 3.2. The RoIWarp of Mask R-CNN's table 2c also rounds: `snap` first.
    """
    size = _check(rois, 5, size, scale)
    _check_samples(samples)
    h, w = size[0] * samples, size[1] * samples
    x0, y0, x1, y1 = (side[:, None] * scale - 0.5 for side in rois[:, 1:].unbind(1))
    x = x0 + (torch.arange(w, dtype=rois.dtype, device=rois.device) + 0.5) / w * (x1 - x0)  # n w
    y = y0 + (torch.arange(h, dtype=rois.dtype, device=rois.device) + 0.5) / h * (y1 - y0)  # n h
    x, y = x[:, None].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)
    values = _mean_at(features, rois[:, 0].long(), x[..., None], y[..., None])
    return reduce(values, samples) if len(rois) else values.new_zeros(0, values.shape[1], *size)


def snap(rois: Float[Tensor, "n 5"], scale: float) -> Float[Tensor, "n 5"]:
    """Boxes moved to the borders of the cells that `roi_pool` takes; the gradient passes as if they had not moved."""
    first, last = (rois[:, 1:3] * scale).round(), (rois[:, 3:] * scale).round()
    whole = torch.cat([first, torch.maximum(last, first) + 1], 1) / scale
    return torch.cat([rois[:, :1], rois[:, 1:] + (whole - rois[:, 1:]).detach()], 1)


def rotated_roi_align(
    features: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 6"], size: Size, scale: float, samples: int = 0
) -> Float[Tensor, "n c oh ow"]:
    """`roi_align` (aligned) in the frame of rotated boxes; what comes out stands upright.

    `rois` are rows of image number, cx, cy, w, h, degrees (`ops.rotated`). Gradients go to features and boxes. Source:
    Ma et al., Arbitrary-Oriented Scene Text Detection via Rotation Proposals, 2018; detectron2 `ROIAlignRotated`.
    """
    size = _check(rois, 6, size, scale)
    if samples < 0:
        raise ValueError(f"samples is {samples}; give 0 (as many as a bin has cells) or more")
    if samples:
        return _in_frame(features, rois, size, (samples, samples), scale)
    # Rows and columns of samples per bin: regions with equal numbers go together.
    wanted = (rois[:, [4, 3]].detach() * scale / rois.new_tensor(size)).ceil().clamp(min=1).long()
    counts, group = wanted.unique(dim=0, return_inverse=True)
    done, parts = [], []
    for i, (rows, columns) in enumerate(counts.tolist()):
        at_once = max(1, AT_ONCE // (size[0] * rows * size[1] * columns))
        for index in (group == i).nonzero().flatten().split(at_once):
            done.append(index)
            parts.append(_in_frame(features, rois[index], size, (rows, columns), scale))
    if not parts:
        return features.new_zeros(0, features.shape[1], *size)
    return torch.cat(parts)[torch.cat(done).argsort()]


def _in_frame(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 6"],
    size: tuple[int, int],
    samples: tuple[int, int],
    scale: float,
) -> Float[Tensor, "n c oh ow"]:
    """The mean of rows and columns of samples in each bin of a grid over each rotated box."""
    image, cx, cy, width, height, degrees = (side[:, None, None, None, None] for side in rois.unbind(1))
    (h, w), (rows, columns), cos, sin = size, samples, degrees.deg2rad().cos(), degrees.deg2rad().sin()
    down = _middles(h * rows, rois).view(h, 1, rows, 1) * (height * scale)  # n oh 1 rows 1
    across = _middles(w * columns, rois).view(1, w, 1, columns) * (width * scale)  # n 1 ow 1 columns
    x, y = cx * scale - 0.5 + across * cos + down * sin, cy * scale - 0.5 - across * sin + down * cos
    return _mean_at(features, image.flatten().long(), x.flatten(3), y.flatten(3))


def _middles(n: int, like: Tensor) -> Float[Tensor, " n"]:
    """The middles of n equal parts of -1/2 to 1/2."""
    return (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n - 0.5


def _mean_at(
    features: Float[Tensor, "b c h w"],
    image: Int64[Tensor, " n"],
    x: Float[Tensor, "n oh ow s"],
    y: Float[Tensor, "n oh ow s"],
) -> Float[Tensor, "n c oh ow"]:
    """The mean of interpolated values at s points, counted from the middle of the first cell; a cell beyond it is 0.

    Between the outermost middles and there the border goes on, as RoIAlign has it. A point is a weighted sum of four
    cells, so a mean is a bag of 4 s rows of one table: no value is held but the means, there and on the way back.
    """
    (b, c, h, w), (n, oh, ow, s) = features.shape, x.shape
    if not torch.compiler.is_compiling() and len(bad := image[(image < 0) | (image >= b)]):
        raise ValueError(f"a region names image {int(bad[0])}, but there are {b}, counted from 0")
    share = ((x >= -1) & (x <= w) & (y >= -1) & (y <= h)).to(x.dtype) / s
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    left, top = x.detach().floor(), y.detach().floor()
    right, lower = x - left, y - top
    columns = (left.long(), (left.long() + 1).clamp(max=w - 1))
    rows = (top.long() * w, (top.long() + 1).clamp(max=h - 1) * w)
    first = (image * (h * w))[:, None, None, None]
    cells = torch.cat([first + row + column for row in rows for column in columns], -1)
    weights = torch.cat([v * u * share for v in (1 - lower, lower) for u in (1 - right, right)], -1)
    whole = features.contiguous(memory_format=torch.channels_last)  # the sum would gather every cell from c planes
    table = whole.permute(0, 2, 3, 1).reshape(-1, c)
    bags = cells.reshape(-1, 4 * s), weights.reshape(-1, 4 * s).to(table.dtype)
    return (
        F.embedding_bag(bags[0], table, mode="sum", per_sample_weights=bags[1]).view(n, oh, ow, c).permute(0, 3, 1, 2)
    )


def _check(rois: Tensor, numbers: int, size: Size, scale: float) -> tuple[int, int]:
    h, w = (size, size) if isinstance(size, int) else size
    if rois.ndim != 2 or rois.shape[1] != numbers:
        box = "x0 y0 x1 y1" if numbers == 5 else "cx cy w h degrees"
        raise ValueError(f"regions have shape {tuple(rois.shape)}; give rows of image number and {box}")
    if min(h, w) < 1:
        raise ValueError(f"cannot bring regions to {h}x{w}; both sides need at least one bin")
    if not scale > 0:
        raise ValueError(f"scale is {scale}; give the feature map's size over the image's, 1 / stride")
    return h, w


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples is {samples}; give 1 or more for each side of a bin")
