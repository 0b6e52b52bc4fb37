"""Results as files: overlay, index PNG, COCO JSON, a summary and an HTML report, each complete or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from masklet.data.categories import coco_categories
from masklet.data.formats import coco_annotations, coco_json, write_index_png, write_json
from masklet.data.images import to_float
from masklet.data.object_writers import id_map
from masklet.data.rgbd import with_depth
from masklet.inference.image import MANY, Picture, Predictor, Settings, Unreadable, collect, is_video
from masklet.inference.video import describe, predict_video, video_writer
from masklet.ops.hha import Camera
from masklet.structures import Classes, Instances, Masks, SemanticMap
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.viz.overlay import as_picture, layer_of, overlay
from masklet.viz.report import Card, card, page

FORMATS = ("overlay", "index", "coco", "json", "html")
PIXELS = MappingProxyType({"overlay": "overlay", "overlay.png": "overlay", "index": "index"})  # format -> folder
JPEG: Mapping[str, Any] = MappingProxyType({"quality": 92, "subsampling": 0})
SMALL, CROWD = 480, 60  # longest side of the pictures in a report of more than so many


def write(
    result: Any, image: Any, out_dir: str | Path, stem: str, formats: Sequence[str] = FORMATS, seconds: float = 0.0
) -> list[Path]:
    """Writes one result in every format asked for and returns the paths: `out_dir/<format>/<stem>.<suffix>`.

    overlay: JPEG of the photograph with the result painted over it ("overlay.png": without loss). index: PNG whose
    pixel values are the classes' numbers, with their colours as palette, or in 16 bits the objects' numbers from 1 on,
    best first (of boxes alone: all pixels inside). coco: COCO JSON with RLE masks. json: what share of the picture each
    class covers, and how many objects. html: a page that needs no other file.
    """
    _known(formats)
    out, image, written = Path(out_dir), _bytes(image), []
    for kind in dict.fromkeys(formats):
        if kind in PIXELS:
            path = _write_pixels(kind, result, image, out, stem)
        else:
            path = out / kind / f"{stem}.{'html' if kind == 'html' else 'json'}"
            if kind == "coco":
                write_json(path, coco_json([(stem, result)], result.classes))
            elif kind == "json":
                write_json(path, summary(stem, result, seconds))
            else:
                write_text(path, page([card(stem, image, result)], stem))
        written.append(path)
    return written


def summary(name: str, result: Any, seconds: float = 0.0) -> dict[str, Any]:
    """What is in a picture, as plain values: every class that occurs with its share of the pixels, largest first.

    Of objects also their number; where they overlap, pixels count for each.
    """
    height, width = result.size
    parts = _kinds(result) if isinstance(result, Instances) else _shares(result)
    return {"image": name, "height": height, "width": width, "classes": parts, "seconds": round(seconds, 4)}


def _shares(result: Any) -> list[dict[str, Any]]:
    height, width = result.size
    found = _all_labels(result) if isinstance(result, SemanticMap) else layer_of(result).present()
    return [
        {"name": part, "fraction": round(share, 6), "pixels": round(share * height * width), "color": [*color]}
        for _, part, color, share in found
    ]


def _kinds(result: Instances) -> list[dict[str, Any]]:
    count, pixels = len(result.classes), result.size[0] * result.size[1]
    boxes = result.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) if result.masks is None else result.masks.areas()
    covered = torch.bincount(result.labels, areas.double(), minlength=count).tolist()
    times = torch.bincount(result.labels, minlength=count).tolist()
    kinds = sorted((k for k in range(count) if times[k]), key=lambda k: -covered[k])
    classes = result.classes
    return [
        {
            "name": classes.names[k],
            "objects": times[k],
            "fraction": round(covered[k] / max(pixels, 1), 6),
            "pixels": round(covered[k]),
            "color": [*classes.colors[k]],
        }
        for k in kinds
    ]


@dataclass
class Written:
    """The files that `predict_files` wrote, the summary of each picture, and the pictures that it left out."""

    files: list[Path] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    frames: int = 0  # of videos
    seconds: float = 0.0


def predict_files(
    model: Any,
    inputs: Any,
    out_dir: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    title: str = "",
    progress: Callable[[int, int], None] | None = None,
    depth: str | Path | None = None,
    camera: Camera | None = None,
    **settings: Any,
) -> Written:
    """Predicts files, folders, globs and videos and writes everything under `out_dir`.

    Pictures: `overlay/NAME.jpg` and `index/NAME.png` each, one `coco.json`, `summary.json` and `report.html` for all.
    Videos: `overlay/NAME.mp4` and `index/NAME/000000.png`, frame by frame. An interruption leaves finished files only.
    Pictures that cannot be read are left out and listed in `unreadable`; where none can be read, that is an error.
    `depth` is for models that look at it: the depth image of the picture, or a folder of them; `camera` took them.
    """
    _known(formats)
    out, sources = Path(out_dir), collect(inputs, videos=True)[0]
    videos, pictures = [s for s in sources if _is_film(s)], [s for s in sources if not _is_film(s)]
    if depth is not None:
        pictures = list(with_depth(pictures, depth, camera))
    predictor = Predictor(model, Settings(**settings), many=len(pictures) >= MANY or bool(videos))
    done, names, cards = Written(), _Names(), _Cards(len(pictures))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for one in predictor.each(pictures, done.unreadable):
        stem, photo = names.of(one.name), _bytes(one.image)
        done.files += [_write_pixels(kind, one.result, photo, out, stem) for kind in formats if kind in PIXELS]
        done.images.append(summary(one.name, one.result, one.seconds))
        done.seconds += one.seconds
        if "coco" in formats:
            height, width = one.result.size
            images.append({"id": len(images) + 1, "file_name": one.name, "height": height, "width": width})
            annotations += coco_annotations(one.result, len(images), len(annotations) + 1)
        if "html" in formats:
            cards.add(one.name, photo, one.result, one.seconds)
        if progress is not None:
            progress(len(done.images) + len(done.unreadable), len(sources))
    if done.unreadable and len(done.unreadable) == len(sources):
        raise done.unreadable[0].error
    for i, video in enumerate(videos, len(pictures) + 1):
        _write_video(predictor, video, out, names.of(video.name), formats, done)
        if progress is not None:
            progress(i, len(sources))
    if "coco" in formats and done.images:
        classes: Classes = predictor.model.classes
        coco = {"images": images, "annotations": annotations, "categories": coco_categories(classes)}
        write_json(out / "coco.json", coco)
        done.files.append(out / "coco.json")
    if "json" in formats:
        about = {"model": predictor.name, "images": done.images, "video_frames": done.frames, "seconds": done.seconds}
        write_json(out / "summary.json", about)
        done.files.append(out / "summary.json")
    if "html" in formats and done.images:
        facts = {"model": predictor.name, "pictures": str(len(done.images)), "computed in": f"{done.seconds:.1f} s"}
        write_text(out / "report.html", page(cards.cards, title or f"{predictor.name}: what it sees", facts))
        done.files.append(out / "report.html")
    return done


def write_text(path: Path, text: str) -> None:
    """Saves text, complete or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


