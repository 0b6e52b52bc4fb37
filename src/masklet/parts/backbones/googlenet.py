"""GoogLeNet: each layer looks at several scales at once (Szegedy et al., 2014). Named as in torchvision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import init_kaiming, pad_to_at_least
from masklet.parts.norm import TENSORFLOW, BatchNorm2d


class BasicConv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four looks at the same map, side by side: 1x1, 3x3, a larger filter, and a pool; the costly ones narrowed first.

    `narrow3` and `narrow5` are the channels that the second and the third filter see.
    """

    def __init__(
        self, in_channels: int, c1: int, narrow3: int, c3: int, narrow5: int, c5: int, pool: int, large: int
    ) -> None:
        super().__init__()
        self.branch1 = BasicConv(in_channels, c1, 1)
        self.branch2 = nn.Sequential(BasicConv(in_channels, narrow3, 1), BasicConv(narrow3, c3, 3))
        self.branch3 = nn.Sequential(BasicConv(in_channels, narrow5, 1), BasicConv(narrow5, c5, large))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), BasicConv(in_channels, pool, 1))
        self.channels = c1 + c3 + c5 + pool

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


TABLE = {  # the paper's table 1: 1x1, narrow 3x3, 3x3, narrow 5x5, 5x5, pool
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):
    """The nine inception layers and what is below them; no classifiers.

    `large` is the third branch's filter: 5 in the paper, 3 in the TensorFlow weights that torchvision has, which also
    want pixels in -1..1.
    """

    pixels = TENSORFLOW
    least = 15  # a smaller image has no output

    def __init__(self, large: int = 3) -> None:
        super().__init__()
        if large not in (3, 5):
            raise ValueError(f"large is {large}; the third branch has a filter of 3 (torchvision) or 5 (paper)")
        self.conv1, self.conv2, self.conv3 = BasicConv(3, 64, 7, 2), BasicConv(64, 64, 1), BasicConv(64, 192, 3)
        channels = 192
        for name, widths in TABLE.items():
            layer = Inception(channels, *widths, large)
            self.add_module(f"inception{name}", layer)
            channels = layer.channels
        self.channels = {"c1": 64, "c2": 192, "c3": 480, "c4": 832, "c5": 1024}
        self.strides = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}
        init_kaiming(self)

    def forward(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        c1 = self.conv1(pad_to_at_least(x, self.least))
        c2 = self.conv3(self.conv2(F.max_pool2d(c1, 3, 2, ceil_mode=True)))
        c3 = self._inceptions("3", F.max_pool2d(c2, 3, 2, ceil_mode=True))
        c4 = self._inceptions("4", F.max_pool2d(c3, 3, 2, ceil_mode=True))
        c5 = self._inceptions("5", F.max_pool2d(c4, 2, 2, ceil_mode=True))
        return {"c1": c1, "c2": c2, "c3": c3, "c4": c4, "c5": c5}

    def _inceptions(self, stage: str, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        for name in TABLE:
            if name.startswith(stage):
                x = self.get_submodule(f"inception{name}")(x)
        return x
