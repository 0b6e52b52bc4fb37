"""What models promise, as protocols that nobody has to inherit, and the functions that rest on the promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from masklet.data.images import as_batch
from masklet.ops.resize import argmax_resized, resize
from masklet.parts.precision import arranged
from masklet.structures import Classes, SemanticMap


class SemanticModel(Protocol):
    """One class for every pixel.

    `scores` may be coarser than the image. Resizing them bilinearly (with `align_corners`) to the size of the image
    gives `forward`. A model that pads the image first has `padded_size(height, width)`: its scores cover that size,
    the image in the top left corner. A model that was trained on small pictures has `long_side`: predictions shrink
    larger ones to it first, and come back at full size.
    """

    classes: Classes
    spec: dict[str, Any]
    align_corners: bool

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]: ...
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]: ...
    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]: ...
    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]: ...


def covered(model: Any, height: int, width: int) -> tuple[int, int]:
    """The size in pixels of the (padded) image that the scores of `model` cover."""
    padded = getattr(model, "padded_size", None)
    return (height, width) if padded is None else padded(height, width)


def upsample(model: Any, scores: Float[Tensor, "b k hs ws"], size: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Scores at the resolution of an image of `size` (height, width), padding cropped away."""
    full = covered(model, *size)
    if tuple(scores.shape[-2:]) != full:
        scores = resize(scores, full, align_corners=model.align_corners)
    return scores[..., : size[0], : size[1]]


def pixel_losses(
    model: Any,
    targets: Int[Tensor, "b h w"],
    main: Float[Tensor, "b k hs ws"],
    aux: Float[Tensor, "b k ha wa"] | None = None,
) -> dict[str, Tensor]:
    """The model's criterion on its scores at the size of the targets; `aux` scores count `model.aux_weight`."""
    size, ignore = (targets.shape[1], targets.shape[2]), model.classes.ignore
    losses = {"main": model.criterion(upsample(model, main, size), targets, ignore=ignore)}
    if aux is not None:
        losses["aux"] = model.aux_weight * model.criterion(upsample(model, aux, size), targets, ignore=ignore)
    return losses


def predict_semantic(model: Any, images: Any, *, probs: bool = False) -> SemanticMap | list[SemanticMap]:
    """The class of every pixel of one image (a `SemanticMap`), or of each image in a list or batch (a list of them).

    Images are paths, PIL images, HWC uint8 arrays or CHW tensors. `probs` keeps the softmax as well, K planes of
    floats at full resolution; without it the full-size scores are never made.
    """
    several = isinstance(images, Tensor | np.ndarray) and images.ndim == 4
    many = several or (isinstance(images, Sequence) and not isinstance(images, str))
    with evaluating(model), torch.inference_mode():
        maps = [_predict_one(model, image, probs) for image in as_batch(images)]
    return maps if many else maps[0]


def _predict_one(model: Any, image: Float[Tensor, "3 h w"], probs: bool) -> SemanticMap:
    height, width = image.shape[-2:]
    image = shrunk(image[None].to(next(model.parameters()).device), getattr(model, "long_side", None))
    scores = model.scores(arranged(image, model))
    if image.shape[-2:] != (height, width):
        small = upsample(model, scores.float(), (image.shape[-2], image.shape[-1]))
        chances = resize(small, (height, width))[0].softmax(0) if probs else None
        return SemanticMap(argmax_resized(small, (height, width))[0], model.classes, chances)
    if probs:
        chances = upsample(model, scores.float(), (height, width))[0].softmax(0)
        return SemanticMap(narrow(chances.argmax(0), len(model.classes)), model.classes, chances)
    labels = argmax_resized(scores.float(), covered(model, height, width), align_corners=model.align_corners)
    return SemanticMap(labels[0, :height, :width].contiguous(), model.classes)


def shrunk(images: Float[Tensor, "b 3 h w"], long_side: int | None) -> Float[Tensor, "b 3 h2 w2"]:
    """Images whose longer side is at most `long_side`, smoothed while they shrink."""
    factor = 1.0 if long_side is None else long_side / max(images.shape[-2:])
    if factor >= 1:
        return images
    size = [max(1, round(side * factor)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def narrow(labels: Integer[Tensor, "*shape"], num_classes: int) -> Integer[Tensor, "*shape"]:
    """Labels as bytes where they fit."""
    return labels.to(torch.uint8) if num_classes <= 256 else labels


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode inside the block; afterwards each part is in the mode that it had."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def uninitialised() -> Iterator[None]:
    """Builds models without drawing random weights: a checkpoint overwrites them all. Constants are still set."""
    with _SkipRandom():
        yield


class _SkipRandom(TorchFunctionMode):
    """Turns what fills a tensor at random into no-ops."""

    INIT = ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")
    RANDOM = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, *(getattr(nn.init, name) for name in INIT)})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
