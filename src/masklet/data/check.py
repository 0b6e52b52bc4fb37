"""Find the bad file before training does: every image and mask of a data set is opened and compared.

    for finding in check("folder:photos"):
        print(finding)      # photos/masks/a.png: mask is 480x640 but image is 960x1280 (height x width); ...

Memory does not grow with the data set: a file is reduced to its size and the set of its values, a portion at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from PIL import Image

from masklet.data.images import BadFile, label_values, natural_key, open_image, orientation, read_image
from masklet.data.pairs import Coding, Finding, Listing, SourceError, describe, size_mismatch
from masklet.data.sources import Dataset, find_source
from masklet.structures.errors import UserError

__all__ = ["CODES", "Finding", "check"]

CODES = MappingProxyType(
    {
        # the whole data set
        "no_folder": "the path does not exist",
        "not_a_folder": "the path is a file",
        "no_images_folder": "there is no folder for images",
        "no_masks_folder": "there is no folder for masks",
        "no_split_folder": "the split has no folder",
        "no_split_list": "the list of a split is missing",
        "listed_but_missing": "a list names a file that does not exist",
        "empty": "there is no image",
        "empty_split": "no image belongs to the split",
        "no_masks": "there is no mask at all",
        "bad_classes": "classes.txt or classes.json cannot be used",
        "bad_table": "metadata.csv or the annotation file cannot be used",
        "mask_0_255": "object masks are black and white where class numbers are expected",
        "one_based": "class numbers begin at 1 where 0 is expected",
        "many_values": "the masks look like grey pictures or object numbers",
        "class_absent": "a class occurs in no mask",
        # pairs
        "image_without_mask": "the mask is missing",
        "mask_without_image": "the image is missing",
        "duplicate_image": "two image files have one name",
        "duplicate_mask": "two mask files have one name",
        "size_mismatch": "image and mask differ in size",
        "exif_rotation": "the image is turned by its EXIF orientation, the mask is not",
        "exif_unsure": "the image is turned by its EXIF orientation, and the size cannot tell whether the mask is",
        # files
        "missing_file": "a listed file does not exist",
        "folder": "a folder is called like an image",
        "no_permission": "the file may not be read",
        "empty_file": "the file has no bytes",
        "unreadable": "the file is not an image",
        "truncated": "the file is damaged or cut short",
        "too_large": "the image is larger than Pillow accepts",
        "bad_values": "the pixel values of the image are out of range",
        "several_frames": "the file holds several pictures",
        # masks
        "mask_jpeg": "the mask is a JPEG",
        "mask_in_colour": "the mask is a colour picture",
        "colour_outside": "the mask holds a colour that belongs to no class",
        "mask_mode": "the mask is of a pixel type that holds no class numbers",
        "mask_16bit": "the mask has 16-bit values that are no class numbers",
        "mask_smoothed": "the mask was resized with smoothing",
        "label_outside": "the mask holds values that are no class",
        "all_ignored": "the mask ignores every pixel",
        "bad_region": "a region drawn by hand has no class or no area",
    }
)


LISTED = ", or list the classes as `0: background` and `255: object` in classes.txt"


@dataclass(frozen=True)
class Seen:
    """What is left of a file once it is closed."""

    findings: tuple[Finding, ...] = ()
    size: tuple[int, int] = (0, 0)  # (height, width) as displayed; zeros where the file could not be opened
    orientation: int = 1
    values: frozenset[int] = frozenset()  # on disk, masks only


@dataclass
class Summary:
    """What can only be said about all masks together."""

    masks: int = 0
    readable: int = 0
    values: set[int] = field(default_factory=set)
    black_white: Path | None = None  # the first mask of 0 and 255 only
    not_black_white: bool = False


def check(
    source: str | Listing | Dataset,
    split: str = "all",
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Finding]:
    """Everything wrong with a data set, named by file: errors, and warnings where it may be meant so.

    `source` is `kind:path` (with the reader's options), or an opened data set. `limit` looks at so many samples, evenly
    spread; `threads` read at once. An empty list means that every file can be trained on.
    """
    try:
        found = find_source(source, split, **options) if isinstance(source, str) else source
    except SourceError as error:
        return [error.finding]
    except BadFile as error:
        return [Finding(str(error.path), error.code, error.fault, error.hint or "")]
    if not isinstance(found, Listing):
        return _check_samples(found, limit, progress)
    pairs = _spread(_everything(found), limit)
    findings, summary = found.problems(), Summary()
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for done, (label, seen, faults) in enumerate(_in_portions(pool, found, pairs), 1):
            findings += faults
            if label is not None and seen is not None:
                _add(summary, label, seen)
            if progress is not None:
                progress(done, len(pairs))
    complete = len(pairs) == len(_everything(found)) and not any(f.level == "error" for f in findings)
    whole = _about_all(found, summary, complete)
    if any(f.code == "one_based" for f in whole):  # the one cause of all those
        findings = [f for f in findings if f.code not in ("label_outside", "mask_0_255")]
    findings.sort(key=lambda f: (f.level, natural_key(f.file)))
    return sorted(whole, key=lambda f: f.level) + findings


def _everything(listing: Listing) -> list[tuple[Path | None, Path | None]]:
    """All files, paired where they can be."""
    images, labels = dict(listing.images), dict(listing.labels)
    keys = sorted(images.keys() | labels.keys(), key=natural_key)
    return [(images.get(key), labels.get(key)) for key in keys]


def _spread(pairs: list, limit: int | None) -> list:
    if limit is None or limit >= len(pairs):
        return pairs
    if limit < 1:
        raise UserError(f"limit is {limit}", hint="look at one sample at least")
    return [pairs[i * len(pairs) // limit] for i in range(limit)]


def _in_portions(
    pool: ThreadPoolExecutor, listing: Listing, pairs: Iterable[tuple[Path | None, Path | None]]
) -> Iterator[tuple[Path | None, Seen | None, list[Finding]]]:
    """Results in order; only a portion is under way at a time, so that memory stays bounded."""
    todo = iter(pairs)
    while portion := list(islice(todo, 64)):
        yield from pool.map(lambda pair: _check_pair(listing.coding, listing.name == "folder", *pair), portion)


def _check_pair(
    coding: Coding, own: bool, image: Path | None, label: Path | None
) -> tuple[Path | None, Seen | None, list[Finding]]:
    picture = None if image is None else look_at_image(image)
    mask = None if label is None else look_at_mask(label, coding, own)
    findings = [f for seen in (picture, mask) if seen is not None for f in seen.findings]
    if picture is not None and mask is not None and label is not None and picture.size[0] and mask.size[0]:
        findings += _compare(label, picture, mask)
    return label, mask, findings


def look_at_image(path: Path) -> Seen:
    """Size and faults of one image file."""
    try:
        image = open_image(path)
        if image.mode in ("I", "F"):  # the only ones whose values may be out of range
            read_image(image)
    except (UserError, OSError) as error:
        return Seen((_finding(path, error, "bad_values"),))
    turn = orientation(image)
    findings: tuple[Finding, ...] = ()
    if image.format in ("TIFF", "GIF") and (frames := _frames(path)) > 1:
        text = f"the file holds {frames} pictures, only the first is used"
        findings = (Finding(str(path), "several_frames", text, "split it into single images", "warning"),)
    return Seen(findings, _displayed(image, turn), turn)


def _frames(path: Path) -> int:
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1)


def look_at_mask(path: Path, coding: Coding, own: bool = True) -> Seen:
    """Size, values and faults of one mask file; `own` says that the user may edit the list of classes."""
    try:
        image = open_image(path)
    except (UserError, OSError) as error:
        return Seen((_finding(path, error, "unreadable"),))
    turn = orientation(image)
    size = _displayed(image, turn)
    if coding.threshold is not None:
        return Seen((), size, turn)
    if image.format == "JPEG":
        text = "the mask is a JPEG, which blurs class numbers at every edge"
        hint = "export the masks again as PNG; rounding what JPEG left is a last resort"
        return Seen((Finding(str(path), "mask_jpeg", text, hint),), size, turn)
    try:
        if coding.by_color and image.mode in ("RGB", "RGBA"):
            coding.decode(path)
            return Seen((), size, turn)
        values = _distinct(image, path)
    except UserError as error:
        return Seen((_finding(path, error, "mask_mode"),), size, turn)
    return Seen(tuple(_about_values(path, coding, values, image.mode, own)), size, turn, values)


def _distinct(image: Image.Image, path: Path) -> frozenset[int]:
    values = label_values(image, path)
    if values.dtype == np.uint8:
        return frozenset(np.bincount(values.ravel(), minlength=256).nonzero()[0].tolist())
    return frozenset(np.unique(values).tolist())


def _about_values(path: Path, coding: Coding, values: frozenset[int], mode: str, own: bool) -> Iterator[Finding]:
    """What the values of one mask say."""
    name, strange = str(path), coding.strange(sorted(values)) if coding.rest == "error" else []
    if strange and values <= {0, 255}:
        yield Finding(
            name,
            "mask_0_255",
            f"the mask holds 0 and 255, but the {len(coding.classes)} classes are stored as "
            f"{describe(coding.classes.ids)}",
            f"divide it by 255{LISTED if own else ''}",
        )
    elif strange and (max(strange) > 255 or mode.startswith("I")):
        yield Finding(
            name,
            "mask_16bit",
            f"the mask is 16-bit with {describe(strange)}, but the {len(coding.classes)} classes are stored as "
            f"{describe(coding.classes.ids)}",
            "save class numbers, not scaled grey values or object numbers",
        )
    elif len(strange) > 8 and len(strange) > 2 * len(coding.classes):
        yield Finding(
            name,
            "mask_smoothed",
            f"the mask holds {len(strange)} values between those of the {len(coding.classes)} classes",
            "resize masks with nearest neighbour and save them as PNG",
        )
    elif strange:
        yield Finding(
            name,
            "label_outside",
            coding.outside(values),
            "correct the mask, or add the class to classes.txt" if own else "correct the mask",
        )
    if values and values <= set(coding.ignored):
        text = f"every pixel is {describe(values)}, which is ignored"
        yield Finding(name, "all_ignored", text, "annotate it, or remove the pair", "warning")


def _compare(label: Path, picture: Seen, mask: Seen) -> Iterator[Finding]:
    """Size and orientation of a pair."""
    turned = picture.orientation != mask.orientation
    if picture.size != mask.size:
        text = size_mismatch(mask.size, picture.size)
        sideways = picture.size == mask.size[::-1]
        if sideways and turned:
            which, value = ("image", picture.orientation) if picture.orientation != 1 else ("mask", mask.orientation)
            text += f": the {which} is turned by its EXIF orientation {value}"
            hint = "turn the mask as well, or save the image upright without EXIF orientation"
            yield Finding(str(label), "exif_rotation", text, hint)
        else:
            hint = "turn the mask by 90 degrees" if sideways else "resize the mask (nearest neighbour) or use its image"
            yield Finding(str(label), "size_mismatch", text, hint)
    elif turned and (mask.size[0] == mask.size[1] or not {picture.orientation, mask.orientation} & {5, 6, 7, 8}):
        text = f"the image is turned by its EXIF orientation {picture.orientation}, the mask's is {mask.orientation}"
        hint = "look whether the mask fits the upright image (`masklet data show`)"
        yield Finding(str(label), "exif_unsure", text, hint, "warning")


def _displayed(image: Image.Image, turn: int) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if turn >= 5 else (height, width)


def _finding(path: Path, error: Exception, otherwise: str) -> Finding:
    """The fault that reading a file ended with."""
    if isinstance(error, BadFile):
        return Finding(str(error.path), error.code, error.fault, error.hint or "")
    if isinstance(error, FileNotFoundError):
        return Finding(str(path), "missing_file", "the file does not exist", "add it, or remove it from the list")
    if isinstance(error, UserError):
        return Finding(str(path), otherwise, error.message, error.hint or "")
    return Finding(str(path), "unreadable", f"the file cannot be read ({error})", "copy it again, or remove it")


def _add(summary: Summary, label: Path, seen: Seen) -> None:
    summary.masks += 1
    if not seen.values:
        return
    summary.readable += 1
    summary.values |= seen.values
    if 255 in seen.values and seen.values <= {0, 255}:
        summary.black_white = summary.black_white or label
    elif seen.values - {0}:
        summary.not_black_white = True


def _about_all(listing: Listing, summary: Summary, complete: bool) -> list[Finding]:
    """Faults that show only in all masks together: a shifted numbering, black and white, a class that never occurs."""
    coding, values, root = listing.coding, summary.values, str(listing.root)
    ids, found = coding.classes.ids, []

    def add(code: str, text: str, hint: str, level: Literal["error", "warning"] = "error") -> None:
        found.append(Finding(root, code, text, hint, level))

    labels = values - set(coding.ignored)
    if coding.guessed and len(ids) > 64:
        add(
            "many_values",
            f"the masks hold {len(values)} different values and no classes.txt says what they mean",
            "list the classes in classes.txt; if the masks are grey pictures, cut them at a threshold first",
        )
    if summary.black_white and not summary.not_black_white and 255 in coding.ignored:
        add(
            "mask_0_255",
            f"all masks hold only 0 and 255 ({summary.black_white.name} is the first), and 255 means ignore",
            f"divide them by 255{LISTED if listing.name == 'folder' else ''}",
        )
    elif ids == tuple(range(len(ids))) and labels and min(labels) == 1 and max(labels) == len(ids):
        add(
            "one_based",
            f"the masks hold {describe(labels)}, but the {len(ids)} classes are stored as {describe(ids)}",
            f"subtract 1, or begin the list in classes.txt with `1: {coding.classes.names[0]}`",
        )
    elif complete and 0 < summary.readable == summary.masks and listing.split == "all":
        absent = [name for name, number in zip(coding.classes.names, ids, strict=True) if number not in values]
        if absent:
            more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
            text = f"{len(absent)} of {len(ids)} classes occur in no mask: {', '.join(absent[:4])}{more}"
            add("class_absent", text, "add examples, or take them off the list", "warning")
    return found


def _check_samples(dataset: Dataset, limit: int | None, progress: Callable[[int, int], None] | None) -> list[Finding]:
    """A data set that is not images beside masks: every sample is read."""
    findings: list[Finding] = []
    chosen = _spread(list(range(len(dataset))), limit)
    for done, i in enumerate(chosen, 1):
        where = next(iter(dataset.paths(i)), Path(f"{dataset.name}[{i}]"))
        try:
            dataset[i]
        except (UserError, OSError) as error:
            findings.append(_finding(where, error, "bad_table"))
        if progress is not None:
            progress(done, len(chosen))
    return findings
