"""SA-1B (Kirillov et al., 2023): images and, beside each, a JSON of run lengths; things without names.

    root/[sa_000000/]sa_223750.jpg  sa_223750.json      {"image": {...}, "annotations": [{"segmentation": {...}}, ...]}

Without split folders every fifth file is `val`. Scores are the predicted IoUs of the masks.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from masklet.data.images import BadFile, natural_key
from masklet.data.object_files import ObjectFiles, paired, same_size
from masklet.data.pairs import broken, empty, existing, keep_split, keyed, prefixed, split_folders
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError

ANYTHING = Classes(("object",), things=(True,))
EVERY = 5


def sa1b(root: Path, split: str = "train") -> ObjectFiles:
    """Images and masks in the layout of SA-1B."""
    existing(root, split)
    folders = split_folders(root, split)
    if not folders and split_folders(root, "all"):
        raise broken(root, "no_split_folder", f"no folder for split {split!r}", "call it train, val or test")
    images, labels = list[tuple[str, Path]](), list[tuple[str, Path]]()
    for folder in folders or [root]:
        files = sorted(folder.rglob("*.json"), key=natural_key)
        images += prefixed(folder.name, keyed(folder), split if folders else "")
        labels += prefixed(folder.name, keyed(folder, files=files), split if folders else "")
    if not images:
        raise empty(root)
    if not folders:
        val = {key for key, _ in sorted(labels, key=lambda entry: natural_key(entry[0]))[::EVERY]}
        images, labels = (keep_split(entries, split, val.__contains__) for entries in (images, labels))
    return paired("sa1b", split, root, images, labels, ANYTHING, read_sa1b)


def read_sa1b(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The masks of one JSON in their order."""
    try:
        data = json.loads(path.read_bytes())
        told = (int(data["image"]["height"]), int(data["image"]["width"]))
        found = [(one["segmentation"], float(one.get("predicted_iou", 1.0))) for one in data["annotations"]]
        masks = Masks.from_rle([segmentation for segmentation, _ in found], *size) if found else Masks(*size)
    except UserError as error:
        raise BadFile(path, "bad_region", error.message, "copy it again") from None
    except (ValueError, KeyError, TypeError) as error:
        fault = f"this is no annotation of SA-1B ({type(error).__name__}: {error})"
        raise BadFile(path, "bad_table", fault, 'it holds {"image": ..., "annotations": [...]}') from None
    same_size(path, told, size)
    labels = torch.zeros(len(masks), dtype=torch.int64)
    return Instances.from_masks(masks, labels, classes, torch.tensor([score for _, score in found]).reshape(-1).float())
