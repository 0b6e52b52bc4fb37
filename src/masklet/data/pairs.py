"""Images and their label files on disk: how they are paired, how pixel values become class numbers, what is missing.

A reader such as `camvid.py` only says where the files lie and what the values mean: it returns a `Listing`.
`Listing.pairs()` is the data set, and refuses what is broken; `check.py` takes the same listing and reports all of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from masklet.data.images import BadFile, label_values, list_images, natural_key, open_image, read_image, upright
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError

CHECK = "run `masklet data check` on the data set"
SPLITS = ("train", "val", "test", "all")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


if TYPE_CHECKING:
    Samples = Sequence[Sample]
else:
    Samples = Sequence  # the bare class: run-time type checks would open a random sample to see what it is


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a data set: which file, what came, what to do. `code` names the kind of fault."""

    file: str
    code: str
    message: str
    hint: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.file}: {self.message}; {self.hint}"


class SourceError(UserError):
    """A data set that cannot be opened; `.finding` names the file and the fault."""

    def __init__(self, finding: Finding):
        super().__init__(f"{finding.file}: {finding.message}", hint=finding.hint)
        self.finding = finding


def broken(file: Path | str, code: str, message: str, hint: str) -> SourceError:
    """The error for a source that cannot be opened at all."""
    return SourceError(Finding(str(file), code, message, hint))


def describe(values: Iterable[int]) -> str:
    """Whole numbers for a message: `0 to 10`, `3, 7 and 90`, `1, 2, 3, 4 and 37 more`."""
    numbers = sorted({int(v) for v in values})
    if not numbers:
        return "nothing"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    if len(numbers) > 6:
        return f"{', '.join(map(str, numbers[:4]))} and {len(numbers) - 4} more"
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class Coding:
    """What the pixel values of a label file mean.

    Class `i` is stored as `classes.ids[i]`; values in `ignored` become `classes.ignore`. With `threshold`, a grey mask
    is cut instead: values above it are class 1. With `by_color`, colour pictures are looked up in `classes.colors`.
    """

    classes: Classes
    ignored: tuple[int, ...] = (255,)
    threshold: int | None = None
    by_color: bool = False
    guessed: bool = False  # from the values that occur, for want of a list of classes
    rest: Literal["error", "ignore"] = "error"  # values that are neither a class nor ignored

    @cached_property
    def table(self) -> np.ndarray:
        """Value on disk -> class number; `unknown` marks values that mean nothing."""
        small = len(self.classes) <= 254 and 0 <= self.classes.ignore <= 255
        table = np.full(65536, self.unknown, np.uint8 if small else np.int64)
        table[[v for v in self.ignored if 0 <= v < 65536]] = self.classes.ignore
        table[list(self.classes.ids)] = np.arange(len(self.classes))
        return table

    @property
    def unknown(self) -> int:
        if self.rest == "ignore":
            return self.classes.ignore
        return 254 if len(self.classes) <= 254 else -2

    def decode(self, path: Path) -> Integer[Tensor, "h w"]:
        """Class numbers of a label file; a value that is no class is an error that names it."""
        image = open_image(path)
        if self.threshold is not None:
            return torch.from_numpy((np.array(upright(image).convert("L")) > self.threshold).astype(np.uint8))
        if self.by_color and image.mode in ("RGB", "RGBA"):
            return torch.from_numpy(self._colors(image, path))
        values = label_values(image, path)
        labels = self.table[values] if values.dtype == np.uint8 or _fits(values) else None
        if labels is None or (self.rest == "error" and (labels == self.unknown).any()):
            raise BadFile(path, "label_outside", self.outside(np.unique(values).tolist()), CHECK)
        return torch.from_numpy(labels)

    def strange(self, values: Iterable[int]) -> list[int]:
        """Those values that are neither a class nor ignored."""
        return [v for v in values if v not in self.classes.ids and v not in self.ignored]

    def outside(self, values: Iterable[int]) -> str:
        """The sentence for values that mean nothing."""
        stored = f"the {len(self.classes)} classes are stored as {describe(self.classes.ids)}"
        return f"the mask holds {describe(self.strange(values))}, but {stored}"

    def _colors(self, image: Image.Image, path: Path) -> np.ndarray:
        codes = color_codes(upright(image))
        known = np.array([r << 16 | g << 8 | b for r, g, b in self.classes.colors])
        order = np.argsort(known)
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        numbers = order[place].astype(self.table.dtype)
        if (strange := known[order][place] != codes).any():
            if self.rest == "error" and (colors := set(np.unique(codes[strange]).tolist()) - {0, 0xFFFFFF}):
                fault = f"the mask holds the colour #{min(colors):06x}, which belongs to no class"
                raise BadFile(
                    path, "colour_outside", fault, "add it to classes.json, or save the mask without smoothing"
                )
            numbers[strange] = self.classes.ignore  # black and white stand for "nothing" unless a class has them
        return numbers


