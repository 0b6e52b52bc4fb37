"""Normalisation: of pixels (what a network expects at its input) and of features (batch norm variants)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Pixels(NamedTuple):
    """How a network wants its pixels: `(x * scale - mean) / std` per channel. Use as `Normalize(*IMAGENET)`.

    `mean` and `std` are in the units and the channel order that the network sees, so after `scale` and after `bgr`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False


IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision, timm, mmsegmentation, semseg
CAFFE_BGR = Pixels((104.00699, 116.66877, 122.67892), scale=255.0, bgr=True)  # the Caffe FCN and VGG files
TENSORFLOW = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # -1..1: MobileNet and Inception from TensorFlow
UNIT = Pixels((0.0, 0.0, 0.0))  # 0..1 as it comes


class Normalize(nn.Module):
    """Turn RGB images in 0..1 into what the network was trained on; lives inside the model, not in its state dict."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float] = (1.0, 1.0, 1.0), scale: float = 1.0, bgr: bool = False
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three values each and std > 0; got mean={mean}, std={std}")
        self.pixels = Pixels(tuple(mean), tuple(std), scale, bgr)
        mean_, std_ = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
        # One multiply-add per value: x * (scale / std) - mean / std.
        self.register_buffer("gain", (scale / std_).float(), persistent=False)
        self.register_buffer("shift", (-mean_ / std_).float(), persistent=False)

    gain: Tensor
    shift: Tensor

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return torch.addcmul(self.shift, images.flip(1) if self.pixels.bgr else images, self.gain)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.pixels._asdict().items())


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that survives a batch with one value per channel, where the plain one raises.

    One 1x1 map has no variance: the running statistics are used and left as they are. This happens with pyramid
    pooling's global bin, or at stride 32 with a 32 pixel crop, when the last batch of an epoch holds one image.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel of a map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose four tensors are constants: for fine-tuning with a few images per step."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def line(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """What each channel is multiplied with, and what is added then."""
        gain = self.weight * (self.running_var + self.eps).rsqrt()
        return gain, self.bias - self.running_mean * gain

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gain, shift = self.line()
        return torch.addcmul(shift.view(1, -1, 1, 1), x, gain.view(1, -1, 1, 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # a plain batch norm's counter; nothing here counts
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def normed(conv: nn.Module, norm: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
    """`norm(conv(x))`. A constant norm goes into the filters, which saves a pass over a large map, but not in training.

    Backpropagation would have to remember the changed filters, as large as the network.
    """
    plain = type(conv) is nn.Conv2d and conv.bias is None and not torch.is_grad_enabled()
    if not plain or not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    assert isinstance(conv, nn.Conv2d)  # for the type checker, which loses what `plain` said
    gain, shift = norm.line()
    weight = conv.weight * gain.view(-1, 1, 1, 1)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside `module` by its frozen copy; returns the module (or the copy, if it is one)."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps).to(module.weight.device)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module
