"""Feature pyramids: what the deep map means brought to the fine maps, and boxes read off the level of their size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.ops.roi import pyramid_level, roi_align
from masklet.parts.frames import Multiple
from masklet.parts.norm import LayerNorm2d
from masklet.parts.winograd import Conv3x3
from masklet.structures.errors import UserError

Reader = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # of boxes from a pyramid, as `PyramidPooler`
Pool = Callable[[Tensor, Tensor, int, float], Tensor]  # as those of ops.roi, the rest of their arguments fixed


class FPN(nn.Module):
    """Every level of a backbone in `channels` channels, each with what the levels above it know (Lin et al., 2017).

    A 1x1 convolution per level (`laterals`), the level above enlarged to the nearest pixel and added, and a 3x3
    convolution (`outputs`). Level c2 becomes p2, and so on; above the last one comes one more at twice its stride,
    every second pixel of it, for large anchors. Both lists count from the finest level.
    """

    def __init__(self, channels_in: Mapping[str, int], strides: Mapping[str, int], channels: int = 256) -> None:
        super().__init__()
        self.levels, self.channels = tuple(channels_in), channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in channels_in.values())
        self.outputs = nn.ModuleList(Conv3x3(channels, channels) for _ in channels_in)
        names = [f"p{level[1:]}" for level in self.levels]
        self.top = f"p{int(names[-1][1:]) + 1}"
        self.strides = {name: strides[level] for name, level in zip(names, self.levels, strict=True)}
        self.frame = Multiple(self.strides[names[-1]])
        self.strides[self.top] = 2 * self.strides[names[-1]]
        for conv in (*self.laterals, *self.outputs):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [lateral(features[level]) for level, lateral in zip(self.levels, self.laterals, strict=True)]
        for i in reversed(range(len(maps) - 1)):
            maps[i] += F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        maps = [output(x) for output, x in zip(self.outputs, maps, strict=True)]
        return dict(zip(self.strides, [*maps, maps[-1][:, :, ::2, ::2]], strict=True))


class SingleLevel(nn.Module):
    """One map of a backbone as it is, instead of a pyramid (Faster R-CNN before 2017; detectron2's C4 and DC5)."""

    top = None  # no level is there for anchors only

    def __init__(self, level: str, channels: int, stride: int) -> None:
        super().__init__()
        self.level, self.channels, self.strides, self.frame = level, channels, {level: stride}, Multiple(1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.level: features[self.level]}


Pyramid = FPN | SingleLevel  # `strides` and `channels` of its levels, `top` and `frame`


class LateralPyramid(nn.Module):
    """Every level of a backbone in `channels` channels by a 1x1 convolution, and nothing after it (SAM 2's neck).

    Only levels named in `enriched` get the level above, enlarged to the nearest pixel: their sum, or their mean if
    `fuse` is "mean". The deepest level only serves the one below it and is not returned. With `normed` the maps of the
    backbone go through a layer norm first, for backbones that do not end their stages with one: maps ten times as large
    as what is added to them later drown it.
    """

    def __init__(
        self,
        channels_in: Mapping[str, int],
        strides: Mapping[str, int],
        channels: int = 256,
        enriched: Sequence[str] = ("c4",),
        fuse: str = "sum",
        normed: bool = False,
    ) -> None:
        super().__init__()
        if fuse not in ("sum", "mean"):
            raise UserError(f"fuse is {fuse!r}", hint="choose sum or mean")
        if lost := sorted(set(enriched) - set(list(channels_in)[:-1])):
            raise UserError(f"level {lost[0]!r} has no level above", hint=f"levels: {', '.join(channels_in)}")
        self.levels, self.channels, self.enriched = tuple(channels_in), channels, frozenset(enriched)
        self.strides = {level: strides[level] for level in self.levels[:-1]}
        self.share = 1.0 if fuse == "sum" else 0.5
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in channels_in.values())
        self.norms = nn.ModuleList(LayerNorm2d(width) if normed else nn.Identity() for width in channels_in.values())

    def forward(self, features: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps of the `wanted` levels (all but the deepest where it is not said)."""
        wanted = self.levels[:-1] if wanted is None else wanted
        needed = set(wanted)
        for level, deeper in zip(self.levels, self.levels[1:], strict=False):
            needed |= {deeper} if level in needed & self.enriched else set()
        maps: dict[str, Tensor] = {}
        for i, (level, lateral) in reversed(list(enumerate(zip(self.levels, self.laterals, strict=True)))):
            if level in needed:
                maps[level] = lateral(self.norms[i](features[level]))
                if level in self.enriched:
                    above = maps[self.levels[i + 1]]
                    above = F.interpolate(above, size=maps[level].shape[-2:], mode="nearest")
                    maps[level] = self.share * (maps[level] + above)
        return {level: maps[level] for level in wanted}

    def then(self, features: Mapping[str, Tensor], level: str, conv: nn.Conv2d) -> Float[Tensor, "b k h w"]:
        """A 1x1 convolution of one level's map. Where nothing is added in between, both become one convolution."""
        if level in self.enriched:
            return conv(self.forward(features, (level,))[level])
        i = self.levels.index(level)
        lateral = self.laterals[i]
        assert isinstance(lateral, nn.Conv2d)
        assert lateral.bias is not None
        weight = conv.weight.flatten(1) @ lateral.weight.flatten(1)
        bias = conv.weight.flatten(1) @ lateral.bias + (0.0 if conv.bias is None else conv.bias)
        return F.conv2d(self.norms[i](features[level]), weight[..., None, None], bias)


def as_they_are(boxes: Float[Tensor, "m 4"]) -> Float[Tensor, "m 4"]:
    """Boxes that stand upright already."""
    return boxes


@dataclass(frozen=True)
class PyramidPooler:
    """Boxes read off the level that suits their size: 224 x 224 pixels at stride 16, half of that at stride 8 (eq. 1).

    `rois` are the number of the image in the batch, then x0 y0 x1 y1 in pixels of the image; or what else `pool` reads
    and `upright` makes x0 y0 x1 y1 of the same size from.
    """

    strides: Mapping[str, int]  # of the levels to read, finest first
    size: int
    pool: Pool = roi_align
    upright: Callable[[Tensor], Tensor] = as_they_are

    def levels(self, rois: Float[Tensor, "m r1"]) -> Int64[Tensor, " m"]:
        """Which level each box is read from, counted from the finest."""
        finest = next(iter(self.strides.values())).bit_length() - 1  # stride 4 is level 2
        return pyramid_level(self.upright(rois[:, 1:]), finest, finest + len(self.strides) - 1) - finest

    def __call__(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m r1"]) -> Float[Tensor, "m c s s"]:
        level, first = self.levels(rois), next(iter(self.strides))
        pooled = pyramid[first].new_zeros(len(rois), pyramid[first].shape[1], self.size, self.size)
        for i, (name, stride) in enumerate(self.strides.items()):
            here = (level == i).nonzero()[:, 0]
            pooled.index_copy_(0, here, self.pool(pyramid[name], rois[here], self.size, 1 / stride))
        return pooled


@dataclass(frozen=True)
class ThroughStage:
    """Boxes read off by `pool` and then looked at by a stage of the backbone, which belongs to the box head."""

    pool: PyramidPooler
    stage: nn.Module

    def __call__(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m c s s"]:
        return self.stage(self.pool(pyramid, rois))


def as_rois(boxes: Sequence[Float[Tensor, "_ r"]]) -> Float[Tensor, "m r1"]:
    """The boxes of all images of a batch in one list, each with the number of its image in front."""
    numbered = [torch.cat([b.new_full((b.shape[0], 1), i), b], 1) for i, b in enumerate(boxes)]
    return torch.cat(numbered)
