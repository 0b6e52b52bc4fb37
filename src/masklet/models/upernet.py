"""UPerNet: the scene from pyramid pooling, the detail from a feature pyramid, all levels fused; Swin's usual head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.ops.resize import resize
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.context import PyramidPooling
from masklet.parts.conv import ConvNormAct, init_kaiming
from masklet.parts.heads import FCNHead
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap

LEVELS = ("c2", "c3", "c4", "c5")  # strides 4 to 32


class UPerNet(nn.Module):
    """Per-pixel classes from four levels of a backbone, joined from the deepest up (Xiao et al., 2018)."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        backbone: nn.Module,
        pyramid: PyramidPooling,
        bottleneck: nn.Module,
        laterals: Sequence[nn.Module],
        smooth: Sequence[nn.Module],
        fuse: nn.Module,
        classifier: nn.Module,
        aux_head: nn.Module | None,
        aux_weight: float,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.criterion = cross_entropy
        self.normalize = Normalize(*getattr(backbone, "pixels", IMAGENET))
        self.backbone, self.pyramid, self.bottleneck = backbone, pyramid, bottleneck
        self.laterals, self.smooth = nn.ModuleList(laterals), nn.ModuleList(smooth)  # finest first
        self.fuse, self.dropout, self.classifier = fuse, nn.Dropout2d(dropout), classifier
        self.aux_head, self.aux_weight = aux_head, aux_weight

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.backbone(self.normalize(images))

    def fused(self, features: Mapping[str, Tensor]) -> Float[Tensor, "b c h4 w4"]:
        """All levels at the size of the finest, mixed."""
        maps = [self.bottleneck(self.pyramid(features[LEVELS[-1]]))]  # the scene, stride 32
        for level, lateral in zip(reversed(LEVELS[:-1]), reversed(self.laterals), strict=True):
            finer = lateral(features[level])
            maps.insert(0, finer + resize(maps[0], (finer.shape[2], finer.shape[3])))
        maps[:-1] = [smooth(x) for smooth, x in zip(self.smooth, maps[:-1], strict=True)]
        size = maps[0].shape[2], maps[0].shape[3]
        return self.fuse(torch.cat([resize(x, size) for x in maps], 1))

    def decode(self, features: Mapping[str, Tensor]) -> Float[Tensor, "b k h4 w4"]:
        return self.classifier(self.dropout(self.fused(features)))

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


def upernet(
    num_classes: int = 150,
    backbone: str = "swin_t",
    weights: str | None = None,
    channels: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    aux_channels: int = 256,
    aux_weight: float = 0.4,
    window: int | None = None,
    drop: float = 0.3,
    norms: bool = True,
) -> UPerNet:
    """UPerNet on a Swin ("swin_t", "swin_s", "swin_b", "swin_v2_t", ...) or any backbone with levels c2 to c5.

    `channels` of every level, `bins` a side of the pyramid pooling, `aux_weight=0` drops the auxiliary head. Of Swin
    only: the side of a `window`, the rate `drop` at which branches are left out (stochastic depth) and whether its
    maps get `norms`. ResNets get mmsegmentation's deep stem (V1c).
    """
    wanted = {"stem": "deep", "stem_width": 32, "drop": drop, "norms": norms}
    body = build_backbone(
        backbone, weights=weights, **supported(backbone, **wanted, **({} if window is None else {"window": window}))
    )
    widths = [body.channels[level] for level in LEVELS]
    pyramid = PyramidPooling(widths[-1], tuple(bins), channels, align_corners=False)
    bottleneck = ConvNormAct(pyramid.out_channels, channels, 3)
    laterals = [ConvNormAct(width, channels, 1) for width in widths[:-1]]
    smooth = [ConvNormAct(channels, channels, 3) for _ in laterals]
    fuse, classifier = ConvNormAct(len(LEVELS) * channels, channels, 3), nn.Conv2d(channels, num_classes, 1)
    for part in (pyramid, bottleneck, *laterals, *smooth, fuse, classifier):
        init_kaiming(part)
    aux_head = FCNHead(body.channels["c4"], aux_channels, num_classes) if aux_weight else None
    return UPerNet(body, pyramid, bottleneck, laterals, smooth, fuse, classifier, aux_head, aux_weight)
