"""COCO's instances and keypoints as a data set (Lin et al., 2014): polygons, holes, crowds, points of the body.

    root/annotations/instances_train2017.json (or person_keypoints_train2017.json)   root/train2017/*.jpg
    any.json                                                                         images/ beside it

A file whose name holds no split is divided: every fifth image is `val`. Labels count the categories by rising id; the
ids themselves are `Classes.ids`, and come back when the data set is written. A crowd is one object with `crowd` set.

COCO's keypoints are numbers of pixels and polygons are positions: here both are positions, so keypoints move by half a
pixel (as in detectron2), and `masklet.data.formats` moves them back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from masklet.data.coco import CocoTruth, Rows, parse_truth, read_json
from masklet.data.images import BadFile, natural_key, read_image
from masklet.data.pairs import CHECK, SPLIT_FOLDERS, Samples, broken, empty, existing, keep_split, size_mismatch
from masklet.ops import rle
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError

__all__ = ["HALF", "Coco", "coco"]

KINDS = ("instances", "person_keypoints")  # what the official files are called
EVERY = 5
HALF = 0.5  # from the number of a pixel to the position of its middle
LOOKED = 20  # images that are looked for before a folder is believed to hold none


class Packed(Sequence[Any]):
    """A long list of JSON values as text in one array: a tenth of their memory, and worker processes share it."""

    def __init__(self, texts: Iterable[bytes]):
        text, ends = bytearray(), [0]
        for part in texts:
            text += part
            ends.append(len(text))
        self.text: UInt8[np.ndarray, " bytes"] = np.frombuffer(text, np.uint8)
        self.ends: Int64[np.ndarray, " n_plus_1"] = np.array(ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return json.loads(self.text[self.ends[i] : self.ends[i + 1]].tobytes())


KEPT = ("id", "height", "width", "file_name", "neg_category_ids", "not_exhaustive_category_ids")  # of an image


def as_text(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation whose segmentation is text again, or an image without what nobody reads, while JSON is parsed."""
    if entry.get("segmentation"):
        entry["segmentation"] = json.dumps(entry["segmentation"], separators=(",", ":")).encode()
    return {key: entry[key] for key in KEPT if key in entry} if "file_name" in entry else entry


@dataclass(frozen=True, eq=False)
class File:
    """One JSON: what is in its images, and where they lie."""

    path: Path
    folder: Path
    prefix: str  # before the names of its samples
    truth: CocoTruth
    boxes: Float32[Tensor, "n 4"] | None
    crowd: Bool[Tensor, " n"]
    keypoints: Float32[Tensor, "n k 3"] | None

    def image(self, k: int) -> Path:
        """The photograph of image `k`."""
        return self.folder / file_name(self.truth, k)

    def objects(self, k: int, size: tuple[int, int], classes: Classes) -> Instances:
        """The objects of image `k`, which is `size` pixels; polygons are drawn and run lengths read only now."""
        truth, told = self.truth, (int(self.truth.sizes[k, 0]), int(self.truth.sizes[k, 1]))
        if all(told) and told != size:
            text = size_mismatch(told, size).replace("mask is", f"{self.path.name} says")
            raise BadFile(self.image(k), "size_mismatch", text, CHECK)
        if truth.segmentations is not None and not all(told):
            sizes = truth.sizes.copy()
            sizes[k] = size
            truth = replace(truth, sizes=sizes)
        part = slice(int(truth.first[k]), int(truth.first[k + 1]))
        found = truth.objects(k, k + 1)
        masks = None
        if found.masks is not None:
            toggles = np.stack([found.masks.starts, found.masks.ends], 1).reshape(-1).astype(np.int64)
            masks = Masks(*size, tuple(rle.from_toggles(toggles, 2 * found.masks.first, *size)))
        boxes = None if self.boxes is None else self.boxes[part]
        if boxes is None:
            boxes = torch.zeros(len(found), 4) if masks is None else masks.boxes()
        return Instances(
            boxes,
            torch.from_numpy(found.labels),
            torch.ones(len(found)),
            masks,
            size,
            classes,
            self.crowd[part],
            None if self.keypoints is None else self.keypoints[part],
        )


