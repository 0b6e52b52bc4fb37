"""DeepLab v3 and v3+: filters with holes see far without shrinking the map; v3+ adds the detail of an early stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.ops.resize import resize
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.backbones.sequence import Level
from masklet.parts.context import ASPP
from masklet.parts.conv import ConvNormAct, DepthwiseSeparable, init_kaiming
from masklet.parts.frames import Frame, Multiple, Reaching
from masklet.parts.heads import FCNHead
from masklet.parts.losses import cross_entropy, hardest_cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap

CRITERIA: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"cross_entropy": cross_entropy, "hard_pixels": hardest_cross_entropy}
)


class DeepLabV3(nn.Module):
    """Per-pixel classes from a dilated backbone and a spatial pyramid of dilated filters (Chen et al., 2017)."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        backbone: nn.Module,
        aspp: ASPP,
        head: nn.Module,
        aux_head: nn.Module | None,
        aux_level: str = "c4",
        aux_weight: float = 0.5,
    ):
        super().__init__()
        self.criterion = cross_entropy
        self.normalize = Normalize(*getattr(backbone, "pixels", IMAGENET))
        self.backbone, self.aspp, self.head, self.aux_head = backbone, aspp, head, aux_head
        self.aux_level, self.aux_weight = aux_level, aux_weight

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.backbone(self.normalize(images))

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        return self.head(self.aspp(self.features(images)["c5"]))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        features = self.features(images)
        aux = None if self.aux_head is None else self.aux_head(features[self.aux_level])
        return pixel_losses(self, targets, self.head(self.aspp(features["c5"])), aux)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 whose map is enlarged to stride 4 and joined with an early stage's before it is scored (2018)."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        aspp: ASPP,
        reduce: nn.Module,
        head: nn.Module,
        aux_head: nn.Module | None,
        aux_weight: float,
        frame: Frame,
        criterion: Callable[..., Tensor],
    ):
        super().__init__()
        self.normalize, self.frame, self.criterion = Normalize(*getattr(backbone, "pixels", IMAGENET)), frame, criterion
        self.backbone, self.aspp, self.reduce, self.head = backbone, aspp, reduce, head
        self.aux_head, self.aux_weight = aux_head, aux_weight

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.backbone(self.frame.pad(self.normalize(images)))

    def decode(self, features: Mapping[str, Tensor]) -> Float[Tensor, "b k h4 w4"]:
        fine = self.reduce(features["c2"])  # stride 4, few channels: they must not outweigh the deep ones
        deep = resize(self.aspp(features["c5"]), (fine.shape[2], fine.shape[3]))
        return self.head(torch.cat([fine, deep], 1))

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h4 w4"]:
        return self.decode(self.features(images))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        features = self.features(images)
        aux = None if self.aux_head is None else self.aux_head(features["c4"])
        return pixel_losses(self, targets, self.decode(features), aux)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


@dataclass(frozen=True)
class Layout:
    """How a lineage of weights builds the backbone's stem and the head of a DeepLab."""

    stem: str
    stem_width: int
    contract_dilation: bool
    channels: int  # of the pyramid and the head
    project_kernel: int  # of the convolution that joins the pyramid's levels


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "torchvision": Layout("basic", 64, True, channels=256, project_kernel=1),
        "detectron2": Layout("deep", 64, False, channels=256, project_kernel=1),
        "mmseg": Layout("deep", 32, True, channels=512, project_kernel=3),
    }
)
# torchvision's auxiliary head sits on the first block of a stage, which is no level of the backbone.
AUX_TAPS: Mapping[str, Level] = MappingProxyType({"mobilenet_v3_large": Level("4", 40, 8)})


