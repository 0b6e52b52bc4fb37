"""Videos of object masks as DAVIS stores them, one indexed PNG per frame, and its lists and scribbles.

    root/Annotations/480p/<sequence>/00000.png          palette PNG: 0 is background, k is object k, 255 is void
    root/Annotations_unsupervised/480p/<sequence>/...
    root/ImageSets/2017/val.txt                         one sequence a line, or lines that name its files (2016)
    root/Scribbles/<sequence>/001.json                  what people drew

Results of any method are the inner folders alone: <sequence>/00000.png. SA-V has a folder more, for every object one,
because objects may overlap there: <video>/<object>/00000.png. Files are found first and read one frame at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Integer

from masklet.data.images import BadFile, label_values, natural_key, open_image
from masklet.structures.errors import UserError, missing_of

__all__ = [
    "MaskVideo",
    "Scribbles",
    "Stroke",
    "list_mask_videos",
    "read_object_ids",
    "read_scribbles",
    "read_sequence_list",
]

INNER = (  # where the sequences lie below what people name
    "Annotations_unsupervised/480p",
    "Annotations/480p",
    "Annotations/2017",
    "Annotations/Full-Resolution",
    "Annotations_6fps",
    "Annotations",
)


@dataclass(frozen=True)
class MaskVideo:
    """The mask files of one sequence by frame number, in the order of time."""

    name: str
    folder: Path
    files: Mapping[int, Path]

    def read(self, frame: int) -> Integer[np.ndarray, "h w"]:
        """The object ids of one frame, from disk."""
        return read_object_ids(self.file(frame))

    def file(self, frame: int) -> Path:
        """The file of one frame; a frame that is missing is an error that names it."""
        if frame not in self.files:
            have = f"{len(self.files)} frames, {min(self.files)} to {max(self.files)}"
            raise UserError(f"{self.folder} has no mask of frame {frame}", hint=f"it has {have}")
        return self.files[frame]


def list_mask_videos(
    root: Path, *, unsupervised: bool = False, named: Sequence[str] | None = None
) -> dict[str, MaskVideo]:
    """The sequences below `root`, a folder of folders of PNG masks or a data set that has one inside.

    `unsupervised` prefers the annotations of that name. Only sequences in `named` are listed where it is given, and
    none of them may be missing. A folder of object folders (SA-V) counts as one sequence per object, "video/object".
    """
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {fault}", hint="name the folder of the sequences")
    inner = [name for name in INNER if unsupervised or "unsupervised" not in name]
    root = next((root / name for name in inner if (root / name).is_dir()), root)
    folders = sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)
    if named is not None:
        if missing := [name for name in named if not (root / name).is_dir()]:
            more = missing_of(missing, named)
            raise UserError(f"{root} has no sequence {missing[0]!r}{more}", hint=f"it has {_some(folders)}")
        folders = [root / name for name in named]
    if not folders:
        raise UserError(f"{root} holds no videos of masks", hint="expected <sequence>/<frame>.png in it")
    found = {}
    for folder in folders:
        inside = [folder] if _pngs(folder) else sorted((p for p in folder.iterdir() if p.is_dir()), key=natural_key)
        for one in inside or [folder]:
            if not (files := _pngs(one)):
                raise UserError(f"{one} holds no masks", hint="it should hold a PNG file for each frame")
            name = one.relative_to(root).as_posix()
            found[name] = MaskVideo(name, one, MappingProxyType(files))
    return found


def read_object_ids(path: Path) -> Integer[np.ndarray, "h w"]:
    """The object ids of a mask file: the indices of a palette PNG, the values of a grey one."""
    image = open_image(path)
    if image.mode in ("RGB", "RGBA", "CMYK"):
        fault = f"the mask is a colour picture ({image.mode}), not an indexed PNG"
        raise BadFile(path, "mask_in_colour", fault, "save the object ids themselves, with a palette (mode P) or grey")
    return label_values(image, path)


def read_sequence_list(path: Path) -> tuple[str, ...]:
    """The names in a list of sequences, such as ImageSets/2017/val.txt; lines may also name files of the sequences."""
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="name a text file with one sequence a line")
    lines = (line.split() for line in path.read_text(encoding="utf-8-sig").splitlines())
    names = dict.fromkeys(Path(words[0]).parent.name if "." in words[0] else words[0] for words in lines if words)
    if not names:
        raise UserError(f"{path} is empty", hint="name a text file with one sequence a line")
    return tuple(names)


@dataclass(frozen=True, eq=False)
class Stroke:
    """One line that somebody drew over an object: points x, y in [0, 1] of the image's width and height."""

    points: Float64[np.ndarray, "n 2"]
    object: int
    start: int | float = 0  # milliseconds
    end: int | float = 0

    def pixels(self, height: int, width: int) -> Bool[np.ndarray, "h w"]:
        """Where the line runs in an image of this size, one pixel wide and without gaps."""
        ends = self.points * (width - 1, height - 1)
        starts, stops = (ends[:-1], ends[1:]) if len(ends) > 1 else (ends, ends)
        steps = np.ceil(np.abs(stops - starts).max(axis=1)).astype(int) + 1
        which = np.repeat(np.arange(len(starts)), steps)
        along = (np.arange(len(which)) - np.repeat(np.cumsum(steps) - steps, steps)) / np.maximum(steps - 1, 1)[which]
        x, y = np.rint(starts[which] + (stops - starts)[which] * along[:, None]).astype(int).T
        out = np.zeros((height, width), bool)
        out[y, x] = True
        return out


