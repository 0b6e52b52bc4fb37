"""Videos with the masks of their objects: DAVIS, YouTube-VOS, MOSE, SA-V. A frame is a sample, a run of frames a clip.

    davis:        root/JPEGImages/480p/<video>/00000.jpg       root/Annotations/480p/<video>/00000.png
    youtube_vos:  root/[train|valid]/JPEGImages/<video>/...    root/[train|valid]/Annotations/<video>/...  (and MOSE)
    sav:          root/JPEGImages_24fps/<video>/00000.jpg      root/Annotations_6fps/<video>/<object>/00000.png
    sav:          root/[.../]sav_000001.mp4                    root/[.../]sav_000001_manual.json (and _auto.json)

Pixel k of a mask is object k, 255 void; DAVIS 2016 has one object and writes it as 255. Frames without a mask belong to
clips and are no samples. The lists of DAVIS in ImageSets/ say what train and val are. Where there are none, val is the
three sequences that our own models never train on, `dog`, `libby` and `car-shadow`; without those every fifth video.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from masklet.data.davis import list_mask_videos, read_object_ids, read_sequence_list
from masklet.data.films import frames_at
from masklet.data.images import BadFile, list_images, natural_key, read_image
from masklet.data.pairs import CHECK, Samples, broken, empty, existing, keep_split, size_mismatch, split_folders
from masklet.ops.rle import RLE, decode, from_coco
from masklet.structures import Classes, Clip, Instances, Masks, Sample
from masklet.structures.errors import UserError

__all__ = ["OBJECT", "Film", "Video", "Videos", "davis", "sav", "youtube_vos"]

OBJECT = Classes(("object",), things=(True,))
HELD_OUT = frozenset({"dog", "libby", "car-shadow"})
EVERY = 5
VOID = 255
SAV_EVERY = 4  # frames: 24 a second are shown and 6 annotated
TABLES = MappingProxyType({"manual": ("manual",), "auto": ("auto",), "both": ("manual", "auto")})
PICTURES = ("JPEGImages/480p", "JPEGImages/Full-Resolution", "JPEGImages_24fps", "JPEGImages")


@dataclass(frozen=True)
class Video:
    """The files of one video by frame number: images, and masks by object (0: all objects in one file)."""

    name: str
    images: Mapping[int, Path]
    masks: Mapping[int, Mapping[int, Path]]

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """The numbers of all frames."""
        return tuple(sorted(self.images))

    @cached_property
    def annotated(self) -> tuple[int, ...]:
        """The numbers of the frames that have masks."""
        return tuple(sorted(self.masks))

    @property
    def source(self) -> list[Path]:
        """What `masklet.inference.tracking.VideoSession` reads: frame after frame."""
        return [self.images[frame] for frame in self.frames]

    def files(self, frame: int) -> tuple[Path, ...]:
        """The picture of an annotated frame, and its masks."""
        return self.images[frame], *self.masks[frame].values()

    def pictures(self, frames: Sequence[int]) -> list[UInt8[Tensor, "3 h w"]]:
        """These frames, in this order."""
        return [read_image(self.images[frame]) for frame in frames]

    def only(self, frames: Collection[int]) -> Video:
        """The same video with no other annotated frames than these."""
        return replace(self, masks=MappingProxyType({k: files for k, files in self.masks.items() if k in frames}))

    @cached_property
    def _one_object_is_255(self) -> bool:
        """Black and white, as DAVIS 2016 has it; only a mask with something in it can tell."""
        seen = (set(np.unique(read_object_ids(self.masks[frame][0])).tolist()) - {0} for frame in self.annotated)
        return next((values == {VOID} for values in seen if values), False)

    def objects(self, frame: int) -> dict[int, Bool[Tensor, "h w"]]:
        """The mask of each object that one frame shows, by its number."""
        files = self.masks[frame]
        if 0 not in files:
            masks = {number: torch.from_numpy(read_object_ids(file) > 0) for number, file in sorted(files.items())}
            return {number: mask for number, mask in masks.items() if mask.any()}
        ids = torch.from_numpy(read_object_ids(files[0]).astype(np.int64))
        ids = (ids == VOID).long() if self._one_object_is_255 else ids.where(ids != VOID, 0)
        return {number: ids == number for number in ids.unique().tolist() if number}

    def clip(self, frames: Sequence[int]) -> Clip:
        """These frames, in this order, with every object that one of their masks shows; numbers in rising order."""
        return _clip(self, frames)


@dataclass(frozen=True)
class Film:
    """A video file and tables of its masks, as SA-V's training set has them: every fourth frame is annotated.

    Objects are numbered from 1, those of the first table first. Tables are read when they are needed.
    """

    name: str
    file: Path
    tables: tuple[Path, ...]
    kept: frozenset[int] | None = None  # of the annotated frames; None: all

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """The numbers of all frames."""
        return tuple(range(max(_sav_table(table).frames for table in self.tables)))

    @cached_property
    def annotated(self) -> tuple[int, ...]:
        """The numbers of the frames that have masks."""
        longest = max(len(_sav_table(table).masks) for table in self.tables)
        numbers = range(0, longest * SAV_EVERY, SAV_EVERY)
        return tuple(n for n in numbers if self.kept is None or n in self.kept)

    @property
    def source(self) -> Path:
        """What `masklet.inference.tracking.VideoSession` reads."""
        return self.file

    def files(self, frame: int) -> tuple[Path, ...]:
        """The files that an annotated frame and its masks are in."""
        return self.file, *self.tables

    def pictures(self, frames: Sequence[int]) -> list[UInt8[Tensor, "3 h w"]]:
        """These frames, in this order; decoded in one go."""
        found = frames_at(self.file, frames)
        return [found[frame] for frame in frames]

    def only(self, frames: Collection[int]) -> Film:
        """The same video with no other annotated frames than these."""
        return replace(self, kept=frozenset(frames))

    def objects(self, frame: int) -> dict[int, Bool[Tensor, "h w"]]:
        """The mask of each object that one frame shows, by its number."""
        out, before = {}, 0
        for table in map(_sav_table, self.tables):
            here = table.masks[frame // SAV_EVERY] if frame // SAV_EVERY < len(table.masks) else ()
            for k, item in enumerate(here, before + 1):
                if item is not None and item.area:
                    out[k] = torch.from_numpy(decode(item))
            before += table.objects
        return out

    def clip(self, frames: Sequence[int]) -> Clip:
        """These frames, in this order, with every object that one of their masks shows; numbers in rising order."""
        return _clip(self, frames)


@dataclass(frozen=True)
class _Table:
    """A JSON of SA-V: how many frames the video has, how many objects, and their masks in every fourth frame."""

    frames: int
    objects: int
    masks: tuple[tuple[RLE | None, ...], ...]


def _sav_table(path: Path) -> _Table:
    return _read_table(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_table(path: Path, changed: int) -> _Table:
    try:
        data = json.loads(path.read_bytes())
        masks = tuple(
            tuple(from_coco(one) if one and one.get("counts") else None for one in frame) for frame in data["masklet"]
        )
        objects = max([len(data.get("masklet_id") or ()), *map(len, masks)])
        return _Table(int(data["video_frame_count"]), objects, masks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"this is no table of SA-V ({type(error).__name__}: {error})"
        hint = 'it holds {"video_frame_count": ..., "masklet": [[{"size": ..., "counts": ...}]]}'
        raise BadFile(path, "bad_table", fault, hint) from None


def _clip(video: Video | Film, frames: Sequence[int]) -> Clip:
    images, annotated = torch.stack(video.pictures(frames)), set(video.annotated)
    size = (int(images.shape[2]), int(images.shape[3]))
    found = [_fitting(video, frame, size) if frame in annotated else {} for frame in frames]
    numbers = sorted(set().union(*found))
    masks = torch.zeros(len(numbers), len(frames), *size, dtype=torch.bool)
    for t, objects in enumerate(found):
        for number, mask in objects.items():
            masks[numbers.index(number), t] = mask
    known = torch.tensor([frame in annotated for frame in frames])
    return Clip(images, masks, f"{video.name}/{frames[0]:05d}", known)


def _fitting(video: Video | Film, frame: int, size: tuple[int, int]) -> dict[int, Bool[Tensor, "h w"]]:
    objects = video.objects(frame)
    for mask in objects.values():
        if tuple(mask.shape) != size:
            raise BadFile(video.files(frame)[1], "size_mismatch", size_mismatch(mask.shape, size), CHECK)
    return objects


@dataclass(frozen=True)
class Videos(Samples):
    """Videos whose annotated frames count as samples, one after the other."""

    name: str
    split: str
    videos: tuple[Video | Film, ...]
    classes: Classes = OBJECT

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(len(video.annotated) for video in self.videos))

    def __len__(self) -> int:
        return self._ends[-1] if self.videos else 0

    def __bool__(self) -> bool:
        return bool(self.videos)  # to count frames, every table of a film would have to be read

    def place(self, index: int) -> tuple[Video | Film, int]:
        """The video of sample `index`, and its frame number there."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        which = bisect_right(self._ends, index)
        video = self.videos[which]
        return video, video.annotated[index - (self._ends[which] - len(video.annotated))]

    def paths(self, index: int) -> tuple[Path, ...]:
        """The frame and its masks."""
        video, frame = self.place(index)
        return video.files(frame)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Videos: ...
    def __getitem__(self, index: int | slice) -> Sample | Videos:
        if isinstance(index, slice):
            chosen: dict[str, set[int]] = {}
            for video, frame in map(self.place, range(len(self))[index]):
                chosen.setdefault(video.name, set()).add(frame)
            return replace(self, videos=tuple(v.only(chosen[v.name]) for v in self.videos if v.name in chosen))
        video, frame = self.place(index)
        (image,) = video.pictures([frame])
        size = (int(image.shape[1]), int(image.shape[2]))
        dense = [*_fitting(video, frame, size).values()]
        masks = Masks.from_dense(torch.stack(dense)) if dense else Masks(*size)
        objects = Instances.from_masks(masks, torch.zeros(len(masks), dtype=torch.int64), self.classes)
        return Sample(image, name=f"{video.name}/{frame:05d}", instances=objects, classes=self.classes)


