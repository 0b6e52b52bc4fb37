"""Writing objects as labelme, YOLO and id maps. What a format cannot keep is counted, and told in a sentence."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt16
from PIL import Image

from masklet.data.images import orientation, to_float
from masklet.data.pairs import SPLIT_FOLDERS
from masklet.data.sources import Dataset
from masklet.ops import polygons
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError
from masklet.structures.files import replacing

Step = Callable[[int], None]
LOSSES = {
    "crowd": "{n} left out: {to} has no mark for regions that are not one object",
    "holes": "holes of {n} filled: an outline in {to} has none",
    "keypoints": "keypoints of {n}: {to} has no place for them",
    "rotated": "rotated boxes of {n}: {to} has no place for them",
    "overlaps": "{n} lost pixels to a later one: in an id map a pixel belongs to one object",
    "hidden": "{n} vanished under later ones: in an id map a pixel belongs to one object",
    "classes": "the classes of {n}: an id map has only one",
    "empty": "{n} left out: nothing of them lies in the picture",
}


class Lost:
    """How many objects lost what."""

    def __init__(self) -> None:
        self.counts, self.to = Counter[str](), ""

    def see(self, objects: Instances, to: str, keypoints: bool = False, rotated: bool = False) -> Instances:
        """Count the keypoints and rotated boxes that a format drops (the named ones); returns the objects."""
        self.to = to
        if keypoints and objects.keypoints is not None:
            self.add("keypoints", int((objects.keypoints[..., 2] > 0).any(1).sum()))
        if rotated and objects.rotated is not None:
            self.add("rotated", len(objects))
        return objects

    def add(self, what: str, n: int = 1) -> None:
        self.counts[what] += n

    def sentences(self) -> list[str]:
        """One sentence for each kind of loss that occurred."""
        named = {what: f"{n} object{'' if n == 1 else 's'}" for what, n in self.counts.items() if n}
        return [text.format(n=named[what], to=self.to) for what, text in LOSSES.items() if what in named]


def place_image(folder: Path, dataset: Dataset, index: int, sample: Sample, suffix: str | None = None) -> str:
    """The picture of a sample in `folder`: the file itself where it is upright, else a PNG; its relative name."""
    source = next(iter(dataset.paths(index)), None)
    if source is not None and suffix in (None, source.suffix.lower()):
        with Image.open(source) as image:
            upright = orientation(image) == 1
        if upright:
            name = sample.name + source.suffix.lower()
            with replacing(folder / name) as unfinished:
                shutil.copyfile(source, unfinished)
            return name
    name = sample.name + (suffix or ".png")
    picture = (to_float(sample.image) * 255).round().byte()
    with replacing(folder / name) as unfinished:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(unfinished, quality=95)
    return name


def objects_of(sample: Sample, classes: Classes) -> Instances:
    """The objects of a sample: its instances, or the things of its panoptic map."""
    if sample.instances is not None:
        return sample.instances
    if sample.panoptic is None:
        raise UserError(f"sample {sample.name!r} has no objects", hint="use coco or folder for a label map")
    masks, numbers = Masks.from_ids(sample.panoptic.ids)
    segments = {s.id: s for s in sample.panoptic.segments}
    found = [segments[number] for number in numbers.tolist()]
    labels = torch.tensor([s.label for s in found], dtype=torch.int64)
    crowd, things = (torch.tensor([getattr(s, f) for s in found], dtype=torch.bool) for f in ("crowd", "thing"))
    boxes, scores = masks.boxes(), torch.ones(len(masks))
    return Instances(boxes, labels, scores, masks, masks.size, classes, crowd)[things]


def _of_split(dataset: Dataset, sample: Sample) -> Sample:
    """The sample with its split as the first folder of its name."""
    head = sample.name.partition("/")[0]
    if "/" in sample.name and any(head in names for names in SPLIT_FOLDERS.values()):
        return sample
    return replace(sample, name=f"{'train' if dataset.split == 'all' else dataset.split}/{sample.name}")


def to_labelme(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """A JSON beside every image, and `labels.txt`. Parts share a `group_id`, objects with holes are bitmaps.

    Crowds are shapes with the flag `crowd`.
    """
    lost = Lost()
    for i in range(len(dataset)):
        sample = dataset[i]
        objects = lost.see(objects_of(sample, dataset.classes), "labelme", keypoints=True, rotated=True)
        name = place_image(out, dataset, i, sample)
        shapes = list[dict[str, Any]]()
        for k in range(len(objects)):
            flags = {"crowd": True} if objects.crowd is not None and bool(objects.crowd[k]) else {}
            kind = dataset.classes.names[int(objects.labels[k])]
            if not (forms := _shapes(objects, k)):
                lost.add("empty")
            group = k if len(forms) > 1 else None
            shapes += [{"label": kind, "group_id": group, "flags": flags, **form} for form in forms]
        height, width = sample.size
        data: dict[str, Any] = {
            "version": "5.4.1",  # the first with bitmaps as shapes was 5.3
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(name).name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with replacing(out / f"{sample.name}.json") as unfinished:
            unfinished.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        step(i + 1)
    with replacing(out / "labels.txt") as unfinished:
        unfinished.write_text("\n".join(dataset.classes.names) + "\n", encoding="utf-8")
    return lost.sentences()


def _shapes(objects: Instances, k: int) -> list[dict[str, Any]]:
    """One object as polygons, a bitmap or a rectangle."""
    if objects.masks is None:
        x0, y0, x1, y1 = objects.boxes[k].tolist()
        return [{"shape_type": "rectangle", "points": [[x0, y0], [x1, y1]]}]
    crop, x0, y0 = objects.masks.crop(k)
    rings = polygons.trace(crop)
    if all(polygons.area(ring) > 0 for ring in rings):
        return [{"shape_type": "polygon", "points": (ring + np.array([x0, y0])).tolist()} for ring in rings]
    text = io.BytesIO()
    Image.fromarray(crop.numpy()).save(text, "PNG")
    corners = [[x0, y0], [x0 + crop.shape[1] - 1, y0 + crop.shape[0] - 1]]
    return [{"shape_type": "mask", "points": corners, "mask": base64.b64encode(text.getvalue()).decode()}]


def to_yolo(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images/<split>`, `labels/<split>` and `data.yaml`. Parts are joined by bridges of no width."""
    lost = Lost()
    for i in range(len(dataset)):
        sample = dataset[i]
        objects = lost.see(objects_of(sample, dataset.classes), "YOLO", keypoints=True, rotated=True)
        sample = _of_split(dataset, sample)
        place_image(out / "images", dataset, i, sample)
        scale, lines = np.array(sample.size[::-1], np.float64), list[str]()
        for k in range(len(objects)):
            if objects.crowd is not None and bool(objects.crowd[k]):
                lost.add("crowd")
                continue
            if objects.masks is None:
                x0, y0, x1, y1 = objects.boxes[k].tolist()
                points = np.array([((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)])
            else:
                points = _outline(objects.masks, k, lost)
                if not len(points):
                    continue
            lines.append(f"{int(objects.labels[k])} " + " ".join(f"{v:.6f}" for v in (points / scale).ravel().tolist()))
        with replacing(out / "labels" / f"{sample.name}.txt") as unfinished:
            unfinished.write_text("\n".join([*lines, ""]), encoding="utf-8")
        step(i + 1)
    names = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(dataset.classes.names))
    with replacing(out / "data.yaml") as unfinished:
        unfinished.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return lost.sentences()


