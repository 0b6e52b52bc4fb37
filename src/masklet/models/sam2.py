"""SAM 2: point at an object in an image or in a video, get its mask, and follow it (Ravi et al., 2024).

An image encoder looks at every frame once. A frame without memory is an image, and everything is as in SAM: prompts
and features go through a mask decoder. A later frame first reads the memory of the object; what the decoder then finds
is written into the memory of the next one. Memory is a value that goes in and comes out: nothing is kept in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from masklet.data.images import to_float
from masklet.models.base import extends
from masklet.models.prompted_training import Prompting, prompted_losses
from masklet.models.prompting import Answers, Embedding, Queries, ask, clicked, predict_prompts
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.mask_decoder import MLP, Decoded, MaskDecoder, TwoWayTransformer, steady
from masklet.parts.memory import MemoryAttention, MemoryEncoder
from masklet.parts.memory_bank import Keep, Memory, MemoryBank, Remembered
from masklet.parts.norm import Normalize, freeze_batch_norm
from masklet.parts.positions import sine_grid
from masklet.parts.prompts import PADDING, PromptEncoder
from masklet.parts.pyramid import LateralPyramid
from masklet.structures import Classes, Instances, Prompt
from masklet.structures.errors import UserError

SURE = 10.0  # logits of a mask that somebody drew are plus or minus this; memories are written on the same scale
NOWHERE = -1024.0  # logits where the object is out of sight
LIMIT = 32.0  # of logits that are fed back as a prompt
STRIDE, LEVELS = 32, MappingProxyType({"c2": 4, "c3": 8, "c4": 16, "c5": 32})


@dataclass(frozen=True, eq=False)
class Found:
    """What one frame shows of n objects.

    `logits` are those of the mask that was chosen, -1024 where the object is out of sight, `ious` its predicted
    quality; `object_logits` are above 0 where the object is in sight. `candidates` are all masks that were predicted,
    `pointers` what is remembered of the object.
    """

    logits: Float[Tensor, "n h4 w4"]
    ious: Float[Tensor, " n"]
    object_logits: Float[Tensor, " n"]
    pointers: Float[Tensor, "n c"]
    candidates: Float[Tensor, "n m h4 w4"]
    candidate_ious: Float[Tensor, "n m"]

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, which: Tensor | slice) -> Found:
        return Found(**{name: value[which] for name, value in vars(self).items()})


class ImageEncoder(nn.Module):
    """A backbone and its neck: one map at stride 16, and finer ones that the mask decoder adds to its masks."""

    def __init__(self, backbone: Any, neck: LateralPyramid) -> None:
        super().__init__()
        self.normalize = Normalize(*backbone.pixels)
        self.backbone, self.neck = backbone, neck
        *self.finer, self.level = list(neck.strides)

    def forward(self, images: Float[Tensor, "b 3 h w"], skips: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = self.backbone(self.normalize(images))
        finer = tuple(self.neck.then(features, level, conv) for level, conv in zip(self.finer, skips, strict=True))
        return self.neck(features, (self.level,))[self.level], finer


class Pointer(nn.Module):
    """One vector that says which object was found, from the vector of its mask; another one for "out of sight"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = MLP(channels, channels, channels, 3)
        self.nothing = nn.Parameter(torch.empty(1, channels))
        nn.init.trunc_normal_(self.nothing, std=0.02)

    def forward(self, token: Float[Tensor, "n c"], seen: Bool[Tensor, " n"]) -> Float[Tensor, "n c"]:
        return torch.where(seen[:, None], self.project(token), self.nothing)