def davis(root: Path, split: str = "train", named: str = "", without: str = "") -> Videos:
    """DAVIS 2016 and 2017. `named` chooses sequences instead of a list: `named=dog,libby`; `without` omits some."""
    existing(root, split)
    found = _videos(root, "davis", split)
    if named:
        return Videos("davis", split, tuple(_named(root, found, [name for name in named.split(",") if name])))
    lists = root / "ImageSets"
    year = next((lists / y for y in ("2017", "2016", "480p") if (lists / y / "val.txt").is_file()), None)
    if split == "all":
        chosen = [*found]
    elif year is not None and (year / f"{split}.txt").is_file():
        listed = read_sequence_list(year / f"{split}.txt")
        chosen = [name for name in listed if name in found]
        if not chosen:
            fault = f"none of the {len(listed)} videos that {year.name}/{split}.txt lists is there"
            raise broken(root, "empty_split", fault, "take `--split all`, or name videos with `named=`")
    else:
        chosen = _divided(found, split)
    skipped = set(without.split(","))
    return Videos("davis", split, tuple(found[name] for name in chosen if name not in skipped))


def youtube_vos(root: Path, split: str = "train", named: str = "") -> Videos:
    """YouTube-VOS and MOSE, with or without folders for the splits."""
    existing(root, split)
    folders = split_folders(root, split)
    if not folders and split_folders(root, "all"):
        raise broken(root, "no_split_folder", f"no folder for split {split!r}", "call it train, valid or test")
    found: dict[str, Video] = {}
    for folder in folders or [root]:
        found |= _videos(folder, "youtube_vos", split)
    if named:
        return Videos("youtube_vos", split, tuple(_named(root, found, [name for name in named.split(",") if name])))
    chosen = [*found] if folders else _divided(found, split)
    return Videos("youtube_vos", split, tuple(found[name] for name in chosen))


