"""COCO's instances and keypoints: the truth file, and lists of results as its challenge takes them.

    {"images": [{"id": 7, "height": 480, "width": 640, "file_name": ...}, ...],
     "categories": [{"id": 18, "name": "dog"}, ...],
     "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [x, y, w, h], "area": ..., "iscrowd": 0,
                      "segmentation": [[x, y, ...], ...] or {"size": [h, w], "counts": ...},
                      "keypoints": [x, y, visible, ...]}]}

    [{"image_id": 7, "category_id": 18, "score": 0.9, "bbox": ..., "segmentation": ..., "keypoints": ...}, ...]

Ids become image numbers and labels here: images are numbered by rising id, classes too. LVIS's files have more about
images (`neg_category_ids`, `not_exhaustive_category_ids`) and categories (`frequency`).
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from masklet.data.categories import read_categories
from masklet.data.images import BadFile
from masklet.ops import rle, runs
from masklet.ops.runs import Runs
from masklet.structures import Classes
from masklet.structures.objects import Objects

__all__ = [
    "CocoRows",
    "CocoTruth",
    "kind_of_results",
    "parse_results",
    "parse_truth",
    "pieces",
    "read_json",
    "read_results",
    "read_truth",
]

_FIELDS = {"box": "bbox", "mask": "segmentation", "keypoints": "keypoints"}
_BOX = "x y width height in pixels"
_RESULTS = 'results are [{"image_id": 7, "category_id": 18, "score": 0.9, "bbox": [x, y, w, h]}, ...]'
_TRUTH = 'the truth is {"images": [...], "categories": [...], "annotations": [...]}'


@dataclass(frozen=True, eq=False)
class Rows:
    """Entries of a JSON list, with words for what is wrong with them."""

    what: str
    path: Path
    items: Sequence[Any]
    numbers: Sequence[int] | np.ndarray | None = None  # where each stood in the file, if not in this order

    def __len__(self) -> int:
        return len(self.items)

    def fault(self, i: int, fault: str, hint: str) -> BadFile:
        """The error about entry `i`."""
        item, number = self.items[i], i if self.numbers is None else int(self.numbers[i])
        name = repr(item["id"]) if isinstance(item, dict) and "id" in item else f"{number} (counted from 0)"
        return BadFile(self.path, "bad_table", f"{self.what} {name} {fault}", hint)

    def ordered(self, order: np.ndarray) -> Rows:
        """The same entries in another order."""
        if (order == np.arange(len(order))).all():
            return self
        return Rows(self.what, self.path, [self.items[i] for i in order.tolist()], order)

    def column(self, key: str, *default: Any) -> list[Any]:
        """Entry `key` of all; without a default, each must have it."""
        try:
            return [item.get(key, *default) for item in self.items] if default else [item[key] for item in self.items]
        except (KeyError, TypeError, AttributeError):
            i = next(i for i, item in enumerate(self.items) if not isinstance(item, dict) or key not in item)
            raise self.fault(i, f"has no {key}", _RESULTS if self.what == "result" else _TRUTH) from None

    def numbered(self, key: str, known: Mapping[Any, int], what: str) -> np.ndarray:
        """Numbers of the ids under `key`, all of which must be known."""
        column = self.column(key)
        try:
            return np.fromiter(map(known.__getitem__, column), np.int64, len(column))
        except (KeyError, TypeError):
            i = next(i for i, value in enumerate(column) if not isinstance(value, Hashable) or value not in known)
            hint = f"the truth has {len(known)}: {', '.join(map(str, itertools.islice(known, 5)))}"
            fault = f"has {key} {column[i]!r}, but no {what} of the truth has this id"
            raise self.fault(i, fault, hint + (", ..." if len(known) > 5 else "")) from None

    def floats(self, key: str, *default: Any) -> np.ndarray:
        """Entry `key` of all as finite numbers."""
        column = self.column(key, *default)
        if {*map(type, column)} <= {int, float}:
            values = np.fromiter(column, np.float64, len(column))
        else:
            values = np.array([v if isinstance(v, int | float) else np.nan for v in column], np.float64)
        wrong = ~np.isfinite(values)
        if wrong.any() and not default:
            i = int(wrong.argmax())
            raise self.fault(i, f"has the {key} {column[i]!r}", f"give a finite number as {key}")
        return values

    def lists(self, key: str, length: int | None, form: str) -> np.ndarray:
        """Entry `key` of all as a table; each is a list of `length` finite numbers (None: as many as the first)."""
        column = self.column(key)
        length = length or next((len(item) for item in column if isinstance(item, list)), 0)
        try:
            if {*map(len, column)} <= {length}:
                flat = np.fromiter(itertools.chain.from_iterable(column), np.float64, length * len(column))
                table = flat.reshape(len(column), length)
                if np.isfinite(table).all():
                    return table
        except (TypeError, ValueError):
            pass
        i = next(i for i, item in enumerate(column) if not _numbers(item, length))
        came = f"{len(column[i])} numbers" if _numbers(column[i], None) else repr(column[i])
        raise self.fault(i, f"has a {key} of {came}", f"a {key} is {form}")


def _numbers(item: Any, length: int | None) -> bool:
    """Whether this is a list of (so many) finite numbers."""
    if not isinstance(item, list) or (length is not None and len(item) != length):
        return False
    return all(isinstance(v, int | float) and math.isfinite(v) for v in item)


@dataclass(frozen=True, eq=False)
class CocoRows:
    """Annotations or results in order of their images; masks stay as they are written until they are needed."""

    table: Objects  # without masks; of truth with unknown areas NaN
    first: Int64[np.ndarray, " images_plus_1"]  # where the rows of each image begin
    segmentations: Sequence[Any] | None
    sizes: Int64[np.ndarray, "images 2"]  # height and width of every image, 0 where the file does not tell
    rows: Rows

    def __len__(self) -> int:
        return len(self.table)

    def objects(self, low: int, high: int) -> Objects:
        """The rows of images `low` to `high`, masks included, images numbered from 0."""
        part = slice(int(self.first[low]), int(self.first[high]))
        found = self.table.take(part)
        masks, areas = None, found.areas
        if self.segmentations is not None:
            masks = self._masks(part.start, self.segmentations[part], self.sizes[found.image])
            areas = np.where(np.isnan(areas), masks.areas, areas)
        return Objects(
            found.image - low, found.labels, areas, found.boxes, masks,
            found.keypoints, found.scores, found.crowd, found.ignore,
        )  # fmt: skip

    def _masks(self, start: int, written: Sequence[Any], sizes: Int64[np.ndarray, "n 2"]) -> Runs:
        """Run lengths, from compressed counts, plain counts or polygons."""
        kinds = [type(item.get("counts")) if type(item) is dict else None for item in written]
        texts = [i for i, kind in enumerate(kinds) if kind is str or kind is bytes]
        others = [] if len(texts) == len(kinds) else [i for i, kind in enumerate(kinds) if kind not in (str, bytes)]
        lists = [i for i in others if kinds[i] is list]
        drawn = [i for i in others if type(written[i]) is list]
        own = sizes.copy()
        try:
            for some in (some for some in (texts, lists) if some):
                told = itertools.chain.from_iterable([written[i]["size"] for i in some])
                own[some] = np.fromiter(told, np.int64).reshape(len(some), 2)
            if len(texts) + len(lists) + len(drawn) < len(kinds):
                raise ValueError("neither")
        except (KeyError, TypeError, ValueError):
            i = next(i for i, item in enumerate(written) if not _is_segmentation(item))
            fault = "has a segmentation that is neither polygons nor run lengths"
            raise self.rows.fault(
                start + i, fault, 'write [[x, y, ...], ...] or {"size": [h, w], "counts": ...}'
            ) from None
        wrong = (own != sizes).any(1) & (sizes > 0).all(1)
        if wrong.any():
            i = int(wrong.argmax())
            (h, w), (height, width) = own[i], sizes[i]
            fault = f"has a mask of {h}x{w} but its image is {height}x{width}"
            raise self.rows.fault(start + i, fault, "a mask is of the size of its image, [height, width]")
        if drawn and not (own[drawn] > 0).all():
            i = drawn[int((own[drawn] <= 0).any(1).argmax())]
            raise self.rows.fault(start + i, "has polygons, but its image no height and width", "add them to the image")
        heights, widths = own.T
        parts = []
        for some, read in ((texts, self._texts), (lists, self._lists), (drawn, runs.from_polygons)):
            if some:
                try:
                    parts.append(read([written[i] for i in some], heights[some], widths[some]))
                except (ValueError, TypeError) as error:
                    raise self._broken(start, some, str(error)) from None
        masks = runs.concat(parts)
        return masks if len(parts) < 2 else masks.take(np.argsort(np.array(texts + lists + drawn)))

    @staticmethod
    def _texts(items: Sequence[Any], heights: np.ndarray, widths: np.ndarray) -> Runs:
        texts = [item["counts"] for item in items]
        if len({*map(type, texts)}) > 1:
            texts = [text if isinstance(text, str) else text.decode("ascii", "replace") for text in texts]
        return runs.from_strings(texts, heights, widths)

    @staticmethod
    def _lists(items: Sequence[Any], heights: np.ndarray, widths: np.ndarray) -> Runs:
        out = []
        for i, item in enumerate(items):
            try:
                out.append(rle.from_coco(item))
            except ValueError as error:
                raise ValueError(f"mask {i}: {error}") from None
        return runs.from_rles(out)

    def _broken(self, start: int, rows: Sequence[int], words: str) -> BadFile:
        which, _, fault = words.partition(": ")
        number = which.removeprefix("mask ")
        if not fault or not number.isdecimal():
            return self.rows.fault(
                start + rows[0], f"or a later one has a broken segmentation ({words})", "write it again"
            )
        return self.rows.fault(start + rows[int(number)], f"has a broken mask ({fault})", "write it again")


@dataclass(frozen=True, eq=False)
class CocoTruth(CocoRows):
    """The truth of a data set: images and classes by rising id, and what is in them."""

    ids: tuple[Any, ...]  # of the images
    names: tuple[str, ...]  # file names of the images, "" where not given
    classes: Classes
    absent: tuple[tuple[int, ...], ...] | None  # LVIS: labels checked and not there, by image
    incomplete: tuple[tuple[int, ...], ...] | None  # LVIS: labels of which not every object is listed, by image
    frequencies: tuple[str, ...] | None  # LVIS: r, c or f for each class


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON file holds; `hook` makes something else of its objects (json's `object_hook`)."""
    if not path.is_file():
        fault = "this is a folder, not a JSON file" if path.is_dir() else "the file does not exist"
        raise BadFile(path, "missing_file", fault, "name a JSON file in COCO's format")
    try:
        return json.loads(path.read_bytes(), object_hook=hook)
    except ValueError as error:
        raise BadFile(path, "bad_table", f"not valid JSON ({error})", "write it again") from None