class Absence(nn.Module):
    """What is added to the memory of a frame that does not show the object (SAM 2.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(1, channels))
        nn.init.trunc_normal_(self.vector, std=0.02)

    def forward(self, maps: Float[Tensor, "n c h w"], seen: Bool[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        return maps + torch.where(seen[:, None], 0.0, self.vector)[:, :, None, None]


class SAM2(nn.Module):
    """Prompts to masks, frame after frame. Images are stretched to squares of `side` pixels inside."""

    classes: Classes
    spec: dict[str, Any]
    fallback = (0.05, 0.98)  # how stable the mask for clear prompts must be, see `masklet.parts.mask_decoder.steady`

    def __init__(
        self,
        encoder: ImageEncoder,
        prompts: PromptEncoder,
        decoder: MaskDecoder,
        attention: MemoryAttention,
        writer: MemoryEncoder,
        bank: MemoryBank,
        side: int,
        absence: bool = True,
        follow: bool = False,
    ) -> None:
        super().__init__()
        self.follow = follow
        self.encoder, self.prompts, self.decoder = encoder, prompts, decoder
        self.attention, self.writer, self.bank, self.side = attention, writer, bank, side
        channels, narrow = bank.channels, bank.memory_channels
        self.no_memory = nn.Parameter(torch.empty(channels))
        self.no_memory_position = nn.Parameter(torch.empty(channels))  # in the published files; nothing reads it
        nn.init.trunc_normal_(self.no_memory, std=0.02)
        nn.init.trunc_normal_(self.no_memory_position, std=0.02)
        self.pointer = Pointer(channels)
        self.absence = Absence(narrow) if absence else None
        self.shrink = nn.Conv2d(1, 1, 4, 4)  # a drawn mask as a rough mask, where its pointer is asked for

    def embed(self, images: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]) -> Embedding:
        """Images (RGB) of any size, looked at once: everything that prompts need of them.

        Floats in 0..1 are resized as floats, bytes (on processors) as bytes in a quarter of the time, which is what the
        authors do with photographs and with frames.
        """
        square = (self.side, self.side)
        size = images.shape[2], images.shape[3]
        images = images if images.device.type == "cpu" else to_float(images)
        if size != square:
            images = F.interpolate(images, square, mode="bilinear", antialias=True)
        features, skips = self.encoder(to_float(images), self.decoder.skips)
        positions = self.prompts.positions.grid(features.shape[2], features.shape[3]).to(features.dtype)
        return Embedding(features, skips, positions, size, square, square)

    def answer(self, embedding: Embedding, queries: Queries) -> Decoded:
        """Tokens and scores of n prompts on images without memory, n / b for each of the b images."""
        pixels = embedding.features + self.no_memory[:, None, None]
        return self._tokens(pixels, embedding.positions, queries)

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

    def predict(self, images: Any, prompts: Prompt | Sequence[Prompt] | None = None) -> Instances:
        """The object that each prompt means on one image (a path, PIL image, HWC array or CHW tensor)."""
        return predict_prompts(self, images, prompts)

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
        return clicked(self, images, points, labels, self.answer)

    def step(
        self,
        frame: Embedding,
        memory: Memory,
        queries: Queries | None = None,
        drawn: Bool[Tensor, "n h w"] | None = None,
        *,
        at: int,
        back: bool = False,
        afresh: bool = False,
        write: bool = True,
    ) -> tuple[Found, Memory]:
        """One frame of a video: what it shows of n objects, and their memory with this frame in it.

        `frame` embeds one image, or one for each object. `queries` or `drawn` masks make it a prompted frame, which is
        remembered for good; a drawn mask is the answer as well. Without them objects are looked for by `memory`. `at`
        is the number of the frame, `back` says that the video runs backwards. `afresh` answers the prompt without
        looking at the memory, `write=False` leaves the memory as it is (and saves the work).
        """
        prompted = queries is not None or drawn is not None
        if drawn is not None:
            found = self._given(frame, drawn)
        else:
            pixels = self.conditioned(frame, memory, at=at, back=back, afresh=afresh, prompted=prompted)
            last = memory.last_mask(at) if self.follow and queries is None and not afresh else None
            if last is not None:
                queries = replace(Queries.nothing(len(last), last.device), masks=last[:, None].to(pixels.dtype))
            found = self.answered(pixels, frame, queries)
        if not write:
            return found, memory
        return found, self.write(frame, memory, found, drawn, at=at, back=back, prompted=prompted)

    @staticmethod
    def nothing_remembered(length: int | None = None) -> Memory:
        """The memory before the first frame; `length` is that of the video, where it is known."""
        return Memory(length=length)

    def conditioned(
        self,
        frame: Embedding,
        memory: Memory,
        *,
        at: int,
        back: bool = False,
        afresh: bool = False,
        prompted: bool = True,
    ) -> Float[Tensor, "n c h w"]:
        """The features of a frame after they have read the memory of each object; the same for all without memory."""
        recalled = None if afresh else self.bank.recall(memory, at, back)
        if recalled is None and not prompted:
            raise UserError(f"nothing is known of the objects in frame {at}", hint="prompt them on a frame first")
        if recalled is None:
            return frame.features + self.no_memory[:, None, None]
        _, c, h, w = frame.features.shape
        places = sine_grid(h, w, c, frame.features.device).to(frame.features.dtype)
        return self.attention(frame.features.expand(len(recalled.maps), -1, -1, -1), places, recalled)

    def answered(self, pixels: Float[Tensor, "b c h w"], frame: Embedding, queries: Queries | None = None) -> Found:
        """What prompts, or none, find in conditioned features."""
        queries = Queries.nothing(len(pixels), pixels.device) if queries is None else queries
        return self._chosen(self._tokens(pixels, frame.positions, queries), frame, queries)

    def write(
        self,
        frame: Embedding,
        memory: Memory,
        found: Found,
        drawn: Bool[Tensor, "n h w"] | None = None,
        *,
        at: int,
        back: bool = False,
        prompted: bool = False,
    ) -> Memory:
        """The memory with what was found on a frame in it. Masks that somebody prompted are written as sure."""
        if drawn is not None:
            masks = torch.where(self._fitted(drawn), SURE, -SURE).to(found.logits.dtype)[:, None]
        else:
            masks = F.interpolate(found.logits[:, None], frame.input_size, mode="bilinear")
        if prompted and not self.training:
            masks = torch.where(masks > 0, SURE, -SURE).to(masks.dtype)
        else:
            masks = masks.sigmoid() * (2 * SURE) - SURE
        maps = self.writer(frame.features, masks)
        if self.absence is not None:
            maps = self.absence(maps, found.object_logits > 0)
        if not maps.requires_grad:
            maps = maps.to(self.bank.dtype)
        last = found.logits.detach().clamp(-LIMIT, LIMIT) if self.follow else None
        return self.bank.write(memory, Remembered(at, maps, found.pointers, last), prompted, back)

    def loss(
        self,
        frames: Float[Tensor, "b t 3 h w"],
        targets: Sequence[Bool[Tensor, "_k t h w"]],
        how: Prompting | None = None,
        known: Bool[Tensor, "b t"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of clips while a simulated person prompts and corrects (see `masklet.models.prompted_training`)."""
        return prompted_losses(self, frames, targets, how, known, generator)

    def _given(self, frame: Embedding, drawn: Bool[Tensor, "n h w"]) -> Found:
        """A drawn mask is the answer; the decoder only makes its pointer."""
        fitted = self._fitted(drawn)
        logits = torch.where(fitted, SURE, -SURE)[:, None]
        low = F.interpolate(logits, frame.mask_size, mode="bilinear", antialias=True).to(frame.features.dtype)
        rough = self.shrink(fitted[:, None].to(frame.features.dtype))
        queries = replace(Queries.nothing(len(drawn), drawn.device), masks=rough)
        decoded = self._tokens(frame.features, frame.positions, queries)
        seen, ones = drawn.flatten(1).any(1), low.new_ones(len(drawn))
        pointers = self.pointer(decoded.tokens[:, 0], seen & (_objects(decoded) > 0))
        return Found(low[:, 0], ones, torch.where(seen, SURE, -SURE).to(low.dtype), pointers, low, ones[:, None])

    def _fitted(self, drawn: Bool[Tensor, "n h w"]) -> Bool[Tensor, "n s s"]:
        """Masks at the size of the input."""
        square = (self.side, self.side)
        if tuple(drawn.shape[1:]) == square:
            return drawn
        return F.interpolate(drawn[:, None].float(), square, mode="bilinear", antialias=True)[:, 0] >= 0.5

    def _tokens(self, pixels: Float[Tensor, "b c h w"], positions: Float[Tensor, "c h w"], queries: Queries) -> Decoded:
        """The decoder's transformer. A list of points ends in a padding point, an empty one has two, as in training."""
        size = pixels.shape[2], pixels.shape[3]
        more = max(1, 2 - queries.points.shape[1])
        points, labels = F.pad(queries.points, (0, 0, 0, more)), F.pad(queries.labels, (0, more), value=PADDING)
        sparse = self.prompts(points, labels, (self.side, self.side))
        dense = self.prompts.dense(queries.masks, size, points, labels, (self.side, self.side))
        return self.decoder.decode(pixels, positions, sparse, dense)

    def _chosen(self, decoded: Decoded, frame: Embedding, queries: Queries) -> Found:
        """Masks of n prompts, and of each the best: of three for at most one point, else the one for clear prompts."""
        skips = frame.skips
        several = queries.counts <= 1
        every, none = bool(several.all()), not bool(several.any())
        if none and self.training:
            low = self.decoder.masks(decoded, skips, slice(0, 1))
            ious, chosen, first = decoded.ious[:, :1], torch.zeros_like(queries.counts), 0
        elif every:
            low, ious, first = self.decoder.masks(decoded, skips, slice(1, None)), decoded.ious[:, 1:], 1
            chosen = ious.argmax(1)
        else:
            low, ious, first = self.decoder.masks(decoded, skips), decoded.ious, 0
            single = torch.zeros_like(queries.counts) if self.training else steady(low, ious, *self.fallback)
            chosen = torch.where(several, ious[:, 1:].argmax(1) + 1, single)
        rows = torch.arange(len(low), device=low.device)
        token = decoded.tokens[rows, torch.where(several, chosen + first, 0)]
        objects = _objects(decoded)
        seen = objects > 0
        logits = torch.where(seen[:, None, None], low[rows, chosen], NOWHERE)
        return Found(logits, ious[rows, chosen], objects, self.pointer(token, seen), low, ious)


