"""What models promise, as protocols that nobody has to inherit, and the functions that rest on the promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from masklet.data.images import as_batch
from masklet.data.rgbd import DEPTHS
from masklet.models.seams import find_in_tiles
from masklet.ops import rotated
from masklet.ops.boxes import clip, larger_than
from masklet.ops.paste import Placement, paste
from masklet.ops.resize import argmax_resized, resize
from masklet.parts.keypoint_heads import decode_points
from masklet.parts.precision import arranged
from masklet.structures import Classes, Instances, Masks, SemanticMap
from masklet.structures.errors import UserError

Made = TypeVar("Made")


def extends(base: Callable[..., Any]) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """A builder that takes what `base` takes as `**common`, and says so in its signature.

    Arguments of both keep the place that they have in `base` and the default that the builder gives; its own come
    last. `common` holds them all, those that were not given too.

    >>> def box(width=1, height=1, depth=1): return width * height * depth
    >>> @extends(box)
    ... def cuboids(count, height=2, **common): return count * box(height=height, **common)
    >>> inspect.signature(cuboids)
    <Signature (width=1, height=2, depth=1, *, count)>
    >>> cuboids(5, count=10)
    100
    """

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        own, theirs = inspect.signature(make), inspect.signature(base).parameters
        named = {key: p for key, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD}
        first = [named[key].replace(kind=p.kind) if key in named else p for key, p in theirs.items()]
        last = [p.replace(kind=p.KEYWORD_ONLY) for key, p in named.items() if key not in theirs]
        joined = own.replace(parameters=[*first, *last])

        @wraps(make)
        def builder(*args: Any, **choices: Any) -> Made:
            taken = joined.bind(*args, **choices)
            taken.apply_defaults()
            return make(**taken.arguments)

        builder.__signature__ = joined  # type: ignore[attr-defined]
        return builder

    return decorate


class SemanticModel(Protocol):
    """One class for every pixel.

    `scores` may be coarser than the image. Resizing them bilinearly (with `align_corners`) to the size of the image
    gives `forward`. A model that pads the image first has `padded_size(height, width)`: its scores cover that size,
    the image in the top left corner. A model that was trained on small pictures has `long_side`: predictions shrink
    larger ones to it first, and come back at full size. A model that looks at depth as well says in `depth_as` how it
    wants it, "metres" or "hha"; its images then have the channels of the depth after the colours.
    """

    classes: Classes
    spec: dict[str, Any]
    align_corners: bool

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hs ws"]: ...
    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]: ...
    def loss(self, images: Float[Tensor, "b c h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]: ...
    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]: ...


class InstanceModel(Protocol):
    """Objects, each with a box, a class and a score, and with a mask where the system has masks.

    `detect` finds them in images of one size, in pixels of these images; `forward` is the same with a fixed number of
    places for every image, as an exported program needs it. `resize` makes the size that the model was trained on,
    `placement` says how a grid of probabilities lies over its box.
    """

    classes: Classes
    spec: dict[str, Any]
    resize: ShorterSide
    placement: Placement

    def detect(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]: ...
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]: ...
    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]: ...
    def predict(self, images: Any) -> Instances | list[Instances]: ...


def channels(model: Any) -> int:
    """Channels of the pictures that `model` reads: 3 colours, and those of the depth where it has `depth_as`."""
    return 3 + DEPTHS.get(getattr(model, "depth_as", ""), 0)


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
    with evaluating(model), torch.inference_mode():
        maps = [_predict_one(model, image, probs) for image in as_batch(images, channels(model))]
    return maps if _several(images) else maps[0]


def _several(images: Any) -> bool:
    batch = isinstance(images, Tensor | np.ndarray) and images.ndim == 4
    return batch or (isinstance(images, Sequence) and not isinstance(images, str))


def _predict_one(model: Any, image: Float[Tensor, "c h w"], probs: bool) -> SemanticMap:
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


def shrunk(images: Float[Tensor, "b c h w"], long_side: int | None) -> Float[Tensor, "b c h2 w2"]:
    """Images whose longer side is at most `long_side`, smoothed while they shrink."""
    factor = 1.0 if long_side is None else long_side / max(images.shape[-2:])
    if factor >= 1:
        return images
    size = [max(1, round(side * factor)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def narrow(labels: Integer[Tensor, "*shape"], num_classes: int) -> Integer[Tensor, "*shape"]:
    """Labels as bytes where they fit."""
    return labels.to(torch.uint8) if num_classes <= 256 else labels


@dataclass(frozen=True)
class ShorterSide:
    """Images whose shorter side is `short` pixels, or less where the longer one would pass `long`; 0 leaves them.

    `whole` makes a number of pixels of a length; `smooth` averages where images shrink. Images with a side beyond
    `tile` are seen in overlapping windows of that side, each resized for itself; 0 sees every image as a whole.
    """

    short: int = 800
    long: int = 1333
    whole: Callable[[float], int] = round
    smooth: bool = True
    tile: int = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The new size of an image."""
        low, high = sorted((height, width))
        factor = min(np.float32(self.short) / np.float32(low), np.float32(self.long) / np.float32(high))
        return max(1, self.whole(height * float(factor))), max(1, self.whole(width * float(factor)))

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        size = self.size(images.shape[2], images.shape[3]) if self.short else images.shape[2:]
        if size == images.shape[2:]:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=self.smooth)