def read_truth(path: Path, kind: str = "mask") -> CocoTruth:
    """The truth in a file, for scoring boxes, masks or keypoints (`kind`)."""
    return parse_truth(read_json(path), kind, path)


def read_results(path: Path, truth: CocoTruth, kind: str | None = None) -> CocoRows:
    """The results in a file, for the images and classes of `truth`."""
    return parse_results(read_json(path), truth, kind, path)


def kind_of_results(data: Any, path: Path = Path("results")) -> str:
    """What a list of results is about: keypoints, masks, or boxes where it has neither."""
    _list_of_results(data, path)
    first = data[0] if data and isinstance(data[0], dict) else {}
    return next((kind for kind in ("keypoints", "mask") if first.get(_FIELDS[kind])), "box")


def parse_truth(data: Any, kind: str = "mask", path: Path = Path("truth")) -> CocoTruth:
    """The truth from what its JSON holds; `path` is how messages call it.

    Keypoints are those of the categories that name keypoints, where any does.
    """
    if not isinstance(data, dict):
        raise BadFile(path, "bad_table", f"this holds a {type(data).__name__}, not COCO's truth", _TRUTH)
    for part in ("images", "categories", "annotations"):
        if not isinstance(data.get(part), list):
            raise BadFile(path, "bad_table", f"there are no {part}", _TRUTH)
    images, categories = _by_id(data["images"], "image", path), _by_id(data["categories"], "category", path)
    items = data["annotations"]
    if kind == "keypoints":
        named = [c for c in categories if c.get("keypoints")] or categories
        others = {c["id"] for c in categories} - {c["id"] for c in named}
        items = [item for item in items if not (isinstance(item, dict) and item.get("category_id") in others)]
        categories = named
    classes = read_categories(categories, path)
    rows = Rows("annotation", path, items)
    twice = [key for key, n in Counter(rows.column("id", None)).items() if n > 1 and key is not None]
    if twice:
        raise BadFile(path, "bad_table", f"two annotations have the id {twice[0]!r}", "give each its own id")
    ids = tuple(image["id"] for image in images)
    label = _labels(classes)
    image, labels = rows.numbered("image_id", _numbering(ids), "image"), rows.numbered("category_id", label, "category")
    order, first = _by_image(image, len(ids))
    rows = rows.ordered(order)
    boxes = None if kind == "mask" else rows.lists("bbox", 4, _BOX)
    areas = rows.floats("area", np.nan)
    if boxes is not None:
        areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
    federated = any("neg_category_ids" in image for image in images)
    points = ignore = None
    if kind == "keypoints":
        points = _points(rows)
        visible = (points[..., 2] > 0).sum(1).tolist()
        counts = zip(rows.column("num_keypoints", None), visible, strict=True)
        ignore = np.array([seen if count is None else count for count, seen in counts], np.int64) == 0
    elif federated:
        ignore = np.array(rows.column("ignore", 0), bool)  # COCO's own tool does not look at it

    def lists(key: str) -> tuple[tuple[int, ...], ...] | None:
        if not federated:
            return None
        return tuple(tuple(label[c] for c in image.get(key, ()) if c in label) for image in images)

    frequencies = tuple(str(c.get("frequency", "")) for c in categories)
    crowd = np.array(rows.column("iscrowd", 0), bool)
    return CocoTruth(
        Objects(image[order], labels[order], areas, boxes, None, points, None, crowd, ignore),
        first,
        rows.column("segmentation") if kind == "mask" else None,
        np.array([(image.get("height") or 0, image.get("width") or 0) for image in images], np.int64).reshape(-1, 2),
        rows,
        ids,
        tuple(str(image.get("file_name", "")) for image in images),
        classes,
        lists("neg_category_ids"),
        lists("not_exhaustive_category_ids"),
        frequencies if all(frequencies) else None,
    )


