"""Simple copy-paste (Ghiasi et al., 2021): objects of one picture laid over another.

jitter = Compose([LargeScaleJitter(1024), RandomFlip()])
train = Compose([jitter, CopyPaste(data, jitter)])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from masklet.data.images import to_float
from masklet.data.transforms import blur, draw
from masklet.structures import Instances, Masks, Sample
from masklet.structures.errors import UserError

if TYPE_CHECKING:
    Others = Sequence[Sample]
else:
    Others = Sequence  # the bare class: run-time type checks would open a random sample to see what it is


@dataclass(frozen=True)
class CopyPaste:
    """With probability `p`, lay a random half of the objects of another sample over this one.

    The other sample comes from `others` and goes through `prepare`, which makes it of the size that this one has.
    `smooth` is the standard deviation of a blur of the pasted border in pixels; the paper finds that 0 does as well.
    """

    others: Others
    prepare: Callable[[Sample, torch.Generator], Sample]
    p: float = 1.0
    smooth: float = 0.0

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if draw(generator) >= self.p:
            return sample
        other = self.others[int(torch.randint(len(self.others), (), generator=generator))]
        other = self.prepare(other, generator)
        chosen = torch.rand(len(other.instances or ()), generator=generator) < 0.5
        return paste(sample, other, chosen, self.smooth)


def paste(target: Sample, source: Sample, chosen: Bool[Tensor, " n"], smooth: float = 0.0) -> Sample:
    """`target` with the `chosen` objects of `source` in front; crowds are never taken.

    Masks and boxes of what lies behind shrink to what is still seen, objects out of sight are dropped, and keypoints
    behind a pasted object are labelled but hidden.
    """
    old, new = _objects(target), _objects(source)
    if target.size != source.size:
        message = f"copy-paste onto {_told(target)} from {_told(source)}"
        raise UserError(message, hint="bring both to one size first, for example with LargeScaleJitter")
    if old.classes != new.classes:
        raise UserError("copy-paste between samples of different classes", hint="take both from one data set")
    if (target.semantic is None) != (source.semantic is None):
        raise UserError("only one of the two samples of copy-paste has a label map", hint="take both from one data set")
    new = new[chosen if new.crowd is None else chosen & ~new.crowd]
    if not len(new):
        return target
    front = torch.zeros(target.size, dtype=torch.bool) if new.masks is None else new.masks.union()
    semantic = target.semantic
    if semantic is not None and source.semantic is not None:
        semantic = torch.where(front, source.semantic, semantic)
    objects = _joined(_behind(old, front), new)
    return replace(target, image=_laid_over(target, source, front, smooth), semantic=semantic, instances=objects)


def _laid_over(target: Sample, source: Sample, front: Bool[Tensor, "h w"], smooth: float) -> Tensor:
    """The picture with the pasted pixels, of the type of the target's."""
    one, other = target.image, source.image
    if one.dtype != other.dtype:
        one, other = to_float(one), to_float(other)
    if not smooth:
        return torch.where(front, other, one)
    weight = blur(front.float().expand(3, -1, -1), smooth)
    mixed = torch.lerp(one.float(), other.float(), weight)
    return mixed.round().to(torch.uint8) if one.dtype == torch.uint8 else mixed


def _behind(objects: Instances, front: Bool[Tensor, "h w"]) -> Instances:
    """What can still be seen of objects behind the pixels of `front`."""
    if objects.masks is None or not len(objects):
        return objects
    crops = [objects.masks.crop(i) for i in range(len(objects))]
    seen = [part & ~front[y : y + part.shape[0], x : x + part.shape[1]] for part, x, y in crops]
    masks = Masks.from_crops(seen, [(x, y) for _, x, y in crops], *objects.size)
    touched, points = masks.areas() < objects.masks.areas(), objects.keypoints
    if points is not None and points.numel():
        x, y = (points[..., axis].long().clamp(0, objects.size[1 - axis] - 1) for axis in (0, 1))
        hidden = front[y, x] & (points[..., 2] > 1)
        points = torch.cat([points[..., :2], torch.where(hidden, 1.0, points[..., 2])[..., None]], -1)
    boxes = torch.where(touched[:, None], masks.boxes(), objects.boxes)
    return replace(objects, masks=masks, boxes=boxes, keypoints=points)[masks.areas() > 0]


def _joined(first: Instances, second: Instances) -> Instances:
    """The objects of both; what one of them does not tell is "no crowd" and "not labelled" there."""
    if (first.rotated is None) != (second.rotated is None):
        message = "only one of the two samples of copy-paste has rotated boxes"
        raise UserError(message, hint="take both from one data set")
    both = (first, second)
    crowd = keypoints = rotated = None
    if any(part.crowd is not None for part in both):
        crowd = torch.cat([torch.zeros(len(p), dtype=torch.bool) if p.crowd is None else p.crowd for p in both])
    if known := [part.keypoints for part in both if part.keypoints is not None]:
        zeros = [known[0].new_zeros(len(part), *known[0].shape[1:]) for part in both]
        keypoints = torch.cat([z if p.keypoints is None else p.keypoints for p, z in zip(both, zeros, strict=True)])
    if first.rotated is not None and second.rotated is not None:
        rotated = torch.cat([first.rotated, second.rotated])
    items = [item for part in both if part.masks is not None for item in part.masks.items]
    boxes, labels, scores = (torch.cat([getattr(p, n) for p in both]) for n in ("boxes", "labels", "scores"))
    masks = Masks(*first.size, tuple(items))
    return Instances(boxes, labels, scores, masks, first.size, first.classes, crowd, keypoints, rotated)


def _objects(sample: Sample) -> Instances:
    """The objects of a sample that copy-paste can handle."""
    for what, part in (("a panoptic map", sample.panoptic), ("a matte", sample.matte)):
        if part is not None:
            message = f"copy-paste knows objects and label maps, and {_told(sample)} has {what}"
            raise UserError(message, hint="leave it out of the sample first")
    objects = sample.instances
    if objects is None or (objects.masks is None and len(objects)):
        raise UserError(f"copy-paste needs masks of objects, and {_told(sample)} has none", hint="use other data")
    return objects


def _told(sample: Sample) -> str:
    return f"{sample.name or 'a sample'} of {sample.size[0]}x{sample.size[1]}"
