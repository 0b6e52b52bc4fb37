"""MobileNet V2 and V3: depthwise convolutions between 1x1 ones (Sandler et al., 2018; Howard et al., 2019).

Numbered as in torchvision. With `output_stride` 16 or 8 a stage's filters are spread from its first block on, which is
how torchvision dilates the V3 below its segmentation models.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.backbones.sequence import FeatureSequence, Level
from masklet.parts.conv import Activation, DepthwiseConv2d, Hardswish, Layer, ReLU, ReLU6, init_kaiming
from masklet.parts.norm import BatchNorm2d
from masklet.structures.errors import UserError

_v3_norm: Layer = partial(BatchNorm2d, eps=1e-3, momentum=0.01)


class Block(NamedTuple):
    """One row of the paper's table: filter size, widened channels, output channels, squeeze?, activation, stride."""

    kernel: int
    wide: int
    channels: int
    squeeze: bool
    act: Activation
    stride: int


LARGE = (
    Block(3, 16, 16, False, ReLU, 1),
    Block(3, 64, 24, False, ReLU, 2),
    Block(3, 72, 24, False, ReLU, 1),
    Block(5, 72, 40, True, ReLU, 2),
    Block(5, 120, 40, True, ReLU, 1),
    Block(5, 120, 40, True, ReLU, 1),
    Block(3, 240, 80, False, Hardswish, 2),
    Block(3, 200, 80, False, Hardswish, 1),
    Block(3, 184, 80, False, Hardswish, 1),
    Block(3, 184, 80, False, Hardswish, 1),
    Block(3, 480, 112, True, Hardswish, 1),
    Block(3, 672, 112, True, Hardswish, 1),
    Block(5, 672, 160, True, Hardswish, 2),
    Block(5, 960, 160, True, Hardswish, 1),
    Block(5, 960, 160, True, Hardswish, 1),
)
SMALL = (
    Block(3, 16, 16, True, ReLU, 2),
    Block(3, 72, 24, False, ReLU, 2),
    Block(3, 88, 24, False, ReLU, 1),
    Block(5, 96, 40, True, Hardswish, 2),
    Block(5, 240, 40, True, Hardswish, 1),
    Block(5, 240, 40, True, Hardswish, 1),
    Block(5, 120, 48, True, Hardswish, 1),
    Block(5, 144, 48, True, Hardswish, 1),
    Block(5, 288, 96, True, Hardswish, 2),
    Block(5, 576, 96, True, Hardswish, 1),
    Block(5, 576, 96, True, Hardswish, 1),
)
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def conv_norm_act(
    in_channels: int,
    channels: int,
    kernel: int,
    norm: Layer,
    act: Activation | None,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """A dense 1x1 or stem convolution, or with equal channels and a larger filter a depthwise one."""
    depthwise = in_channels == channels and kernel > 1
    conv = partial(DepthwiseConv2d, groups=channels) if depthwise else nn.Conv2d
    padding = (kernel - 1) // 2 * dilation
    layers = [conv(in_channels, channels, kernel, stride, padding, dilation, bias=False), norm(channels)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


class SqueezeExcitation(nn.Module):
    """Scale each channel by what the whole map says about it."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class BlockV2(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1 without activation; the input is added where shapes agree."""

    def __init__(self, in_channels: int, channels: int, expand: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = in_channels * expand
        layers = [conv_norm_act(in_channels, wide, 1, BatchNorm2d, ReLU6)] if expand > 1 else []
        layers.append(conv_norm_act(wide, wide, 3, BatchNorm2d, ReLU6, stride, dilation))
        self.conv = nn.Sequential(*layers, nn.Conv2d(wide, channels, 1, bias=False), BatchNorm2d(channels))
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return x + self.conv(x) if self.residual else self.conv(x)


class BlockV3(nn.Module):
    """The same with squeeze and excitation, and other activations."""

    def __init__(self, in_channels: int, row: Block, stride: int, dilation: int) -> None:
        super().__init__()
        wide, act = row.wide, row.act
        layers: list[nn.Module] = []
        if wide != in_channels:
            layers.append(conv_norm_act(in_channels, wide, 1, _v3_norm, act))
        layers.append(conv_norm_act(wide, wide, row.kernel, _v3_norm, act, stride, dilation))
        if row.squeeze:
            layers.append(SqueezeExcitation(wide, _multiple_of_8(wide / 4)))
        layers.append(conv_norm_act(wide, row.channels, 1, _v3_norm, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and in_channels == row.channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return x + self.block(x) if self.residual else self.block(x)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is not under nine tenths of what was wanted."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class _Stages:
    """Bookkeeping while layers are stacked: the stride reached, the dilation, and the last layer at each level."""

    def __init__(self, output_stride: int) -> None:
        if output_stride not in (32, 16, 8):
            raise UserError(f"output_stride is {output_stride}", hint="a MobileNet has 32, 16 and 8")
        self.output_stride, self.nominal, self.stride, self.dilation = output_stride, 1, 1, 1
        self.layers, self.levels = nn.Sequential(), dict[str, Level]()

    def step(self, stride: int) -> tuple[int, int]:
        """The stride and dilation that a layer gets whose table says `stride`."""
        self.nominal *= stride
        if self.stride * stride > self.output_stride:
            self.dilation *= stride
            return 1, self.dilation
        self.stride *= stride
        return stride, self.dilation

    def add(self, layer: nn.Module, channels: int) -> None:
        self.levels[f"c{self.nominal.bit_length() - 1}"] = Level(str(len(self.layers)), channels, self.stride)
        self.layers.append(layer)

    def finish(self) -> FeatureSequence:
        init_kaiming(self.layers)
        return FeatureSequence(self.layers, self.levels)


def mobilenet_v2(output_stride: int = 32) -> FeatureSequence:
    """MobileNet V2; c5 has the 1280 channels that its classifier sees."""
    stages = _Stages(output_stride)
    stages.add(conv_norm_act(3, 32, 3, BatchNorm2d, ReLU6, stages.step(2)[0]), 32)
    channels = 32
    for expand, width, count, stride in V2:
        for i in range(count):
            stages_stride, dilation = stages.step(stride if i == 0 else 1)
            stages.add(BlockV2(channels, width, expand, stages_stride, dilation), width)
            channels = width
    stages.add(conv_norm_act(channels, 1280, 1, BatchNorm2d, ReLU6), 1280)
    return stages.finish()


def mobilenet_v3(rows: tuple[Block, ...], output_stride: int = 32) -> FeatureSequence:
    """MobileNet V3 by its table; c5 has six times the last block's channels."""
    stages = _Stages(output_stride)
    stages.add(conv_norm_act(3, 16, 3, _v3_norm, Hardswish, stages.step(2)[0]), 16)
    channels = 16
    for row in rows:
        stages.add(BlockV3(channels, row, *stages.step(row.stride)), row.channels)
        channels = row.channels
    stages.add(conv_norm_act(channels, 6 * channels, 1, _v3_norm, Hardswish), 6 * channels)
    return stages.finish()
