"""Hiera: a plain transformer in four stages, attention inside windows, a few blocks that see the whole map.

Ryali et al., 2023, without its masked pre-training; as SAM 2 uses it (Ravi et al., 2024, appendix C.1): windows stand
still, a small position map is enlarged to the image and a second one repeats inside every window. Names are those of
the authors' code.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from masklet.parts.blockwise import Linear, attention, in_pieces, rows
from masklet.parts.norm import IMAGENET
from masklet.structures.errors import UserError

STRIDE = 4  # of the first stage


@dataclass(frozen=True)
class HieraSize:
    """Channels and heads of the first stage (both double at every further one), blocks and windows per stage.

    `whole` numbers the blocks without windows; `grid` is the side of the position map before it is enlarged.
    """

    width: int
    heads: int
    depths: tuple[int, int, int, int]
    whole: tuple[int, ...]
    grid: int = 7
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)


TINY = HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9))
SMALL = HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13))
BASE_PLUS = HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), grid=14)
LARGE = HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8))


def halved(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c"]:
    """The largest of every 2 x 2 tokens; an odd last row or column is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    taller = torch.maximum(x[:, 0:h:2, :w], x[:, 1:h:2, :w])
    return torch.maximum(taller[:, :, 0::2], taller[:, :, 1::2])


def cut(x: Float[Tensor, "b h w c"], window: int) -> Float[Tensor, "bm s s c"]:
    """The windows of a map whose sides are multiples of `window`."""
    b, h, w, c = x.shape
    parts = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return parts.reshape(-1, window, window, c)


def join(x: Float[Tensor, "bm s s c"], rows: int, columns: int) -> Float[Tensor, "b h w c"]:
    """The inverse of `cut`, for maps of `rows` x `columns` windows."""
    side, c = x.shape[1], x.shape[3]
    parts = x.view(-1, rows, columns, side, side, c).transpose(2, 3)
    return parts.reshape(-1, rows * side, columns * side, c)


