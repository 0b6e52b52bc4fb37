"""Short ways between fine and deep maps, and boxes read off all of them (Liu et al., PANet, 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masklet.ops.roi import roi_align
from masklet.parts.conv import ConvNormAct
from masklet.parts.pyramid import FPN, Pool


class PathAggregation(nn.Module):
    """A feature pyramid, and from its finest level up once more, so that deep maps know where edges are (sec. 3.1).

    Each level is the one of the pyramid plus the new level below it, halved by a 3x3 convolution (`down`), mixed by
    another (`outputs`). In the backbone alone a fine edge would be a hundred layers away from the deepest map.
    """

    def __init__(self, fpn: FPN, norm: str | None = "group") -> None:
        super().__init__()
        self.fpn, self.channels, self.strides = fpn, fpn.channels, fpn.strides
        self.top, self.frame = fpn.top, fpn.frame
        c, steps = fpn.channels, len(fpn.levels) - 1
        self.down = nn.ModuleList(ConvNormAct(c, c, 3, stride=2, norm=norm) for _ in range(steps))
        self.outputs = nn.ModuleList(ConvNormAct(c, c, 3, norm=norm) for _ in range(steps))

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (finest, x), *deeper = list(self.fpn(features).items())[:-1]
        out = {finest: x}
        for (name, level), down, output in zip(deeper, self.down, self.outputs, strict=True):
            x = out[name] = output(level + down(x))
        return {**out, self.top: x[:, :, ::2, ::2]}


@dataclass(frozen=True)
class AllLevels:
    """Boxes read off every level of a pyramid, whatever their size: `size` x `size` cells of each."""

    strides: Mapping[str, int]  # of the levels to read, finest first
    size: int
    pool: Pool = roi_align

    def __call__(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m l c s s"]:
        return torch.stack([self.pool(pyramid[p], rois, self.size, 1 / s) for p, s in self.strides.items()], 1)


class BestOfLevels(nn.Module):
    """A convolution for every level, and of what they say the largest (adaptive feature pooling, sec. 3.2)."""

    def __init__(self, levels: int, channels: int, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvNormAct(channels, width, 3, norm="group") for _ in range(levels))

    def forward(self, x: Float[Tensor, "m l c s s"]) -> Float[Tensor, "m d s s"]:
        best, *others = (level(own) for level, own in zip(self.levels, x.unbind(1), strict=True))
        for other in others:
            best = torch.maximum(best, other)
        return best


class ConvsFC(nn.Module):
    """Over boxes of all levels: the best of them, three more convolutions, a fully connected layer ("heavier head")."""

    def __init__(self, levels: int, channels: int, size: int, hidden: int = 1024, depth: int = 4) -> None:
        super().__init__()
        self.best = BestOfLevels(levels, channels, channels)
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, 3, norm="group") for _ in range(depth - 1)))
        self.fc = nn.Linear(channels * size**2, hidden)
        nn.init.kaiming_uniform_(self.fc.weight, a=1)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Float[Tensor, "m l c s s"]) -> Float[Tensor, "m d"]:
        return self.fc(self.convs(self.best(x)).flatten(1)).relu()


class FusionMaskHead(nn.Module):
    """A mask by convolutions for every class, plus one by a fully connected layer for all classes (sec. 3.3).

    Convolutions say the same wherever they look; a fully connected layer knows the place and sees the whole box, and
    being asked only for object or not, it learns from all classes. It starts from the third convolution's map.
    """

    def __init__(self, levels: int, channels: int, num_classes: int, width: int = 256, side: int = 14) -> None:
        super().__init__()
        self.best = BestOfLevels(levels, channels, width)
        self.convs = nn.Sequential(*(ConvNormAct(width, width, 3, norm="group") for _ in range(2)))
        self.last = ConvNormAct(width, width, 3, norm="group")
        self.up, self.predictor = nn.ConvTranspose2d(width, width, 2, 2), nn.Conv2d(width, num_classes, 1)
        half = max(width // 2, 1)
        self.narrow = nn.Sequential(
            ConvNormAct(width, width, 3, norm="group"), ConvNormAct(width, half, 3, norm="group")
        )
        self.fc = nn.Linear(half * side**2, (2 * side) ** 2)
        nn.init.kaiming_normal_(self.up.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_uniform_(self.fc.weight, a=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (self.up, self.fc, self.predictor):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "m l c s s"]) -> Float[Tensor, "m k t t"]:
        side = 2 * x.shape[-1]
        x = self.convs(self.best(x))
        of_classes = self.predictor(self.up(self.last(x)).relu())
        of_object = self.fc(self.narrow(x).flatten(1)).unflatten(1, (1, side, side))
        return of_classes + of_object
