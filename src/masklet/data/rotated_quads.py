"""Words, and things seen from the air, by their four corners: ICDAR 2015 (Karatzas et al.), DOTA v1 (Xia et al., 2018).

    icdar:   root/images/*  root/gt/gt_<image>.txt, a line `x1,y1,...,x4,y4,transcription` per word; or MMOCR's JSON
    dota:    root/images/*  root/labelTxt/<image>.txt, a line `x1 y1 ... x4 y4 class difficult` per object

Folders may be divided by split (`images/train`). Each object has a mask (what its corners enclose), an upright box and
a rotated one, the rectangle of least area around the corners. Illegible words (`###`) and difficult things are `crowd`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float64

from masklet.data.images import BadFile, natural_key
from masklet.data.object_files import ObjectFiles, drawn, labels_of, paired, same_size
from masklet.data.pairs import broken, empty, existing, keyed, prefixed, split_folders, subfolder
from masklet.structures import Classes, Instances

TEXT = Classes(("text",), things=(True,))
DOTA = (
    "plane", "ship", "storage-tank", "baseball-diamond", "tennis-court", "basketball-court", "ground-track-field",
    "harbor", "bridge", "large-vehicle", "small-vehicle", "helicopter", "roundabout", "soccer-ball-field",
    "swimming-pool",
)  # fmt: skip
AERIAL = Classes(DOTA, things=(True,) * len(DOTA))
ILLEGIBLE = "###"
Quads = Float64[np.ndarray, "n 4 2"]


def icdar(root: Path, split: str = "train") -> ObjectFiles:
    """Photographs with words: ICDAR 2015's text files below a folder, or MMOCR's JSON."""
    if root.is_file():
        return _mmocr(root, split)
    existing(root, split)
    images, texts = _divided(root, split, ("images", "imgs", "image"), ("gt", "labels", "annotations"))
    texts = [(f"{head}{slash}{tail.removeprefix('gt_')}", p) for k, p in texts for head, slash, tail in [_cut(k)]]
    return paired("icdar", split, root, images, texts, TEXT, read_icdar)


def dota(root: Path, split: str = "train", classes: str = ",".join(DOTA)) -> ObjectFiles:
    """Photographs from the air; `classes` are the names in the files, separated by commas."""
    existing(root, split)
    names = tuple(classes.split(","))
    images, texts = _divided(root, split, ("images",), ("labelTxt", "labels", "annfiles"))
    known = {key for key, _ in images}
    texts = [(key, path) for key, path in texts if key in known or path.stat().st_size]  # tiles without objects
    return paired("dota", split, root, images, texts, Classes(names, things=(True,) * len(names)), read_dota)


def read_icdar(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The words of one text file."""
    corners, crowd = list[list[str]](), list[bool]()
    for number, line in _lines(path):
        *words, text = line.split(",", 8)
        if len(words) != 8:
            fault = f"line {number} has {len(words)} numbers before the transcription"
            raise BadFile(path, "bad_table", fault, "a line is x1,y1,x2,y2,x3,y3,x4,y4,transcription")
        corners.append(words)
        crowd.append(text.strip() == ILLEGIBLE)
    return quads(_numbers(path, corners), [0] * len(corners), crowd, size, classes)