def between(x: Float[Tensor, "1 c g g"], n: int) -> Float[Tensor, "n g"]:
    """What n places take of g on the same line: two small products enlarge a map faster than `interpolate` does."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return F.interpolate(eye[None, None], (n, len(eye)), mode="bicubic")[0, 0]


class RelativePositions(nn.Module):
    """What a row and a column offset add to the attention, each read off a table by a query (Li et al., MViT v2).

    The tables are made for windows of `side` keys; other sizes read them between their entries.
    """

    def __init__(self, side: int, head_channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * side - 1, head_channels))
        self.columns = nn.Parameter(torch.zeros(2 * side - 1, head_channels))

    @staticmethod
    def _between(table: Float[Tensor, "t d"], queries: int, keys: int) -> Float[Tensor, "q k d"]:
        length = 2 * max(queries, keys) - 1
        if len(table) != length:
            table = F.interpolate(table.T[None], length, mode="linear")[0].T
        q = torch.arange(queries, device=table.device)[:, None] * max(keys // queries, 1)
        k = torch.arange(keys, device=table.device) * max(queries // keys, 1)
        return table[q - k + (keys - 1) * max(queries // keys, 1)]

    def forward(
        self, q: Float[Tensor, "b heads n d"], size: tuple[int, int], keys: tuple[int, int]
    ) -> Float[Tensor, "b heads n k"]:
        """`size` and `keys` are height and width of the grids of queries and of keys."""
        grid = q.unflatten(2, size)
        down = torch.einsum("bgyxd,ykd->bgyxk", grid, self._between(self.rows, size[0], keys[0]))
        right = torch.einsum("bgyxd,xkd->bgyxk", grid, self._between(self.columns, size[1], keys[1]))
        return (down[..., None] + right[..., None, :]).flatten(-2).flatten(2, 3)


class Attention(nn.Module):
    """Every token looks at its window, or at the whole map; `pool` keeps the strongest of 2 x 2 queries."""

    def __init__(
        self, channels_in: int, channels: int, heads: int, window: int, pool: bool, positions: int | None
    ) -> None:
        super().__init__()
        self.heads, self.window, self.pool = heads, window, pool
        self.qkv, self.proj = Linear(channels_in, 3 * channels), Linear(channels, channels)
        self.positions = None if positions is None else RelativePositions(positions, channels // heads)

    def attend(self, qkv: Float[Tensor, "b h w c3"]) -> Float[Tensor, "b h2 w2 c"]:
        q, k, v = qkv.unflatten(3, (3, -1)).unbind(3)
        if self.pool:
            q = halved(q)
        (b, h, w, c), keys = q.shape, (k.shape[1], k.shape[2])
        q, k, v = (x.reshape(b, -1, self.heads, c // self.heads).transpose(1, 2) for x in (q, k, v))
        bias = None if self.positions is None else self.positions(q, (h, w), keys)
        out = attention(q, k, v) if bias is None else F.scaled_dot_product_attention(q, k, v, bias)
        return out.transpose(1, 2).reshape(b, h, w, c)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 d"]:
        """Windows that reach over the edge see tokens of zeros there, which the projection makes its bias."""
        qkv = self.qkv(x)
        if not self.window:
            return self.proj(self.attend(qkv))
        h, w, window = x.shape[1], x.shape[2], self.window
        rows, columns = -(-h // window), -(-w // window)
        if rows * window > h or columns * window > w:
            framed = self.qkv.bias.to(qkv.dtype).expand(x.shape[0], rows * window, columns * window, -1).clone()
            framed[:, :h, :w] = qkv
            qkv = framed
        out = join(self.attend(cut(qkv, window)), rows, columns)
        if self.pool:
            h, w = h // 2, w // 2
        return self.proj(out[:, :h, :w].contiguous())  # else the weight would be copied for every row of the map


class Block(nn.Module):
    """Attention and an MLP, each on normalised tokens and added; the first of a stage widens and halves the map."""

    def __init__(
        self, channels_in: int, channels: int, heads: int, window: int, pool: bool, drop: float, positions: int | None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels_in, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels_in, channels, heads, window, pool, positions)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=Linear(channels, 4 * channels), act=nn.GELU(), fc2=Linear(4 * channels, channels))
        )
        self.proj = Linear(channels_in, channels) if channels != channels_in else None
        self.pool, self.widest, self.drop = pool, 4 * channels, StochasticDepth(drop, "row")

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 d"]:
        if self.training:
            return self.widened(self.attended(x))
        if not self.attn.window:
            x = self.attended(x)
            return in_pieces(self.widened, x, rows(x, self.widest))
        return in_pieces(lambda part: self.widened(self.attended(part)), x, rows(x, self.widest, self.attn.window))

    def attended(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 d"]:
        normed = self.norm1(x)
        if self.proj is not None:
            x = self.proj(normed)
            x = halved(x) if self.pool else x
        return x + self.drop(self.attn(normed))

    def widened(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.drop(self.mlp(self.norm2(x)))


class Hiera(nn.Module):
    """Feature maps c2 to c5 of images of any size; strides 4 to 32.

    `relative` positions are tables of offsets to every block (an ablation of the paper; they are not in its models).
    """

    pixels = IMAGENET

    def __init__(self, size: HieraSize, drop_path: float = 0.0, relative: bool = False) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise UserError(f"drop_path is {drop_path}", hint="it is a probability")
        self.size = size
        width, depth = size.width, sum(size.depths)
        self.patch_embed = nn.Conv2d(3, width, 7, STRIDE, 3)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, size.grid, size.grid))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, size.windows[0], size.windows[0]))
        self.ends = [end - 1 for end in accumulate(size.depths)]
        self.blocks = nn.ModuleList()
        channels, stage = width, 0
        for i in range(depth):
            first = i - 1 in self.ends  # of a later stage: it looks through the windows of the stage before
            window = 0 if i in size.whole else size.windows[stage]
            stage += first
            wide = width * 2**stage
            side = None if not relative else window or 2 * size.windows[stage]
            self.blocks.append(
                Block(channels, wide, size.heads * 2**stage, window, first, drop_path * i / max(depth - 1, 1), side)
            )
            channels = wide
        self.channels = {f"c{i + 2}": width * 2**i for i in range(4)}
        self.strides = {f"c{i + 2}": STRIDE * 2**i for i in range(4)}
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 or name.startswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias") and "patch" not in name:
                nn.init.zeros_(parameter)

    def positions(self, height: int, width: int) -> Float[Tensor, "1 h w c"]:
        """What every token of a grid knows of its place in the image and in its window."""
        window = self.pos_embed_window.permute(0, 2, 3, 1)
        side = window.shape[1]
        down, right = (F.pad(between(self.pos_embed, n), (0, 0, 0, -n % side)) for n in (height, width))
        image = torch.einsum("yr,bcrk,xk->byxc", down, self.pos_embed, right)
        cells = image.unflatten(2, (-1, side)).unflatten(1, (-1, side)) + window[:, None, :, None]  # 1 m s n s c
        return cells.flatten(1, 2).flatten(2, 3)[:, :height, :width]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        least = STRIDE * 8  # below, the last stage would have no token
        x = F.pad(x, (0, max(0, least - x.shape[3]), 0, max(0, least - x.shape[2])))
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        x = x + self.positions(x.shape[1], x.shape[2])
        features = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                features[f"c{self.ends.index(i) + 2}"] = x.permute(0, 3, 1, 2)
        return features


def hiera(
    size: HieraSize,
    drop_path: float = 0.0,
    relative: bool = False,
    width: int | None = None,
    depths: tuple[int, int, int, int] | None = None,
    whole: tuple[int, ...] | None = None,
) -> Hiera:
    """A Hiera of a published size, or with another width, other blocks per stage, other blocks without windows."""
    if width is not None and width % size.heads:
        raise UserError(f"width {width} does not divide into {size.heads} heads", hint="give a multiple")
    changed = replace(size, width=width or size.width, depths=depths or size.depths)
    return Hiera(changed if whole is None else replace(changed, whole=whole), drop_path, relative)
