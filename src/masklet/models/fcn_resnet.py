"""FCN on a dilated ResNet: the modern baseline, as torchvision and mmsegmentation have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.parts.backbones import build_backbone
from masklet.parts.heads import FCNHead, JoinedFCNHead
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

LAYOUTS: Mapping[str, tuple[Callable[[int, int, int], nn.Module], Mapping[str, Any]]] = MappingProxyType(
    {  # the head, and how the lineage builds its ResNet
        "torchvision": (FCNHead, {}),
        "mmseg": (JoinedFCNHead, {"stem": "deep", "stem_width": 32, "contract_dilation": True}),
    }
)


class FCNResNet(nn.Module):
    """Per-pixel classes from the last, dilated stage; a second head on the stage before helps training."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None, aux_weight: float = 0.5):
        super().__init__()
        self.criterion = cross_entropy
        self.normalize = Normalize(*getattr(backbone, "pixels", IMAGENET))
        self.backbone, self.head, self.aux_head, self.aux_weight = backbone, head, aux_head, aux_weight

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        return self.head(self.backbone(self.normalize(images))["c5"])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        features = self.backbone(self.normalize(images))
        aux = None if self.aux_head is None else self.aux_head(features["c4"])
        return pixel_losses(self, targets, self.head(features["c5"]), aux)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


def fcn_resnet50(
    num_classes: int = 21, aux_weight: float = 0.5, output_stride: int = 8, layout: str = "torchvision"
) -> FCNResNet:
    """FCN on ResNet-50: 35,322,218 parameters with 21 classes and the auxiliary head (`aux_weight=0`: without).

    `layout` is whose weights it can take: "torchvision", or "mmseg" with a deep stem and a head of three convolutions.
    """
    return _fcn_resnet("resnet50", num_classes, aux_weight, output_stride, layout)


def fcn_resnet101(
    num_classes: int = 21, aux_weight: float = 0.5, output_stride: int = 8, layout: str = "torchvision"
) -> FCNResNet:
    """FCN on ResNet-101: 54,314,346 parameters with 21 classes and the auxiliary head; `layout` as for ResNet-50."""
    return _fcn_resnet("resnet101", num_classes, aux_weight, output_stride, layout)


def _fcn_resnet(name: str, num_classes: int, aux_weight: float, output_stride: int, layout: str) -> FCNResNet:
    if layout not in LAYOUTS:
        raise UserError(f"fcn_{name} has no layout {layout!r}", hint=f"choose from {', '.join(LAYOUTS)}")
    make_head, style = LAYOUTS[layout]
    backbone = build_backbone(name, output_stride=output_stride, **style)
    deep, early = backbone.channels["c5"], backbone.channels["c4"]
    aux_head = FCNHead(early, early // 4, num_classes) if aux_weight else None
    return FCNResNet(backbone, make_head(deep, deep // 4, num_classes), aux_head, aux_weight)
