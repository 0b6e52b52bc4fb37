"""SAM: a plain ViT looks at the image once, then prompts are answered in milliseconds (Kirillov et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from masklet.models.base import extends
from masklet.models.prompted_training import Prompting, image_losses
from masklet.models.prompting import Answers, Embedding, Queries, ask, clicked, predict_prompts
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.mask_decoder import Decoded, MaskDecoder, TwoWayTransformer
from masklet.parts.norm import IMAGENET, LayerNorm2d, Normalize
from masklet.parts.prompts import PADDING, TOP_LEFT, PromptEncoder
from masklet.structures import Classes, Instances, Prompt
from masklet.structures.errors import UserError

STRIDE = 16


class SAM(nn.Module):
    """Masks for points, boxes and rough masks: an image encoder, a prompt encoder and a mask decoder.

    Images are resized until their longer side is `side` pixels and padded to a square on the right and below. `level`
    is the map of the backbone that everything else looks at.
    """

    classes: Classes
    spec: dict[str, Any]
    fallback = None

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, prompts: PromptEncoder, decoder: MaskDecoder, side: int, level: str
    ) -> None:
        super().__init__()
        self.level = level
        self.normalize = Normalize(*getattr(backbone, "pixels", IMAGENET))
        self.backbone, self.neck, self.prompts, self.decoder, self.side = backbone, neck, prompts, decoder, side

    def covered(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is resized to."""
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def fitted(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
        """What the network sees."""
        size = self.covered(images.shape[2], images.shape[3])
        images = images if size == images.shape[2:] else as_bytes(images, size)
        return F.pad(self.normalize(images), (0, self.side - size[1], 0, self.side - size[0]))

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Embedding:
        """Everything that does not depend on the prompts."""
        features = self.neck(self.backbone(self.fitted(images))[self.level])
        grid = self.prompts.positions.grid(features.shape[2], features.shape[3])
        size = (images.shape[2], images.shape[3])
        return Embedding(features, (), grid, size, self.covered(*size), (self.side, self.side))

    def answer(self, embedding: Embedding, queries: Queries) -> Decoded:
        """Tokens and scores of n prompts, n / b for each of the b images; their masks wait until they are asked for.

        Points are followed by one that is none, as in training, unless there is a box (all prompts have one, or none).
        """
        boxed = not queries.points.shape[1] or bool((queries.labels == TOP_LEFT).any())
        return self._answer(embedding, queries if boxed else _padded(queries))

    def _answer(self, embedding: Embedding, queries: Queries) -> Decoded:
        size = (embedding.features.shape[2], embedding.features.shape[3])
        sparse = self.prompts(queries.points, queries.labels, embedding.input_size)
        dense = self.prompts.dense(queries.masks, size)
        return self.decoder.decode(embedding.features, embedding.positions, sparse, dense)

    def masks(self, embedding: Embedding, decoded: Decoded, which: slice = slice(None)) -> Float[Tensor, "n m h4 w4"]:
        """Coarse logits of the masks in `which`: 0 is for clear prompts, the rest for ambiguous ones."""
        return self.decoder.masks(decoded, embedding.skips, which)

    def prompt(
        self,
        embedding: Embedding,
        prompts: Prompt | Sequence[Prompt],
        previous: Float[Tensor, "n h4 w4"] | None = None,
        several: bool | None = None,
    ) -> Answers:
        """Answers to prompts on one image (see `masklet.models.prompting.ask`)."""
        return ask(self, embedding, prompts, previous, several)

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        points: Float[Tensor, "b n p 2"] | None = None,
        labels: Int64[Tensor, "b n p"] | None = None,
    ) -> dict[str, Tensor]:
        """`logits` (b, n, m, h, w) of all masks for n clicked objects an image, and their predicted `ious` (b, n, m).

        An object has p points, x y of pixels, with labels 1 (this), 0 (not this) or -1 (none); `labels` are 1 where not
        given. Without points the middle of the image is clicked on.
        """
        return clicked(self, images, points, labels, lambda seen, queries: self._answer(seen, _padded(queries)))

    def loss(
        self,
        frames: Float[Tensor, "b t 3 h w"],
        targets: Sequence[Bool[Tensor, "_k t h w"]],
        how: Prompting | None = None,
        known: Bool[Tensor, "b t"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of images while a simulated person prompts and corrects (see `masklet.models.prompted_training`).

        An image comes as a clip of one frame, as SAM 2 takes clips; those that are not `known` are left out.
        """
        if frames.shape[1] != 1:
            raise UserError(f"clips of {frames.shape[1]} frames", hint="SAM learns from images; train it with clips=0")
        masks = [m[:, 0] if known is None or known[i] else m[:0, 0] for i, m in enumerate(targets)]
        return image_losses(self, frames[:, 0], masks, how, generator)

    def predict(self, images: Any, prompts: Prompt | Sequence[Prompt] | None = None) -> Instances:
        """The object that each prompt means on one image (a path, PIL image, HWC array or CHW tensor)."""
        return predict_prompts(self, images, prompts)


def as_bytes(images: Float[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 h2 w2"]:
    """Images resized as Pillow resizes bytes, which is what the published models were trained on.

    It rounds to whole bytes after the columns and again after the rows. In float the deeper features of a ViT would
    differ by some per cent.
    """
    if images.device.type == "cpu":
        small = F.interpolate((images * 255).round().byte(), size, mode="bilinear", antialias=True)
        return small.to(images.dtype) / 255
    for target in ((images.shape[2], size[1]), size):
        images = F.interpolate(images, target, mode="bilinear", antialias=True).mul(255).add(0.5).floor().div(255)
    return images


def _padded(queries: Queries) -> Queries:
    points, labels = F.pad(queries.points, (0, 0, 0, 1)), F.pad(queries.labels, (0, 1), value=PADDING)
    return Queries(points, labels, queries.masks)


def sam(
    num_classes: int = 1,
    backbone: str = "vit_b",
    weights: str | None = None,
    side: int = 1024,
    channels: int = 256,
    masks: int = 3,
    decoder_depth: int = 2,
    decoder_heads: int = 8,
    decoder_hidden: int = 2048,
    iou_hidden: int = 256,
    mask_channels: int = 16,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch: int = 16,
    window: int = 14,
    whole: Sequence[int] | None = None,
    relative: bool = True,
    drop: float = 0.0,
) -> SAM:
    """SAM on any backbone (its deepest map, of stride 16 where it can be), for images of `side` pixels.

    `channels` of the embedding, `masks` for an ambiguous prompt; depth, heads and hidden units of the decoder's
    transformer, hidden units of the head that predicts IoUs. Of ViTs only: `width`, `depth`, `heads`, side of a
    `patch` and of a `window`, which blocks see the `whole` image, whether positions inside the attention are
    `relative`, and the rate `drop` at which branches are left out while training.
    """
    if num_classes != 1:
        raise UserError(f"num_classes is {num_classes}", hint="a prompt says which object is meant, not what it is")
    options = {"width": width, "depth": depth, "heads": heads, "whole": whole}
    plain = {"side": side, "patch": patch, "window": window, "relative": relative, "drop": drop}
    body = build_backbone(backbone, weights=weights, **supported(backbone, **options, **plain, output_stride=STRIDE))
    level = max(body.strides)  # the deepest
    neck = nn.Sequential(
        nn.Conv2d(body.channels[level], channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
    transformer = TwoWayTransformer(channels, decoder_depth, decoder_heads, decoder_hidden)
    decoder = MaskDecoder(channels, masks, transformer, iou_hidden)
    return SAM(body, neck, PromptEncoder(channels, mask_channels), decoder, side, level)


@extends(sam)
def sam_vit_b(backbone: str = "vit_b", **common: Any) -> SAM:
    """SAM with the smallest of its published encoders, 94 million parameters; options as in `sam`."""
    return sam(backbone=backbone, **common)


@extends(sam)
def sam_vit_l(backbone: str = "vit_l", **common: Any) -> SAM:
    """SAM with ViT-L, 312 million parameters; options as in `sam`."""
    return sam(backbone=backbone, **common)


@extends(sam)
def sam_vit_h(backbone: str = "vit_h", **common: Any) -> SAM:
    """SAM with ViT-H, 641 million parameters; options as in `sam`."""
    return sam(backbone=backbone, **common)
