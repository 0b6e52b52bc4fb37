"""FCN: an image classifier made convolutional, its coarse answer enlarged, finer layers added in between.

The layout is that of the published nets: the image is padded by 100 pixels, pools round up, upsampling is a transposed
convolution that interpolates, and the offsets of the crops follow from these.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import predict_semantic
from masklet.ops.resize import bilinear_weight
from masklet.parts.backbones import build_backbone
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import CAFFE_BGR, IMAGENET, TENSORFLOW, Normalize, Pixels
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

PIXELS: Mapping[str, Pixels] = MappingProxyType({"caffe": CAFFE_BGR, "imagenet": IMAGENET, "tensorflow": TENSORFLOW})


class FCN(nn.Module):
    """Per-pixel classes from a convolutional classifier, with skips from finer layers (Long et al., 2015)."""

    align_corners = False  # of no effect: the scores are as large as the image
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]  # (logits, targets, ignore=...); recipes may put another here

    def __init__(
        self,
        normalize: nn.Module,
        backbone: nn.Module,
        tail: nn.Module,
        score: nn.Module,
        skips: list[Skip],
        upscore: Upscore,
        offset: int,
    ):
        super().__init__()
        self.normalize, self.backbone, self.tail, self.score = normalize, backbone, tail, score
        self.skips, self.upscore, self.offset = nn.ModuleList(skips), upscore, offset
        self.criterion = cross_entropy

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        *finer, last = self.backbone(self.normalize(images))
        return self.ladder(finer, self.tail(last), images)

    def ladder(
        self, finer: Sequence[Tensor], x: Float[Tensor, "b c h5 w5"], images: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b k h w"]:
        """From the classifier's last features and the finer pools up to scores at the size of the images."""
        x = self.score(x)  # stride 32
        for skip, pool in zip(self.skips, reversed(finer), strict=False):  # stride 16, then 8
            x = skip(x, pool)
        return crop(self.upscore(x), self.offset, images)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.scores(images)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return {"main": self.criterion(self.scores(images), targets, ignore=self.classes.ignore)}

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


class Pooled(nn.Module):
    """The feature layers of a classifier; gives the map after every pooling, finest first.

    The first convolution pads by 100 so that even one pixel is large enough for what follows; pools round up.
    """

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features
        for layer in features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        next(layer for layer in features if isinstance(layer, nn.Conv2d)).padding = (100, 100)

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        pools = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        return pools


class Coarsest(nn.Module):
    """A backbone of which only the last map is wanted."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return [self.backbone(x)["c5"]]


class Skip(nn.Module):
    """Doubles the coarse scores and adds those of a finer map; `scale` tames it where all is trained at once."""

    def __init__(self, channels: int, num_classes: int, offset: int, scale: float, learned: bool):
        super().__init__()
        self.offset, self.scale = offset, scale
        self.upscore, self.score = Upscore(num_classes, 4, 2, learned), zero_score(channels, num_classes)

    def forward(self, x: Float[Tensor, "b k h w"], finer: Float[Tensor, "b c hf wf"]) -> Float[Tensor, "b k h2 w2"]:
        x = self.upscore(x)
        return x + crop(self.score(finer * self.scale), self.offset, x)


class Upscore(nn.Module):
    """Enlarges scores by a transposed convolution that starts as bilinear, and stays so unless it is `learned`."""

    weight: Tensor

    def __init__(self, channels: int, kernel: int, stride: int, learned: bool = False):
        super().__init__()
        self.stride = stride
        weight = bilinear_weight(channels, kernel)
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k hs ws"]:
        return F.conv_transpose2d(x, self.weight, stride=self.stride)


def zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution to class scores, zero at the start: no class is favoured, and a new skip changes nothing."""
    score = nn.Conv2d(channels, num_classes, 1)
    for value in score.parameters():
        nn.init.zeros_(value)
    return score


def fully_connected(channels: int, kernel: int) -> nn.Sequential:
    """The two hidden layers of VGG and AlexNet as convolutions."""
    layers = OrderedDict(
        fc6=nn.Conv2d(channels, HIDDEN, kernel),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout2d(0.5),
        fc7=nn.Conv2d(HIDDEN, HIDDEN, 1),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout2d(0.5),
    )
    return nn.Sequential(layers)


def crop(x: Float[Tensor, "b c h w"], offset: int, like: Tensor) -> Float[Tensor, "b c h2 w2"]:
    """The part of `x` that begins at `offset` and is as large as `like`."""
    return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]


HIDDEN = 4096  # units in the fully connected layers of VGG and AlexNet


@dataclass(frozen=True)
class Body:
    """How a classifier becomes the coarse half of an FCN-32s, and the geometry of the upsampling that follows."""

    make: Callable[[], tuple[nn.Module, nn.Module]]  # backbone and tail
    channels: int  # that the tail gives
    kernel: int  # of the 32-fold upsampling
    offset: int  # where in the enlarged scores the image begins


