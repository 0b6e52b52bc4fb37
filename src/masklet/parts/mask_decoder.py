"""From prompts and a feature map to masks: a transformer in which tokens and pixels look at each other (SAM, SAM 2).

Many prompts share one image. Until the first block has written what the tokens say into the pixels, the pixels are the
same for all prompts and are computed once; from then on every prompt has its own copy. There are few tokens and many
pixels, so where it is less work the projections of the pixels are multiplied into the tokens instead (W x . y is
x . W^T y), which gives the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.parts.memory import CXBlock

FEW = 2  # prompts whose masks grow together on a processor: what is larger gets new memory from the system each time


class MLP(nn.Sequential):
    """Linear layers with ReLU between them."""

    def __init__(self, channels: int, hidden: int, out: int, depth: int) -> None:
        widths = [channels, *[hidden] * (depth - 1), out]
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
        super().__init__(*layers[:-1])


class ParallelMLPs(nn.Module):
    """`count` perceptrons of the same shape, each for one entry of the second axis, computed together."""

    def __init__(self, count: int, channels: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [channels, *[hidden] * (depth - 1), out]
        each = [[nn.Linear(widths[i], widths[i + 1]) for _ in range(count)] for i in range(depth)]  # for their start
        self.weights = nn.ParameterList(torch.stack([linear.weight.detach() for linear in layer]) for layer in each)
        self.biases = nn.ParameterList(torch.stack([linear.bias.detach() for linear in layer]) for layer in each)

    def forward(self, x: Float[Tensor, "n k c"]) -> Float[Tensor, "n k d"]:
        x = x.transpose(0, 1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x if i == 0 else x.relu()
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        return x.transpose(0, 1)


class Projections(nn.Module):
    """Queries, keys and values of several heads, which may be narrower than what comes in (`inner` channels)."""

    def __init__(self, channels: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)

    def split(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n heads s e"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def per_head(self, linear: nn.Linear) -> Float[Tensor, "heads e c"]:
        """The rows of a projection, head by head."""
        return linear.weight.unflatten(0, (self.heads, -1))

    def cheaper_by_tokens(self, tokens: int) -> bool:
        """Whether a vector per token and head is less work for a pixel than a projection of the pixel."""
        return tokens * self.heads < self.q.out_features


class Attention(Projections):
    """Multi-head attention."""

    def forward(
        self, q: Float[Tensor, "n s c"], k: Float[Tensor, "n t c"], v: Float[Tensor, "n t c"]
    ) -> Float[Tensor, "n s c"]:
        found = F.scaled_dot_product_attention(self.split(self.q(q)), self.split(self.k(k)), self.split(self.v(v)))
        return self.out(found.transpose(1, 2).flatten(2))


class TokensToPixels(Projections):
    """Tokens look at the pixels of their image: `n / b` prompts of t tokens at each of b images."""

    def forward(
        self, q: Float[Tensor, "n t c"], k: Float[Tensor, "b s c"], v: Float[Tensor, "b s c"]
    ) -> Float[Tensor, "n t c"]:
        n, t, _ = q.shape
        if len(k) == n and self.cheaper_by_tokens(t) and not self.training:  # so that every parameter gets a gradient
            return self._through_tokens(q, k, v)
        queries = self.split(self.q(q).view(len(k), -1, self.q.out_features))  # all prompts of an image in one row
        found = F.scaled_dot_product_attention(queries, self.split(self.k(k)), self.split(self.v(v)))
        return self.out(found.transpose(1, 2).reshape(n, t, -1))

    def _through_tokens(
        self, q: Float[Tensor, "n t c"], k: Float[Tensor, "n s c"], v: Float[Tensor, "n s c"]
    ) -> Float[Tensor, "n t c"]:
        """The bias of the keys adds the same to all scores of a query, so it drops out; that of the values stays."""
        n, t, c = q.shape
        queries = self.split(self.q(q)) @ self.per_head(self.k)  # n heads t c
        scale = (self.q.out_features // self.heads) ** -0.5
        found = F.scaled_dot_product_attention(queries.reshape(n, 1, -1, c), k[:, None], v[:, None], scale=scale)
        values = found.view(n, self.heads, t, c) @ self.per_head(self.v).transpose(1, 2)  # n heads t e
        return self.out(values.transpose(1, 2).flatten(2) + self.v.bias)


class PixelsToTokens(Projections):
    """Every pixel looks at the tokens of each prompt; what it finds is added to `pixels`: a map per prompt."""

    def forward(
        self,
        q: Float[Tensor, "b s c"],
        k: Float[Tensor, "n t c"],
        v: Float[Tensor, "n t c"],
        pixels: Float[Tensor, "b s c"],
    ) -> Float[Tensor, "n s c"]:
        (b, s, c), (n, t, _) = q.shape, k.shape
        keys, values = self.split(self.k(k)), self.split(self.v(v))  # n heads t e
        before = pixels[:, None].expand(-1, n // b, -1, -1).flatten(0, 1)
        if not self.cheaper_by_tokens(t):
            queries = self.split(self.q(q))[:, None].expand(-1, n // b, -1, -1, -1).flatten(0, 1)
            found = F.scaled_dot_product_attention(queries, keys, values)
            return self.out(found.transpose(1, 2).flatten(2)) + before
        scale = keys.shape[-1] ** -0.5
        bias = (keys @ self.q.bias.view(self.heads, -1, 1)) * scale  # n heads t 1
        keys = (keys * scale) @ self.per_head(self.q)  # n heads t c
        rows = keys.reshape(b, -1, c)  # all prompts of an image, their heads and tokens
        scores = (rows @ q.transpose(1, 2)).view(n, self.heads, t, s) + bias
        mix = self.out.weight.T.unflatten(0, (self.heads, -1))  # heads e c
        shares = self.out.bias / self.heads  # the weights of each head sum to 1
        values = (values @ mix + shares).view(n, -1, c)
        return torch.baddbmm(before, scores.softmax(2).view(n, -1, s).transpose(1, 2), values)


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to pixels, a perceptron on the tokens, pixels to tokens; norms after each.

    The tokens as they came in are added again wherever tokens are compared (`asked`), and the positions to the pixels.
    The `first` block compares tokens as they are and replaces them, without a residual.
    """

    def __init__(self, channels: int, heads: int, hidden: int, inner: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.tokens = Attention(channels, heads, channels)
        self.to_pixels = TokensToPixels(channels, heads, inner)
        self.mlp = MLP(channels, hidden, channels, 2)
        self.to_tokens = PixelsToTokens(channels, heads, inner)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(channels) for _ in range(4))

    def forward(
        self,
        tokens: Float[Tensor, "n t c"],
        pixels: Float[Tensor, "b s c"],
        asked: Float[Tensor, "n t c"],
        positions: Float[Tensor, "s c"],
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n s c"]]:
        if self.first:
            tokens = self.tokens(tokens, tokens, tokens)
        else:
            compared = tokens + asked
            tokens = tokens + self.tokens(compared, compared, tokens)
        tokens = self.norm1(tokens)
        placed = pixels + positions
        tokens = self.norm2(tokens + self.to_pixels(tokens + asked, placed, pixels))
        tokens = self.norm3(tokens + self.mlp(tokens))
        return tokens, self.norm4(self.to_tokens(placed, tokens + asked, tokens, pixels))


class TwoWayTransformer(nn.Module):
    """Some two-way blocks, then the tokens look at the pixels once more."""

    def __init__(
        self, channels: int = 256, depth: int = 2, heads: int = 8, hidden: int = 2048, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = channels // 2 if inner is None else inner
        self.blocks = nn.ModuleList(TwoWayBlock(channels, heads, hidden, inner, i == 0) for i in range(depth))
        self.final, self.norm = TokensToPixels(channels, heads, inner), nn.LayerNorm(channels)

    def forward(
        self, tokens: Float[Tensor, "n t c"], pixels: Float[Tensor, "b s c"], positions: Float[Tensor, "s c"]
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n s c"]]:
        asked = tokens
        for block in self.blocks:
            tokens, pixels = block(tokens, pixels, asked, positions)
        return self.norm(tokens + self.final(tokens + asked, pixels + positions, pixels)), pixels


class Doubling(nn.ConvTranspose2d):
    """A transposed 2x2 convolution of stride 2 that leaves the four new pixels side by side on an axis of their own."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 2, 2)

    def forward(self, input: Float[Tensor, "*shape c"], output_size: list[int] | None = None) -> Tensor:
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # 4 out, c: row by row
        bias = None if self.bias is None else self.bias.repeat(4)
        return F.linear(input, weight, bias).unflatten(-1, (4, -1))


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the transformer has made of n prompts: enough to choose masks by before they are made.

    `ious` are the predicted qualities of the masks, the first of which is the one to take for clear prompts;
    `tokens` are their vectors, `pixels` the feature map of each prompt. `object_logits` say whether the object is
    there at all, where the decoder has a token for it.
    """

    tokens: Float[Tensor, "n m c"]
    ious: Float[Tensor, "n m"]
    pixels: Float[Tensor, "n s c"]
    object_logits: Float[Tensor, " n"] | None
    size: tuple[int, int]

    def __getitem__(self, keep: Tensor | slice) -> Decoded:
        seen = None if self.object_logits is None else self.object_logits[keep]
        return Decoded(self.tokens[keep], self.ious[keep], self.pixels[keep], seen, self.size)


class MaskDecoder(nn.Module):
    """Masks of many prompts on one feature map, each with its predicted IoU (Kirillov et al., 2023, figure 14).

    The first mask is for clear prompts, the `masks` others are for ambiguous ones (whole, part, part of a part). From
    SAM 2 (Ravi et al., 2024): `finer` are the channels of maps at 1/4 and 1/8 of the image, which are added while the
    masks grow (0, 0 of them: none), `object_score` adds a token that says whether the object is visible, and
    `sigmoid` bounds the predicted IoU.

    `mixing` (before, after) so many ConvNeXt blocks let the pixels of each prompt look at their neighbours before and
    after the transformer: not in the papers, whose image encoders are deep enough, but a small one gains by it.
    """

    def __init__(
        self,
        channels: int = 256,
        masks: int = 3,
        transformer: TwoWayTransformer | None = None,
        iou_hidden: int = 256,
        iou_depth: int = 3,
        finer: tuple[int, int] = (0, 0),
        object_score: bool = False,
        sigmoid: bool = False,
        mixing: Sequence[int] = (0, 0),
    ) -> None:
        super().__init__()
        self.before, self.after = (nn.Sequential(*(CXBlock(channels, gain=1.0) for _ in range(n))) for n in mixing)
        self.count, self.sigmoid = masks + 1, sigmoid
        self.transformer = TwoWayTransformer(channels) if transformer is None else transformer
        self.tokens = nn.Parameter(torch.randn(int(object_score) + 1 + self.count, channels))
        self.up1, self.norm, self.up2 = (
            Doubling(channels, channels // 4),
            nn.LayerNorm(channels // 4, eps=1e-6),
            Doubling(channels // 4, channels // 8),
        )
        self.hyper = ParallelMLPs(self.count, channels, channels, channels // 8, 3)
        self.iou = MLP(channels, iou_hidden, self.count, iou_depth)
        self.object = MLP(channels, channels, 1, 3) if object_score else None
        self.skips = nn.ModuleList(
            nn.Conv2d(width, out, 1) for width, out in zip(finer, (channels // 8, channels // 4), strict=True) if width
        )

    def refine(self, finer: Sequence[Float[Tensor, "b _c _h _w"]]) -> tuple[Tensor, ...]:
        """What the finer maps (1/4 and 1/8 of the image) add while masks grow: once for each image."""
        return tuple(conv(x) for conv, x in zip(self.skips, finer, strict=True))

    def decode(
        self,
        image: Float[Tensor, "b c h w"],
        positions: Float[Tensor, "c h w"],
        sparse: Float[Tensor, "n t c"],
        dense: Float[Tensor, "n c h w"] | Float[Tensor, "1 c 1 1"],
    ) -> Decoded:
        """Tokens of the prompts against the pixels; the prompts of each of the b images follow each other."""
        size = image.shape[2], image.shape[3]
        if len(dense) == 1:
            pixels = image + dense
        else:
            pixels = (image[:, None] + dense.unflatten(0, (len(image), -1))).flatten(0, 1)
        tokens = torch.cat([self.tokens.expand(len(sparse), -1, -1), sparse], 1)
        pixels = self.before(pixels)
        tokens, pixels = self.transformer(tokens, pixels.flatten(2).transpose(1, 2), positions.flatten(1).T)
        if len(self.after):
            pixels = self.after(pixels.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
        first = 0 if self.object is None else 1
        ious = self.iou(tokens[:, first])
        seen = None if self.object is None else self.object(tokens[:, 0])[:, 0]
        chosen = tokens[:, first + 1 : first + 1 + self.count]
        return Decoded(chosen, ious.sigmoid().float() if self.sigmoid else ious.float(), pixels, seen, size)

    def masks(
        self, decoded: Decoded, skips: Sequence[Float[Tensor, "b _c _h _w"]] = (), which: slice = slice(None)
    ) -> Float[Tensor, "n m h4 w4"]:
        """Logits on a grid four times as fine as the feature map, of the masks in `which`.

        `skips` come from `refine`, n / b prompts for each. Pixels stay grouped by the cell they come from until the
        last step, when there is one number for each: the wide maps are never rearranged.
        """
        skips = (_grouped(skips[0], 4), _grouped(skips[1], 2)) if skips else ()
        kernels = self.hyper(decoded.tokens)[:, which]
        n = len(kernels)
        few = n if torch.is_grad_enabled() or kernels.device.type != "cpu" else FEW
        parts = []
        for start in range(0, n, max(1, few)):
            part = slice(start, start + few)
            own = [skip if len(skip) == 1 else skip.repeat_interleave(n // len(skip), 0)[part] for skip in skips]
            parts.append(self._grown(decoded.pixels[part], kernels[part], own))
        (h, w) = decoded.size
        logits = torch.cat(parts) if parts else kernels.new_zeros(0, kernels.shape[1], h * w, 2, 2, 2, 2)
        logits = logits.view(n, -1, h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(n, kernels.shape[1], 4 * h, 4 * w).float()

    def _grown(
        self, pixels: Float[Tensor, "n s c"], kernels: Float[Tensor, "n m d"], skips: Sequence[Tensor]
    ) -> Float[Tensor, "n m s16"]:
        x = self.up1(pixels)  # n s 4 c/4
        x = x + skips[1] if skips else x
        x = self.up2(F.gelu(self.norm(x)))  # n s 4 4 c/8
        x = x + skips[0] if skips else x
        return kernels @ F.gelu(x).flatten(1, 3).transpose(1, 2)

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        positions: Float[Tensor, "c h w"],
        sparse: Float[Tensor, "n t c"],
        dense: Float[Tensor, "n c h w"] | Float[Tensor, "1 c 1 1"],
        skips: Sequence[Float[Tensor, "b _c _h _w"]] = (),
    ) -> tuple[Float[Tensor, "n m h4 w4"], Decoded]:
        """Logits of all masks, and what they were made from."""
        decoded = self.decode(image, positions, sparse, dense)
        return self.masks(decoded, skips), decoded


def _grouped(x: Float[Tensor, "b c h w"], side: int) -> Tensor:
    """A finer map with its pixels by cell: (b, cells, 4, c) for side 2, (b, cells, 4, 4, c) for side 4."""
    b, c, h, w = x.shape
    if side == 2:
        cells = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
        return cells.reshape(b, -1, 4, c)
    cells = x.view(b, c, h // 4, 2, 2, w // 4, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)
    return cells.reshape(b, -1, 4, 4, c)


def stability(logits: Float[Tensor, "*shape h w"], offset: float, threshold: float = 0.0) -> Float[Tensor, "*shape"]:
    """IoU of the masks at a stricter and at a looser threshold: near 1 where the border is sharp.

    1 where even the looser mask is empty.
    """
    strict = (logits > threshold + offset).sum((-2, -1))
    loose = (logits > threshold - offset).sum((-2, -1))
    return torch.where(loose > 0, strict / loose, 1.0)


def steady(
    logits: Float[Tensor, "n m h w"], ious: Float[Tensor, "n m"], offset: float = 0.05, enough: float = 0.98
) -> Int64[Tensor, " n"]:
    """Which mask to take for clear prompts: the first, or where that is unstable the best of the others (SAM 2)."""
    best = ious[:, 1:].argmax(1) + 1
    return torch.where(stability(logits[:, 0], offset) >= enough, 0, best)
