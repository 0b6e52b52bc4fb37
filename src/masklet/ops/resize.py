"""The upsampling zoo: seven ways to make a small map large, and the class of every pixel of a map resized.

Sizes are (height, width). Coordinates are of pixel centres (half-pixel) unless `align_corners` is set.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor


def _target(x: Tensor, size: tuple[int, int] | None, factor: int | float | None) -> tuple[int, int]:
    if (size is None) == (factor is None):
        raise ValueError("give either size=(height, width) or factor, not both and not neither")
    if size is None:
        assert factor is not None
        size = int(x.shape[-2] * factor), int(x.shape[-1] * factor)
    if min(size) < 1:
        raise ValueError(f"cannot resize to {size[0]}x{size[1]}; both sides need at least one pixel")
    return size


def bed_of_nails(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c hf wf"]:
    """Every value into the upper left corner of its factor x factor block, zeros around it."""
    b, c, h, w = x.shape
    out = x.new_zeros(b, c, h * factor, w * factor)
    out[..., ::factor, ::factor] = x
    return out


def nearest(
    x: Float[Tensor, "b c h w"], size: tuple[int, int] | None = None, factor: int | float | None = None
) -> Float[Tensor, "b c H W"]:
    """Every output pixel takes the value of the input pixel that its corner falls into."""
    return F.interpolate(x, size=_target(x, size, factor), mode="nearest")


def bilinear(
    x: Float[Tensor, "b c h w"],
    size: tuple[int, int] | None = None,
    factor: int | float | None = None,
    align_corners: bool = False,
) -> Float[Tensor, "b c H W"]:
    """A weighted mean of the four nearest input pixels; the border is repeated outwards."""
    return F.interpolate(x, size=_target(x, size, factor), mode="bilinear", align_corners=align_corners)


def resize(x: Float[Tensor, "b c h w"], size: tuple[int, int], align_corners: bool = False) -> Float[Tensor, "b c H W"]:
    """Bilinear to exactly `size`; the tensor itself where it already has that size."""
    return x if tuple(x.shape[-2:]) == tuple(size) else bilinear(x, size, align_corners=align_corners)


def bicubic(
    x: Float[Tensor, "b c h w"],
    size: tuple[int, int] | None = None,
    factor: int | float | None = None,
    a: int | float = -0.75,
) -> Float[Tensor, "b c H W"]:
    """Cubic convolution over four taps in each direction; `a` is the slope of the kernel where it first crosses zero.

    -0.75 is what torch and OpenCV take, -0.5 what Keys proved to be third-order accurate.
    """
    height, width = _target(x, size, factor)
    rows = _cubic_weights(x.shape[-2], height, a).to(x)
    columns = _cubic_weights(x.shape[-1], width, a).to(x)
    return rows @ x @ columns.T


def _cubic_weights(n: int, m: int, a: int | float) -> Float[Tensor, "m n"]:
    where = (torch.arange(m, dtype=torch.float64) + 0.5) * (n / m) - 0.5
    taps = where.floor()[:, None] + torch.arange(-1, 3)
    d = (where[:, None] - taps).abs()
    inner = ((a + 2) * d - (a + 3)) * d**2 + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weights = torch.zeros(m, n, dtype=torch.float64)
    return weights.scatter_add_(1, taps.clamp(0, n - 1).long(), torch.where(d <= 1, inner, outer))


def max_pool(
    x: Float[Tensor, "b c h w"], kernel: int, stride: int | None = None
) -> tuple[Float[Tensor, "b c hp wp"], Int64[Tensor, "b c hp wp"]]:
    """The largest value of each window, and where it was: a flat index into the input, the first where several tie."""
    values, indices = F.max_pool2d(x, kernel, stride or kernel, return_indices=True)
    return values, indices


def max_unpool(
    x: Float[Tensor, "b c h w"], indices: Int64[Tensor, "b c h w"], size: tuple[int, int]
) -> Float[Tensor, "b c H W"]:
    """Put every value back where `max_pool` found its maximum, zeros elsewhere.

    `size` is that of the pooled map: odd sides cannot be guessed from the pooled one.
    """
    height, width = size
    if indices.numel() and int(indices.max()) >= height * width:
        far = int(indices.max())
        raise ValueError(f"an index points at pixel {far}, outside {height}x{width}; give the size that was pooled")
    return put_back(x, indices, size)


def put_back(
    x: Float[Tensor, "b c h w"], indices: Int64[Tensor, "b c h w"], size: tuple[int, int]
) -> Float[Tensor, "b c H W"]:
    """`max_unpool` for indices that are known to be right: it looks at no value, so that it can be exported."""
    height, width = size
    flat = x.new_zeros(*x.shape[:2], height * width)
    return flat.scatter(2, indices.flatten(2), x.flatten(2)).unflatten(2, (height, width))


def conv_transpose(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c d kh kw"],
    bias: Float[Tensor, " dg"] | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
) -> Float[Tensor, "b dg H W"]:
    """The adjoint of a convolution with the same weight, stride and padding: every input value paints the kernel."""
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups)


def bilinear_kernel(size: int) -> Float[Tensor, "k k"]:
    """The kernel that makes a transposed convolution of stride (size + 1) // 2 interpolate, away from the border."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    line = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / factor
    return line[:, None] * line


