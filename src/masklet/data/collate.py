"""From samples to the tensors of one training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.data.images import to_float
from masklet.structures import Instances, Sample
from masklet.structures.errors import UserError


def collate_semantic(
    samples: Sequence[Sample], ignore: int = 255
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, "b h w"]]:
    """Pictures as float32 in [0, 1], followed by the channels of their depth if they have any, and label maps as int64.

    Samples of different sizes are filled up at the right and below: with black, and with `ignore`.
    """
    if not samples:
        raise UserError("a batch without samples", hint="check the length of the data set")
    if unlabeled := [s.name for s in samples if s.semantic is None]:
        raise UserError(f"sample {unlabeled[0]!r} has no label map", hint="train on a data set with masks")
    height, width = (max(s.size[axis] for s in samples) for axis in (0, 1))
    depths = [s.depth for s in samples if s.depth is not None]
    if depths and (len(depths) < len(samples) or len({len(depth) for depth in depths}) > 1):
        raise UserError("samples of one batch differ in their depth", hint="train on pictures that all have it")
    images = torch.zeros(len(samples), 3, height, width, dtype=samples[0].image.dtype)
    targets = torch.full((len(samples), height, width), ignore, dtype=torch.int64)
    for image, target, sample in zip(images, targets, samples, strict=True):
        h, w = sample.size
        image[:, :h, :w] = sample.image if sample.image.dtype == images.dtype else to_float(sample.image)
        if sample.semantic is not None:
            target[:h, :w] = sample.semantic
    if not depths:
        return to_float(images), targets
    far = torch.zeros(len(samples), len(depths[0]), height, width)
    for plane, depth in zip(far, depths, strict=True):
        plane[:, : depth.shape[1], : depth.shape[2]] = depth
    return torch.cat([to_float(images), far], 1), targets


def collate_instances(
    samples: Sequence[Sample], multiple: int = 1, fill: float = 0.0
) -> tuple[Float[Tensor, "b 3 h w"], list[Instances]]:
    """Pictures as float32 in [0, 1] and the objects of each, in a list because their numbers differ.

    Pictures of different sizes are filled up at the right and below with `fill`, to a multiple of `multiple` pixels.
    Objects stay in the coordinates of their picture, whose size without the filling is `Instances.size`.
    """
    if not samples:
        raise UserError("a batch without samples", hint="check the length of the data set")
    objects = [sample.instances for sample in samples]
    targets = [found for found in objects if found is not None]
    if len(targets) < len(samples):
        without = next(sample for sample in samples if sample.instances is None)
        raise UserError(f"sample {without.name!r} has no objects", hint="train on a data set with instances")
    height, width = (-(-max(s.size[axis] for s in samples) // multiple) * multiple for axis in (0, 1))
    images = torch.full((len(samples), 3, height, width), fill)
    for image, sample in zip(images, samples, strict=True):
        h, w = sample.size
        image[:, :h, :w] = to_float(sample.image)
    return images, targets


def collate_surroundings(
    samples: Sequence[Sample], multiple: int = 1, fill: float = 0.0, ignore: int = 255
) -> tuple[Float[Tensor, "b 3 h w"], list[Instances], Int64[Tensor, "b h w"]]:
    """As `collate_instances`, and the class of every pixel around the objects, `ignore` where it is not known."""
    images, targets = collate_instances(samples, multiple, fill)
    stuff = torch.full((len(samples), *images.shape[2:]), ignore, dtype=torch.int64)
    for labels, sample in zip(stuff, samples, strict=True):
        if sample.semantic is not None:
            labels[: sample.size[0], : sample.size[1]] = sample.semantic
    return images, targets, stuff
