"""YOLO's segmentation files: a line per object, `class x y x y ...`, in fractions of the picture's width and height.

    root/images/<split>/*   root/labels/<split>/*.txt   root/data.yaml (`names:`) or root/classes.txt

An image without a file, or with an empty one, holds no object. Lines of four numbers are boxes (middle x and y, width,
height): a file holds either boxes or outlines. Outlines that touch or cross themselves are filled by the odd-even rule.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import torch

from masklet.data.images import BadFile, natural_key
from masklet.data.object_files import ObjectFiles, drawn, labels_of
from masklet.data.pairs import Finding, SourceError, broken, empty, existing, keyed, prefixed, split_folders, subfolder
from masklet.structures import Classes, Instances

OUTSIDE = 1e-3  # how far a point may lie outside the picture: rounding, not a mistake
LINE = "a line is `class x y x y ...` with at least 3 points, or `class x y width height`"


def yolo(root: Path, split: str = "train") -> ObjectFiles:
    """Images and outlines of YOLO."""
    existing(root, split)
    pictures, texts = subfolder(root, ("images",), "image"), subfolder(root, ("labels",), "mask")
    folders = split_folders(pictures, split)
    if not folders:
        has = ", ".join(f.name for f in split_folders(pictures, "all"))
        hint = f"it has {has}" if has else f"expected images/{split}"
        raise broken(pictures, "no_split_folder", f"no folder for split {split!r}", hint)
    images = [entry for f in folders for entry in prefixed(f.name, keyed(f), split)]
    if not images:
        raise empty(folders[0])
    labels = dict(
        entry
        for f in folders
        for entry in prefixed(f.name, keyed(texts / f.name, files=sorted((texts / f.name).rglob("*.txt"))), split)
    )
    if alone := sorted(labels.keys() - dict(images).keys(), key=natural_key):
        fault = f"no image is called {alone[0]!r}"
        hint = "add the image, or remove the file"
        raise SourceError(Finding(str(labels[alone[0]]), "mask_without_image", fault, hint))
    images.sort(key=lambda entry: natural_key(entry[0]))
    twice = [key for (key, _), (other, _) in itertools.pairwise(images) if key == other]
    if twice:
        fault, hint = f"image {twice[0]!r} exists twice", "rename or remove one of them"
        raise SourceError(Finding(str(dict(images)[twice[0]]), "duplicate_image", fault, hint))
    keys, paths = zip(*images, strict=True)
    found = tuple(labels.get(key) for key in keys)
    return ObjectFiles("yolo", split, _classes(root), keys, paths, found, read_yolo)


def read_yolo(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of one text file, line by line."""
    scale = np.array([size[1], size[0]], np.float64)
    labels, rings, boxes = list[int](), list[list[np.ndarray]](), list[np.ndarray]()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.split():
            continue
        label, points = _line(path, number, line.split(), classes)
        labels.append(label)
        if len(points) == 2:
            (x, y), (w, h) = points * scale
            boxes.append(np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
        else:
            rings.append([points * scale])
        if boxes and rings:
            raise BadFile(path, "bad_table", f"line {number}: boxes and outlines in one file", "keep one kind")
    if boxes:
        corners = torch.from_numpy(np.stack(boxes)).float()
        return Instances(corners, labels_of(labels), torch.ones(len(boxes)), None, size, classes)
    return Instances.from_masks(drawn(rings, size), labels_of(labels), classes)


def _line(path: Path, number: int, words: list[str], classes: Classes) -> tuple[int, np.ndarray]:
    try:
        label, numbers = int(words[0]), np.array(words[1:], np.float64)
    except ValueError:
        raise BadFile(path, "bad_table", f"line {number} holds something that is no number", LINE) from None
    if not 0 <= label < len(classes):
        fault = f"line {number} has the class {label}, but there are {len(classes)} classes"
        raise BadFile(path, "label_outside", fault, f"classes are 0 to {len(classes) - 1}")
    if len(numbers) % 2:
        raise BadFile(path, "bad_region", f"line {number} has {len(numbers)} coordinates, an odd number", LINE)
    if len(numbers) < 4:
        raise BadFile(path, "bad_region", f"line {number} is a polygon of {len(numbers) // 2} points", LINE)
    if not (np.isfinite(numbers).all() and numbers.min() >= -OUTSIDE and numbers.max() <= 1 + OUTSIDE):
        fault = f"line {number} has coordinates from {numbers.min():g} to {numbers.max():g}"
        raise BadFile(path, "bad_region", fault, "they are fractions of width and height, 0 to 1")
    return label, numbers.reshape(-1, 2)


def _classes(root: Path) -> Classes:
    """The names in `data.yaml` or `classes.txt`."""
    for name in ("data.yaml", "dataset.yaml", "classes.txt"):
        path = root / name
        if path.is_file():
            text = path.read_text(encoding="utf-8-sig")
            names = yaml_names(text) if path.suffix == ".yaml" else [n.strip() for n in text.splitlines() if n.strip()]
            if not names:
                raise BadFile(path, "bad_classes", "it names no classes", "write `names: [cat, dog]`")
            return Classes(tuple(names), things=(True,) * len(names), ignore=255 if len(names) <= 255 else 65535)
    raise broken(root, "bad_classes", "no data.yaml and no classes.txt", "write the names into classes.txt, one a line")


def yaml_names(text: str) -> list[str]:
    """The entry `names` of a YAML file: a list in brackets, with dashes, or numbered from 0; all that YOLO writes."""
    found = re.search(r"^names:[ \t]*(.*)\n?((?:[ \t]*(?:-|\d+:)[^\n]*\n?)*)", text, re.MULTILINE)
    if found is None:
        return []
    inline = re.sub(r"\s+#.*", "", found[1]).strip()
    if inline[:1] in ("[", "{"):
        rest = text[found.start(1) :]
        entries = rest[1 : rest.find("]" if inline[0] == "[" else "}")].split(",")
    else:
        entries = [line.strip().removeprefix("-") for line in found[2].splitlines()]
    names = [re.sub(r"^\d+\s*:\s*", "", e.strip()).strip().strip("'\"") for e in entries]
    return [name for name in names if name]
