"""Labelme (Wada et al.): one JSON per image with shapes drawn by hand.

    root/*.json beside their images; or root/<split>/*.json; optional labels.txt in root or above it

Without split folders every fifth file is `val`. Shapes with one label and one `group_id` are one object, shapes without
a `group_id` are objects of their own. A polygon, rectangle or circle covers the pixels whose middles it holds; a `mask`
is taken as it is. The labels `__ignore__` and `_background_` mean no object. Classes are those of labels.txt in its
order, else the labels that occur, sorted.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image

from masklet.data.images import BadFile, natural_key
from masklet.data.object_files import ObjectFiles, labels_of, same_size
from masklet.data.pairs import broken, empty, existing, keep_split, prefixed, split_folders
from masklet.ops import polygons, rle
from masklet.ops.rle import RLE
from masklet.structures import Classes, Instances, Masks

NO_OBJECT = ("__ignore__", "_background_")
EVERY = 5
AROUND = 128  # corners of a circle


def labelme(root: Path, split: str = "train") -> ObjectFiles:
    """Images and shapes of labelme."""
    existing(root, split)
    folders = split_folders(root, split)
    if not folders and split_folders(root, "all"):
        raise broken(root, "no_split_folder", f"no folder for split {split!r}", "call it train, val or test")
    files = [
        entry
        for folder in folders or [root]
        for entry in prefixed(folder.name, _files(folder), split if folders else "")
    ]
    if not files:
        raise empty(root)
    everything = files if not folders else [e for f in split_folders(root, "all") for e in _files(f)]
    classes = _classes(root, [path for _, path in everything])
    if not folders:
        files.sort(key=lambda entry: natural_key(entry[0]))
        val = {key for key, _ in files[::EVERY]} if len(files) > 1 else set[str]()
        files = keep_split(files, split, val.__contains__)
    keys, labels = zip(*files, strict=True) if files else ((), ())
    return ObjectFiles("labelme", split, classes, keys, tuple(map(_image, labels)), labels, read_labelme)


def read_labelme(path: Path, size: tuple[int, int], classes: Classes) -> Instances:
    """The objects of one JSON, in the order of their first shapes."""
    data = _json(path)
    told = tuple(data.get(key) or own for key, own in zip(("imageHeight", "imageWidth"), size, strict=True))
    same_size(path, (int(told[0]), int(told[1])), size)
    parts: dict[Any, list[RLE]] = {}
    labels, crowd = list[int](), list[bool]()
    for number, shape in enumerate(data["shapes"]):
        name, group = str(shape.get("label")), shape.get("group_id")
        if name in NO_OBJECT:
            continue
        if name not in classes.names:
            fault = f"shape {number} is called {name!r}, which labels.txt does not list"
            raise BadFile(path, "label_outside", fault, "add it there, or rename the shape")
        key = (number, None) if group is None else (name, group)
        if key not in parts:
            labels.append(classes.names.index(name))
            crowd.append(bool((shape.get("flags") or {}).get("crowd")))
        parts.setdefault(key, []).append(_drawn(path, number, shape, size))
    masks = Masks(*size, tuple(p[0] if len(p) == 1 else rle.merge(p) for p in parts.values()))
    boxes, scores = masks.boxes(), torch.ones(len(masks))
    return Instances(boxes, labels_of(labels), scores, masks, size, classes, torch.tensor(crowd, dtype=torch.bool))


def _drawn(path: Path, number: int, shape: Mapping[str, Any], size: tuple[int, int]) -> RLE:
    """The pixels of one shape."""
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.array(shape["points"], np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a number is not finite")
        if kind == "mask":
            return _pasted(path, number, shape["mask"], points, size)
        ring = _outline(kind, points)
    except (KeyError, TypeError, ValueError, IndexError, binascii.Error, OSError) as error:
        if isinstance(error, BadFile):
            raise
        fault = f"shape {number} is a {kind} with unusable coordinates ({error})"
        raise BadFile(path, "bad_region", fault, "draw it again, or delete it") from None
    if ring is None:
        fault = f"shape {number} is a {kind}, which covers no area"
        raise BadFile(path, "bad_region", fault, "draw a polygon, rectangle or circle, or delete it")
    if len(ring) < 3:
        fault = f"shape {number} is a {kind} of {len(ring)} points"
        raise BadFile(path, "bad_region", fault, "give it at least 3, or delete it")
    return rle.encode(polygons.fill([ring], *size))


def _outline(kind: str, points: Float64[np.ndarray, "k 2"]) -> Float64[np.ndarray, "c 2"] | None:
    if kind in ("polygon", "oriented_rectangle"):
        return points
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if kind == "circle":  # its centre and a point on it
        turn, radius = np.arange(AROUND) * 2 * math.pi / AROUND, math.dist(points[0], points[1])
        return points[0] + radius * np.stack([np.cos(turn), np.sin(turn)], 1)
    return None


def _pasted(path: Path, number: int, text: str, points: Float64[np.ndarray, "2 2"], size: tuple[int, int]) -> RLE:
    """A bitmap in the box of its two corners, both of which belong to it."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        bitmap = np.array(image.convert("L")) > 0
    x0, y0 = (int(v) for v in points.min(0))
    if x0 < 0 or y0 < 0 or y0 + bitmap.shape[0] > size[0] or x0 + bitmap.shape[1] > size[1]:
        fault = f"shape {number} is a mask of {bitmap.shape[0]}x{bitmap.shape[1]} that leaves the image"
        raise BadFile(path, "bad_region", fault, "draw it again, or delete it")
    return rle.from_crop(bitmap, x0, y0, *size)


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.stem, path) for path in sorted(folder.glob("*.json"), key=natural_key)]


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadFile(path, "missing_file", "the file does not exist", "name a JSON of labelme") from None
    except ValueError as error:
        raise BadFile(path, "bad_table", f"not valid JSON ({error})", "save it again in labelme") from None
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) and "label" in shape for shape in shapes):
        raise BadFile(path, "bad_table", "this is no annotation of labelme", 'it holds {"shapes": [{"label": ...}]}')
    return data


def _image(path: Path) -> Path:
    """The picture that a JSON is about: the one it names, or one of its own name."""
    named = path.parent / PureWindowsPath(str(_json(path).get("imagePath") or f"{path.stem}.jpg")).as_posix()
    others = (path.with_suffix(suffix) for suffix in (".jpg", ".png", ".jpeg"))
    return next((p for p in (named, *others) if p.is_file()), named)


def _classes(root: Path, files: list[Path]) -> Classes:
    listed = next((p for p in (root / "labels.txt", root.parent / "labels.txt") if p.is_file()), None)
    if listed is not None:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines()]
    else:
        names = sorted({str(shape["label"]) for file in files for shape in _json(file)["shapes"]}, key=natural_key)
    names = [name for name in names if name and name not in NO_OBJECT]
    if not names:
        raise broken(listed or root, "bad_classes", "there is no label of an object", "list the labels in labels.txt")
    return Classes(tuple(names), things=(True,) * len(names), ignore=255 if len(names) <= 255 else 65535)
