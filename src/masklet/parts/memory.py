"""What a video model keeps of earlier frames, and how a new frame reads it (SAM 2, Ravi et al., 2024, section 4).

A frame is remembered as a map with few channels, made from its features and the mask found on it, and as a pointer,
one vector for each object. Reading is attention: every pixel of the new frame looks at all pixels of the remembered
maps and at the pointers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.blockwise import PIECE, Linear, attention, averaged, blockwise, in_pieces, product, products
from masklet.parts.conv import DepthwiseConv2d
from masklet.parts.norm import LayerNorm2d
from masklet.parts.positions import rotary_angles, sine_grid

KEYS = 1024  # made at a time


@dataclass(frozen=True, eq=False)
class Recalled:
    """What n objects have in memory for one new frame: m maps of s pixels and p tokens of pointers, and their places.

    Positions are the same for all objects.
    """

    maps: Float[Tensor, "n m s c"]
    map_positions: Float[Tensor, "m s c"]
    pointers: Float[Tensor, "n p c"]
    pointer_positions: Float[Tensor, "p c"]

    @property
    def tokens(self) -> int:
        """How many there are to look at, for each object."""
        return self.maps.shape[1] * self.maps.shape[2] + self.pointers.shape[1]

    def values(self) -> Float[Tensor, "n t c"]:
        return torch.cat([self.maps.flatten(1, 2), self.pointers], 1)

    def keys(self) -> Float[Tensor, "n t c"]:
        positions = torch.cat([self.map_positions.flatten(0, 1), self.pointer_positions])
        return self.values() + positions


Turns = Sequence[Tensor]  # cosines and sines of the angles of s places, (s, e / 2) each


def turns(angles: Float[Tensor, "s e2"], maps: int = 1, tokens: int | None = None) -> Turns:
    """Those of the pixels of `maps` maps, one after the other, and of what follows up to `tokens`: it has no place."""
    angles = angles.repeat(maps, 1)
    angles = angles if tokens is None else F.pad(angles, (0, 0, 0, tokens - len(angles)))
    return angles.cos(), angles.sin()


def turned(x: Float[Tensor, "*shape s e"], places: Turns) -> Float[Tensor, "*shape s e"]:
    """Channels i and i + e / 2 turned as points in a plane: rotary positions without complex numbers."""
    (cos, sin), (a, b) = places, x.chunk(2, -1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)], -1)


class RotaryAttention(nn.Module):
    """Attention whose products of queries and keys depend on how far apart their pixels are.

    `memory_channels` are those of the keys and values. `rotary` off leaves positions out (an ablation of the paper).
    """

    def __init__(
        self,
        channels: int,
        memory_channels: int | None = None,
        heads: int = 1,
        dropout: float = 0.1,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        narrow = channels if memory_channels is None else memory_channels
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.q, self.out = Linear(channels, channels), Linear(channels, channels)
        self.k, self.v = Linear(narrow, channels), Linear(narrow, channels)

    def split(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n heads s e"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def comparing(self, linear: nn.Linear) -> tuple[Float[Tensor, "d c"], Float[Tensor, " d"]]:
        """The weight and the bias that make queries or keys.

        Published weights turn channels 0 and 1, 2 and 3, ... of a head together. Here the even ones come first, in
        queries and keys alike, which their products do not see: what is turned is then read in a row.
        """
        if not self.rotary:
            return linear.weight, linear.bias
        weight, bias = linear.weight.unflatten(0, (self.heads, -1, 2)), linear.bias.view(self.heads, -1, 2)
        return weight.transpose(1, 2).flatten(0, 2), bias.transpose(1, 2).flatten()

    def placed(
        self, x: Float[Tensor, "n s c"], weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"], places: Turns
    ) -> Float[Tensor, "n heads s e"]:
        """Queries or keys, turned by their place."""
        made = self.split(product(x, weight, bias))
        return turned(made, places) if self.rotary else made

    def forward(
        self,
        q: Float[Tensor, "n s c"],
        k: Float[Tensor, "n t cm"],
        v: Float[Tensor, "n t cm"],
        asking: Turns,
        asked: Turns,
    ) -> Float[Tensor, "n s c"]:
        """`asking` and `asked` are the places of queries and of keys."""
        if self.v.in_features < self.v.out_features and blockwise(q):
            return self._with_narrow_values(q, k, v, asking, asked)
        queries = self.placed(q, *self.comparing(self.q), asking)
        keys = self.placed(k, *self.comparing(self.k), asked)
        values = self.split(self.v(v))
        drop = self.dropout if self.training else 0.0
        if drop:
            found = F.scaled_dot_product_attention(queries, keys, values, dropout_p=drop)
        else:
            found = attention(queries, keys, values)
        return self.out(found.transpose(1, 2).flatten(2))

    def _with_narrow_values(
        self,
        q: Float[Tensor, "n s c"],
        k: Float[Tensor, "n t cm"],
        v: Float[Tensor, "n t cm"],
        asking: Turns,
        asked: Turns,
    ) -> Float[Tensor, "n s c"]:
        """The values are averaged as they come, and the average goes through both projections at once.

        A weighted mean of W v is W times the mean of v; attention then reads 64 channels where it would read 256.
        """
        dtype, e = products(q), self.q.out_features // self.heads
        q, k = q.to(self.q.weight.dtype), k.to(self.k.weight.dtype)
        with torch.autocast("cpu", enabled=False):
            mix = self.out.weight.unflatten(1, (self.heads, e)).transpose(0, 1)
            mix = mix @ self.v.weight.unflatten(0, (self.heads, e))
            bias = self.out.weight @ self.v.bias + self.out.bias
            queries = self.placed(q, *self.comparing(self.q), asking).to(dtype)
            weights = self.comparing(self.k)
            out = bias.expand(*q.shape[:2], -1).clone()
            for i in range(len(q)):
                pieces = zip(*(x.split(KEYS) for x in (k[i], *asked)), strict=True)
                keys = torch.cat([self.placed(piece[None], *weights, at)[0] for piece, *at in pieces], 1)
                for head in range(self.heads):
                    mean = averaged(queries[i, head], keys[head], v[i], e**-0.5)
                    out[i].addmm_(mean.to(out.dtype), mix[head].T)
        return out.to(dtype)


class MemoryLayer(nn.Module):
    """Pixels look at each other (`own`), then at the memory (`memory`), then each alone; either may be left out."""

    def __init__(
        self, own: nn.Module | None, memory: nn.Module | None, channels: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.own, self.memory = own, memory
        self.norm1 = None if own is None else nn.LayerNorm(channels)
        self.norm2 = None if memory is None else nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.linear1, self.linear2 = Linear(channels, hidden), Linear(hidden, channels)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "n s c"],
        keys: Float[Tensor, "n t cm"],
        values: Float[Tensor, "n t cm"],
        here: Turns,
        there: Turns,
    ) -> Float[Tensor, "n s c"]:
        if self.own is not None and self.norm1 is not None:
            normed = self.norm1(x)
            x = x + self.drop(self.own(normed, normed, normed, here, here))
        if self.memory is not None and self.norm2 is not None:
            x = x + self.drop(self.memory(self.norm2(x), keys, values, here, there))
        return in_pieces(self.widened, x, max(1, PIECE // (len(x) * self.linear1.out_features)))

    def widened(self, x: Float[Tensor, "n s c"]) -> Float[Tensor, "n s c"]:
        return x + self.drop(self.linear2(self.drop(self.linear1(self.norm3(x)).relu())))


class MemoryAttention(nn.Module):
    """A frame's features, having read the memory: same shape out as in.

    Of max(`own_layers`, `memory_layers`) layers the first `own_layers` let pixels look at each other and the first
    `memory_layers` let them look at the memory.
    """

    def __init__(
        self,
        channels: int = 256,
        memory_channels: int = 64,
        own_layers: int = 4,
        memory_layers: int = 4,
        hidden: int = 2048,
        heads: int = 1,
        dropout: float = 0.1,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        self.head_channels = channels // heads

        def attention(i: int, layers: int, narrow: int | None) -> nn.Module | None:
            return RotaryAttention(channels, narrow, heads, dropout, rotary) if i < layers else None

        self.layers = nn.ModuleList(
            MemoryLayer(
                attention(i, own_layers, None), attention(i, memory_layers, memory_channels), channels, hidden, dropout
            )
            for i in range(max(own_layers, memory_layers))
        )
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, features: Float[Tensor, "n c h w"], positions: Float[Tensor, "c h w"], recalled: Recalled
    ) -> Float[Tensor, "n c h w"]:
        size = features.shape[2], features.shape[3]
        x = (features + 0.1 * positions).flatten(2).transpose(1, 2)
        keys, values = recalled.keys(), recalled.values()
        angles = rotary_angles(*size, self.head_channels, x.device)
        here, there = turns(angles), turns(angles, recalled.maps.shape[1], recalled.tokens)
        for layer in self.layers:
            x = layer(x, keys, values, here, there)
        return self.norm(x).transpose(1, 2).unflatten(2, size)


class MaskDownsampler(nn.Sequential):
    """A mask at the size of the image as a feature map at 1/`stride`, a power of two."""

    def __init__(self, channels: int, stride: int = 16) -> None:
        layers: list[nn.Module] = []
        wide = 1
        for _ in range(stride.bit_length() - 1):
            layers += [nn.Conv2d(wide, 4 * wide, 3, 2, 1), LayerNorm2d(4 * wide), nn.GELU()]
            wide *= 4
        super().__init__(*layers, nn.Conv2d(wide, channels, 1))


class CXBlock(nn.Module):
    """A ConvNeXt block: one 7x7 filter per channel, a norm, a perceptron for each pixel, added with a small gain."""

    def __init__(self, channels: int, kernel: int = 7, gain: float = 1e-6) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.linear1, self.linear2 = Linear(channels, 4 * channels), Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), gain))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        out = self.depthwise(x).permute(0, 2, 3, 1)
        out = self.gamma * self.linear2(F.gelu(self.linear1(self.norm(out))))
        return x + out.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """A frame and the mask found on it as one map with few channels: what is remembered."""

    def __init__(self, channels: int = 256, memory_channels: int = 64, blocks: int = 2, stride: int = 16) -> None:
        super().__init__()
        self.masks, self.pixels = MaskDownsampler(channels, stride), nn.Conv2d(channels, channels, 1)
        self.fuser = nn.Sequential(*(CXBlock(channels) for _ in range(blocks)))
        self.out = nn.Conv2d(channels, memory_channels, 1)

    def forward(
        self, features: Float[Tensor, "b c h w"], masks: Float[Tensor, "n 1 hi wi"]
    ) -> Float[Tensor, "n cm h w"]:
        """`masks` are of the size of the image, from -10 (not the object) to 10; `features` of n images or of one."""
        return self.out(self.fuser(self.pixels(features) + self.masks(masks)))


def map_positions(height: int, width: int, channels: int, device: torch.device | str | None = None) -> Tensor:
    """Where the pixels of a remembered map are, (s, c)."""
    return sine_grid(height, width, channels, device).flatten(1).T