def bilinear_weight(channels: int, size: int) -> Float[Tensor, "c c k k"]:
    """A weight for `conv_transpose` that interpolates every channel by itself (FCN's start value)."""
    weight = torch.zeros(channels, channels, size, size)
    weight[range(channels), range(channels)] = bilinear_kernel(size)
    return weight


def _sources(n: int, m: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each of m output positions: the two input positions around it and the weight of the second."""
    out = torch.arange(m, dtype=torch.float32)
    where = out * ((n - 1) / max(m - 1, 1)) if align_corners else ((out + 0.5) * (n / m) - 0.5).clamp(min=0)
    low = where.long().clamp(max=n - 1)
    return low, (low + 1).clamp(max=n - 1), where - low


def rows_needed(n: int, m: int, start: int, stop: int, align_corners: bool = False) -> tuple[int, int]:
    """First and last + 1 of the n input rows that the rows `start` to `stop` of m output rows are made of."""
    low, high, _ = _sources(n, m, align_corners)
    return int(low[start]), int(high[stop - 1]) + 1


def resized_rows(
    x: Float[Tensor, "b k h w"],
    size: tuple[int, int],
    start: int,
    stop: int,
    align_corners: bool = False,
    above: int = 0,
    height: int | None = None,
) -> Float[Tensor, "b k rows W"]:
    """Rows `start` to `stop` of `bilinear(x, size)`, without the others.

    Of a map `height` rows high, `x` may hold only those from `above` on that are needed (see `rows_needed`).
    """
    low, high, weight = (part[start:stop] for part in _sources(height or x.shape[-2], size[0], align_corners))
    upper, lower = (x.index_select(-2, (rows - above).to(x.device)) for rows in (low, high))
    rows = torch.lerp(upper, lower, weight[:, None].to(x))
    return resize(rows, (stop - start, size[1]), align_corners)


def argmax_resized(
    scores: Float[Tensor, "b k h w"],
    size: tuple[int, int],
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
) -> Integer[Tensor, "b H W"]:
    """The best class of every pixel of the bilinearly resized scores, which are never made as a whole.

    Equal to `resize(scores, size).argmax(1)`, in a fraction of its time and memory: band by band of output rows, class
    by class, a running maximum that stays in the cache. uint8 for up to 256 classes unless `dtype` says otherwise.
    """
    b, k, h, w = scores.shape
    height, width = size
    if min(b, k, h, w, height, width) < 1:
        raise ValueError(f"cannot resize scores of shape {tuple(scores.shape)} to {height}x{width}; an axis is empty")
    dtype = dtype or (torch.uint8 if k <= 256 else torch.int64)
    scores = scores.detach().float().clamp(-1e30, 1e30)  # -inf bars a class, and inf - inf would be NaN
    if scores.device.type != "cpu":
        parts = (resize(s[None], size, align_corners).argmax(1).to(dtype) for s in scores)
        return torch.cat(list(parts))
    small = torch.empty(b, height, width, dtype=torch.uint8 if k <= 256 else torch.int64)
    for image, labels in zip(scores, small.numpy(), strict=True):
        _argmax_resized(image, labels, align_corners)
    return small.to(dtype)


_BAND = 2**14  # output pixels at a time: scores, maximum and labels fit a 256 KB cache


def _argmax_resized(scores: Float[Tensor, "k h w"], labels: np.ndarray, align_corners: bool) -> None:
    k, h, w = scores.shape
    height, width = labels.shape
    top, bottom, down = _sources(h, height, align_corners)
    left, right, across = _sources(w, width, align_corners)
    rows: dict[int, Tensor] = {}  # input rows at full width; only two are alive

    def row(y: int) -> Float[Tensor, "k W"]:
        if y not in rows:
            line = scores[:, y].contiguous()
            rows[y] = line.index_select(1, left).lerp_(line.index_select(1, right), across)
        return rows[y]

    ends = (torch.nonzero(torch.diff(top))[:, 0] + 1).tolist()
    tall = max(_BAND // width, 1)
    buffer, maximum = torch.empty(tall, width), torch.empty(tall, width)
    better = np.empty((tall, width), np.bool_)
    for start, end in zip([0, *ends], [*ends, height], strict=True):
        y0, y1 = int(top[start]), int(bottom[start])
        upper, step = row(y0), row(y1) - row(y0)
        rows = {y: line for y, line in rows.items() if y >= y0}
        for y in range(start, end, tall):
            n = min(tall, end - y)
            weight, value, best = down[y : y + n, None], buffer[:n], maximum[:n]
            value_, best_, better_, labels_ = value.numpy(), best.numpy(), better[:n], labels[y : y + n]
            torch.addcmul(upper[0], step[0], weight, out=best)
            labels_[...] = 0
            for c in range(1, k):
                torch.addcmul(upper[c], step[c], weight, out=value)
                np.greater(value_, best_, out=better_)
                np.maximum(value_, best_, out=best_)
                np.copyto(labels_, c, where=better_)
