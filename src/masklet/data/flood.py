"""Flood areas seen from the air (Kaggle, faizalkarim): dry or flooded, the data set of the seed's first experiment.

    root/metadata.csv with columns Image,Mask; the files in root/Image and root/Mask, grey masks cut at 127; or
    root/images/<n>.jpg   root/labels/<n>.png     values 0 dry, 1 flooded

There is no official split: a file whose number is a multiple of five is validation.
"""

from __future__ import annotations

import csv
from pathlib import Path

from masklet.data.pairs import Coding, Listing, broken, empty, existing, keep_split, keyed, number_of, subfolder
from masklet.structures import Classes

CLASSES = Classes(names=("dry", "flooded"), colors=((92, 84, 70), (38, 132, 222)))


def list_flood(root: Path, split: str = "train") -> Listing:
    """The files of the flood set in either layout; `n % 5 == 0` is validation."""
    existing(root, split)
    if (root / "metadata.csv").is_file():
        images, labels = _from_table(root / "metadata.csv")
        coding = Coding(CLASSES, threshold=127)
    else:
        images = keyed(folder := subfolder(root, ("images",), "image"))
        labels = keyed(subfolder(root, ("labels",), "mask"))
        if not images:
            raise empty(folder)
        coding = Coding(CLASSES, ignored=())
    images, labels = (keep_split(entries, split, _is_val) for entries in (images, labels))
    if not images:
        raise broken(root, "empty_split", f"no image belongs to split {split!r}", "val is every number divisible by 5")
    return Listing("flood", split, root, tuple(images), tuple(labels), coding)


def _is_val(key: str) -> bool:
    number = number_of(key)
    return number is not None and number % 5 == 0


def _from_table(table: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    with table.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"Image", "Mask"} <= set(reader.fieldnames or ()):
            raise broken(
                table,
                "bad_table",
                f"its columns are {', '.join(reader.fieldnames or ()) or 'missing'}",
                "expected a first line `Image,Mask`",
            )
        rows = [(row["Image"], row["Mask"]) for row in reader if row["Image"] and row["Mask"]]
    if not rows:
        raise broken(table, "empty", "the table names no image", "add lines such as `0.jpg,0.png`")
    images = [(Path(image).stem, _find(table.parent, image, ("Image", "images"))) for image, _ in rows]
    return images, [(Path(image).stem, _find(table.parent, mask, ("Mask", "labels", "masks"))) for image, mask in rows]


def _find(root: Path, name: str, folders: tuple[str, ...]) -> Path:
    """Where a file of the table lies: beside the table, or in one of the usual folders."""
    places = [root / folder / name for folder in folders]
    return next((p for p in (*places, root / name) if p.is_file()), places[0])
