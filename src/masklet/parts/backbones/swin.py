"""Swin Transformer V1 and V2: attention inside small windows, shifted by half a window in every second block.

Names are those of the authors' code. Images of any size: the patches, the windows and the merging of patches pad on the
right and below, as the authors' detection code, mmsegmentation and transformers do. Every second block is shifted,
even where one window covers the whole map (torchvision's classifiers do not shift there).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from masklet.parts.norm import IMAGENET
from masklet.structures.errors import UserError

PATCH = 4
BARRED = -100.0  # added to the attention between pixels that only the shift has brought together


@dataclass(frozen=True)
class SwinSize:
    """Channels of the first stage, blocks per stage, heads per stage."""

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]


TINY, SMALL = SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)), SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24))
BASE, LARGE = SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)), SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48))


def relative_index(window: int) -> Int64[Tensor, "n n"]:
    """For every pair of pixels of a window: the row of the table of offsets that theirs has, n = window squared."""
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
    down, right = (axis[:, None] - axis[None] + window - 1 for axis in (rows, columns))
    return down * (2 * window - 1) + right


def cut(x: Float[Tensor, "b h w c"], window: int) -> Float[Tensor, "b m n c"]:
    """The m windows of a map whose sides are multiples of `window`, n pixels each."""
    b, h, w, c = x.shape
    parts = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return parts.reshape(b, -1, window * window, c)


def join(x: Float[Tensor, "b m n c"], size: tuple[int, int], window: int) -> Float[Tensor, "b h w c"]:
    """The inverse of `cut`."""
    b, _, _, c = x.shape
    parts = x.view(b, size[0] // window, size[1] // window, window, window, c).transpose(2, 3)
    return parts.reshape(b, *size, c)


def shift_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Float[Tensor, "m n n"]:
    """What keeps apart, window by window, pixels that a cyclic shift has put side by side."""

    def band(side: int) -> Tensor:
        i = torch.arange(side, device=device)
        return (i >= side - window).long() + (i >= side - shift).long()  # 0, 1 or 2

    region = (band(size[0])[:, None] * 3 + band(size[1])).float()
    region = cut(region[None, :, :, None], window)[0, :, :, 0]  # m n
    return (region[:, :, None] != region[:, None]).float() * BARRED


class WindowAttention(nn.Module):
    """Every pixel looks at the pixels of its window; the bias of a pair depends on their offset, from a table."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self._own_parameters()

    def _own_parameters(self) -> None:
        table = torch.zeros((2 * self.window - 1) ** 2, self.heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.normal_(table, std=0.02))

    def bias(self) -> Float[Tensor, "heads n n"]:
        """What is added to the attention of every pair."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def project(self, x: Float[Tensor, "b m n c"]) -> Float[Tensor, "b m n c3"]:
        return self.qkv(x)

    def attend(
        self,
        q: Float[Tensor, "b heads n d"],
        k: Float[Tensor, "b heads n d"],
        v: Float[Tensor, "b heads n d"],
        bias: Float[Tensor, "1 heads n n"],
    ) -> Float[Tensor, "b heads n d"]:
        return F.scaled_dot_product_attention(q, k, v, bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        (b, h, w, c), window, shift = x.shape, self.window, self.shift
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
        size = x.shape[1], x.shape[2]
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        qkv = self.project(cut(x, window))
        m, n = qkv.shape[1:3]
        qkv = qkv.view(b, m, n, 3, self.heads, c // self.heads).permute(3, 0, 1, 4, 2, 5)  # 3 b m heads n d
        bias = self.bias()
        if shift:  # the bias depends on the window too: windows go with the heads
            barred = shift_mask(size, window, shift, x.device).to(bias.dtype)
            q, k, v = qkv.flatten(2, 3)
            out = self.attend(q, k, v, (bias + barred[:, None]).flatten(0, 1)[None]).unflatten(1, (m, self.heads))
        else:  # windows go with the images
            q, k, v = qkv.flatten(1, 2)
            out = self.attend(q, k, v, bias[None]).unflatten(0, (b, m))
        x = join(self.proj(out.transpose(2, 3).reshape(b, m, n, c)), size, window)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :h, :w]


class CosineWindowAttention(WindowAttention):
    """Version 2: attention is the cosine times a learned scale, and a small net gives the bias of an offset.

    So the bias of a window of another size can be asked for. `trained_window` is the size that offsets are measured
    in, where it is another (the weights were trained with it).
    """

    table: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int, trained_window: int | None = None) -> None:
        self.trained_window = trained_window or window
        super().__init__(channels, heads, window, shift)

    def _own_parameters(self) -> None:
        self.logit_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, self.heads, bias=False))
        line = torch.arange(1 - self.window, self.window) * (8 / max(self.trained_window - 1, 1))  # -8..8
        line = line.sign() * (line.abs() + 1).log2() / 3  # log-spaced: far offsets matter less
        self.register_buffer("table", torch.stack(torch.meshgrid(line, line, indexing="ij"), -1), persistent=False)

    def bias(self) -> Float[Tensor, "heads n n"]:
        each = 16 * self.cpb_mlp(self.table).sigmoid().flatten(0, 1)
        return each[self.relative_position_index].permute(2, 0, 1)

    def project(self, x: Float[Tensor, "b m n c"]) -> Float[Tensor, "b m n c3"]:
        q, k, v = self.qkv.bias.chunk(3)
        return F.linear(x, self.qkv.weight, torch.cat([q, torch.zeros_like(k), v]))  # keys have no bias

    def attend(
        self,
        q: Float[Tensor, "b heads n d"],
        k: Float[Tensor, "b heads n d"],
        v: Float[Tensor, "b heads n d"],
        bias: Float[Tensor, "1 heads n n"],
    ) -> Float[Tensor, "b heads n d"]:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp().repeat(q.shape[1] // self.heads, 1, 1)
        return F.scaled_dot_product_attention(F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v, bias, scale=1)


class PreNormBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and added to what came in (version 1)."""

    def __init__(self, channels: int, attn: nn.Module, drop: float) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(channels), attn, nn.LayerNorm(channels)
        hidden = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.mlp = nn.Sequential(OrderedDict(fc1=hidden[0], act=nn.GELU(), fc2=hidden[1]))
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class PostNormBlock(PreNormBlock):
    """The same with the norms at the end of each branch: deep nets no longer grow their activations (version 2)."""

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self.drop(self.norm1(self.attn(x)))
        return x + self.drop(self.norm2(self.mlp(x)))


