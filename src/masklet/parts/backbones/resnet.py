"""ResNet and its relatives: the body of most segmentation systems (He et al., 2015).

Parameter names are torchvision's, and those of semseg for the deep stem; so their files load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import Layer, init_kaiming, norm_layer
from masklet.parts.deformable import DeformableConv2d, start_plain
from masklet.parts.norm import IMAGENET, normed
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class ResNetSize:
    """Blocks per stage, the kind of block, and how wide a bottleneck's 3x3 convolution is (ResNeXt: and its groups)."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64


R18, R34 = ResNetSize((2, 2, 2, 2), bottleneck=False), ResNetSize((3, 4, 6, 3), bottleneck=False)
R50, R101, R152 = ResNetSize((3, 4, 6, 3)), ResNetSize((3, 4, 23, 3)), ResNetSize((3, 8, 36, 3))
X50_32X4D, X101_32X8D = ResNetSize((3, 4, 6, 3), groups=32, width_per_group=4), ResNetSize((3, 4, 23, 3), True, 32, 8)
X101_64X4D = ResNetSize((3, 4, 23, 3), groups=64, width_per_group=4)
WIDE50 = ResNetSize((3, 4, 6, 3), width_per_group=128)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way round them."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilations: tuple[int, int],
        norm: Layer,
        size: ResNetSize,
        stride_in_1x1: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilations[0], dilations[0], bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilations[1], dilations[1], bias=False)
        self.bn2 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride, norm)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        out = self.relu(normed(self.conv1, self.bn1, x))
        out = normed(self.conv2, self.bn2, out)
        out += _around(self.downsample, x)  # in place: one large map less in the cache
        return self.relu(out)


class Bottleneck(nn.Module):
    """Narrow by 1x1, convolve 3x3, widen by 1x1, and the way round them."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilations: tuple[int, int],
        norm: Layer,
        size: ResNetSize,
        stride_in_1x1: bool,
        conv: Callable[..., nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        width = channels * size.width_per_group // 64 * size.groups
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, second, dilations[0], dilations[0], size.groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, channels * 4, 1, bias=False)
        self.bn3 = norm(channels * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * 4, stride, norm)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        out = self.relu(normed(self.conv1, self.bn1, x))
        out = self.relu(normed(self.conv2, self.bn2, out))
        out = normed(self.conv3, self.bn3, out)
        out += _around(self.downsample, x)  # in place: one large map less in the cache
        return self.relu(out)


def _around(way: nn.Sequential | None, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
    """The way round the convolutions of a block; None is the straight one."""
    return x if way is None else normed(way[0], way[1], x)


def _shortcut(in_channels: int, channels: int, stride: int, norm: Layer) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))


class ResNet(nn.Module):
    """A stem, then four stages; c1 is the stem's map before pooling, c2 to c5 are the stages' maps.

    `deformable` 1 or 2 gives every `deformable_interval`-th bottleneck of the `deformable_stages` (3 for c3) a 3x3
    convolution whose taps move (`parts.deformable`).
    """

    pixels = IMAGENET
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        size: ResNetSize,
        stem: str = "basic",
        stem_width: int = 64,
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        contract_dilation: bool = True,
        multi_grid: Sequence[int] | None = None,
        norm: Layer | str = "batch",
        deformable: int = 0,
        deformable_stages: Sequence[int] = (3, 4, 5),
        deformable_interval: int = 1,
    ) -> None:
        super().__init__()
        if deformable and not size.bottleneck:
            raise UserError("only bottlenecks have deformable convolutions", hint="take resnet50 or a deeper one")
        if deformable not in (0, 1, 2):
            raise UserError(f"deformable is {deformable!r}", hint="0 is none, 1 moves the taps, 2 weighs them as well")
        if stem not in ("basic", "deep"):
            raise UserError(f"stem is {stem!r}", hint='"basic" is one 7x7 convolution, "deep" is three 3x3')
        if output_stride not in (32, 16, 8, 4):
            raise UserError(f"output_stride is {output_stride}", hint="a ResNet has 32, 16, 8 and 4")
        grid = tuple(multi_grid or ())
        if grid and len(grid) != size.blocks[3]:
            raise UserError(
                f"multi_grid is {grid}", hint=f"give one factor for each of the {size.blocks[3]} last blocks"
            )
        block, layer = Bottleneck if size.bottleneck else BasicBlock, norm_layer(norm)
        self.deep = stem == "deep"
        channels = 2 * stem_width if self.deep else stem_width
        if self.deep:
            self.conv1 = nn.Conv2d(3, stem_width, 3, 2, 1, bias=False)
            self.bn1 = layer(stem_width)
            self.conv2 = nn.Conv2d(stem_width, stem_width, 3, 1, 1, bias=False)
            self.bn2 = layer(stem_width)
            self.conv3 = nn.Conv2d(stem_width, channels, 3, 1, 1, bias=False)
            self.bn3 = layer(channels)
        else:
            self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
            self.bn1 = layer(channels)
        self.relu = nn.ReLU(inplace=True)
        self.channels, self.strides, reached, dilation = {"c1": channels}, {"c1": 2}, 4, 1
        for number, blocks in enumerate(size.blocks, 1):
            stride, before = (1 if number == 1 else 2), dilation
            if reached * stride > output_stride:  # no stride here; the filters skip pixels instead
                dilation, stride = dilation * stride, 1
            reached *= stride
            width, stage = 64 * 2 ** (number - 1), nn.Sequential()
            for i in range(blocks):
                # The filter that had the stride sees the map from before it, so its dilation is the one before
                # (torchvision, mmsegmentation; then every fourth pixel equals the strided net's). semseg differs.
                first = before if i == 0 and contract_dilation else dilation
                spread = (dilation * grid[i],) * 2 if grid and number == 4 else (first, dilation)
                moving = deformable and number + 1 in deformable_stages and i % deformable_interval == 0
                make = partial(Bottleneck, conv=partial(DeformableConv2d, version=deformable)) if moving else block
                stage.append(make(channels, width, stride if i == 0 else 1, spread, layer, size, stride_in_1x1))
                channels = width * block.expansion
            self.add_module(f"layer{number}", stage)
            self.channels[f"c{number + 1}"], self.strides[f"c{number + 1}"] = channels, reached
        init_kaiming(self)
        start_plain(self)

    def take_last(self) -> nn.Module:
        """The last stage, which from now on belongs to the caller; the maps end at c4."""
        stage = self.layer4
        del self.layer4, self.channels["c5"], self.strides["c5"]
        return stage

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        c1 = self.relu(normed(self.conv1, self.bn1, x))
        if self.deep:
            c1 = self.relu(normed(self.conv2, self.bn2, c1))
            c1 = self.relu(normed(self.conv3, self.bn3, c1))
        c2 = self.layer1(F.max_pool2d(c1, 3, 2, 1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        maps = {"c1": c1, "c2": c2, "c3": c3, "c4": c4}
        return {**maps, "c5": self.layer4(c4)} if "c5" in self.channels else maps