def _objects(decoded: Decoded) -> Float[Tensor, " n"]:
    assert decoded.object_logits is not None  # the decoder of SAM 2 has a token for them
    return decoded.object_logits


def sam2(
    num_classes: int = 1,
    backbone: str = "efficientnet_lite0",
    weights: str | None = None,
    side: int = 1024,
    version: str = "2.1",
    channels: int = 256,
    masks: int = 3,
    decoder_depth: int = 2,
    decoder_heads: int = 8,
    decoder_hidden: int = 2048,
    mask_channels: int = 16,
    memories: int = 6,
    memory_channels: int = 64,
    own_layers: int = 4,
    memory_layers: int = 4,
    memory_hidden: int = 2048,
    rotary: bool = True,
    pointers: int = 16,
    prompted: int | None = None,
    memory_stride: int = 1,
    half_memory: bool = True,
    enriched: Sequence[str] = ("c4",),
    fuse: str = "sum",
    drawn: float = 0.0,
    mixing: Sequence[int] = (0, 0),
    norm: str = "batch",
    level_norm: bool = False,
    follow: bool = False,
    width: int | None = None,
    depths: Sequence[int] | None = None,
    whole: Sequence[int] | None = None,
    relative: bool = False,
    dropout: float = 0.1,
    drop_path: float = 0.0,
) -> SAM2:
    """SAM 2 on any backbone that has maps at strides 4 to 32, for squares of `side` pixels.

    `channels` of the embedding, `masks` for an ambiguous prompt; depth, heads and hidden units of the decoder's
    transformer. `memories` recent maps of `memory_channels` are shown, one every `memory_stride` frames, and at most
    so many `prompted` ones (None: all); `pointers` says how many frames these reach back. With
    `half_memory` maps are kept in bfloat16, as the published predictor keeps them. Memory attention has
    `own_layers`, `memory_layers` and `memory_hidden` units, with `rotary` positions or without. Levels in `enriched`
    get the level above by `fuse`, "sum" or "mean". `version` is "2.1" or "2". Of Hieras only: `width`, `depths` of the
    stages, which blocks see the `whole` image, and whether positions inside the attention are `relative`.

    For small models: prompts `drawn` as spots of that radius beside the rough mask, blocks of `mixing` before and after
    the mask decoder's transformer, `norm` "frozen" keeps the backbone's batch norms as they come, `level_norm` norms
    the maps of the backbone, and `follow` gives frames without prompts the last frame's mask as a rough one (MaskTrack,
    Perazzi et al., 2017) beside the memory.
    """
    if num_classes != 1:
        raise UserError(f"num_classes is {num_classes}", hint="a prompt says which object is meant, not what it is")
    if version not in ("2", "2.1"):
        raise UserError(f"version is {version!r}", hint='choose "2.1" or "2"')
    if side % STRIDE or side < STRIDE:
        raise UserError(f"side is {side}", hint=f"give a multiple of {STRIDE}")
    choices = {"width": width, "depths": depths, "whole": whole, "drop_path": drop_path, "relative": relative}
    net = build_backbone(backbone, weights, **supported(backbone, **choices))
    if norm not in ("batch", "frozen"):
        raise UserError(f"norm is {norm!r}", hint="choose batch or frozen")
    if norm == "frozen":
        freeze_batch_norm(net)
    levels = {level: net.channels[level] for level in LEVELS if net.strides.get(level) == LEVELS[level]}
    if len(levels) < len(LEVELS):
        strides = ", ".join(str(stride) for stride in net.strides.values())
        raise UserError(f"{backbone} has maps at strides {strides}", hint="SAM 2 needs 4, 8, 16 and 32")
    transformer = TwoWayTransformer(channels, decoder_depth, decoder_heads, decoder_hidden)
    decoder = MaskDecoder(channels, masks, transformer, channels, 3, (channels, channels), True, True, mixing)
    keep = Keep(memories + 1, pointers, prompted, memory_stride)
    return SAM2(
        ImageEncoder(net, LateralPyramid(levels, net.strides, channels, enriched, fuse, level_norm)),
        PromptEncoder(channels, mask_channels, drawn=drawn),
        decoder,
        MemoryAttention(channels, memory_channels, own_layers, memory_layers, memory_hidden, 1, dropout, rotary),
        MemoryEncoder(channels, memory_channels),
        MemoryBank(channels, memory_channels, keep, aged_pointers=version == "2.1", half=half_memory),
        side,
        absence=version == "2.1",
        follow=follow,
    )


@extends(sam2)
def sam2_hiera_tiny(backbone: str = "hiera_tiny", **common: Any) -> SAM2:
    """SAM 2 with the smallest of its published encoders, 39 million parameters; options as in `sam2`."""
    return sam2(backbone=backbone, **common)


@extends(sam2)
def sam2_hiera_small(backbone: str = "hiera_small", **common: Any) -> SAM2:
    """SAM 2 with a Hiera of 16 blocks, 46 million parameters; options as in `sam2`."""
    return sam2(backbone=backbone, **common)


@extends(sam2)
def sam2_hiera_base_plus(backbone: str = "hiera_base_plus", drop_path: float = 0.1, **common: Any) -> SAM2:
    """SAM 2 with Hiera B+, 81 million parameters; options as in `sam2`."""
    return sam2(backbone=backbone, drop_path=drop_path, **common)


@extends(sam2)
def sam2_hiera_large(backbone: str = "hiera_large", drop_path: float = 0.2, **common: Any) -> SAM2:
    """SAM 2 with Hiera L, 224 million parameters; options as in `sam2`."""
    return sam2(backbone=backbone, drop_path=drop_path, **common)
