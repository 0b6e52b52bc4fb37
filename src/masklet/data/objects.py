"""What counts as an object in the truth of a picture: one definition for training and for scores."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor

from masklet.structures import Masks, Sample

__all__ = ["known_pixels", "objects_in"]

SMALLEST = 400  # pixels of a region of a label map
GROUND = frozenset({"background", "void", "unlabelled", "unlabeled", "dry"})  # classes that are the lack of one


def objects_in(sample: Sample, generator: torch.Generator | None = None) -> Masks:
    """The masks of the objects of a picture.

    Instances without crowds, segments of panoptic maps, or a matte where it is above one half. Of label maps the
    regions of each class of 400 pixels or more, where pixels that touch at a corner are connected; not of background
    and not of classes that are left out of scores (the border of Pets). Where the data know one class besides (a pet, a
    flood) all of it is one object. With a `generator` those of one class, drawn at random, are enough.
    """
    if sample.instances is not None:
        alone = sample.instances if sample.instances.crowd is None else sample.instances[~sample.instances.crowd]
        return alone.masks if alone.masks is not None else Masks(*sample.size)
    if sample.panoptic is not None:
        masks, numbers = Masks.from_ids(sample.panoptic.ids)
        single = {segment.id for segment in sample.panoptic.segments if not segment.crowd}
        return masks[torch.tensor([number in single for number in numbers.tolist()], dtype=torch.bool)]
    if sample.matte is not None:
        return Masks.from_dense((sample.matte.alpha > 0.5).view(1, *sample.size))
    if sample.semantic is None:
        return Masks(*sample.size)
    labels = sample.semantic.numpy()
    kinds = [k for k in np.unique(labels).tolist() if _is_object(sample, k)]
    if sample.classes is not None and sum(_is_object(sample, k) for k in range(len(sample.classes.names))) == 1:
        return Masks.from_dense(sample.semantic[None] == kinds[0]) if kinds else Masks(*sample.size)
    if generator is not None and kinds:
        kinds = [kinds[int(torch.randint(len(kinds), (), generator=generator))]]
    parts = [Masks.from_ids(ndimage.label(labels == k, np.ones((3, 3)))[0])[0] for k in kinds]
    found = Masks(*sample.size, tuple(item for part in parts for item in part.items))
    return found[found.areas() >= SMALLEST]


def known_pixels(sample: Sample) -> Bool[Tensor, "h w"] | None:
    """The pixels of a label map whose class is known and scored; None where all are.

    A mask may cover others or not: nobody knows whether the border of a pet is pet.
    """
    if sample.semantic is None or sample.instances is not None or sample.panoptic is not None:
        return None
    ignored = 255 if sample.classes is None else sample.classes.ignore
    unscored = () if sample.classes is None else sample.classes.unscored
    known = torch.from_numpy(~np.isin(sample.semantic.numpy(), (ignored, *unscored)))
    return None if known.all() else known


def _is_object(sample: Sample, label: int) -> bool:
    if sample.classes is None:
        return label != 255
    known = sample.classes
    return label != known.ignore and label not in known.unscored and known.names[label].lower() not in GROUND