def sav(root: Path, split: str = "train", named: str = "", masks: str = "manual") -> Videos:
    """SA-V as its val and test sets are stored, or its training set.

    The former have frames at 24 a second, masks at 6, and a folder of masks per object. The latter has video files, and
    JSONs of masks beside them, of which `masks` chooses: manual, auto, or both.
    """
    if masks not in TABLES:
        raise UserError(f"masks is {masks!r}", hint=f"choose from {', '.join(TABLES)}")
    existing(root, split)
    lists = {s: root / f"sav_{s}.txt" for s in ("train", "val", "test")}
    found: Mapping[str, Video | Film] = _films(root, TABLES[masks]) or _videos(root, "sav", split)
    if named:
        return Videos("sav", split, tuple(_named(root, found, [name for name in named.split(",") if name])))
    if split in lists and lists[split].is_file():
        return Videos("sav", split, tuple(_named(root, found, read_sequence_list(lists[split]))))
    return Videos("sav", split, tuple(found[name] for name in _divided(found, split)))


def _films(root: Path, kinds: Sequence[str]) -> dict[str, Film]:
    """Video files with tables beside them; those without are left out."""
    out = {}
    for file in sorted(root.rglob("*.mp4"), key=natural_key):
        tables = tuple(file.with_name(f"{file.stem}_{kind}.json") for kind in kinds)
        if there := tuple(table for table in tables if table.is_file()):
            out[file.stem] = Film(file.stem, file, there)
    return out


