"""Your own pictures: a folder of images, a folder of masks, and the classes' names in a text file.

    root/images/[<split>/]*.jpg   root/masks/[<split>/]*.png   root/classes.txt or classes.json

`labels` and `annotations` are accepted for `masks`, and `root/<split>/images` for `root/images/<split>`. Without split
folders, `train.txt` and `val.txt` may list the file names; without those, every fifth file in natural order is `val`.

`classes.txt` has one name a line, for values 0, 1, 2, ...; a line `90: dog` gives the value too. `classes.json` is a
list of names, or `{"0": "ground", "7": "dog"}`, or
`{"classes": [{"name": "dog", "id": 7, "color": [255, 0, 0], "thing": true}], "ignore": 255}`; with colours, masks may
be colour pictures. Without either file, the values found in the masks become `class 0..n`; a set that knows only 0 and
255 is `background` and `foreground`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from masklet.data.images import label_values, natural_key, open_image
from masklet.data.pairs import (
    Coding,
    Listing,
    broken,
    describe,
    divided,
    empty,
    existing,
    keep_split,
    keyed,
    prefixed,
    split_folders,
    subfolder,
)
from masklet.structures import Classes
from masklet.structures.errors import UserError

IMAGES = ("images", "image", "imgs")
MASKS = ("labels", "masks", "annotations", "mask", "label", "gt")
EVERY = 5  # without an official split, this share of the files is validation
LOOK_AT = 400  # masks read when the classes must be guessed

Entries = list[tuple[str, Path]]


def list_folder(root: Path, split: str = "train", mask_suffix: str = "") -> Listing:
    """The files of a folder of images and masks; `mask_suffix="_mask"` pairs `a.jpg` with `a_mask.png`."""
    existing(root, split)
    everything = _everything(root, mask_suffix)
    if not any(images for images, _ in everything.values()):
        raise empty(subfolder(root, IMAGES, "image") if "" in everything else root)
    images, labels = _choose(root, split, everything)
    if not images:
        raise broken(root, "empty_split", f"no image belongs to split {split!r}", "choose another split, or add files")
    every_label = [path for _, masks in everything.values() for _, path in masks]
    coding = read_classes(root) or guess_classes(every_label)
    return Listing("folder", split, root, tuple(images), tuple(labels), coding)


def _everything(root: Path, suffix: str) -> dict[str, tuple[Entries, Entries]]:
    """All images and masks by split folder; the key is "" where the set is not divided."""
    if divided(root):
        return {
            f.name: (keyed(subfolder(f, IMAGES, "image")), keyed(subfolder(f, MASKS, "mask"), suffix))
            for f in split_folders(root, "all")
        }
    images, masks = subfolder(root, IMAGES, "image"), subfolder(root, MASKS, "mask")
    if not divided(images):
        return {"": (keyed(images), keyed(masks, suffix))}
    under = {f.name.casefold(): f for f in split_folders(masks, "all")}
    return {
        f.name: (keyed(f), keyed(under[f.name.casefold()], suffix) if f.name.casefold() in under else [])
        for f in split_folders(images, "all")
    }


def _choose(root: Path, split: str, everything: dict[str, tuple[Entries, Entries]]) -> tuple[Entries, Entries]:
    if "" in everything:
        images, masks = everything[""]
        wanted = _split_rule(root, split, [key for key, _ in images])
        known = {key for key, _ in images}  # a mask without image is wrong in every split
        return [e for e in images if e[0] in wanted], [e for e in masks if e[0] in wanted or e[0] not in known]
    if split == "all":
        each = [(prefixed(n, images, split), prefixed(n, masks, split)) for n, (images, masks) in everything.items()]
        return [e for images, _ in each for e in images], [e for _, masks in each for e in masks]
    names = [f.name for f in (*split_folders(root, split), *_image_splits(root, split))]
    if not names:
        raise broken(root, "no_split_folder", f"no folder for split {split!r}", f"it has {', '.join(everything)}")
    return everything[names[0]]


def _image_splits(root: Path, split: str) -> list[Path]:
    return [] if divided(root) else split_folders(subfolder(root, IMAGES, "image"), split)


def _split_rule(root: Path, split: str, keys: Sequence[str]) -> set[str]:
    """The keys of an undivided set that belong to `split`."""
    if split == "all":
        return set(keys)
    lists = {
        name: _stems(root / f"{name}.txt") for name in ("train", "val", "test") if (root / f"{name}.txt").is_file()
    }
    if lists:
        wanted = lists.get(split, set(keys) - set().union(*lists.values()))
        if unknown := sorted(wanted - set(keys), key=natural_key):
            raise broken(
                root / f"{split}.txt",
                "listed_but_missing",
                f"it names {unknown[0]!r}, which is no image",
                "correct the line, or add the image",
            )
        return wanted
    ordered = sorted(keys, key=natural_key)
    val = set(ordered[::EVERY]) if len(ordered) > 1 else set()
    return {key for key, _ in keep_split([(k, root) for k in ordered], split, val.__contains__)}


def _stems(path: Path) -> set[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {Path(line).with_suffix("").as_posix() for line in lines if line}


def read_classes(root: Path) -> Coding | None:
    """The classes a folder declares in `classes.json` or `classes.txt`; None where it has neither."""
    if (root / "classes.json").is_file():
        return _from_json(root / "classes.json")
    if (root / "classes.txt").is_file():
        return _from_text(root / "classes.txt")
    return None


def _from_text(path: Path) -> Coding:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)\s*[:\t]\s*(.+)", line) for line in lines]
    if lines and all(numbered):
        return _coding(path, [m[2] for m in numbered if m], [int(m[1]) for m in numbered if m])
    return _coding(path, lines, range(len(lines)))


def _from_json(path: Path) -> Coding:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise broken(path, "bad_classes", f"not valid JSON ({error})", "correct it, or use classes.txt") from None
    if isinstance(data, list) and all(isinstance(name, str) for name in data):
        return _coding(path, data, range(len(data)))
    if isinstance(data, dict) and data and all(str(key).isdecimal() for key in data):
        ids = sorted(map(int, data))
        return _coding(path, [data[str(i)] for i in ids], ids)
    entries = data.get("classes") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "name" in e for e in entries):
        raise broken(
            path,
            "bad_classes",
            "this is no list of classes",
            'write ["ground", "dog"] or {"classes": [{"name": "dog", "id": 1}]}',
        )
    ignore = data.get("ignore", 255) if isinstance(data, dict) else 255
    ids = [int(e.get("id", i)) for i, e in enumerate(entries)]
    more: dict[str, Any] = {"things": tuple(bool(e.get("thing", False)) for e in entries)}
    if colored := all("color" in e for e in entries):
        more["colors"] = tuple(tuple(int(v) for v in e["color"]) for e in entries)
    ignored = tuple(ignore) if isinstance(ignore, list) else (int(ignore),)
    return _coding(path, [e["name"] for e in entries], ids, ignored, colored, **more)


def _coding(
    path: Path,
    names: Sequence[Any],
    ids: Iterable[int],
    ignored: tuple[int, ...] = (255,),
    by_color: bool = False,
    **more: Any,
) -> Coding:
    ids = tuple(ids)
    if not names:
        raise broken(path, "bad_classes", "it names no class", "write one class name per line")
    for what, values in (("name", tuple(names)), ("id", ids)):
        if twice := [v for i, v in enumerate(values) if v in values[:i]]:
            raise broken(
                path, "bad_classes", f"the {what} {twice[0]!r} occurs twice", f"give each class its own {what}"
            )
    if max(ids) > 65535 or min(ids) < 0:
        raise broken(path, "bad_classes", f"ids are {describe(ids)}", "ids must lie in 0..65535")
    classes = Classes(names=tuple(map(str, names)), ids=ids, ignore=_ignore(len(ids)), **more)
    return Coding(classes, tuple(v for v in ignored if v not in ids), by_color=by_color)


def guess_classes(files: Sequence[Path], limit: int = LOOK_AT) -> Coding:
    """Classes from the values that occur in the masks (at most `limit` of them, evenly spread)."""
    if not files:
        return Coding(Classes.default(2), guessed=True)
    step = max(1, len(files) // limit)
    seen: set[int] = set()
    with ThreadPoolExecutor() as pool:
        for values in pool.map(_values, sorted(files, key=natural_key)[::step][:limit]):
            seen |= values
    if seen and seen <= {0, 255}:  # an ordinary black-and-white mask: 255 is the object, not "ignore"
        return Coding(Classes(names=("background", "foreground"), ids=(0, 255)), ignored=(), guessed=True)
    ids = tuple(sorted(seen - {255}))
    if not 0 < len(ids) <= 1024 or ids[-1] > 65535:
        return Coding(Classes.default(2), guessed=True)  # nothing to learn from; the check says why
    return Coding(Classes(names=tuple(f"class {i}" for i in ids), ids=ids, ignore=_ignore(len(ids))), guessed=True)


def _ignore(count: int) -> int:
    return 255 if count <= 255 else -1


def _values(path: Path) -> set[int]:
    try:
        return set(np.unique(label_values(open_image(path), path)).tolist())
    except (UserError, OSError):
        return set()  # `check` names the broken file; opening it in training does too
