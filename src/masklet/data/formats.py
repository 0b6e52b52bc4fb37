"""Writing label maps, objects and whole data sets in formats that other programs read.

Numbers on disk are `Classes.ids`, so what came in as 3, 7, 90 goes out as 3, 7, 90. Every file appears complete or not
at all.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from masklet.data.categories import coco_categories
from masklet.data.coco_panoptic import write_coco_panoptic
from masklet.data.images import orientation, to_float
from masklet.data.sources import Dataset
from masklet.ops import rle
from masklet.structures import Classes, Instances, Panoptic, Sample, SemanticMap
from masklet.structures.errors import UserError
from masklet.structures.files import replacing


def ignore_value(classes: Classes) -> int:
    """The number that means "ignore" on disk: 255, or the highest free one where 255 is a class."""
    highest = 255 if max(classes.ids) <= 255 and len(classes) <= 255 else 65535
    return next(v for v in range(highest, -1, -1) if v not in classes.ids)


def to_ids(labels: Integer[Tensor, "h w"], classes: Classes) -> np.ndarray:
    """Label map as stored: `classes.ids` for the classes, `ignore_value` for ignored pixels; uint8 or uint16."""
    classes.check(labels)
    numbers, ignored = labels.numpy(), ignore_value(classes)
    ids = np.array(classes.ids, np.uint8 if max(*classes.ids, ignored) <= 255 else np.uint16)
    stored = ids[numbers.clip(0, len(ids) - 1)]
    stored[numbers == classes.ignore] = ignored
    return stored


def index_image(labels: Integer[Tensor, "h w"], classes: Classes) -> Image.Image:
    """A picture whose pixel values are the classes' numbers on disk, shown in the classes' colours."""
    numbers = to_ids(labels, classes)
    image = Image.fromarray(numbers)
    if numbers.dtype == np.uint8:
        colors = np.zeros((256, 3), np.uint8)
        colors[list(classes.ids)] = classes.colors
        colors[ignore_value(classes)] = (255, 255, 255)
        image.putpalette(colors.tobytes())
    return image


def write_index_png(path: str | Path, labels: Integer[Tensor, "h w"], classes: Classes) -> None:
    """Save a label map as an index PNG with a palette (16-bit grey where numbers exceed 255)."""
    with replacing(path) as unfinished:
        index_image(labels, classes).save(unfinished, "PNG")


def coco_annotations(
    result: SemanticMap | Instances, image_id: int, first_id: int = 1, scores: bool = True
) -> list[dict[str, Any]]:
    """COCO annotations: one per object, or one per class that a label map shows; masks as compressed RLE."""
    if isinstance(result, Instances):
        labels = result.labels.tolist()
        masks: Sequence[dict[str, Any] | None]
        if result.masks is not None:
            masks, areas, boxes = result.masks.rle(), result.masks.areas().tolist(), result.masks.boxes().tolist()
        else:
            boxes = result.boxes.tolist()
            masks, areas = [None] * len(labels), [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
        certain = result.scores.tolist() if scores else None
    else:
        labels = [k for k in range(len(result.classes)) if bool((result.labels == k).any())]
        coded = [rle.encode(result.labels == k) for k in labels]
        masks, areas = [rle.to_coco(c) for c in coded], [c.area for c in coded]
        boxes, certain = [c.box for c in coded], None
    found = []
    for i, (label, mask, area, (x0, y0, x1, y1)) in enumerate(zip(labels, masks, areas, boxes, strict=True)):
        entry: dict[str, Any] = {
            "id": first_id + i,
            "image_id": image_id,
            "category_id": result.classes.ids[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": 0,
        }
        if mask is not None:
            entry["segmentation"] = mask
        if certain is not None:
            entry["score"] = certain[i]
        found.append(entry)
    return found


def coco_json(
    results: Iterable[tuple[str, SemanticMap | Instances]], classes: Classes, scores: bool = True
) -> dict[str, Any]:
    """A COCO data set of (file name, result) in order; image and annotation ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file_name, result) in enumerate(results, 1):
        height, width = (int(n) for n in (result.size if isinstance(result, Instances) else result.labels.shape))
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations += coco_annotations(result, image_id, len(annotations) + 1, scores)
    return {"images": images, "annotations": annotations, "categories": coco_categories(classes)}


