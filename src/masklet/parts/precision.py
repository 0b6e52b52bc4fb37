"""Number formats: bfloat16 where the processor computes in it, float32 where it would only be emulated."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def automatic(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 if `device` computes in it (CPUs with AVX512-BF16 or AMX, GPUs from Ampere on), else float32.

    Emulated bfloat16 is slower than float32, and asking "is it supported" says yes to emulation too.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        fast = any(_cpu_has(feature) for feature in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    elif kind == "cuda":  # also AMD's
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = kind == "xpu"
    return torch.bfloat16 if fast else torch.float32


def _cpu_has(feature: str) -> bool:
    """torch's own probe of the processor; False in a torch that does not know the question."""
    return bool(getattr(torch.cpu, feature, lambda: False)())


def autocast(device: torch.device | str, dtype: torch.dtype) -> torch.autocast:
    """A context in which convolutions and products run in `dtype`; float32 means as they are."""
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype != torch.float32)


def channels_last(model: nn.Module) -> nn.Module:
    """The same model with its convolution weights stored pixel by pixel: 1.05 to 1.9 times as fast on CPUs."""
    return model.to(memory_format=torch.channels_last)


MANY_WEIGHTS = 200  # for each pixel; measured, see docs/benchmarks.md


def arranged(images: Tensor, model: nn.Module) -> Tensor:
    """The same images stored pixel by pixel, which convolutions on CPUs like best, or plane by plane.

    The convolutions then store their weights the same way, anew at every call. That costs more than it brings where a
    large model (VGG16) sees a small picture, unless the weights lie so already.
    """
    weights = [p for p in model.parameters() if p.ndim == 4]
    pixels = images.shape[0] * images.shape[-2] * images.shape[-1]
    laid_out = all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    few = sum(p.numel() for p in weights) <= MANY_WEIGHTS * pixels
    return images.contiguous(memory_format=torch.channels_last if laid_out or few else torch.contiguous_format)