@dataclass(frozen=True, eq=False)
class Coco(Samples):
    """Photographs with objects from COCO's JSON; the index is small, masks are made when a sample is asked for."""

    name: str
    split: str
    classes: Classes
    files: tuple[File, ...]
    places: Int64[np.ndarray, "n 2"]  # file and image of every sample

    def __len__(self) -> int:
        return len(self.places)

    def paths(self, index: int) -> tuple[Path, ...]:
        """The photograph of sample `index`, and the JSON."""
        file, k = self._place(index)
        return file.image(k), file.path

    def image_id(self, index: int) -> Any:
        """The id that the JSON gives to the image of sample `index`."""
        file, k = self._place(index)
        return file.truth.ids[k]

    def _place(self, index: int) -> tuple[File, int]:
        file, k = self.places[index].tolist()
        return self.files[file], k

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Coco: ...
    def __getitem__(self, index: int | slice) -> Sample | Coco:
        if isinstance(index, slice):
            return replace(self, places=self.places[index])
        file, k = self._place(index)
        image = read_image(file.image(k))
        size = (int(image.shape[1]), int(image.shape[2]))
        name = file.prefix + Path(file_name(file.truth, k)).with_suffix("").as_posix()
        return Sample(image, name=name, instances=file.objects(k, size, self.classes), classes=self.classes)


def coco(root: Path, split: str = "train", images: str | None = None, kind: str | None = None) -> Coco:
    """Photographs and objects of COCO's JSON `root`, or of the files of a split below the folder `root`.

    `images` is the folder of the photographs. `kind` chooses instances or person_keypoints where a folder has both.
    """
    if kind not in (None, *KINDS):
        raise UserError(f"unknown kind {kind!r} of COCO's annotations", hint=f"choose from {', '.join(KINDS)}")
    paths = _files(root, split, kind)
    files = tuple(_open(p, None if images is None else Path(images), len(paths) > 1) for p in paths)
    classes = files[0].truth.classes
    for file in files[1:]:
        if file.truth.classes != classes:
            fault = f"its categories are not those of {files[0].path.name}"
            raise BadFile(file.path, "bad_classes", fault, "use one split at a time, or give both the same list")
    places = [(f, k) for f, file in enumerate(files) for k in range(len(file.truth.ids))]
    if not places:
        raise empty(files[0].folder)
    places.sort(key=lambda place: natural_key(files[place[0]].prefix + file_name(files[place[0]].truth, place[1])))
    if len(files) == 1 and _split_of(paths[0]) is None and split != "all":
        val = {str(i) for i in range(0, len(places), EVERY)} if len(places) > 1 else set[str]()
        chosen = keep_split([(str(i), Path()) for i in range(len(places))], split, val.__contains__)
        places = [places[int(i)] for i, _ in chosen]
    return Coco("coco", split, classes, files, np.array(places, np.int64).reshape(-1, 2))


def file_name(truth: CocoTruth, k: int) -> str:
    """The photograph of image `k`; where the JSON has none (LVIS), it is called as COCO calls it by the id."""
    return truth.names[k] or f"{int(truth.ids[k]):012d}.jpg"


def _split_of(path: Path) -> str | None:
    """The split that a file is named after: val for `instances_val2017.json`."""
    words = path.stem.casefold().replace("-", "_").split("_")
    return next((s for s, names in SPLIT_FOLDERS.items() if any(w.startswith(names) for w in words)), None)


def _files(root: Path, split: str, kind: str | None) -> list[Path]:
    """The JSON files of a split."""
    if root.is_file() or root.suffix == ".json":
        return [root]
    existing(root, split)
    there = [f for folder in (root / "annotations", root) for f in sorted(folder.glob("*.json"))]
    of_kind = next((fs for k in KINDS if kind in (None, k) and (fs := [f for f in there if f.name.startswith(k)])), [])
    if not of_kind and len(there) == 1 and kind is None:
        return there
    found = [f for f in of_kind if split == "all" or _split_of(f) == split]
    if not found:
        has = f"it has {', '.join(f.name for f in there)}" if there else "expected annotations/instances_val2017.json"
        raise broken(root, "no_split_list", f"no JSON of split {split!r}", f"{has}; any other can be named itself")
    return found