def predict_instances(model: Any, images: Any) -> Instances | list[Instances]:
    """The objects of one image, or of each image in a list or batch, best first and in pixels of the image.

    Images are paths, PIL images, HWC uint8 arrays or CHW tensors. Masks go from the small grids that the network gives
    straight into run lengths: a stack of full-size masks is never made.
    """
    with evaluating(model), torch.inference_mode():
        found = [_detect(model, image) for image in as_batch(images)]
    return found if _several(images) else found[0]


def _detect(model: Any, image: Float[Tensor, "3 h w"]) -> Instances:
    tile = model.resize.tile
    if not tile or max(image.shape[-2:]) <= tile:
        return _detect_one(model, image)
    return find_in_tiles(partial(_detect_one, model), image, tile)


def _detect_one(model: Any, image: Float[Tensor, "3 h w"]) -> Instances:
    size = height, width = image.shape[-2], image.shape[-1]
    resized = model.resize(image[None].to(next(model.parameters()).device))
    found = {name: value[0].cpu() for name, value in model.detect(arranged(resized, model)).items()}
    scale = torch.tensor([width / resized.shape[3], height / resized.shape[2]])
    boxes = clip(found["boxes"].float() * scale.repeat(2), height, width)
    turned = rotated.stretched(found["rotated"].float(), *scale.tolist()) if "rotated" in found else None
    masks = None
    if "masks" in found and turned is None:
        masks = Masks(height, width, tuple(paste(found["masks"], boxes, size, placement=model.placement)))
    elif "masks" in found and turned is not None:
        masks = Masks(height, width, tuple(rotated.paste(found["masks"], turned, size)))
    points = None
    if "heatmaps" in found:
        points = decode_points(found["heatmaps"].float(), found["boxes"].float())
        points[..., :2] *= scale
    turned = None if turned is None else rotated.canonical(turned)  # only now: masks lie as the sides did
    scores = found["scores"].float()
    return Instances(boxes, found["labels"], scores, masks, size, model.classes, keypoints=points, rotated=turned)


def objects_of(
    images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances], wanted: str | None = None
) -> list[Instances]:
    """The objects to learn from, checked: one `Instances` for each image, no larger than it.

    Crowds and objects without extent are left out. `wanted` is what else the model learns, "masks" or "keypoints".
    """
    if len(targets) != len(images):
        raise UserError(f"{len(images)} images but {len(targets)} targets", hint="give one Instances for each image")
    height, width = images.shape[-2:]
    for i, target in enumerate(targets):
        if target.size[0] > height or target.size[1] > width:
            (h, w) = target.size
            raise UserError(f"target {i} is {h}x{w} but the images are {height}x{width}", hint="resize them together")
        if wanted and len(target) and getattr(target, wanted) is None:
            hint = f"train on a data set with {wanted}, or a model without them"
            raise UserError(f"target {i} has no {wanted}", hint=hint)
    alone = [target if target.crowd is None else target[~target.crowd] for target in targets]
    return [target[larger_than(target.boxes, 0.0)] for target in alone]


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
    """Turns what fills a tensor at random into no-ops.

    Draws of a tensor itself become their mean or lower end instead: `nn.init.trunc_normal_` draws again and again until
    all values lie within its bounds, and what happens to be in fresh memory never would. So do singular vectors, which
    a matrix with NaN in it does not have.
    """

    INIT = ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")
    RANDOM = frozenset({Tensor.erfinv_, *(getattr(nn.init, name) for name in INIT)})
    DRAWS = MappingProxyType({Tensor.normal_: "mean", Tensor.uniform_: "from"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM:
            return args[0] if args else kwargs["tensor"]
        if func in self.DRAWS:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get(self.DRAWS[func], 0.0))
        if func is torch.linalg.svd:
            return func(torch.zeros_like(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)
