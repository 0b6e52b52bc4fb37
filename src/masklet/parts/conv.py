"""Convolution blocks that every system is made of."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.norm import BatchNorm2d

Layer = Callable[[int], nn.Module]  # a norm: from a number of channels to a module
Activation = Callable[[], nn.Module]

ReLU: Activation = partial(nn.ReLU, inplace=True)
ReLU6: Activation = partial(nn.ReLU6, inplace=True)
Hardswish: Activation = partial(nn.Hardswish, inplace=True)


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with one filter per channel, which on CPUs leaves bf16 autocast while it trains.

    oneDNN's backward pass of it in bf16 takes 2 to 7 times as long as in fp32 (docs/decisions/0004); a whole training
    step of a MobileNet-like net becomes a third faster.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        if self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's `padding="same"`: n pixels become n / stride rounded up.

    Where the padding is odd, the right and the lower side get one more. With stride 2 and an even side that is all
    there is, so that filters sit half a pixel from where torch's padding puts them.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        (above, below), (left, right) = (
            self._sides(n, k, s) for n, k, s in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        return super().forward(F.pad(x, (left, right, above, below)))

    @staticmethod
    def _sides(n: int, kernel: int, stride: int) -> tuple[int, int]:
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        return total // 2, total - total // 2


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The adjoint of `SameConv2d`, as TensorFlow's: n pixels become n * stride, for kernels no smaller than that."""

    def forward(
        self, input: Float[Tensor, "b c h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "b k h2 w2"]:
        full = super().forward(input)
        for axis in (-2, -1):
            size, stride, kernel = input.shape[axis] * self.stride[axis], self.stride[axis], self.kernel_size[axis]
            full = full.narrow(axis, max(kernel - stride, 0) // 2, size)
        return full


class ConvNormAct(nn.Sequential):
    """Convolution, then normalisation, then activation; children `conv`, `norm` and `act`, absent where None.

    `padding=None` keeps the size at stride 1; four numbers (left, right, top, bottom) pad unevenly, with a child `pad`.
    The convolution has a bias where no norm follows it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        norm: Layer | str | None = "batch",
        act: Activation | None = ReLU,
        bias: bool | None = None,
    ) -> None:
        padding = dilation * (kernel - 1) // 2 if padding is None else padding
        bias = norm is None if bias is None else bias
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if isinstance(padding, tuple):
            parts["pad"], padding = nn.ZeroPad2d(padding), 0
        conv = DepthwiseConv2d if groups == in_channels > 1 else nn.Conv2d
        parts["conv"] = conv(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias)
        if norm is not None:
            parts["norm"] = norm_layer(norm)(out_channels)
        if act is not None:
            parts["act"] = act()
        super().__init__(parts)


class DepthwiseSeparable(nn.Sequential):
    """A cheap 3x3 convolution: one filter per channel (`depthwise`), then a 1x1 mix of them (`pointwise`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        norm: Layer | str | None = "batch",
        act: Activation | None = ReLU,
    ) -> None:
        depthwise = ConvNormAct(
            in_channels, in_channels, kernel, stride, dilation=dilation, groups=in_channels, norm=norm, act=act
        )
        pointwise = ConvNormAct(in_channels, out_channels, 1, norm=norm, act=act)
        super().__init__(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def norm_layer(norm: Layer | str) -> Layer:
    """The norm called `"batch"` or `"group"` (32 groups, fewer for narrow layers), or your own callable as it is."""
    if callable(norm):
        return norm
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}, None, or pass a callable")
    return NORMS[norm]


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0), channels)


NORMS: dict[str, Layer] = {"batch": BatchNorm2d, "group": _group_norm}


def init_kaiming(module: nn.Module) -> nn.Module:
    """He initialisation of every convolution (fan out, for ReLU), norms to one, biases to zero; returns the module.

    The fan counts one group: torch's own counts all, which starts depthwise filters close to zero.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.out_channels // m.groups * math.prod(m.kernel_size)
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(m, nn.BatchNorm2d | nn.GroupNorm) and m.weight is not None:
            nn.init.ones_(m.weight)
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm) and m.bias is not None:
            nn.init.zeros_(m.bias)
    return module


def pad_to_at_least(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c h2 w2"]:
    """Zeros on the right and below until both sides reach `size`: some nets have no output for a tiny image."""
    below, right = (max(0, size - n) for n in x.shape[-2:])
    return F.pad(x, (0, right, 0, below)) if below or right else x