@dataclass(frozen=True)
class Scribbles:
    """The strokes of one round of annotation, by frame."""

    sequence: str
    frames: tuple[tuple[Stroke, ...], ...]

    @property
    def annotated(self) -> tuple[int, ...]:
        """The frames that somebody drew on."""
        return tuple(i for i, strokes in enumerate(self.frames) if strokes)

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids of all objects that were drawn on; 0 is background."""
        return tuple(sorted({stroke.object for strokes in self.frames for stroke in strokes}))


def read_scribbles(path: Path) -> Scribbles:
    """The scribbles of a JSON file of DAVIS (Caelles et al., 2018)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", hint="name a scribble file such as Scribbles/bear/001.json") from None
    except ValueError as error:
        raise BadFile(path, "bad_json", f"this is not JSON ({error})", "copy it again") from None
    if not isinstance(content, dict) or not isinstance(content.get("scribbles"), list):
        raise BadFile(path, "no_scribbles", "it has no list `scribbles`", "expected the format of DAVIS interactive")
    frames = tuple(
        tuple(_stroke(path, frame, stroke) for stroke in strokes) for frame, strokes in enumerate(content["scribbles"])
    )
    return Scribbles(str(content.get("sequence", "")), frames)


def _stroke(path: Path, frame: int, stroke: Any) -> Stroke:
    try:
        points = np.array(stroke["path"], np.float64)
        number = int(stroke["object_id"])
        start, end = stroke.get("start_time", 0), stroke.get("end_time", 0)
    except (KeyError, TypeError, ValueError):
        fault = f"a scribble of frame {frame} lacks a path or an object_id"
        raise BadFile(path, "bad_scribble", fault, "expected the format of DAVIS interactive") from None
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        fault = f"a scribble of frame {frame} has a path that is not a list of x, y in [0, 1]"
        raise BadFile(path, "bad_scribble", fault, "divide x by the width and y by the height")
    return Stroke(points, number, start, end)


def _pngs(folder: Path) -> dict[int, Path]:
    """The masks of a sequence by frame: the numbers in their names, or their places where a name is no number."""
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")]
    files.sort(key=natural_key)
    if all(p.stem.isdecimal() for p in files):
        return {int(p.stem): p for p in files}
    return dict(enumerate(files))


def _some(folders: list[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
