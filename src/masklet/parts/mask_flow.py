"""What the stages of a Hybrid Task Cascade tell each other, and what the whole image tells them (Chen et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from masklet.parts.box_heads import Sampled
from masklet.parts.mask_heads import FCNMaskHead, Targets, map_of, mean_bce, through_boxes
from masklet.parts.pyramid import Reader
from masklet.structures import Masks


class SemanticContext(nn.Module):
    """Which thing or stuff each pixel shows, from all levels of a pyramid added at one of them, `fused`.

    1x1 convolutions of the levels, resized and added, then `depth` 3x3 convolutions. From there come logits of
    `num_classes` and an embedding: what is around a box, for those who look at boxes.
    """

    def __init__(
        self, levels: Sequence[str], channels: int, num_classes: int, fused: str = "p3", depth: int = 4
    ) -> None:
        super().__init__()
        self.levels, self.fused = tuple(levels), fused
        self.laterals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in levels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.embed, self.classes = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, num_classes, 1)
        for layer in (*self.laterals, *self.convs, self.embed, self.classes):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Mapping[str, Tensor]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b c h w"]]:
        """Logits and embedding at the size of the level `fused`."""
        size = pyramid[self.fused].shape[-2:]
        x = torch.zeros_like(pyramid[self.fused])
        for level, lateral in zip(self.levels, self.laterals, strict=True):
            there = pyramid[level]
            if level != self.fused:
                there = F.interpolate(there, size, mode="bilinear", align_corners=True)
            x = x + lateral(there).relu()
        for conv in self.convs:
            x = conv(x).relu()
        return self.classes(x), self.embed(x).relu()


def pixel_loss(
    logits: Float[Tensor, "b k h w"], stuff: Int[Tensor, "b h8 w8"], stride: int, ignore: int = 255
) -> Float[Tensor, ""]:
    """Cross entropy at every `stride`-th pixel of `stuff`, divided by all of them, ignored ones too (mmdet)."""
    few = stuff[:, ::stride, ::stride].long()
    target = F.pad(few, (0, logits.shape[3] - few.shape[2], 0, logits.shape[2] - few.shape[1]), value=ignore)
    return F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum") / target.numel()


@dataclass(frozen=True)
class WithContext:
    """Reads boxes off the pyramid and, averaged to as many cells, off a map of what is around them; both added."""

    read: Reader
    context: Reader

    def __call__(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m c s s"]:
        x = self.read(pyramid, rois)
        return x + F.adaptive_avg_pool2d(self.context(pyramid, rois), x.shape[-1])


class MaskFlow(nn.Module):
    """Mask heads in a row: each sees the box, and through a gate what the head before it made of the same box.

    `together` is the number of heads, from the last, whose probabilities are averaged in the end. `targets` makes the
    grid of a true mask.
    """

    heads: Any  # FCNMaskHead
    gates: Any  # Conv2d

    def __init__(self, pool: Reader, heads: Sequence[FCNMaskHead], targets: Targets, together: int) -> None:
        super().__init__()
        self.pool, self.targets, self.together = pool, targets, together
        self.heads = nn.ModuleList(heads)
        self.gates = nn.ModuleList(nn.Conv2d(head.width, head.channels, 1) for head in heads[:-1])
        for gate in self.gates:
            nn.init.kaiming_normal_(gate.weight, nonlinearity="relu")
            nn.init.zeros_(gate.bias)

    def seen(self, x: Float[Tensor, "m c s s"], stages: int) -> list[Float[Tensor, "m d s s"]]:
        """What each of the first `stages` heads makes of a box."""
        out: list[Tensor] = []
        for i, head in enumerate(self.heads[:stages]):
            out.append(head.features(x + self.gates[i - 1](out[-1]).relu() if out else x))
        return out

    def maps(self, x: Float[Tensor, "m c s s"], stage: int) -> Float[Tensor, "m k t t"]:
        """Logits of every class from head number `stage`."""
        return self.heads[stage].maps(self.seen(x, stage + 1)[-1])

    def forward(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        seen = self.seen(self.pool(pyramid, rois), len(self.heads))
        last = list(zip(self.heads, seen, strict=True))[-self.together :]
        return torch.stack([map_of(labels, head.maps(x)).sigmoid() for head, x in last]).mean(0)

    def loss(
        self, pyramid: Mapping[str, Tensor], positives: Sampled, masks: Sequence[Masks], stage: int
    ) -> dict[str, Tensor]:
        """As `MaskBranch.loss`, of head number `stage` on the boxes of its stage."""
        logits = map_of(positives.labels, self.maps(self.pool(pyramid, positives.rois), stage))
        look = lambda dense, rois, here: self.targets(dense, rois, logits.shape[-1])  # noqa: E731
        return {"mask": mean_bce(logits, through_boxes(positives, masks, look))}