def write_json(path: str | Path, data: Any) -> None:
    """Save JSON, complete or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def classes_json(classes: Classes) -> dict[str, Any]:
    """What `classes.json` of a folder data set holds."""
    entries = [
        {"name": name, "id": i, "color": [*color], "thing": thing}
        for name, i, color, thing in zip(classes.names, classes.ids, classes.colors, classes.things, strict=True)
    ]
    return {"classes": entries, "ignore": ignore_value(classes)}


def _place_image(folder: Path, dataset: Dataset, index: int, sample: Sample, suffix: str | None = None) -> str:
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


def _labels(sample: Sample) -> Tensor:
    if sample.semantic is None:
        raise UserError(f"sample {sample.name!r} has no label map", hint="convert a data set with masks")
    return sample.semantic


Step = Callable[[int], None]


def to_folder(dataset: Dataset, out: Path, step: Step) -> None:
    """`images`, `masks` (index PNG) and `classes.json`, as the kind `folder` reads them."""
    for i in range(len(dataset)):
        sample = dataset[i]
        _place_image(out / "images", dataset, i, sample)
        write_index_png(out / "masks" / f"{sample.name}.png", _labels(sample), dataset.classes)
        step(i + 1)
    write_json(out / "classes.json", classes_json(dataset.classes))


def to_flood(dataset: Dataset, out: Path, step: Step) -> None:
    """`Image`, `Mask` (black and white) and `metadata.csv`: the layout of the seed's flood set."""
    if len(dataset.classes) != 2:
        raise UserError(
            f"the flood layout has two classes, {dataset.name} has {len(dataset.classes)}", hint="use folder"
        )
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("Image", "Mask"))
    for i in range(len(dataset)):
        sample = dataset[i]
        name = _place_image(out / "Image", dataset, i, sample, ".jpg")
        with replacing(out / "Mask" / f"{sample.name}.png") as unfinished:
            if (_labels(sample) == dataset.classes.ignore).any():
                raise UserError(
                    f"{sample.name} has ignored pixels, which black and white cannot keep", hint="use folder"
                )
            Image.fromarray((_labels(sample) == 1).numpy().astype(np.uint8) * 255).save(unfinished, "PNG")
        writer.writerow((name, f"{sample.name}.png"))
        step(i + 1)
    with replacing(out / "metadata.csv") as unfinished:
        unfinished.write_text(table.getvalue(), encoding="utf-8")


def to_coco(dataset: Dataset, out: Path, step: Step) -> None:
    """`images` and `annotations.json`: objects where the data set has them, else one mask per class and image."""

    def results() -> Iterable[tuple[str, SemanticMap | Instances]]:
        for i in range(len(dataset)):
            sample = dataset[i]
            name = _place_image(out / "images", dataset, i, sample)
            yield name, sample.instances or SemanticMap(_labels(sample), dataset.classes)
            step(i + 1)

    write_json(out / "annotations.json", coco_json(results(), dataset.classes, scores=False))


def to_coco_panoptic(dataset: Dataset, out: Path, step: Step) -> None:
    """`images`, and `panoptic.json` with its PNGs beside it, as the kind `coco_panoptic` reads them."""

    def results() -> Iterable[tuple[int, str, Panoptic]]:
        for i in range(len(dataset)):
            sample = dataset[i]
            if sample.panoptic is None:
                raise UserError(f"sample {sample.name!r} has no panoptic map", hint="use coco or folder")
            yield i + 1, _place_image(out / "images", dataset, i, sample), sample.panoptic
            step(i + 1)

    write_coco_panoptic(out / "panoptic.json", results(), dataset.classes, scores=False)


FORMATS: Mapping[str, Callable[[Dataset, Path, Step], None]] = MappingProxyType(
    {"folder": to_folder, "coco": to_coco, "flood": to_flood, "coco_panoptic": to_coco_panoptic}
)


def convert(
    dataset: Dataset, out: str | Path, to: str = "folder", progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a data set in another layout; `to` is folder, coco, flood or coco_panoptic. Returns the folder."""
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}", hint=f"choose from {', '.join(FORMATS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty", hint="name a new folder")
    total = len(dataset)
    FORMATS[to](dataset, out, lambda done: progress(done, total) if progress else None)
    return out
