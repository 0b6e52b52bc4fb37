"""Nuclei and everything else kept as id maps: a PNG whose pixel values number the objects, 0 is background.

    root/images/<split>/*   root/instance_ids/<split>/*.png (8 or 16 bits)

The 2018 Data Science Bowl in this layout has one class, `nucleus`; other names come with `classes=cell`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from masklet.data.images import label_values, open_image
from masklet.data.object_files import ObjectFiles, paired, same_size
from masklet.data.pairs import divided_files, existing
from masklet.structures import Classes, Instances, Masks

NUCLEUS = Classes(("nucleus",), things=(True,))


def nuclei(root: Path, split: str = "train", classes: str = "nucleus") -> ObjectFiles:
    """Images and id maps; `classes` is what every object is called."""
    existing(root, split)
    images, maps = divided_files(root, split, ("images", "image"), ("instance_ids", "masks", "labels"))
    return paired("nuclei", split, root, images, maps, Classes((classes,), things=(True,)), read_id_map)


def read_id_map(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of an id map by rising id, all of the first class."""
    values = label_values(open_image(path), path)
    same_size(path, (values.shape[0], values.shape[1]), size)
    masks, numbers = Masks.from_ids(values)
    return Instances.from_masks(masks, torch.zeros_like(numbers), classes)