def _named(root: Path, found: Mapping[str, Video | Film], names: Sequence[str]) -> list[Video | Film]:
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{root} has no video {missing[0]!r}", hint=f"it has {', '.join([*found][:8])}")
    return [found[name] for name in names]


def _divided(found: Mapping[str, Video | Film], split: str) -> list[str]:
    """The videos of a split where no list says so."""
    held = HELD_OUT & found.keys() or ({*list(found)[::EVERY]} if len(found) > 1 else set())
    return [name for name, _ in keep_split([(name, Path(name)) for name in found], split, held.__contains__)]


def _videos(root: Path, kind: str, split: str) -> dict[str, Video]:
    pictures = next((root / name for name in PICTURES if (root / name).is_dir()), None)
    if pictures is None:
        hint = "put the frames of each video into JPEGImages/<video>/ and the masks into Annotations/<video>/"
        raise broken(root, "no_images_folder", "no folder for images in it", hint)
    masks: dict[str, dict[int, dict[int, Path]]] = {}
    for name, video in list_mask_videos(root).items():
        name, _, inner = name.partition("/")
        own = masks.setdefault(name, {})
        number = len({n for objects in own.values() for n in objects}) + 1 if inner else 0
        for frame, file in video.files.items():
            own.setdefault(frame, {})[number] = file
    found = {}
    for name, files in masks.items():
        folder = pictures / name
        if not folder.is_dir():
            hint = "add its frames, or remove its masks"
            raise broken(folder, "mask_without_image", "the video has masks but no folder of images", hint)
        images = _numbered(list_images(folder))
        if lost := sorted(files.keys() - images.keys()):
            hint = "add the image, or remove the mask"
            raise broken(
                next(iter(files[lost[0]].values())),
                "mask_without_image",
                f"no image of frame {lost[0]} in {folder}",
                hint,
            )
        there = {frame: MappingProxyType(paths) for frame, paths in sorted(files.items())}
        found[name] = Video(name, MappingProxyType(images), MappingProxyType(there))
    if not found:
        raise empty(root)
    return found


def _numbered(files: Sequence[Path]) -> dict[int, Path]:
    if all(p.stem.isdecimal() for p in files):
        return {int(p.stem): p for p in files}
    return dict(enumerate(files))