def color_codes(image: Image.Image) -> np.ndarray:
    """One whole number 0xRRGGBB per pixel."""
    channels = np.array(image.convert("RGB")).astype(np.uint32)
    return channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]


def _fits(values: np.ndarray) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < 65536)


@dataclass(frozen=True)
class Listing:
    """The files of one split as found: (key, path) of each image and label file; equal keys belong together."""

    name: str
    split: str
    root: Path
    images: tuple[tuple[str, Path], ...]
    labels: tuple[tuple[str, Path], ...]
    coding: Coding

    def problems(self) -> list[Finding]:
        """Images without a mask, masks without an image, and two files that claim one place."""
        images, labels, found = dict(self.images), dict(self.labels), []
        if self.images and not self.labels:
            text = f"none of the {len(images)} images has a mask"
            return [Finding(str(self.root), "no_masks", text, "put masks of the same names beside them")]
        for kind, listed in (("image", self.images), ("mask", self.labels)):
            first: dict[str, Path] = {}
            for key, path in listed:
                if key in first:
                    found.append(
                        Finding(
                            str(path),
                            f"duplicate_{kind}",
                            f"there is also {first[key].name}, so {kind} {key!r} exists twice",
                            "rename or remove one of them",
                        )
                    )
                first.setdefault(key, path)
        other_case = {key.casefold(): key for key in labels}
        suffixed = {re.sub(r"[_\-. ][A-Za-z]+$", "", key): key for key in labels if key not in images}
        for key, path in self.images:
            if key not in labels:
                hint = "add the mask, or remove the image"
                if key in suffixed:
                    hint = f"is it {suffixed[key]!r}? pass mask_suffix={suffixed[key][len(key) :]!r}"
                elif key.casefold() in other_case:
                    hint = f"there is {other_case[key.casefold()]!r}; upper and lower case must agree"
                found.append(Finding(str(path), "image_without_mask", f"no mask is called {key!r}", hint))
        found += [
            Finding(str(path), "mask_without_image", f"no image is called {key!r}", "add the image, or remove the mask")
            for key, path in self.labels
            if key not in images
        ]
        return found

    def matched(self) -> list[tuple[str, Path, Path]]:
        """(key, image, label file) of all that have both, in natural order."""
        labels = dict(self.labels)
        found = {key: (key, path, labels[key]) for key, path in self.images if key in labels}
        return sorted(found.values(), key=lambda entry: natural_key(entry[0]))

    def sound(self) -> tuple[tuple[str, ...], tuple[Path, ...], tuple[Path, ...]]:
        """Keys, images and label files of all pairs; the first broken pair is an error."""
        if problems := self.problems():
            more = f" ({len(problems)} such files)" if len(problems) > 1 else ""
            raise SourceError(replace(problems[0], message=problems[0].message + more))
        keys, images, labels = zip(*self.matched(), strict=True)
        return keys, images, labels

    def pairs(self) -> Pairs:
        """The data set; the first broken pair is an error."""
        return Pairs(self.name, self.split, self.coding, *self.sound())


@dataclass(frozen=True)
class Pairs(Samples):
    """A semantic data set on disk: one label file beside every image."""

    name: str
    split: str
    coding: Coding
    keys: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]

    @property
    def classes(self) -> Classes:
        return self.coding.classes

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The image file and the label file of sample `index`."""
        return self.images[index], self.labels[index]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Sample | Pairs:
        if isinstance(index, slice):
            return replace(self, keys=self.keys[index], images=self.images[index], labels=self.labels[index])
        image, labels = read_image(self.images[index]), self.coding.decode(self.labels[index])
        if image.shape[1:] != labels.shape:
            fault = size_mismatch(labels.shape, image.shape[1:])
            raise BadFile(self.labels[index], "size_mismatch", fault, CHECK)
        size = (int(image.shape[1]), int(image.shape[2]))
        return Sample(image, name=self.keys[index], semantic=labels, original_size=size, classes=self.classes)


def size_mismatch(mask: Sequence[int], image: Sequence[int]) -> str:
    """The sentence for a mask of another size than its image."""
    return f"mask is {mask[0]}x{mask[1]} but image is {image[0]}x{image[1]} (height x width)"


def existing(root: Path, split: str) -> Path:
    """`root` itself, once it is known to be a folder and `split` a name we know."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}", hint=f"choose from {', '.join(SPLITS)}")
    if not root.exists():
        raise broken(root, "no_folder", "the folder does not exist", "check the path after `kind:`")
    if not root.is_dir():
        raise broken(root, "not_a_folder", "this is a file, not a folder", "name the folder of the data set")
    return root