def _open(path: Path, images: Path | None, several: bool) -> File:
    """The index of one JSON."""
    data = read_json(path, as_text)
    items = data.get("annotations") if isinstance(data, dict) else None
    drawn = any(isinstance(a, dict) and a.get("segmentation") for a in items or ())
    truth = parse_truth(data, "mask" if drawn else "box", path)
    rows = truth.rows
    names = [file_name(truth, k) for k in range(len(truth.ids))]
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        fault = f"two images have the file_name {twice!r}"
        raise BadFile(path, "duplicate_image", fault, "list each photograph once, with all that is in it")
    if drawn:
        i = next((i for i, segmentation in enumerate(rows.column("segmentation")) if not segmentation), None)
        if i is not None:
            raise rows.fault(i, "has no segmentation, but others have", "draw it, or remove the annotation")
    boxes = None
    if "bbox" in {key for item in rows.items for key in item}:
        table = rows.lists("bbox", 4, "x y width height in pixels")
        if (table[:, 2:] < 0).any():
            i = int((table[:, 2:] < 0).any(1).argmax())
            raise rows.fault(i, f"has a bbox of {table[i, 2]:g}x{table[i, 3]:g}", "width and height are not negative")
        boxes = torch.from_numpy(np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], 1)).float()
    points, classes = _keypoints(data["categories"], rows, truth.classes)
    crowd = torch.tensor([bool(flag) for flag in rows.column("iscrowd", 0)], dtype=torch.bool)
    segmentations = None if truth.segmentations is None else Packed(truth.segmentations)
    ids = (b"{}" if i is None else f'{{"id":{json.dumps(i)}}}'.encode() for i in rows.column("id", None))
    named = Rows(rows.what, path, Packed(ids))
    truth = replace(truth, segmentations=segmentations, rows=named, classes=classes)
    part = path.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    folder = _folder(path, part, names, images)
    return File(path, folder, f"{part}/" if several else "", truth, boxes, crowd, points)


def _keypoints(categories: Any, rows: Rows, classes: Classes) -> tuple[Float32[Tensor, "n k 3"] | None, Classes]:
    """The keypoints of all annotations, zeros where an object has none, and the classes with the points' names."""
    lists = {tuple(map(str, c["keypoints"])): c["name"] for c in categories if c.get("keypoints")}
    if not lists:
        return None, classes
    if len(lists) > 1:
        (_, one), (_, other) = list(lists.items())[:2]
        fault = f"{one} and {other} name different keypoints"
        raise BadFile(rows.path, "bad_classes", fault, "keep categories with one list of keypoints in a file")
    names = next(iter(lists))
    have = [i for i, points in enumerate(rows.column("keypoints", None)) if points]
    table = np.zeros((len(rows), len(names), 3), np.float32)
    some = Rows(rows.what, rows.path, [rows.items[i] for i in have])
    if have:
        form = f"x y v for each of the {len(names)} points that the category names"
        table[have] = some.lists("keypoints", 3 * len(names), form).reshape(-1, len(names), 3)
    table[..., :2] += HALF * (table[..., 2:] > 0)
    return torch.from_numpy(table), replace(classes, keypoints=names)


def _folder(path: Path, part: str, names: Sequence[str], images: Path | None) -> Path:
    """The folder of the photographs: the one that was named, or the likely one that has any of the first."""
    above, beside = path.parent.parent, path.parent
    likely = [above / part, above / "images" / part, beside / "images", beside / part, above / "images", beside]
    places = likely if images is None else [images]
    found = next((p for p in places if any((p / name).is_file() for name in names[:LOOKED])), None)
    if found is None and names:
        looked = " or ".join(str(p) for p in places[:3])
        raise BadFile(path, "missing_file", f"no photograph {names[0]} in {looked}", "pass images=FOLDER")
    return found or places[0]
