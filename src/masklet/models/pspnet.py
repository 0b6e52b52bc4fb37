"""PSPNet: what a pixel is depends on the scene, so each also sees averages of the image in 1, 4, 9 and 36 bins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.context import PyramidPooling
from masklet.parts.conv import init_kaiming
from masklet.parts.frames import Frame, Multiple
from masklet.parts.heads import FCNHead
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Layout:
    """How a lineage of weights builds its dilated ResNet and places the corners of the maps it enlarges."""

    stem: str
    stem_width: int
    contract_dilation: bool
    align_corners: bool


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "semseg": Layout("deep", 64, contract_dilation=False, align_corners=True),  # the authors' PyTorch code
        "mmseg": Layout("deep", 32, contract_dilation=True, align_corners=False),  # mmsegmentation's pspnet_r50-d8
        "plain": Layout("basic", 64, contract_dilation=True, align_corners=False),  # on torchvision's ResNets
    }
)


class PSPNet(nn.Module):
    """Per-pixel classes from a feature map joined with its own pyramid of averages (Zhao et al., 2017)."""

    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        backbone: nn.Module,
        pyramid: PyramidPooling,
        head: nn.Module,
        aux_head: nn.Module | None,
        aux_weight: float,
        frame: Frame,
        align_corners: bool,
    ):
        super().__init__()
        self.criterion = cross_entropy
        self.normalize, self.frame = Normalize(*getattr(backbone, "pixels", IMAGENET)), frame
        self.backbone, self.pyramid, self.head, self.aux_head = backbone, pyramid, head, aux_head
        self.aux_weight, self.align_corners = aux_weight, align_corners

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.backbone(self.frame.pad(self.normalize(images)))

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        return self.head(self.pyramid(self.features(images)["c5"]))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        features = self.features(images)
        aux = None if self.aux_head is None else self.aux_head(features["c4"])
        return pixel_losses(self, targets, self.head(self.pyramid(features["c5"])), aux)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


def pspnet(
    num_classes: int = 21,
    backbone: str = "resnet50",
    weights: str | None = None,
    layout: str = "semseg",
    bins: Sequence[int] = (1, 2, 3, 6),
    channels: int = 512,
    output_stride: int = 8,
    aux_weight: float = 0.4,
) -> PSPNet:
    """PSPNet on a ResNet of one `layout` ("semseg" is the paper's, "mmseg", "plain"), or on any other backbone.

    `bins` a side of the pyramid; `channels` of the head; `aux_weight=0` drops the auxiliary head. Backbones that cannot
    be dilated keep their own strides.
    """
    if layout not in LAYOUTS:
        raise UserError(f"pspnet has no layout {layout!r}", hint=f"choose from {', '.join(LAYOUTS)}")
    style = LAYOUTS[layout]
    body = build_backbone(
        backbone, weights=weights, **supported(backbone, output_stride=output_stride, **asdict(style))
    )
    deep, early = body.channels["c5"], body.channels["c4"]
    pyramid = PyramidPooling(deep, tuple(bins), align_corners=style.align_corners)
    head = FCNHead(pyramid.out_channels, channels, num_classes)
    aux_head = FCNHead(early, max(early // 4, 64), num_classes) if aux_weight else None
    frame = Multiple(body.strides["c5"], plus=1) if style.align_corners else Multiple(1)
    init_kaiming(pyramid)
    return PSPNet(body, pyramid, head, aux_head, aux_weight, frame, style.align_corners)
