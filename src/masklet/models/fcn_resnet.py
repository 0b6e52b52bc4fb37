"""FCN on a dilated ResNet: the modern baseline, equal to torchvision's `fcn_resnet50` and `fcn_resnet101`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.parts.backbones import build_backbone
from masklet.parts.heads import FCNHead
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap


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


def fcn_resnet50(num_classes: int = 21, aux_weight: float = 0.5, output_stride: int = 8) -> FCNResNet:
    """FCN on ResNet-50: 35,322,218 parameters with 21 classes and the auxiliary head (`aux_weight=0`: without)."""
    return _fcn_resnet("resnet50", num_classes, aux_weight, output_stride)


def fcn_resnet101(num_classes: int = 21, aux_weight: float = 0.5, output_stride: int = 8) -> FCNResNet:
    """FCN on ResNet-101: 54,314,346 parameters with 21 classes and the auxiliary head."""
    return _fcn_resnet("resnet101", num_classes, aux_weight, output_stride)


def _fcn_resnet(name: str, num_classes: int, aux_weight: float, output_stride: int) -> FCNResNet:
    backbone = build_backbone(name, output_stride=output_stride)
    head, aux_head = (FCNHead(c, c // 4, num_classes) for c in (backbone.channels["c5"], backbone.channels["c4"]))
    return FCNResNet(backbone, head, aux_head if aux_weight else None, aux_weight)
