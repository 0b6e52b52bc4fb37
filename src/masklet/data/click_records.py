"""Results of clicking in files: one record of IoUs per object, or the mask after each click as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masklet.data.images import list_images
from masklet.structures import UserError

__all__ = ["ClickFolder", "ClickRecord", "click_folders", "read_click_records", "read_objects"]

HINT = 'write {"image": ..., "object": ..., "ious": [...]} for each object'


@dataclass(frozen=True)
class ClickRecord:
    """One object: the IoU after each click, or nothing where only its name is known."""

    image: str
    object: str
    dataset: str = ""
    ious: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by."""
        return self.image, self.object

    def __str__(self) -> str:
        return f"object {self.object!r} of image {self.image!r}"


@dataclass(frozen=True)
class ClickFolder:
    """One object: its true mask, and the pictures of its mask after click 1, 2, ..."""

    name: str
    dataset: str
    truth: Path
    masks: tuple[Path, ...]


def read_click_records(path: Path) -> list[ClickRecord]:
    """The objects of a JSON list, or of JSON lines: {"image": ..., "object": ..., "dataset": ..., "ious": [...]}.

    Image and object are names or numbers, the data set may be left out.
    """
    found = _entries(path)
    if not isinstance(found, list):
        raise UserError(f"{path} holds no list of records", hint=HINT)
    records = [_record(path, i, entry, ious=True) for i, entry in enumerate(found)]
    _once(path, records)
    return records


def read_objects(path: Path) -> list[ClickRecord]:
    """The objects that there are: such a file, with or without IoUs, or COCO annotations (image_id and id)."""
    found = _entries(path)
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        found = [{"image": a.get("image_id"), "object": a.get("id")} for a in found["annotations"]]
    if not isinstance(found, list):
        raise UserError(f"{path} holds neither records nor COCO annotations", hint=HINT)
    records = [_record(path, i, entry, ious=False) for i, entry in enumerate(found)]
    _once(path, records)
    return records


def click_folders(predictions: Path, truth: Path) -> list[ClickFolder]:
    """For every true mask `NAME.png` the pictures of `NAME/`: 1.png after the first click, 2.png, ... without a gap.

    Folders below the top of `truth` are data sets.
    """
    files = list_images(truth, recursive=True)
    if not files:
        raise UserError(f"{truth} holds no masks", hint="it should hold one picture per object")
    found = []
    for file in files:
        place = file.relative_to(truth).with_suffix("")
        folder = predictions / place
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist", hint="it should hold 1.png, 2.png, ...: the mask after each click"
            )
        masks = {path.stem: path for path in list_images(folder)}
        numbered = {int(stem): path for stem, path in masks.items() if stem.isdecimal()}
        if odd := sorted(masks.keys() - {path.stem for path in numbered.values()}):
            raise UserError(f"{masks[odd[0]]} is not the number of a click", hint="call it 1.png, 2.png, ...")
        if not numbered:
            raise UserError(
                f"{folder} holds no masks", hint="it should hold 1.png, 2.png, ...: the mask after each click"
            )
        if gap := sorted(set(range(1, max(numbered) + 1)) - set(numbered)):
            raise UserError(f"{folder} has no mask after click {gap[0]}", hint="count the clicks from 1 without a gap")
        dataset = "" if place.parent == Path() else place.parent.as_posix()
        found.append(ClickFolder(place.as_posix(), dataset, file, tuple(numbered[k] for k in sorted(numbered))))
    return found


def _entries(path: Path) -> Any:
    """What a JSON file holds, or the lines of a file of JSON lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read", hint="name a JSON file") from error
    try:
        found = json.loads(text)
        return [found] if isinstance(found, dict) and "image" in found else found  # one line of JSON lines
    except ValueError:
        pass
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path} is not JSON (line {number})", hint="write it with json.dump") from error
    return entries


def _record(path: Path, index: int, entry: Any, ious: bool) -> ClickRecord:
    where = f"{path}: record {index}"
    needed = ("image", "object", "ious") if ious else ("image", "object")
    if not isinstance(entry, dict) or (missing := [key for key in needed if entry.get(key) is None]):
        lack = "is not an object" if not isinstance(entry, dict) else f"has no {missing[0]!r}"
        raise UserError(f"{where} {lack}", hint=HINT)
    values = entry["ious"] if ious else ()
    numbers = isinstance(values, Sequence) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in values
    )
    if not numbers:
        raise UserError(f"{where} has ious that are not a list of numbers", hint="give the IoU after each click")
    return ClickRecord(
        str(entry["image"]), str(entry["object"]), str(entry.get("dataset", "")), tuple(map(float, values))
    )


def _once(path: Path, records: Sequence[ClickRecord]) -> None:
    seen = set()
    for record in records:
        if record.key in seen:
            raise UserError(f"{path}: {record} is there twice", hint="keep one record per object")
        seen.add(record.key)