def read_dota(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of one text file; lines on where the picture comes from are passed over."""
    corners, labels, crowd = list[list[str]](), list[int](), list[bool]()
    for number, line in _lines(path):
        words = line.split()
        if len(words) == 1 and ":" in line:
            continue
        if len(words) not in (9, 10):
            fault = f"line {number} has {len(words)} words"
            raise BadFile(path, "bad_table", fault, "a line is x1 y1 x2 y2 x3 y3 x4 y4 class difficult")
        if words[8] not in classes.names:
            fault = f"line {number} is called {words[8]!r}, which is no class"
            raise BadFile(path, "label_outside", fault, f"classes are {', '.join(classes.names)}; pass classes=A,B")
        corners.append(words[:8])
        labels.append(classes.names.index(words[8]))
        crowd.append(words[9:] not in ([], ["0"]))
    return quads(_numbers(path, corners), labels, crowd, size, classes)


def quads(
    corners: Quads, labels: Sequence[int], crowd: Sequence[bool], size: tuple[int, int], classes: Classes
) -> Instances:
    """Objects from their four corners (x, y)."""
    turned = torch.from_numpy(rotated_boxes(corners)).float()
    boxes = torch.from_numpy(np.concatenate([corners.min(1), corners.max(1)], 1)).float()
    masks, flags = drawn([[ring] for ring in corners], size), torch.tensor(list(crowd), dtype=torch.bool)
    labelled, scores = labels_of(list(labels)), torch.ones(len(corners))
    return Instances(boxes, labelled, scores, masks, size, classes, flags, rotated=turned)


def rotated_boxes(corners: Quads) -> Float64[np.ndarray, "n 5"]:
    """The rectangle of least area around four points, as (cx, cy, w, h, degrees) with -45 <= degrees < 45.

    One of its sides lies along two of the points, so six directions are tried. Counter-clockwise on the screen.
    """
    pairs = np.array(list(combinations(range(4), 2)))
    sides = corners[:, pairs[:, 1]] - corners[:, pairs[:, 0]]  # n 6 2
    angles = np.arctan2(-sides[..., 1], sides[..., 0])
    angles = (angles + np.pi / 4) % (np.pi / 2) - np.pi / 4
    u = np.stack([np.cos(angles), -np.sin(angles)], -1)  # along the width; y points down
    v = np.stack([np.sin(angles), np.cos(angles)], -1)
    along, across = (np.einsum("nkc,npc->nkp", axis, corners) for axis in (u, v))
    w, h = np.ptp(along, axis=2), np.ptp(across, axis=2)
    best = (np.arange(len(corners)), (w * h).argmin(1))
    middle = [((a.min(2) + a.max(2)) / 2)[best][:, None] for a in (along, across)]
    centre = middle[0] * u[best] + middle[1] * v[best]
    return np.concatenate([centre, np.stack([w[best], h[best], np.degrees(angles[best])], 1)], 1)


def _mmocr(path: Path, split: str) -> ObjectFiles:
    """MMOCR's JSON lists the words of many photographs."""
    try:
        data = json.loads(path.read_bytes())
        found = {
            path.parent / e["img_path"]: (
                (int(e["height"]), int(e["width"])),
                [word["polygon"] for word in e["instances"]],
                [bool(word.get("ignore")) for word in e["instances"]],
            )
            for e in data["data_list"]
        }
    except (ValueError, KeyError, TypeError) as error:
        hint = 'it holds {"data_list": [{"img_path": ..., "height": ..., "width": ..., "instances": [...]}]}'
        raise BadFile(path, "bad_table", f"this is no JSON of MMOCR ({error})", hint) from None
    if not found:
        raise empty(path.parent)
    images = tuple(sorted(found, key=natural_key))
    keys = tuple(p.stem for p in images)
    return ObjectFiles("icdar", split, TEXT, keys, images, images, partial(_read_mmocr, path, MappingProxyType(found)))


def _read_mmocr(path: Path, found: MappingProxyType, image: Path, size: tuple[int, int], classes: Classes) -> Instances:
    told, polygons, crowd = found[image]
    same_size(image, told, size)
    return quads(_numbers(path, polygons), [0] * len(polygons), crowd, size, classes)


def _numbers(path: Path, rows: Sequence[Sequence[str | int | float]]) -> Quads:
    """Four corners from each row."""
    for number, row in enumerate(rows):
        if len(row) != 8:
            fault = f"object {number} (counted from 0) has {len(row)} coordinates"
            raise BadFile(path, "bad_region", fault, "a quadrilateral has four corners, x1 y1 to x4 y4")
    try:
        corners = np.array(rows, np.float64).reshape(-1, 4, 2)
    except ValueError as error:
        raise BadFile(path, "bad_table", f"a corner is no number ({error})", "write it again") from None
    if not np.isfinite(corners).all():
        raise BadFile(path, "bad_table", "a corner is not a finite number", "write it again")
    return corners


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _cut(key: str) -> tuple[str, str, str]:
    return key.rpartition("/")


def _divided(
    root: Path, split: str, images: Sequence[str], texts: Sequence[str]
) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Pictures and text files; folders that are not divided are the split that was asked for."""
    pictures, labels = subfolder(root, images, "image"), subfolder(root, texts, "mask")
    folders = split_folders(pictures, split)
    if not folders and split_folders(pictures, "all"):
        raise broken(pictures, "no_split_folder", f"no folder for split {split!r}", "call it train, val or test")
    if not folders:
        found, listed = keyed(pictures), keyed(labels, files=sorted(labels.rglob("*.txt"), key=natural_key))
    else:
        found = [e for f in folders for e in prefixed(f.name, keyed(f), split)]
        places = [labels / f.name for f in folders]
        listed = [e for p in places for e in prefixed(p.name, keyed(p, files=sorted(p.rglob("*.txt"))), split)]
    if not found:
        raise empty(pictures)
    return found, listed
