"""COCO panoptic (Kirillov et al., 2019): a JSON that lists segments, and PNGs whose colours are the segments' ids.

    root/annotations/panoptic_val2017.json   root/annotations/panoptic_val2017/*.png   root/val2017/*.jpg

The id of a pixel is R + 256 G + 65536 B; 0 is void. The PNGs lie in a folder named as the JSON unless said otherwise.
Cityscapes, ADE20K and Mapillary have converters to this layout.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Integer, Shaped, UInt32
from PIL import Image
from scipy import ndimage
from torch import Tensor

from masklet.data.categories import coco_categories, read_categories
from masklet.data.images import BadFile, open_image, read_image
from masklet.data.pairs import CHECK, SPLIT_FOLDERS, Samples, broken, empty, existing, size_mismatch
from masklet.structures import Classes, Panoptic, Sample, Segment
from masklet.structures.errors import UserError
from masklet.structures.files import replacing

__all__ = ["Annotation", "CocoPanoptic", "coco_panoptic", "read_ids", "read_panoptic_json", "write_coco_panoptic"]

HINT = 'it holds {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [...]}]}'


ROW = np.dtype([("id", np.int64), ("label", np.int32), ("crowd", bool), ("score", np.float64), ("area", np.int64)])


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One image of a panoptic JSON: the PNG of its ids and its segments, packed, for a data set has a million."""

    image_id: int | str
    folder: Path
    file_name: str
    rows: Shaped[np.ndarray, " n"]  # of dtype ROW
    classes: Classes
    image: str = ""  # the photograph; "" where the JSON has none

    @property
    def png(self) -> Path:
        """The file of the id map."""
        return self.folder / self.file_name

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What the JSON says of the segments, in its order."""
        things = self.classes.things
        return tuple(
            Segment(id=number, label=label, thing=things[label], score=score, area=area, crowd=crowd)
            for number, label, crowd, score, area in self.rows.tolist()
        )

    def panoptic(self) -> Panoptic:
        """The id map and its segments; ids that only one of PNG and JSON knows are an error."""
        try:
            return Panoptic(torch.from_numpy(read_ids(self.png).astype(np.int64)), self.segments)
        except BadFile:
            raise
        except UserError as error:
            raise BadFile(self.png, "label_outside", error.message, error.hint or "") from None


def read_ids(path: Path) -> UInt32[np.ndarray, "h w"]:
    """The segment ids of a panoptic PNG: R + 256 G + 65536 B."""
    image = open_image(path)
    if image.mode not in ("RGB", "RGBA"):
        fault = f"the pixels have mode {image.mode}, but segment ids are colours, R + 256 G + 65536 B"
        raise BadFile(path, "mask_mode", fault, "save it as an 8-bit RGB PNG")
    # Pillow keeps four bytes per pixel: read as one number they are the id, under a byte that means nothing.
    packed = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
    return np.frombuffer(packed, "<u4").reshape(image.size[::-1]) & np.uint32(0xFFFFFF)


def read_panoptic_json(
    path: Path, folder: Path | None = None, classes: Classes | None = None
) -> tuple[Classes, list[Annotation]]:
    """Classes and annotations of a panoptic JSON, in its order.

    `folder` holds the PNGs (default: the path less `.json`). `classes` are those of the truth, for predictions, whose
    own categories are not read: the official tool does not need them either.
    """
    data, folder = _json(path), folder or path.with_suffix("")
    if classes is None:
        if "categories" not in data:
            raise BadFile(path, "bad_table", "it has no categories", "the truth lists them; was it exchanged?")
        classes = read_categories(data["categories"], path)
    labels = {number: label for label, number in enumerate(classes.ids)}
    photographs = {image.get("id"): str(image.get("file_name", "")) for image in data.get("images", ())}
    annotations = [
        _annotation(entry, path, folder, classes, labels, photographs.get) for entry in data.pop("annotations")
    ]
    seen = set[int | str]()
    for annotation in annotations:
        if annotation.image_id in seen:
            raise BadFile(
                path, "bad_table", f"image {annotation.image_id} is annotated twice", "keep one of the annotations"
            )
        seen.add(annotation.image_id)
    return classes, annotations


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        fault = "this is a folder, not a JSON file" if path.is_dir() else "the file does not exist"
        raise BadFile(path, "missing_file", fault, "name the JSON of the panoptic annotations")
    try:
        data = json.loads(path.read_bytes(), object_hook=_packed)
    except ValueError as error:
        raise BadFile(path, "bad_table", f"not valid JSON ({error})", "write it again") from None
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise BadFile(path, "bad_table", "this is no list of panoptic annotations", HINT)
    return data


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its segments as rows (the label is still the category_id), while the JSON is being read."""
    if isinstance(described := entry.get("segments_info"), list):
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError, OverflowError):  # stays a list
            entry["segments_info"] = np.array(
                [
                    (s["id"], s["category_id"], s.get("iscrowd", 0), s.get("score", 1.0), s.get("area", 0))
                    for s in described
                ],
                ROW,
            )
    return entry