class Merging(nn.Module):
    """Half the size, twice the channels: four neighbours side by side, then one linear layer."""

    def __init__(self, channels: int, post_norm: bool) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(2 * channels if post_norm else 4 * channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        four = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # down first, as the weights have it
        joined = torch.cat(four, -1)
        return self.norm(self.reduction(joined)) if self.post_norm else self.reduction(self.norm(joined))


class Stage(nn.Module):
    """Some blocks, every second one shifted; the merging that leads to the next stage is kept here, as in the files."""

    downsample: nn.Module | None

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.downsample = nn.Sequential(*blocks), downsample


class Patches(nn.Module):
    """4x4 pixels become one vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, channels, PATCH, PATCH), nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h4 w4 c"]:
        x = F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Four stages of windowed attention; c2 to c5 are their maps, each after a norm of its own."""

    pixels = IMAGENET

    def __init__(self, patch_embed: Patches, layers: list[Stage], channels: list[int], norms: bool) -> None:
        super().__init__()
        self.channels = {f"c{i + 2}": width for i, width in enumerate(channels)}
        self.strides = {f"c{i + 2}": PATCH * 2**i for i in range(len(channels))}
        self.patch_embed, self.layers = patch_embed, nn.ModuleList(layers)
        for i, width in enumerate(channels):
            self.add_module(f"norm{i}", nn.LayerNorm(width) if norms else nn.Identity())
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)  # the authors cut at 2.0, a hundred deviations away
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        x, maps = self.patch_embed(x), {}
        for i, stage in enumerate(self.layers):
            assert isinstance(stage, Stage)
            x = stage.blocks(x)
            maps[f"c{i + 2}"] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2)
            x = x if stage.downsample is None else stage.downsample(x)
        return maps


def swin(size: SwinSize, window: int = 7, drop: float = 0.2, norms: bool = True) -> Swin:
    """Swin V1. `drop` is the rate at which branches are left out while training, rising to it with depth.

    Without `norms` the maps come as they are.
    """
    return _swin(size, window, drop, norms, WindowAttention, PreNormBlock)


def swin_v2(
    size: SwinSize, window: int = 8, drop: float = 0.2, norms: bool = True, trained_window: int | None = None
) -> Swin:
    """Swin V2. `trained_window` is that of the weights, where `window` is another."""

    def attention(channels: int, heads: int, window: int, shift: int) -> nn.Module:
        return CosineWindowAttention(channels, heads, window, shift, trained_window)

    return _swin(size, window, drop, norms, attention, PostNormBlock)


def _swin(
    size: SwinSize,
    window: int,
    drop: float,
    norms: bool,
    attention: Callable[..., nn.Module],
    block: type[PreNormBlock],
) -> Swin:
    if window < 2:
        raise UserError(f"window is {window}", hint="give the side of a window in patches, as 7 or 12")
    rates = torch.linspace(0, drop, sum(size.depths), device="cpu").tolist()
    channels, layers = [size.width * 2**i for i in range(len(size.depths))], []
    for i, (width, depth, heads) in enumerate(zip(channels, size.depths, size.heads, strict=True)):
        blocks: list[nn.Module] = [
            block(width, attention(width, heads, window, (j % 2) * (window // 2)), rates.pop(0)) for j in range(depth)
        ]
        last = i == len(size.depths) - 1
        layers.append(Stage(blocks, None if last else Merging(width, post_norm=block is PostNormBlock)))
    return Swin(Patches(size.width), layers, channels, norms)
