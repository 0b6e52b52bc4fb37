"""Data sets with one file of objects beside every image: id maps, labelme, YOLO, VOC, SBD, rotated quadrilaterals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch

from masklet.data.images import BadFile, read_image
from masklet.data.pairs import CHECK, Coding, Listing, Samples, size_mismatch
from masklet.ops import polygons, rle
from masklet.structures import Classes, Instances, Masks, Sample

Reader = Callable[[Path, tuple[int, int], Classes], Instances]  # file, (height, width) of its image, classes


@dataclass(frozen=True)
class ObjectFiles(Samples):
    """Images and the files of their objects, read one sample at a time."""

    name: str
    split: str
    classes: Classes
    keys: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path | None, ...]  # None where nothing is in the image
    read: Reader

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, index: int) -> tuple[Path, ...]:
        """The image and, where there is one, the file of its objects."""
        label = self.labels[index]
        return (self.images[index],) if label is None else (self.images[index], label)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> ObjectFiles: ...
    def __getitem__(self, index: int | slice) -> Sample | ObjectFiles:
        if isinstance(index, slice):
            return replace(self, keys=self.keys[index], images=self.images[index], labels=self.labels[index])
        image, label = read_image(self.images[index]), self.labels[index]
        size = (int(image.shape[1]), int(image.shape[2]))
        objects = Instances.empty(size, self.classes) if label is None else self.read(label, size, self.classes)
        return Sample(image, name=self.keys[index], instances=objects, classes=self.classes)


def paired(
    name: str,
    split: str,
    root: Path,
    images: list[tuple[str, Path]],
    labels: list[tuple[str, Path]],
    classes: Classes,
    read: Reader,
) -> ObjectFiles:
    """A data set in which every image has its file; the first that lacks one is an error."""
    listing = Listing(name, split, root, tuple(images), tuple(labels), Coding(classes))
    return ObjectFiles(name, split, classes, *listing.sound(), read)


def same_size(path: Path, told: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a file that was made for an image of another size."""
    if told != size:
        raise BadFile(path, "size_mismatch", size_mismatch(told, size), CHECK)


def drawn(outlines: list[list[np.ndarray]], size: tuple[int, int]) -> Masks:
    """One mask per object from its rings (x, y): the pixels whose middles lie inside any of them."""
    items = []
    for rings in outlines:
        parts = [rle.encode(polygons.fill([ring], *size)) for ring in rings]
        items.append(parts[0] if len(parts) == 1 else rle.merge(parts))
    return Masks(*size, tuple(items))


def labels_of(numbers: list[int]) -> torch.Tensor:
    """Class numbers as a tensor, also where there are none."""
    return torch.tensor(numbers, dtype=torch.int64)