def to_via(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images` and `regions.json`, which VIA 2 opens. A region for each object; its attribute `class` names it."""
    lost, entries = Lost(), dict[str, Any]()
    for i in range(len(dataset)):
        sample = dataset[i]
        objects = lost.see(objects_of(sample, dataset.classes), "VIA", keypoints=True, rotated=True)
        name = place_image(out / "images", dataset, i, sample)
        regions = list[dict[str, Any]]()
        for k in range(len(objects)):
            if objects.crowd is not None and bool(objects.crowd[k]):
                lost.add("crowd")
                continue
            shape: dict[str, Any]
            if objects.masks is None:
                x0, y0, x1, y1 = objects.boxes[k].tolist()
                shape = {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
            else:
                points = _outline(objects.masks, k, lost)
                if not len(points):
                    continue
                xs, ys = points.T.tolist()
                shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
            kind = dataset.classes.names[int(objects.labels[k])]
            regions.append({"shape_attributes": shape, "region_attributes": {"class": kind}})
        size = (out / "images" / name).stat().st_size
        entries[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        step(i + 1)
    with replacing(out / "regions.json") as unfinished:
        unfinished.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return lost.sentences()


def _outline(masks: Masks, k: int, lost: Lost) -> Float64[np.ndarray, "n 2"]:
    """The border of mask k as one ring: parts joined by bridges, holes filled. No point where it is empty."""
    crop, left, top = masks.crop(k)
    rings = polygons.trace(crop)
    outer = [ring + np.array([left, top], np.float64) for ring in rings if polygons.area(ring) > 0]
    lost.add("holes", len(outer) < len(rings))
    lost.add("empty", not outer)
    return bridged(outer) if outer else np.zeros((0, 2))


def bridged(rings: list[np.ndarray]) -> np.ndarray:
    """Many rings as one: from the first point of the first there is a way to each other ring, and the same way back.

    The ways run along pixel borders, so that they cover nothing when the ring is filled.
    """
    start, path = rings[0][0], [rings[0], rings[0][:1]]
    for ring in rings[1:]:
        corner = np.array([[ring[0, 0], start[1]]])
        path += [corner, ring, ring[:1], corner, start[None]]
    return rings[0] if len(rings) == 1 else np.concatenate(path)


def id_map(masks: Masks, order: Iterable[int]) -> UInt16[np.ndarray, "h w"]:
    """A picture in which mask i has the value i + 1; of masks that overlap, the later one in `order` is in front."""
    ids = np.zeros(masks.size, np.uint16)
    for k in order:
        crop, x0, y0 = masks.crop(k)
        ids[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop.numpy()] = k + 1
    return ids


def to_nuclei(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images/<split>` and `instance_ids/<split>`: 16-bit PNGs in which object i has the value i + 1."""
    lost = Lost()
    for i in range(len(dataset)):
        sample = dataset[i]
        objects = lost.see(objects_of(sample, dataset.classes), "an id map", keypoints=True, rotated=True)
        sample = _of_split(dataset, sample)
        if objects.masks is None and len(objects):
            raise UserError(f"the objects of {sample.name!r} have boxes but no masks", hint="use coco, labelme or yolo")
        if objects.crowd is not None:
            lost.add("crowd", int(objects.crowd.sum()))
            objects = objects[~objects.crowd]
        if len(objects) > 65535:
            raise UserError(f"{sample.name!r} has {len(objects)} objects, 16 bits number 65535", hint="use coco")
        place_image(out / "images", dataset, i, sample)
        ids = id_map(objects.masks or Masks(*sample.size), range(len(objects)))
        areas = [] if objects.masks is None else objects.masks.areas().tolist()
        left = np.bincount(ids.ravel(), minlength=len(areas) + 1)[1:].tolist()
        lost.add("empty", sum(area == 0 for area in areas))
        lost.add("hidden", sum(n == 0 < area for n, area in zip(left, areas, strict=True)))
        lost.add("overlaps", sum(0 < n < area for n, area in zip(left, areas, strict=True)))
        if len(dataset.classes) > 1:
            lost.add("classes", len(objects))
        with replacing(out / "instance_ids" / f"{sample.name}.png") as unfinished:
            Image.fromarray(ids).save(unfinished, "PNG")
        step(i + 1)
    return lost.sentences()