def _classifier(name: str, channels: int, kernel: int) -> Callable[[], tuple[nn.Module, nn.Module]]:
    return lambda: (Pooled(build_backbone(name).features), fully_connected(channels, kernel))


VGG = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
BODIES: Mapping[str, Body] = MappingProxyType(
    {
        **{name: Body(_classifier(name, 512, 7), HIDDEN, kernel=64, offset=19) for name in VGG},
        "alexnet": Body(_classifier("alexnet", 256, 6), HIDDEN, kernel=63, offset=18),
        "caffenet": Body(_classifier("caffenet", 256, 6), HIDDEN, kernel=63, offset=18),
        "googlenet": Body(lambda: (Coarsest(build_backbone("googlenet")), nn.Identity()), 1024, kernel=63, offset=9),
    }
)


def fcn32s(backbone: str = "vgg16", num_classes: int = 21, pixels: str = "caffe", learned: bool = False) -> FCN:
    """FCN-32s: scores at stride 32, enlarged in one step. `backbone`: VGG, AlexNet, CaffeNet or GoogLeNet.

    `pixels` is "caffe" for weights of that lineage, "imagenet" for torchvision's ("tensorflow" for its GoogLeNet);
    `learned` trains the upsampling too.
    """
    if backbone not in BODIES:
        raise unknown("backbone of fcn32s", backbone, BODIES, "backbones")
    body = BODIES[backbone]
    upscore = Upscore(num_classes, body.kernel, 32, learned)
    return _fcn(body, num_classes, pixels, [], upscore, body.offset)


def fcn16s(backbone: str = "vgg16", num_classes: int = 21, pixels: str = "caffe", learned: bool = False) -> FCN:
    """FCN-16s: scores at stride 32 joined with those of pool4, enlarged 16-fold."""
    skips = [Skip(512, num_classes, 5, 1.0, learned)]
    return _fcn(_vgg(backbone), num_classes, pixels, skips, Upscore(num_classes, 32, 16, learned), 27)


def fcn8s(backbone: str = "vgg16", num_classes: int = 21, pixels: str = "caffe", learned: bool = False) -> FCN:
    """FCN-8s: scores at stride 32 joined with those of pool4 and pool3, enlarged 8-fold."""
    return _fcn8s(backbone, num_classes, pixels, learned, (1.0, 1.0))


def fcn8s_at_once(backbone: str = "vgg16", num_classes: int = 21, pixels: str = "caffe", learned: bool = False) -> FCN:
    """FCN-8s made to be trained without the stages 32s and 16s: the skips' maps, which are large, are scaled down."""
    return _fcn8s(backbone, num_classes, pixels, learned, (0.01, 0.0001))  # voc-fcn8s-atonce/net.py


def _fcn8s(backbone: str, num_classes: int, pixels: str, learned: bool, scales: tuple[float, float]) -> FCN:
    skips = [
        Skip(512, num_classes, 5, scales[0], learned),
        Skip(256, num_classes, 9, scales[1], learned),
    ]
    return _fcn(_vgg(backbone), num_classes, pixels, skips, Upscore(num_classes, 16, 8, learned), 31)


def _vgg(backbone: str) -> Body:
    if backbone not in VGG:
        raise unknown("backbone of an FCN with skips", backbone, VGG, "backbones")
    return BODIES[backbone]


def _fcn(body: Body, num_classes: int, pixels: str, skips: list[Skip], upscore: Upscore, offset: int) -> FCN:
    if pixels not in PIXELS:
        raise unknown("pixels", pixels, PIXELS, "choices")
    backbone, tail = body.make()
    score = zero_score(body.channels, num_classes)
    return FCN(Normalize(*PIXELS[pixels]), backbone, tail, score, skips, upscore, offset)


def transplant(coarse: FCN, fine: FCN) -> FCN:
    """Starts `fine` (16s, 8s) from the trained `coarse` (32s, 16s), as the paper trains in stages; returns `fine`.

    New skips stay zero, so that `fine` begins with the answers of `coarse`.
    """
    if len(coarse.skips) > len(fine.skips):
        raise UserError(
            f"cannot go from {len(coarse.skips)} skips to {len(fine.skips)}", hint="transplant(coarse, fine) adds skips"
        )
    source, target = coarse.state_dict(), fine.state_dict()
    shared = [name for name in source if not name.startswith("upscore.")]
    if odd := next((name for name in shared if name not in target or target[name].shape != source[name].shape), None):
        raise UserError(f"the two nets differ in {odd}", hint="build both with the same backbone and classes")
    with torch.no_grad():
        for name in shared:
            target[name].copy_(source[name])
    return fine
