"""VGG Image Annotator (Dutta and Zisserman, 2019): regions drawn in a browser, saved as JSON by version 1 or 2.

    root/*.json beside the images or root/images; or root/<split>/*.json; or a path to the JSON file itself

A file whose name holds the split (`segmentation_train.json`) is that split; otherwise every fifth image is `val`. The
class of a region is one of its attributes. Regions give objects, and a label map in which later regions lie on top.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float64

from masklet.data.images import BadFile, natural_key, read_image
from masklet.data.pairs import SPLIT_FOLDERS, Samples, broken, empty, existing, keep_split
from masklet.ops import polygons
from masklet.structures import Classes, Instances, Masks, Sample

USUAL = ("class", "label", "name", "type", "object", "category")  # attributes that name a class, the likeliest first
EVERY = 5
AROUND = 128  # corners of a circle


@dataclass(frozen=True)
class Annotated:
    """One image file and its regions as they are in the JSON."""

    path: Path
    regions: tuple[Mapping[str, Any], ...]

    def attributes(self) -> list[Mapping[str, Any]]:
        return [region.get("region_attributes") or {} for region in self.regions]


@dataclass(frozen=True)
class Via(Samples):
    """Images with regions drawn by hand."""

    name: str
    split: str
    classes: Classes
    attribute: str | None
    entries: tuple[Annotated, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def paths(self, index: int) -> tuple[Path, ...]:
        """The image file of sample `index`."""
        return (self.entries[index].path,)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Via: ...
    def __getitem__(self, index: int | slice) -> Sample | Via:
        if isinstance(index, slice):
            return replace(self, entries=self.entries[index])
        entry = self.entries[index]
        image = read_image(entry.path)
        height, width = image.shape[1:]
        semantic = np.zeros((height, width), np.uint8)
        masks, labels = [np.zeros((0, height, width), bool)], []
        for number, region in enumerate(entry.regions):
            label = self._label(entry.path, number, region)
            mask = polygons.fill([outline(entry.path, number, region)], height, width)
            semantic[mask] = label
            masks.append(mask[None])
            labels.append(label)
        stack = Masks.from_dense(torch.from_numpy(np.concatenate(masks)))
        objects = Instances.from_masks(stack, torch.tensor(labels, dtype=torch.int64), self.classes)
        return Sample(
            image,
            name=entry.path.stem,
            semantic=torch.from_numpy(semantic),
            instances=objects,
            classes=self.classes,
        )

    def _label(self, path: Path, number: int, region: Mapping[str, Any]) -> int:
        if self.attribute is None:
            return 1
        kind = _text((region.get("region_attributes") or {}).get(self.attribute))
        if not kind:
            fault = f"region {number} has no {self.attribute!r}"
            raise BadFile(path, "bad_region", fault, "give every region its class in the annotator")
        return self.classes.names.index(kind)


def outline(path: Path, number: int, region: Mapping[str, Any]) -> Float64[np.ndarray, "k 2"]:
    """The corners (x, y) of one region."""
    shape = region.get("shape_attributes") or {}
    kind = shape.get("name")
    try:
        if kind in ("polygon", "polyline"):
            ring = np.stack([shape["all_points_x"], shape["all_points_y"]], 1).astype(np.float64)
        elif kind == "rect":
            (x, y), (w, h) = (shape["x"], shape["y"]), (shape["width"], shape["height"])
            ring = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float64)
        elif kind in ("circle", "ellipse"):
            rx, ry = (shape["r"], shape["r"]) if kind == "circle" else (shape["rx"], shape["ry"])
            turn, theta = np.arange(AROUND) * 2 * math.pi / AROUND, float(shape.get("theta", 0))
            u, v = rx * np.cos(turn), ry * np.sin(turn)
            x = shape["cx"] + u * math.cos(theta) - v * math.sin(theta)
            ring = np.stack([x, shape["cy"] + u * math.sin(theta) + v * math.cos(theta)], 1)
        else:
            fault = f"region {number} is a {kind or 'nameless shape'}, which covers no area"
            raise BadFile(path, "bad_region", fault, "draw a polygon, rect, circle or ellipse, or delete it")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        fault = f"region {number} is a {kind} with unusable coordinates ({error})"
        raise BadFile(path, "bad_region", fault, "draw it again, or delete it") from None
    if len(ring) < 3:
        fault = f"region {number} is a {kind} of {len(ring)} points"
        raise BadFile(path, "bad_region", fault, "give it at least 3, or delete it")
    return ring


def via(root: Path, split: str = "train", attribute: str | None = None, images: str | None = None) -> Via:
    """Images and regions of a VIA annotation; `attribute` holds the class, `images` is the folder of the pictures."""
    files = _files(root, split)
    everything = {file: _read(file, None if images is None else Path(images)) for file in files}
    entries = [entry for file in files for entry in everything[file]]
    if not entries:
        raise empty(root if root.is_dir() else root.parent)
    attribute = attribute or _attribute(entries)
    wanted = files if split == "all" else [f for f in files if _split_of(f) == split]
    if any(_split_of(f) for f in files):
        if not wanted:
            raise broken(root, "no_split_list", f"no annotation of split {split!r}", "call it train.json or val.json")
        chosen = [entry for file in wanted for entry in everything[file]]
    else:
        ordered = sorted(entries, key=lambda e: natural_key(e.path))
        val = {str(e.path) for e in ordered[::EVERY]} if len(ordered) > 1 else set()
        kept = {p for _, p in keep_split([(str(e.path), e.path) for e in ordered], split, val.__contains__)}
        chosen = [e for e in ordered if e.path in kept]
    chosen.sort(key=lambda e: natural_key(e.path))
    return Via("via", split, _classes(entries, attribute), attribute, tuple(chosen))


def _files(root: Path, split: str) -> list[Path]:
    """The annotation files: of all splits, so that every split knows the same classes."""
    if root.is_file():
        return [root]
    existing(root, split)
    inside = [root / name for names in SPLIT_FOLDERS.values() for name in names]
    found = sorted((f for folder in (root, *inside) if folder.is_dir() for f in folder.glob("*.json")), key=natural_key)
    if not found:
        raise broken(root, "bad_table", "no .json file in this folder", "export the annotations from VIA as JSON")
    return found


def _split_of(file: Path) -> str | None:
    """The split that a file or its folder is named after."""
    words = {file.parent.name.casefold(), *file.stem.casefold().replace("-", "_").split("_")}
    return next((split for split, names in SPLIT_FOLDERS.items() if words & set(names)), None)


def _read(file: Path, folder: Path | None) -> list[Annotated]:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise broken(file, "bad_table", f"not valid JSON ({error})", "export the annotations again") from None
    data = data.get("_via_img_metadata", data) if isinstance(data, dict) else data
    entries = list(data.values()) if isinstance(data, dict) else None
    if entries is None or not all(isinstance(e, dict) and "filename" in e and "regions" in e for e in entries):
        hint = "export as JSON, or save the project, in VIA 1 or 2"
        raise broken(file, "bad_table", "this is no annotation of the VGG Image Annotator", hint)
    return [Annotated(_find(file, folder, e["filename"]), tuple(_regions(e["regions"]))) for e in entries]


def _regions(regions: Any) -> list[Mapping[str, Any]]:
    """Version 1 numbers the regions in a dict, version 2 keeps a list."""
    if isinstance(regions, dict):
        return [regions[key] for key in sorted(regions, key=natural_key)]
    return list(regions)


def _find(file: Path, folder: Path | None, name: str) -> Path:
    places = [folder / name] if folder is not None else [file.parent / part / name for part in ("", "images")]
    return next((place for place in places if place.is_file()), places[0])


def _attribute(entries: Sequence[Annotated]) -> str | None:
    """The attribute that names the class: the usual names first, then the one most regions have."""
    counts = Counter(key for e in entries for a in e.attributes() for key, value in a.items() if _text(value))
    for usual in USUAL:
        if found := [key for key in counts if key.casefold() == usual]:
            return found[0]
    return counts.most_common(1)[0][0] if counts else None


def _classes(entries: Sequence[Annotated], attribute: str | None) -> Classes:
    """Background, and what the regions are called in natural order."""
    names = {"object"} if attribute is None else {_text(a.get(attribute)) for e in entries for a in e.attributes()}
    found = sorted(names - {""}, key=natural_key)
    return Classes(("background", *found), things=(False,) + (True,) * len(found))


def _text(value: Any) -> str:
    """A text, number or the chosen one of check boxes ({"dog": true}) as a class name."""
    if isinstance(value, dict):
        return next((str(key) for key, on in value.items() if on), "")
    return "" if value is None else str(value).strip()
