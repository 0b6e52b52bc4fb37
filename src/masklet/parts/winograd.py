"""3x3 convolutions with a third of the multiplications, on CPUs that gain from it (Winograd; Lavin and Gray, 2016).

A tile of 8x8 pixels, seen in the right basis, gives 6x6 results with 64 multiplications instead of 324. NNPACK does
that in float32, and torch's builds for x86 bring it along; torch itself calls it only where oneDNN is switched off. On
maps with many channels it takes a third to six tenths of the processor time. Results differ by up to 3e-5 of their
standard deviation from those of a plain convolution, whose own rounding is 1e-6.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANNELS, PIXELS = 64, 2048  # fewer, and a plain convolution is as fast
BOXES, CELLS = 32, 100  # many small maps together, as a head reads them off boxes


def winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether this 3x3 convolution is to go the other way: float32 on a CPU, and large enough to gain from it."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not _ready():
        return False
    b, _, h, w = x.shape
    large = h * w >= PIXELS or (b >= BOXES and h * w >= CELLS)
    return large and min(weight.shape[:2]) >= CHANNELS


class _Process:
    """NNPACK starts threads of its own, once, as many as torch has then. A forked process would wait for them."""

    used: int | None = None


def _ready() -> bool:
    if not getattr(torch, "_nnpack_available", lambda: False)():
        return False
    if _Process.used is None:
        _Process.used = os.getpid()
    return _Process.used == os.getpid()


def _planes(x: Tensor) -> Tensor:
    """The same maps plane by plane, as NNPACK wants them; a transposed matrix is copied four times as fast as a map."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous()
    return torch.stack([one.permute(1, 2, 0).flatten(0, 1).T.contiguous() for one in x]).view(x.shape)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    run, x = torch._nnpack_spatial_convolution, _planes(x)
    if x.shape[2] * x.shape[3] < PIXELS or x.shape[0] == 1:
        return run(x, weight, bias, padding=1)
    # Several large maps together would go through Fourier transforms, which take three times as long.
    return torch.cat([run(one, weight, bias, padding=1) for one in x.split(1)])


class _Convolution(torch.autograd.Function):
    """The gradient of the input is a 3x3 convolution too; that of the filters is left to oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_input, of_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        back = _convolve(grad, weight.flip(2, 3).transpose(0, 1).contiguous(), None) if of_input else None
        mask = [False, of_weight, of_weight and ctx.biased]
        sizes = [weight.shape[0]] if ctx.biased else None
        one, none = [1, 1], [0, 0]
        _, *rest = (
            torch.ops.aten.convolution_backward(grad, x, weight, sizes, one, one, one, False, none, 1, mask)
            if of_weight
            else (None, None, None)
        )
        return back, rest[0], rest[1]


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the size of a map; in NNPACK where `winograd` says so."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        if not winograd(x, self.weight):
            return super().forward(x)
        if torch.is_grad_enabled():
            return _Convolution.apply(x, self.weight, self.bias)
        return _convolve(x, self.weight, self.bias)