def _annotation(
    entry: Any,
    path: Path,
    folder: Path,
    classes: Classes,
    labels: Mapping[int, int],
    photograph: Callable[[Any, str], str],
) -> Annotation:
    named = f"of image {entry['image_id']} " if isinstance(entry, dict) and "image_id" in entry else ""
    rows = entry.get("segments_info") if named else None
    if not isinstance(rows, np.ndarray) or not isinstance(entry.get("file_name"), str):
        fault = f"the annotation {named}lacks image_id, file_name, segments_info, or a segment its id or category_id"
        raise BadFile(path, "bad_table", fault, HINT)
    found = [labels.get(category, -1) for category in rows["label"].tolist()]
    if -1 in found:
        wrong = rows[found.index(-1)]
        fault = f"segment {wrong['id']} {named}has category_id {wrong['label']}, which is unknown"
        raise BadFile(path, "label_outside", fault, "use the ids that the truth lists under categories")
    rows["label"] = found
    return Annotation(entry["image_id"], folder, entry["file_name"], rows, classes, photograph(entry["image_id"], ""))


@dataclass(frozen=True)
class CocoPanoptic(Samples):
    """Photographs in which every pixel belongs to a thing, to stuff or to nothing."""

    name: str
    split: str
    classes: Classes
    annotations: tuple[Annotation, ...]  # `image` is the path of the photograph

    def __len__(self) -> int:
        return len(self.annotations)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The photograph and the PNG of sample `index`."""
        return Path(self.annotations[index].image), self.annotations[index].png

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> CocoPanoptic: ...
    def __getitem__(self, index: int | slice) -> Sample | CocoPanoptic:
        if isinstance(index, slice):
            return replace(self, annotations=self.annotations[index])
        annotation = self.annotations[index]
        image, panoptic = read_image(annotation.image), annotation.panoptic()
        if image.shape[1:] != panoptic.ids.shape:
            raise BadFile(annotation.png, "size_mismatch", size_mismatch(panoptic.size, image.shape[1:]), CHECK)
        return Sample(
            image,
            name=Path(annotation.image).stem,
            semantic=panoptic.semantic(self.classes.ignore),
            panoptic=panoptic,
            classes=self.classes,
        )


def coco_panoptic(root: Path, split: str = "train", images: str | None = None, pngs: str | None = None) -> CocoPanoptic:
    """Photographs and segments of a panoptic JSON, or of the layout of COCO, where `split` chooses the JSON.

    `images` is the folder of the photographs, `pngs` that of the id maps (default: named as the JSON, beside it).
    """
    files = [root] if root.is_file() else _files(existing(root, split), split)
    classes, found = None, list[Annotation]()
    for file in files:
        own, annotations = read_panoptic_json(file, None if pngs is None else Path(pngs))
        if classes is not None and own != classes:
            fault = f"its categories are not those of {files[0].name}"
            raise broken(file, "bad_classes", fault, "open one file at a time")
        classes = own
        found += _with_photographs(annotations, file, None if images is None else Path(images))
    if classes is None or not found:
        raise empty(root if root.is_dir() else root.parent)
    return CocoPanoptic("coco_panoptic", split, classes, tuple(found))


def _files(root: Path, split: str) -> list[Path]:
    """The JSON of a split: `panoptic_val2017.json` for val."""
    there = [file for folder in (root / "annotations", root) for file in sorted(folder.glob("panoptic_*.json"))]
    names = [name for kind, names in SPLIT_FOLDERS.items() if split in (kind, "all") for name in names]
    found = [f for f in there if f.stem.removeprefix("panoptic_").startswith(tuple(names))]
    if not found:
        has = f"it has {', '.join(f.name for f in there)}" if there else "expected annotations/panoptic_val2017.json"
        hint = f"{has}; any other JSON can be named itself"
        raise broken(root, "no_split_list", f"no panoptic JSON of split {split!r}", hint)
    return found


def _with_photographs(annotations: list[Annotation], file: Path, images: Path | None) -> list[Annotation]:
    """The annotations with the paths of their photographs."""
    named = [a.image or f"{a.png.stem}.jpg" for a in annotations]
    part = file.stem.removeprefix("panoptic_")
    near = (file.parent / part, file.parent.parent / part, file.parent / "images", file.parent / "input_images")
    places = (*near, file.parent.parent / "images", file.parent) if images is None else (images,)
    place = next((p for p in places if named and (p / named[0]).is_file()), None)
    if named and place is None:
        looked = " or ".join(str(p) for p in places[:2])
        raise broken(file, "missing_file", f"no photograph {named[0]} in {looked}", "pass images=FOLDER")
    return [replace(a, image=str((place or file.parent) / n)) for a, n in zip(annotations, named, strict=True)]


def write_ids(path: str | Path, ids: Integer[Tensor, "h w"] | Integer[np.ndarray, "h w"]) -> None:
    """Save an id map as a PNG with the id R + 256 G + 65536 B."""
    numbers = np.asarray(ids)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < 2**24:
        wrong = int(numbers.max() if numbers.max() >= 2**24 else numbers.min())
        raise UserError(f"{path}: segment id {wrong} does not fit in a colour", hint="ids are 0 to 16777215")
    colors = np.ascontiguousarray(numbers.astype("<u4")).view(np.uint8).reshape(*numbers.shape, 4)[..., :3]
    with replacing(path) as unfinished:
        Image.fromarray(np.ascontiguousarray(colors)).save(unfinished, "PNG")


def write_coco_panoptic(
    path: str | Path,
    results: Iterable[tuple[int, str, Panoptic]],
    classes: Classes,
    scores: bool = True,
) -> Path:
    """Save (image id, name of the photograph, result) as COCO panoptic: `path`, a JSON, and PNGs in a folder beside it.

    The PNGs come one by one, the JSON last. `scores` belong to predictions, not to truth. Returns the JSON's path.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise UserError(f"{path} is no name for a JSON file", hint=f"call it {path.name}.json")
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for image_id, name, result in results:
        png = Path(name).with_suffix(".png").as_posix()
        write_ids(path.with_suffix("") / png, result.ids)
        images.append({"id": image_id, "file_name": name, "height": result.size[0], "width": result.size[1]})
        annotations.append(
            {"image_id": image_id, "file_name": png, "segments_info": _segments_info(result, classes, scores)}
        )
    data = {"images": images, "annotations": annotations, "categories": coco_categories(classes)}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def _segments_info(result: Panoptic, classes: Classes, scores: bool) -> list[dict[str, Any]]:
    """COCO's entry of every segment, with the area and the box that the map has."""
    order = sorted(range(len(result.segments)), key=lambda i: result.segments[i].id)
    known = np.array([0, *(result.segments[i].id for i in order)])
    places = np.searchsorted(known, result.ids.numpy())
    pixels, boxes = np.bincount(places.ravel(), minlength=len(known)), ndimage.find_objects(places)
    found: dict[int, dict[str, Any]] = {}
    for place, i in enumerate(order):
        segment, (y, x) = result.segments[i], boxes[place]
        found[i] = {
            "id": segment.id,
            "category_id": classes.ids[segment.label],
            "isthing": int(segment.thing),
            "area": int(pixels[place + 1]),
            "bbox": [int(x.start), int(y.start), int(x.stop - x.start), int(y.stop - y.start)],
            "iscrowd": int(segment.crowd),
        } | ({"score": segment.score} if scores else {})
    return [found[i] for i in range(len(order))]