def deeplabv3(
    num_classes: int = 21,
    backbone: str = "resnet50",
    weights: str | None = None,
    layout: str = "torchvision",
    output_stride: int = 8,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    aux_weight: float = 0.5,
) -> DeepLabV3:
    """DeepLab v3 as torchvision builds it, or with `layout="mmseg"` as mmsegmentation does.

    `output_stride` is that of the dilated backbone (8 or 16). `rates` are the pyramid's dilations; without them 6, 12
    and 18 at stride 16, twice that at stride 8 (sec. 3.3). `multi_grid` spreads the last stage's blocks further, as
    (1, 2, 4). `aux_weight=0` drops the auxiliary head.
    """
    style = _layout("deeplabv3", layout)
    body = _body(backbone, weights, style, output_stride, multi_grid)
    aspp = ASPP(body.channels["c5"], style.channels, rates or _rates(body), project_kernel=style.project_kernel)
    if style.project_kernel == 1:
        head: nn.Module = FCNHead(style.channels, style.channels, num_classes, dropout=0.0)
    else:  # the joining convolution is the head's 3x3 already
        head = nn.Conv2d(style.channels, num_classes, 1)
    aux_level = "c4"
    if aux_weight and backbone in AUX_TAPS:
        aux_level = "aux"
        body.keep(aux_level, AUX_TAPS[backbone])
    init_kaiming(aspp)
    return DeepLabV3(body, aspp, head, _aux_head(body, aux_level, num_classes, aux_weight), aux_level, aux_weight)


def deeplabv3plus(
    num_classes: int = 21,
    backbone: str = "resnet101",
    weights: str | None = None,
    layout: str = "detectron2",
    output_stride: int = 16,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    window: tuple[int, int] | None = None,
    separable: bool = False,
    aux_weight: float = 0.0,
    loss: str = "cross_entropy",
) -> DeepLabV3Plus:
    """DeepLab v3+ as detectron2 builds it ("R-103": ResNet-101 with a deep stem), or with `layout="mmseg"`.

    Published detectron2 weights were trained on crops and have `multi_grid=(1, 2, 4)` and `window`, the (height, width)
    of the crop in pixels, over which the pyramid averages. `separable` makes the 3x3 filters of pyramid and head
    depthwise separable, as the paper does with Xception. `loss="hard_pixels"` counts the worst fifth of the pixels.
    """
    style = _layout("deeplabv3plus", layout)
    if loss not in CRITERIA:
        raise unknown("loss of deeplabv3plus", loss, CRITERIA, "losses")
    body = _body(backbone, weights, style, output_stride, multi_grid)
    theirs, conv = layout == "detectron2", DepthwiseSeparable if separable else ConvNormAct
    stride, width = body.strides["c5"], style.channels
    aspp = ASPP(
        body.channels["c5"],
        width,
        rates or _rates(body),
        dropout=0.1,
        project_kernel=style.project_kernel,
        average_norm=None if theirs else "batch",  # detectron2's has a bias instead
        window=None if window is None else (window[0] // stride, window[1] // stride),
        conv=conv,
    )
    reduce = ConvNormAct(body.channels["c2"], FINE, 1)
    head = nn.Sequential(
        OrderedDict(
            fuse1=conv(width + FINE, width, 3), fuse2=conv(width, width, 3), classifier=nn.Conv2d(width, num_classes, 1)
        )
    )
    for part in (aspp, reduce, head):
        init_kaiming(part)
    aux_head = _aux_head(body, "c4", num_classes, aux_weight)
    frame: Frame = Reaching(body.strides["c2"]) if theirs else Multiple(1)
    return DeepLabV3Plus(body, aspp, reduce, head, aux_head, aux_weight, frame, CRITERIA[loss])


FINE = 48  # channels of the early stage beside the deep ones (Chen et al., 2018, table 1)


def _layout(name: str, layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise unknown(f"layout of {name}", layout, LAYOUTS, "layouts")
    return LAYOUTS[layout]


def _body(
    backbone: str, weights: str | None, style: Layout, output_stride: int, multi_grid: Sequence[int] | None
) -> Any:
    wanted = {
        "stem": style.stem,
        "stem_width": style.stem_width,
        "contract_dilation": style.contract_dilation,
        "output_stride": output_stride,
        "multi_grid": multi_grid,
    }
    return build_backbone(backbone, weights=weights, **supported(backbone, **wanted))


def _rates(body: Any) -> tuple[int, ...]:
    """6, 12 and 18 at stride 16, in the same proportion to the image at other strides."""
    return tuple(max(rate * 16 // body.strides["c5"], 1) for rate in (6, 12, 18))


def _aux_head(body: Any, level: str, num_classes: int, weight: float) -> nn.Module | None:
    channels = body.channels[level]
    return FCNHead(channels, channels // 4, num_classes) if weight else None
