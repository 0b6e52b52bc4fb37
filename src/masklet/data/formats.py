"""Writing label maps, objects and whole data sets in formats that other programs read.

Numbers on disk are `Classes.ids`, so what came in as 3, 7, 90 goes out as 3, 7, 90. Every file appears complete or not
at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

from masklet.data.categories import coco_categories
from masklet.data.coco_instances import HALF, Coco
from masklet.data.coco_panoptic import write_coco_panoptic
from masklet.data.object_writers import Lost, Step, objects_of, place_image, to_labelme, to_nuclei, to_via, to_yolo
from masklet.data.rgbd import seen_as
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
    result: SemanticMap | Instances, image_id: Any, first_id: int = 1, scores: bool = True
) -> list[dict[str, Any]]:
    """COCO annotations: one per object, or one per class that a label map shows; masks as compressed RLE.

    `scores` belong to predictions, whose boxes are then those of their masks; truth keeps the boxes that it has.
    """
    crowd, points = None, None
    if isinstance(result, Instances):
        labels = result.labels.tolist()
        masks: Sequence[dict[str, Any] | None]
        if result.masks is not None:
            masks, areas = result.masks.rle(), result.masks.areas().tolist()
            boxes = (result.masks.boxes() if scores else result.boxes).tolist()
        else:
            boxes = result.boxes.tolist()
            masks, areas = [None] * len(labels), [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
        certain = result.scores.tolist() if scores else None
        crowd = None if result.crowd is None else result.crowd.tolist()
        points = None if result.keypoints is None else _coco_keypoints(result.keypoints)
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
            "iscrowd": 0 if crowd is None else int(crowd[i]),
        }
        if mask is not None:
            entry["segmentation"] = mask
        if points is not None:
            entry["keypoints"] = points[i]
            entry["num_keypoints"] = sum(visible > 0 for visible in points[i][2::3])
        if certain is not None:
            entry["score"] = certain[i]
        found.append(entry)
    return found


def _coco_keypoints(points: Float[Tensor, "n k 3"]) -> list[list[float]]:
    """COCO's keypoints are numbers of pixels; points that are not labelled are zeros."""
    moved = points.double() - torch.tensor([HALF, HALF, 0]) * (points[..., 2:] > 0)
    return moved.flatten(1).tolist()


def coco_json(
    results: Iterable[tuple[str, SemanticMap | Instances]],
    classes: Classes,
    scores: bool = True,
    image_ids: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """A COCO data set of (file name, result) in order; annotation ids count from 1, image ids where not given."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, (file_name, result) in enumerate(results):
        image_id = place + 1 if image_ids is None else image_ids[place]
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


def _labels(sample: Sample) -> Tensor:
    if sample.semantic is None:
        raise UserError(f"sample {sample.name!r} has no label map", hint="convert a data set with masks")
    return sample.semantic


def to_folder(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images`, `masks` (index PNG) and `classes.json`, as the kind `folder` reads them."""
    objects = 0
    for i in range(len(dataset)):
        sample = dataset[i]
        place_image(out / "images", dataset, i, sample)
        write_index_png(out / "masks" / f"{sample.name}.png", _labels(sample), dataset.classes)
        objects += len(sample.instances or ())
        step(i + 1)
    write_json(out / "classes.json", classes_json(dataset.classes))
    return [f"{objects} objects: a label map knows classes only"] if objects else []


def to_rgbd(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images`, `depth` (16-bit millimetres), `hha`, `labels` and `classes.json`, as the kind `rgbd` reads them."""
    metres, pictures = (seen_as(dataset, depth_as) for depth_as in ("metres", "hha"))
    for i in range(len(dataset)):
        sample = metres[i]
        assert sample.depth is not None
        place_image(out / "images", dataset, i, sample)
        write_index_png(out / "labels" / f"{sample.name}.png", _labels(sample), dataset.classes)
        with replacing(out / "depth" / f"{sample.name}.png") as unfinished:
            Image.fromarray((sample.depth[0] * 1000).round().clamp(0, 65535).numpy().astype(np.uint16)).save(
                unfinished, "PNG"
            )
        with replacing(out / "hha" / f"{sample.name}.png") as unfinished:
            Image.fromarray((pictures[i].depth * 255).round().byte().permute(1, 2, 0).numpy()).save(unfinished, "PNG")
        step(i + 1)
    write_json(out / "classes.json", classes_json(dataset.classes))
    if (camera := getattr(dataset, "camera", None)) is not None:
        write_json(out / "camera.json", camera._asdict())
    return []


def to_flood(dataset: Dataset, out: Path, step: Step) -> list[str]:
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
        name = place_image(out / "Image", dataset, i, sample, ".jpg")
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
    return []


def to_coco(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images` and `annotations.json`: objects where the data set has them, else one mask per class and image."""
    lost = Lost()

    def results() -> Iterable[tuple[str, SemanticMap | Instances]]:
        for i in range(len(dataset)):
            sample = dataset[i]
            name = place_image(out / "images", dataset, i, sample)
            if sample.instances is None and sample.panoptic is None:
                yield name, SemanticMap(_labels(sample), dataset.classes)
            else:
                yield name, lost.see(objects_of(sample, dataset.classes), "coco", rotated=True)
            step(i + 1)

    ids = [dataset.image_id(i) for i in range(len(dataset))] if isinstance(dataset, Coco) else None
    ids = ids if ids is not None and len(set(ids)) == len(ids) else None  # two files may use one id
    write_json(out / "annotations.json", coco_json(results(), dataset.classes, scores=False, image_ids=ids))
    return lost.sentences()


def to_coco_panoptic(dataset: Dataset, out: Path, step: Step) -> list[str]:
    """`images`, and `panoptic.json` with its PNGs beside it, as the kind `coco_panoptic` reads them."""

    def results() -> Iterable[tuple[int, str, Panoptic]]:
        for i in range(len(dataset)):
            sample = dataset[i]
            if sample.panoptic is None:
                raise UserError(f"sample {sample.name!r} has no panoptic map", hint="use coco or folder")
            yield i + 1, place_image(out / "images", dataset, i, sample), sample.panoptic
            step(i + 1)

    write_coco_panoptic(out / "panoptic.json", results(), dataset.classes, scores=False)
    return []


FORMATS: Mapping[str, Callable[[Dataset, Path, Step], list[str]]] = MappingProxyType(
    {
        "folder": to_folder,
        "flood": to_flood,
        "coco": to_coco,
        "coco_panoptic": to_coco_panoptic,
        "rgbd": to_rgbd,
        "labelme": to_labelme,
        "yolo": to_yolo,
        "via": to_via,
        "nuclei": to_nuclei,
    }
)


def convert(
    dataset: Dataset,
    out: str | Path,
    to: str = "folder",
    progress: Callable[[int, int], None] | None = None,
    lost: Callable[[str], None] | None = None,
) -> Path:
    """Write a data set in another layout; `to` is a name of `FORMATS`. Returns the folder.

    `lost` is told what the layout could not keep, a sentence for each kind of loss that occurred.
    """
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}", hint=f"choose from {', '.join(FORMATS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty", hint="name a new folder")
    total = len(dataset)
    for sentence in FORMATS[to](dataset, out, lambda done: progress(done, total) if progress else None):
        if lost is not None:
            lost(sentence)
    return out
