"""U-Net: an encoder halves the image step by step, a decoder doubles it back, skips carry the detail across.

`unet()` is the classic network, five levels of two 3x3 convolutions. `unet(backbone="efficientnet_lite0")` puts a light
decoder on any backbone of the table and scores at stride 4, which is quick on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.parts.backbones import build_backbone
from masklet.parts.context import PyramidPooling
from masklet.parts.conv import ConvNormAct, init_kaiming
from masklet.parts.decoders import UPSAMPLES, SkipDecoder, skip_decoder, two_convs
from masklet.parts.frames import Frame, Mirror, Multiple
from masklet.parts.heads import FCNHead
from masklet.parts.losses import border_weights, cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError


def border_cross_entropy(
    logits: Float[Tensor, "b k h w"], targets: Int[Tensor, "b h w"], ignore: int = 255
) -> Float[Tensor, ""]:
    """Cross entropy with up to elevenfold weight on the seams between objects (connected regions not of class 0)."""
    objects = [torch.from_numpy(ndimage.label(((t > 0) & (t != ignore)).cpu().numpy())[0]) for t in targets]
    weights = torch.stack([border_weights(ids) for ids in objects]).to(logits.device)
    return cross_entropy(logits, targets, ignore=ignore, pixel_weight=weights)


CRITERIA: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"cross_entropy": cross_entropy, "border": border_cross_entropy}
)


class UNet(nn.Module):
    """Per-pixel classes from an encoder and a decoder joined by skips (Ronneberger et al., 2015)."""

    align_corners = False
    long_side: int | None = None
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]  # (logits, targets, ignore=...); recipes may put another here

    def __init__(
        self,
        normalize: nn.Module,
        frame: Frame,
        encoder: nn.Module,
        decoder: SkipDecoder,
        head: nn.Module,
        criterion: Callable[..., Tensor],
        aux_head: nn.Module | None = None,
        aux_level: str = "c4",
        aux_weight: float = 0.4,
    ):
        super().__init__()
        self.normalize, self.frame, self.criterion = normalize, frame, criterion
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.aux_head, self.aux_level, self.aux_weight = aux_head, aux_level, aux_weight

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The encoder's maps c1, c2, ... and the decoder's d0 (deepest), d1, ..., "out"."""
        down = self.encoder(self.frame.pad(self.normalize(images)))
        up = self.decoder(down)
        return {**down, **{f"d{i}": x for i, x in enumerate(up)}, "out": up[-1]}

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        return self.head(self.features(images)["out"])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        features = self.features(images)
        aux = None if self.aux_head is None else self.aux_head(features[self.aux_level])
        return pixel_losses(self, targets, self.head(features["out"]), aux)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