def subfolder(root: Path, names: Sequence[str], what: str) -> Path:
    """The first folder of `root` called one of `names`, upper or lower case alike."""
    there = {p.name.casefold(): p for p in sorted(root.iterdir()) if p.is_dir()}
    for name in names:
        if name.casefold() in there:
            return there[name.casefold()]
    raise broken(
        root,
        f"no_{what}s_folder",
        f"no folder for {what}s in it",
        f"put the {what}s into `{names[0]}` (also accepted: {', '.join(names[1:])})"
        if names[1:]
        else f"put the {what}s into `{names[0]}`",
    )


def split_folders(folder: Path, split: str) -> list[Path]:
    """The folders below `folder` that hold a split (`all`: every split there is); empty where it is not divided."""
    there = {p.name.casefold(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    wanted = [split] if split != "all" else list(SPLIT_FOLDERS)
    return [there[name] for s in wanted for name in SPLIT_FOLDERS[s] if name in there]


def divided(folder: Path) -> bool:
    """Whether `folder` holds split folders."""
    return bool(split_folders(folder, "all"))


def keyed(folder: Path, suffix: str = "", files: Iterable[Path] | None = None) -> list[tuple[str, Path]]:
    """(key, path) of the pictures in and below a folder; the key is the relative name less `suffix` and extension."""
    found = list_images(folder, recursive=True) if files is None else files
    named = ((p.relative_to(folder).with_suffix("").as_posix(), p) for p in found)
    return [(key.removesuffix(suffix), path) for key, path in named if key.endswith(suffix)]


def divided_files(
    root: Path, split: str, images: Sequence[str], labels: Sequence[str]
) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Files of the layout `images/<split>` beside `labels/<split>`."""
    folders = subfolder(root, images, "image"), subfolder(root, labels, "mask")
    pictures, masks = (
        [entry for f in split_folders(folder, split) for entry in prefixed(f.name, keyed(f), split)]
        for folder in folders
    )
    if not split_folders(folders[0], split):
        has = [f.name for f in split_folders(folders[0], "all")]
        raise broken(
            folders[0],
            "no_split_folder",
            f"no folder for split {split!r}",
            f"it has {', '.join(has)}" if has else f"expected {folders[0].name}/{split}",
        )
    if not pictures:
        raise empty(folders[0] if split == "all" else split_folders(folders[0], split)[0])
    return pictures, masks


def prefixed(name: str, entries: list[tuple[str, Path]], split: str) -> list[tuple[str, Path]]:
    """Keys of one split folder; `all` puts the folder's name before them, as two splits may use a name twice."""
    return [(f"{name}/{key}", path) for key, path in entries] if split == "all" else entries


def empty(folder: Path) -> SourceError:
    """The error for a folder without pictures."""
    other = Counter(p.suffix.lower() for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else Counter[str]()
    has = ", ".join(f"{n} {suffix or 'nameless'} files" for suffix, n in other.most_common(3))
    fault = "no image in this folder" + (f" (but {has})" if has else "")
    return broken(folder, "empty", fault, "put .jpg, .png, .tif, .bmp or .webp files into it")


def keep_split(
    entries: Iterable[tuple[str, Path]], split: str, is_val: Callable[[str], bool]
) -> list[tuple[str, Path]]:
    """The entries of an undivided set that belong to `split`, by a rule on their key."""
    if split == "test":
        raise UserError("this data set has no test split", hint="choose train, val or all")
    return [(key, path) for key, path in entries if split == "all" or is_val(key) == (split == "val")]


def number_of(key: str) -> int | None:
    """The last whole number in a file name: 1087 for `1087`, 12 for `flood_012`."""
    found = re.findall(r"\d+", key)
    return int(found[-1]) if found else None
