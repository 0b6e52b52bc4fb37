"""Vision Transformer as in ViTDet and SAM: one scale, attention inside windows, and across the image in a few blocks.

Positions are learned for every patch, and again for every offset inside the attention: what a row and what a column
away adds ("decomposed" relative positions, Li et al., 2022). Images of any size: the right and the lower side are
padded to whole patches and windows, and learned positions are resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from masklet.parts.backbones.swin import cut, join
from masklet.parts.norm import IMAGENET

MOST = 2**23  # entries of a bias at a time: 32 MiB in float32
EPS = 1e-6


@dataclass(frozen=True)
class ViTSize:
    """Channels, blocks, heads, and which blocks look at the whole image."""

    width: int
    depth: int
    heads: int
    whole: tuple[int, ...]


BASE = ViTSize(768, 12, 12, (2, 5, 8, 11))
LARGE = ViTSize(1024, 24, 16, (5, 11, 17, 23))
HUGE = ViTSize(1280, 32, 16, (7, 15, 23, 31))


def offsets(table: Float[Tensor, "rows d"], size: int) -> Float[Tensor, "q k d"]:
    """The entry of every pair of positions along an axis of `size`, from a table of all offsets, resized to fit."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None], 2 * size - 1, mode="linear")[0].T
    line = torch.arange(size, device=table.device)
    return table[line[:, None] - line + size - 1]


def attend(
    q: Float[Tensor, "n heads s d"],
    k: Float[Tensor, "n heads s d"],
    v: Float[Tensor, "n heads s d"],
    rows: Float[Tensor, "h h d"],
    columns: Float[Tensor, "w w d"],
    most: int = MOST,
) -> Float[Tensor, "n heads s d"]:
    """Attention whose scores also depend on how many rows and columns lie between two of the h x w pixels.

    What a query adds for a row and for a column is computed for all of them; their sum for every pair, which for a
    whole image of 64x64 patches would take 0.8 GB, is made for as many images and rows of queries as `most` allows.
    """
    n, heads, s, _ = q.shape
    h, w = len(rows), len(columns)
    placed = q.unflatten(2, (h, w))
    down = torch.einsum("nahwd,hkd->nahwk", placed, rows)
    across = torch.einsum("nahwd,wkd->nahwk", placed, columns)

    def part(images: slice, lines: slice) -> Float[Tensor, "m heads t d"]:
        bias = down[images, :, lines, :, :, None] + across[images, :, lines, :, None, :]
        queries = placed[images, :, lines].flatten(2, 3)
        return F.scaled_dot_product_attention(queries, k[images], v[images], bias.flatten(4, 5).flatten(2, 3))

    images = max(1, most // (heads * s * s))
    if images < n or heads * s * s > most:
        lines = max(1, min(h, most // (heads * w * s)))
        found = [
            torch.cat([part(slice(i, i + images), slice(y, y + lines)) for y in range(0, h, lines)], 2)
            for i in range(0, n, images)
        ]
        return torch.cat(found)
    return part(slice(None), slice(None))


class RelativeAttention(nn.Module):
    """Multi-head attention inside windows of `window` patches a side, or across the image (0).

    `side` is how large the map or the window is that the table of offsets is made for; 0 leaves them out.
    """

    def __init__(self, channels: int, heads: int, window: int, side: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.rows = nn.Parameter(torch.zeros(2 * side - 1, channels // heads)) if side else None
        self.columns = nn.Parameter(torch.zeros(2 * side - 1, channels // heads)) if side else None

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        b, h, w, c = x.shape
        if not self.window:
            return self.within(x.flatten(1, 2), (h, w)).view(b, h, w, c)
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))
        size = x.shape[1], x.shape[2]
        windows = cut(x, self.window)
        found = self.within(windows.flatten(0, 1), (self.window, self.window))
        return join(found.view_as(windows), size, self.window)[:, :h, :w]

    def within(self, x: Float[Tensor, "n s c"], size: tuple[int, int]) -> Float[Tensor, "n s c"]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rows is None or self.columns is None:
            found = F.scaled_dot_product_attention(q, k, v)
        else:
            found = attend(q, k, v, offsets(self.rows, size[0]), offsets(self.columns, size[1]))
        return self.proj(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and added to what came in."""

    def __init__(self, channels: int, attn: nn.Module, drop: float) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(channels, EPS), attn, nn.LayerNorm(channels, EPS)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """Patches, their positions, and blocks; the map after the last block is c4, at the stride of the patches."""

    pixels = IMAGENET

    def __init__(self, patch: nn.Conv2d, blocks: Sequence[nn.Module], side: int) -> None:
        super().__init__()
        self.channels, self.strides = {"c4": patch.out_channels}, {"c4": patch.stride[0]}
        self.patch, self.blocks = patch, nn.Sequential(*blocks)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, side, side, patch.out_channels), std=0.02))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        step = self.strides["c4"]
        x = F.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step))
        x = self.patch(x).permute(0, 2, 3, 1)
        positions: Tensor = self.positions
        if positions.shape[1:3] != x.shape[1:3]:
            size = (x.shape[1], x.shape[2])
            positions = F.interpolate(positions.permute(0, 3, 1, 2), size, mode="bicubic").permute(0, 2, 3, 1)
        return {"c4": self.blocks(x + positions).permute(0, 3, 1, 2)}


def vit(
    size: ViTSize,
    side: int = 1024,
    patch: int = 16,
    window: int = 14,
    relative: bool = True,
    drop: float = 0.0,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    whole: Sequence[int] | None = None,
) -> ViT:
    """A ViT for images of `side` pixels in patches of `patch`; windows are `window` patches a side (0: none).

    `relative` positions inside the attention; `drop` is the rate at which branches are left out while training,
    rising to it with depth. Parts of the size may be given one by one: `whole` are the blocks without windows.
    """
    width, depth, heads = width or size.width, depth or size.depth, heads or size.heads
    whole = size.whole if whole is None else whole
    rates = torch.linspace(0, drop, depth, device="cpu").tolist()
    cells = side // patch
    blocks = []
    for i, rate in enumerate(rates):
        here = 0 if i in whole else window
        attn = RelativeAttention(width, heads, here, (here or cells) if relative else 0)
        blocks.append(Block(width, attn, rate))
    return ViT(nn.Conv2d(3, width, patch, patch), blocks, cells)
