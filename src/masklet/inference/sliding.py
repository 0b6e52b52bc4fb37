"""Segmentation before FCN: classify the patch around every pixel (Farabet et al., 2013), slow on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.models.base import predict_semantic
from masklet.parts.frames import mirror_pad
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError


class SlidingWindow(nn.Module):
    """A classifier of patches as a model of images: each pixel gets the class of the patch around it.

    `classifier` turns (n, 3, patch, patch) into (n, k). With `stride` only every so many pixels are asked and their
    answer is repeated. Overlapping patches share nearly all their pixels and none of the work, which is why a fully
    convolutional net, equal to this with stride 1 and no padding inside, is that much faster.
    """

    align_corners = False

    def __init__(
        self, classifier: nn.Module, patch: int, stride: int = 1, classes: Classes | None = None, batch: int = 256
    ):
        super().__init__()
        if patch < 1 or stride < 1 or batch < 1:
            raise UserError(f"patch {patch}, stride {stride}, batch {batch}", hint="all three must be at least 1")
        self.classifier, self.patch, self.stride, self.batch = classifier, patch, stride, batch
        self.classes = classes

    def answers(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        """One answer for every patch that fits wholly into the image."""
        if min(images.shape[-2:]) < self.patch:
            raise UserError(f"image {tuple(images.shape[-2:])} is smaller than the patch of {self.patch}")
        windows = images.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)
        count, _, rows, columns = windows.shape[:4]
        windows = windows.permute(0, 2, 3, 1, 4, 5)  # b, rows, columns, 3, patch, patch: still a view
        scores = torch.cat([self.classifier(patches) for patches in self._batches(windows)])
        return scores.unflatten(0, (count, rows, columns)).permute(0, 3, 1, 2)

    def _batches(self, windows: Float[Tensor, "b r c 3 p p"]) -> Iterator[Float[Tensor, "n 3 p p"]]:
        """Patches in reading order, copied out a batch at a time."""
        count, rows, columns = windows.shape[:3]
        for start in range(0, count * rows * columns, self.batch):
            index = torch.arange(start, min(start + self.batch, count * rows * columns), device=windows.device)
            image, rest = index // (rows * columns), index % (rows * columns)
            yield windows[image, rest // columns, rest % columns]

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """One answer per pixel: the image continues beyond its border as its mirror image."""
        height, width = images.shape[-2:]
        before, after = (self.patch - 1) // 2, self.patch // 2
        scores = self.answers(mirror_pad(images, before, after, before, after))
        if self.stride > 1:
            scores = F.interpolate(scores, scale_factor=self.stride, mode="nearest")
        return scores[..., :height, :width]

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.scores(images)

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        if self.classes is None:
            raise UserError("this classifier has no class names", hint="pass classes= to SlidingWindow")
        return predict_semantic(self, images)
