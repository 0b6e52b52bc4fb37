"""Work on large maps in pieces that stay in a processor's cache, where nothing has to be remembered for a gradient.

What does not fit comes from the memory again at every step, and what is larger than 32 MB is new memory each time,
which the system clears first. torch's attention on CPUs multiplies in float32 even where its numbers are bfloat16;
plain products do not, on processors that have them. In float32 oneDNN multiplies a tenth faster than MKL, which torch
asks (docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PIECE = 2**22  # numbers of the widest intermediate result in a piece of work
QUERIES, KEYS = 2048, 1024  # of a block of scores in float32
SCORES, FEWEST, MOST = 2**23, 64, 256  # in bfloat16: numbers in a block of scores, and how many queries it may have


def blockwise(x: Tensor) -> bool:
    """Whether work on `x` may be cut into pieces, and gains from it."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def products(x: Tensor) -> torch.dtype:
    """The number format in which `x` is multiplied."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def product(
    x: Float[Tensor, "*shape c"], weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "*shape d"]:
    """x Wᵀ + b."""
    plain = x.dtype == weight.dtype == products(x) == torch.float32 and x.numel() > 0
    if not plain or not blockwise(x) or not _onednn():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@cache
def _onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """A linear layer that multiplies as `product` does."""

    def forward(self, input: Float[Tensor, "*shape c"]) -> Float[Tensor, "*shape d"]:
        return product(input, self.weight, self.bias)


def in_pieces(f: Callable[[Tensor], Tensor], x: Tensor, size: int, dim: int = 1) -> Tensor:
    """`f(x)` for an `f` to which the places along `dim` mean nothing to each other, or only in groups of `size`."""
    if x.shape[dim] <= size or not blockwise(x):
        return f(x)
    return torch.cat([f(piece) for piece in x.split(size, dim)], dim)


def rows(x: Float[Tensor, "b h w c"], widest: int, multiple: int = 1) -> int:
    """How many rows of a map make a piece if each token becomes `widest` numbers: a multiple of `multiple`."""
    return multiple * max(1, PIECE // (x.shape[0] * x.shape[2] * widest * multiple))


def attention(
    q: Float[Tensor, "b heads s e"], k: Float[Tensor, "b heads t e"], v: Float[Tensor, "b heads t c"]
) -> Float[Tensor, "b heads s c"]:
    """softmax(q kᵀ / √e) v, in bfloat16 where it is asked for and the processor would otherwise multiply in float32."""
    dtype = products(q)
    if dtype != torch.bfloat16 or not blockwise(q):
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    (b, heads, s, e), t = q.shape, k.shape[2]
    with torch.autocast("cpu", enabled=False):
        if s > MOST and t > MOST:
            each = zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True)
            return torch.stack([averaged(*one, e**-0.5) for one in each]).unflatten(0, (b, heads))
        scores = torch.baddbmm(q.new_empty(1), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=e**-0.5)
        return (scores.softmax(2) @ v.flatten(0, 1)).unflatten(0, (b, heads))


def averaged(
    q: Float[Tensor, "s e"], k: Float[Tensor, "t e"], v: Float[Tensor, "t c"], scale: float
) -> Float[Tensor, "s c"]:
    """softmax(scale q kᵀ) v, in blocks of scores; products are taken, and given, in the number format of `q`."""
    return (_few_queries if q.dtype == torch.bfloat16 else _few_pairs)(q, k, v, scale)


def _few_queries(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """All keys for a few queries at a time.

    Their middle adds the same to all scores of a query, so keys may lose it: bfloat16 has 8 digits to spend, and should
    spend them on what tells keys apart.
    """
    k = k.float() - k.mean(0, dtype=torch.float32)
    keys, values = (scale * k).to(q.dtype).T, v.to(q.dtype)
    parts = q.split(max(FEWEST, min(MOST, SCORES // len(k))))
    return torch.cat([(part @ keys).softmax(1) @ values for part in parts])


def _few_pairs(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """A few keys for a few queries at a time: half as many numbers would fit into the cache as in bfloat16.

    The mean over two blocks of keys is that of their means, weighted by the summed exponentials of their scores.
    """
    out, sums = q.new_zeros(len(q), v.shape[1]), q.new_full((len(q),), -torch.inf)  # of the sums the logarithms
    for keys, values in zip((scale * k).split(KEYS), v.split(KEYS), strict=True):
        for part, mean, total in zip(q.split(QUERIES), out.split(QUERIES), sums.split(QUERIES), strict=True):
            scores = product(part, keys)
            weights = scores.softmax(1)
            here = scores.amax(1) - weights.amax(1).log()
            mean.lerp_(product(weights, values.T), (here - total).sigmoid()[:, None])
            torch.logaddexp(total, here, out=total)
    return out