def parse_results(data: Any, truth: CocoTruth, kind: str | None = None, path: Path = Path("results")) -> CocoRows:
    """Results from what their JSON holds, for the images and classes of `truth`; areas are those of what is scored."""
    kind = kind or kind_of_results(data, path)
    rows = Rows("result", path, _list_of_results(data, path))
    image = rows.numbered("image_id", _numbering(truth.ids), "image")
    labels = rows.numbered("category_id", _labels(truth.classes), "category")
    order, first = _by_image(image, len(truth.ids))
    rows = rows.ordered(order)
    boxes = points = None
    areas = np.full(len(rows), np.nan)
    if kind == "box":
        boxes = rows.lists("bbox", 4, _BOX)
        areas = boxes[:, 2] * boxes[:, 3]
    elif kind == "keypoints":
        points = _points(rows)
        areas = np.ptp(points[..., :2], axis=1).prod(-1) if points.size else np.zeros(len(rows))
    table = Objects(image[order], labels[order], areas, boxes, None, points, rows.floats("score"))
    return CocoRows(table, first, rows.column("segmentation") if kind == "mask" else None, truth.sizes, rows)


def pieces(truth: CocoRows, results: CocoRows, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of images with about `size` rows each."""
    rows = truth.first + results.first
    cuts = np.searchsorted(rows, np.arange(size, rows[-1], size))
    yield from itertools.pairwise(dict.fromkeys([0, *cuts.tolist(), len(rows) - 1]))


def _list_of_results(data: Any, path: Path) -> list[Any]:
    if not isinstance(data, list):
        raise BadFile(path, "bad_table", f"this holds a {type(data).__name__}, not a list of results", _RESULTS)
    return data


def _labels(classes: Classes) -> dict[Any, int]:
    return {id_: label for label, id_ in enumerate(classes.ids)}


def _numbering(ids: Iterable[Any]) -> dict[Any, int]:
    return {image: i for i, image in enumerate(ids)}


def _points(rows: Rows) -> np.ndarray:
    table = rows.lists("keypoints", None, "x y v x y v ..., as many for all")
    if table.shape[1] % 3:
        raise rows.fault(0, f"has keypoints of {table.shape[1]} numbers", "keypoints are x y v x y v ...")
    return table.reshape(len(table), table.shape[1] // 3, 3)


def _by_image(image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The order by image, as it came within each, and where every image begins."""
    first = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=count))])
    return np.argsort(image, kind="stable"), first


def _is_segmentation(item: Any) -> bool:
    """Whether this is a list of polygons or COCO's run lengths, as far as one sees from outside."""
    if not isinstance(item, dict):
        return isinstance(item, list)
    size: Any = item.get("size")
    counts = item.get("counts")
    return isinstance(counts, str | bytes | list) and _numbers(size, 2) and all(isinstance(v, int) for v in size)


def _by_id(items: Sequence[Any], what: str, path: Path) -> list[Mapping[str, Any]]:
    """Images or categories by rising id, which no two share."""
    if bad := [i for i, item in enumerate(items) if not isinstance(item, dict) or "id" not in item]:
        raise BadFile(path, "bad_table", f"{what} {bad[0]} (counted from 0) has no id", _TRUTH)
    twice = [key for key, n in Counter(item["id"] for item in items).items() if n > 1]
    if twice:
        raise BadFile(path, "bad_table", f"the {what} id {twice[0]!r} occurs twice", f"give every {what} its own id")
    try:
        return sorted(items, key=lambda item: item["id"])
    except TypeError:
        fault = f"the {what} ids are partly numbers and partly text"
        raise BadFile(path, "bad_table", fault, "use one kind, best numbers") from None