class ContractingPath(nn.Module):
    """The classic encoder: two 3x3 convolutions per level, 2x2 max pooling between, channels double with each level."""

    def __init__(
        self, in_channels: int = 3, base: int = 64, depth: int = 4, norm: str | None = None, padding: int | None = None
    ):
        super().__init__()
        self.channels = {f"c{i + 1}": base * 2**i for i in range(depth + 1)}
        self.strides = {f"c{i + 1}": 2**i for i in range(depth + 1)}
        widths = (in_channels, *self.channels.values())
        self.levels = nn.ModuleList(two_convs(a, b, norm, padding) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        for name, convs in zip(self.channels, self.levels, strict=True):
            x = features[name] = convs(F.max_pool2d(x, 2) if features else x)
        return features


class Grey(nn.Module):
    """The mean of the three colours: microscopes see one."""

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        return images.mean(1, keepdim=True)


def unet(
    num_classes: int = 2,
    backbone: str | None = None,
    weights: str | None = None,
    padding: str = "same",
    norm: str | None = "batch",
    up: str | None = None,
    depth: int = 4,
    base: int = 64,
    in_channels: int = 3,
    widths: Sequence[int] = (256, 128, 64, 48),
    head_stride: int = 4,
    bins: Sequence[int] = (),
    head_channels: int | None = None,
    dropout: float = 0.0,
    loss: str = "cross_entropy",
    aux_weight: float = 0.0,
    long_side: int | None = None,
) -> UNet:
    """The classic U-Net, or with `backbone` (and `weights="imagenet"`) a light decoder on that backbone.

    `padding="valid"` is the original: convolutions eat the border, so the image is continued by mirror images. `up` is
    "transposed" (classic), "interp_conv" or "bilinear" (with a backbone). `depth`, `base` and `in_channels` (1: grey)
    belong to the classic encoder; `widths` (of the decoder, deepest first), `head_stride` (4 is quick, 2 finer) and
    `bins` (pyramid pooling of the deepest map, then `widths[0]` channels) to a backbone. `head_channels` puts a 3x3
    convolution before the classifier. `aux_weight` above 0 adds a second head for training, on the last but one map: of
    the classic decoder, or of the backbone. `long_side`: predictions shrink larger pictures to this side first, for a
    net that was trained on small ones.
    """
    up = up or ("transposed" if backbone is None else "bilinear")
    for option, value, names in (
        ("padding", padding, ("same", "valid")),
        ("loss", loss, CRITERIA),
        ("up", up, UPSAMPLES),
    ):
        if value not in names:
            raise UserError(f"unet has no {option} {value!r}", hint=f"choose from {', '.join(names)}")
    if padding == "valid" and (backbone is not None or aux_weight):
        raise UserError("padding='valid' is for the classic U-Net", hint="leave out backbone and aux_weight")
    context: nn.Module | None = None
    if backbone is None:
        if weights is not None:
            raise UserError("the classic U-Net has no ready weights", hint="leave weights out or name a backbone")
        if in_channels not in (1, 3) or depth < 1:
            raise UserError(f"in_channels is {in_channels}, depth {depth}", hint="take 1 or 3 channels, depth >= 1")
        encoder: Any = init_kaiming(ContractingPath(in_channels, base, depth, norm, 0 if padding == "valid" else None))
        levels = deepest_first(encoder.strides)
        widths = tuple(encoder.channels[level] for level in levels[1:])
        normalize: nn.Module = Normalize(*IMAGENET) if in_channels == 3 else Grey()
        frame: Frame = Mirror(depth) if padding == "valid" else Multiple(2**depth)
        aux_level, aux_channels = f"d{depth - 1}", widths[-1] * 2
    else:
        encoder = build_backbone(backbone, weights=weights)
        levels = [level for level in deepest_first(encoder.strides) if encoder.strides[level] >= head_stride]
        if not 2 <= len(levels) <= len(widths) + 1:
            raise UserError(
                f"head_stride is {head_stride} and widths {tuple(widths)}; {backbone} has strides {encoder.strides}",
                hint="let head_stride be finer than the last stride, and give one width per step up",
            )
        widths = tuple(widths[: len(levels) - 1])
        normalize, frame = Normalize(*encoder.pixels), Multiple(max(encoder.strides.values()))
        if bins:
            context = _context(encoder.channels[levels[0]], tuple(bins), widths[0], norm)
        aux_level, aux_channels = levels[1], encoder.channels[levels[1]]
    decoder = skip_decoder(encoder.channels, levels, widths, up, norm, padding == "valid", context)
    head = _head(widths[-1], num_classes, head_channels, dropout)
    aux_head = FCNHead(aux_channels, max(aux_channels // 2, 64), num_classes) if aux_weight else None
    if long_side is not None and long_side < 1:
        raise UserError(f"long_side is {long_side}", hint="give a number of pixels, or None for pictures of any size")
    net = UNet(normalize, frame, encoder, decoder, head, CRITERIA[loss], aux_head, aux_level, aux_weight)
    net.long_side = long_side
    return net


def deepest_first(strides: Mapping[str, int]) -> list[str]:
    """Level names, coarse to fine; of two at one stride the later."""
    return sorted(strides, key=lambda level: (strides[level], level), reverse=True)


def _context(channels: int, bins: Sequence[int], width: int, norm: str | None) -> nn.Module:
    pyramid = PyramidPooling(channels, bins, align_corners=False, norm=norm)
    context = nn.Sequential(OrderedDict(pyramid=pyramid, mix=ConvNormAct(pyramid.out_channels, width, 3, norm=norm)))
    return init_kaiming(context)


def _head(channels: int, num_classes: int, hidden: int | None, dropout: float) -> nn.Module:
    if hidden:
        return FCNHead(channels, hidden, num_classes, dropout)
    return nn.Sequential(OrderedDict(dropout=nn.Dropout2d(dropout), classifier=nn.Conv2d(channels, num_classes, 1)))