class _Names:
    """Stems of output files; two inputs of one name in different folders do not overwrite each other."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, name: str) -> str:
        stem = first = Path(name).stem or "image"
        number = 1
        while stem.casefold() in self.taken:  # some file systems take A.png and a.png for one
            number += 1
            stem = f"{first}-{number}"
        self.taken.add(stem.casefold())
        return stem


class _Cards:
    """The pictures of a report, small where there are many."""

    def __init__(self, expected: int):
        self.side, self.cards = (SMALL if expected > CROWD else 2 * SMALL), list[Card]()

    def add(self, name: str, photo: Any, result: Any, seconds: float) -> None:
        self.cards.append(card(name, photo, result, {"in": f"{seconds:.2f} s"}, self.side))


def _write_pixels(kind: str, result: Any, image: Any, out: Path, stem: str) -> Path:
    if kind == "index":
        path = out / "index" / f"{stem}.png"
        write_index(path, result)
        return path
    path = out / "overlay" / (f"{stem}.png" if kind == "overlay.png" else f"{stem}.jpg")
    with replacing(path) as unfinished:
        Image.fromarray(overlay(image, result)).save(unfinished, **({} if kind == "overlay.png" else JPEG))
    return path


def _write_video(
    predictor: Predictor, video: Path, out: Path, stem: str, formats: Sequence[str], done: Written
) -> None:
    """One video, streamed: an overlay film and an index PNG per frame, as asked for."""
    path, rate = out / "overlay" / f"{stem}.mp4", describe(video).rate
    films = "overlay" in formats or "overlay.png" in formats

    def frames() -> Iterable[Any]:
        for frame in predict_video(predictor, video):
            if "index" in formats:
                index = out / "index" / stem / f"{frame.index:06}.png"
                write_index(index, frame.result)
                done.files.append(index)
            done.frames += 1
            yield frame

    if not films:
        for _ in frames():
            pass
        return
    with video_writer(path, rate) as append:
        for frame in frames():
            append(overlay(_bytes(frame.image), frame.result))
    done.files.append(path)


def _is_film(source: Any) -> bool:
    return isinstance(source, Path) and is_video(source)


def write_index(path: Path, result: Any) -> None:
    """The class of every pixel, or its object: the best one has the value 1 and lies in front."""
    if isinstance(result, SemanticMap):
        write_index_png(path, result.labels, result.classes)
    elif isinstance(result, Instances):
        masks = result.masks
        if masks is None:
            x0, y0, x1, y1 = result.boxes.round().long().T.tolist() if len(result) else ([], [], [], [])
            crops = [torch.ones(b - t, r - le, dtype=torch.bool) for le, t, r, b in zip(x0, y0, x1, y1, strict=True)]
            masks = Masks.from_crops(crops, list(zip(x0, y0, strict=True)), *result.size)
        with replacing(path) as unfinished:
            Image.fromarray(id_map(masks, reversed(range(len(result))))).save(unfinished, "PNG")
    else:
        raise UserError(f"{type(result).__name__} has no class for every pixel", hint='leave out the format "index"')


def _all_labels(result: SemanticMap) -> list[tuple[int, str, tuple[int, int, int], float]]:
    """Every class that occurs, those that an overlay leaves bare included."""
    colors = dict(zip(result.classes.names, result.classes.colors, strict=True))
    found = sorted(((share, name) for name, share in result.area().items() if share), reverse=True)
    return [(0, name, colors[name], share) for share, name in found]


def _bytes(image: Picture | Any) -> Any:
    """RGB bytes of whatever was predicted."""
    if getattr(image, "is_floating_point", bool)():
        image = (to_float(image) * 255).round().byte()
    return as_picture(image)


def _known(formats: Sequence[str]) -> None:
    accepted = (*FORMATS, "overlay.png")
    for kind in formats:
        if kind not in accepted:
            raise UserError(f"unknown format {kind!r}", hint=f"choose from {', '.join(accepted)}")
