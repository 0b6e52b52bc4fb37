"""Objects of PASCAL VOC 2012 (Everingham et al.) and of SBD, more photographs of VOC (Hariharan et al., 2011).

    voc_instances:   root/JPEGImages  root/SegmentationObject  root/SegmentationClass  root/ImageSets/Segmentation/*.txt
    sbd:             root/img/*.jpg   root/inst/*.mat          root/train.txt, val.txt

The 20 classes have no background, for objects have none; their numbers on disk are 1 to 20. The white border around
VOC's objects (255) belongs to none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from masklet.data.images import BadFile, label_values, open_image
from masklet.data.object_files import ObjectFiles, paired, same_size
from masklet.data.pairs import broken, empty, existing
from masklet.data.voc import CLASSES, NAMES, list_voc
from masklet.ops.panoptic import overlaps
from masklet.structures import Classes, Instances, Masks

OBJECTS = Classes(NAMES[1:], CLASSES.colors[1:], (True,) * 20, tuple(range(1, 21)))
BORDER = 255


def voc_instances(root: Path, split: str = "train") -> ObjectFiles:
    """VOC's photographs and objects; `all` is trainval."""
    listing = list_voc(root, split)
    folder = listing.labels[0][1].parent.parent / "SegmentationObject" if listing.labels else root
    labels = [(key, folder / f"{key}.png") for key, _ in listing.labels if (folder / f"{key}.png").is_file()]
    return paired("voc_instances", split, root, list(listing.images), labels, OBJECTS, read_voc_objects)


def read_voc_objects(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of a SegmentationObject PNG; the class of each is the one of its pixels in SegmentationClass."""
    other = path.parent.with_name("SegmentationClass") / path.name
    ids, kinds = (label_values(open_image(p), p) for p in (path, other))
    for file, values in ((path, ids), (other, kinds)):
        same_size(file, (values.shape[0], values.shape[1]), size)
    ids = np.where(ids == BORDER, 0, ids)
    masks, numbers = Masks.from_ids(ids)
    pairs = overlaps(ids, kinds)
    labels = []
    for number in numbers.tolist():
        seen = (pairs.first == number) & (pairs.second != BORDER)
        kind = int(pairs.second[seen][pairs.pixels[seen].argmax()]) if seen.any() else 0
        if kind not in classes.ids:
            fault = f"object {number} has the class {kind} in {other.parent.name}"
            raise BadFile(path, "label_outside", fault, "every object is of a class from 1 to 20")
        labels.append(classes.ids.index(kind))
    return Instances.from_masks(masks, torch.tensor(labels, dtype=torch.int64), classes)


def sbd(root: Path, split: str = "train") -> ObjectFiles:
    """SBD's photographs and objects; `all` is train and val."""
    root = root / "dataset" if (root / "dataset" / "img").is_dir() else root
    existing(root, split)
    lists = [root / f"{name}.txt" for name in (("train", "val") if split == "all" else (split,))]
    if missing := [file for file in lists if not file.is_file()]:
        hint = "name the folder with img, inst and train.txt in it"
        raise broken(missing[0], "no_split_list", "the list of this split is missing", hint)
    keys = [key for file in lists for key in file.read_text().split()]
    if not keys:
        raise empty(root / "img")
    found = [(key, path) for key in keys if (path := root / "inst" / f"{key}.mat").is_file()]
    return paired("sbd", split, root, [(k, root / "img" / f"{k}.jpg") for k in keys], found, OBJECTS, read_sbd)


def read_sbd(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of SBD's MATLAB file: a map of their numbers, and the class of each."""
    from scipy.io import loadmat  # slow to import

    try:
        truth: Any = loadmat(str(path), struct_as_record=False, squeeze_me=True)["GTinst"]
        ids, kinds = np.asarray(truth.Segmentation), np.atleast_1d(truth.Categories).astype(np.int64)
    except (KeyError, AttributeError, ValueError, TypeError, NotImplementedError, OSError) as error:
        hint = "it holds GTinst with Segmentation and Categories; copy it again"
        raise BadFile(path, "bad_table", f"this is no file of SBD ({error})", hint) from None
    same_size(path, (ids.shape[0], ids.shape[1]), size)
    masks, numbers = Masks.from_ids(ids)
    if len(numbers) and int(numbers.max()) > len(kinds):
        fault = f"the map holds object {int(numbers.max())}, but only {len(kinds)} have a class"
        raise BadFile(path, "bad_table", fault, "copy it again")
    kinds = kinds[numbers.numpy() - 1]
    if not np.isin(kinds, classes.ids).all():
        wrong = int(kinds[~np.isin(kinds, classes.ids)][0])
        raise BadFile(path, "label_outside", f"an object has the class {wrong}", "classes are 1 to 20")
    return Instances.from_masks(masks, torch.from_numpy(kinds - 1), classes)
