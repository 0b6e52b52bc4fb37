"""Videos as panoptic PNG files: KITTI-STEP, MOTChallenge-STEP (Weber et al., 2021) and DVPS (Qiao et al., 2021).

    root/<video>/<frame>.png                              STEP, also root/panoptic_maps/... or root/panoptic/...
    root/<video>_<frame>_*_gtFine_instanceTrainIds.png    DVPS, all videos in one folder

Colour files hold the class in R and the number of the object in G and B (256 G + B), grey files of 16 bits 1000 class
+ number. Class 255 (in grey files 32) is void. Things with the number 0 are a crowd that nobody separated.

Depth comes as 16-bit PNG, metres times 256 with 0 for unknown (KITTI), or as .npy in metres:

    root/depth/<video>/<frame>.png                        beside root/panoptic/...
    root/<video>_<frame>_*_depth.png                      DVPS, beside the panoptic files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.data.cityscapes import TRAIN_IDS
from masklet.data.images import SIXTEEN_BIT, BadFile, natural_key, open_image
from masklet.structures import Classes, Panoptic, Segment, UserError

__all__ = ["STEP_CLASSES", "list_depths", "list_step", "read_depth", "read_step"]

VOID = 255
GREY_VOID = 32  # Cityscapes-DVPS writes 32000 for void
DVPS_SUFFIX = "_gtFine_instanceTrainIds"

_MOT = ("sidewalk", "building", "vegetation", "sky", "person", "rider", "bicycle")
STEP_CLASSES: Mapping[str, Classes] = MappingProxyType(
    {
        "kitti_step": replace(TRAIN_IDS, things=tuple(name in ("person", "car") for name in TRAIN_IDS.names)),
        "motchallenge_step": Classes(
            names=_MOT,
            colors=tuple(TRAIN_IDS.colors[TRAIN_IDS.index(name)] for name in _MOT),
            things=tuple(name == "person" for name in _MOT),
        ),
        "cityscapes_dvps": TRAIN_IDS,
    }
)

Frames = Mapping[str, Mapping[str, Path]]  # the files of each video, in order


def list_step(root: Path) -> Frames:
    """The panoptic files below a folder: video -> frame -> file, in the order of time."""
    root = _inside(_folder(root), ("panoptic_maps", "panoptic"))
    flat = sorted(root.glob(f"*{DVPS_SUFFIX}.png"), key=natural_key)
    return _by_prefix(root, flat) if flat else _by_folder(root, (".png",), "panoptic PNG")


def list_depths(root: Path, mixed: bool = False) -> Frames:
    """The depth files below a folder: video -> frame -> file, in the order of time.

    In a folder that is `mixed` there are panoptic maps too, so the depth must say what it is.
    """
    root = _inside(_folder(root), ("depth",))
    flat = sorted((*root.glob("*_depth.png"), *root.glob("*_depth.npy")), key=natural_key)
    if mixed and not flat and root.name != "depth":
        hint = "expected depth/<video>/<frame>.png or <video>_<frame>_*_depth.png in it"
        raise UserError(f"{root} holds no depth maps", hint=hint)
    return _by_prefix(root, flat) if flat else _by_folder(root, (".png", ".npy"), "depth map (.png or .npy)")


def read_step(path: Path, classes: Classes) -> Panoptic:
    """One frame. An object has the same id in all frames of its video: 65536 (class + 1) + number."""
    image = open_image(path)
    values = np.asarray(image)
    if image.mode == "RGB":
        labels, numbers = values[..., 0].astype(np.int64), values[..., 1].astype(np.int64) << 8 | values[..., 2]
    elif image.mode == "I" or image.mode in SIXTEEN_BIT:
        labels, numbers = np.divmod(values.astype(np.int64), 1000)
        labels[labels == GREY_VOID] = VOID
    else:
        fault = f"a panoptic map is a colour PNG or a grey one of 16 bits, this one has mode {image.mode}"
        raise BadFile(path, "not_panoptic", fault, "write R = class, G and B = number of the object, without a palette")
    if (unknown := (labels != VOID) & ((labels < 0) | (labels >= len(classes)))).any():
        fault = f"the map holds class {labels[unknown][0]}, but there are {len(classes)} classes"
        raise BadFile(path, "unknown_class", fault, f"classes are 0..{len(classes) - 1}, and {VOID} for void")
    things = np.zeros(VOID + 1, bool)
    things[: len(classes)] = classes.things
    ids = (labels + 1) << 16 | np.where(things[labels], numbers, 0)
    ids[labels == VOID] = 0
    return Panoptic(torch.from_numpy(ids), tuple(_segment(i, classes) for i in _present(ids) if i))


def read_depth(path: Path, scale: float = 256.0) -> Float[Tensor, "h w"]:
    """Depth in metres, 0 where unknown: a 16-bit PNG holds metres times `scale`, an .npy file metres."""
    if path.suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            fault = f"the depth cannot be read ({error})"
            raise BadFile(path, "unreadable", fault, "save it with numpy.save as numbers") from error
        if depth.ndim != 2 or depth.dtype.kind not in "uif":
            fault = f"depth is an array (H, W) of numbers, this one is {depth.dtype} of shape {depth.shape}"
            raise BadFile(path, "not_depth", fault, "save one map in metres")
        return torch.from_numpy(depth.astype(np.float64))
    image = open_image(path)
    if image.mode != "I" and image.mode not in SIXTEEN_BIT:
        fault = f"depth is a grey PNG of 16 bits, this one has mode {image.mode}"
        raise BadFile(path, "not_depth", fault, f"save metres times {scale:g} as uint16, 0 where unknown")
    return torch.from_numpy(np.asarray(image).astype(np.float64) / scale)


def _segment(number: int, classes: Classes) -> Segment:
    label = (number >> 16) - 1
    thing = classes.things[label]
    return Segment(number, label, thing, crowd=thing and not number & 0xFFFF)


def _present(ids: Int64[np.ndarray, "h w"]) -> list[int]:
    """The ids that occur. Neighbours are mostly equal: only where the value changes is anything sorted."""
    flat = ids.ravel()
    return np.unique(flat[np.flatnonzero(np.diff(flat, prepend=-1))]).tolist()


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder" if path.exists() else f"{path} does not exist",
            hint="name the folder of the videos",
        )
    return path


def _inside(root: Path, names: tuple[str, ...]) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root)


def _by_folder(root: Path, suffixes: tuple[str, ...], what: str) -> Frames:
    """A folder for each video, at any depth; files in `root` itself are one video."""
    videos: dict[str, dict[str, Path]] = {}
    files = (p for p in root.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
    for path in sorted(files, key=natural_key):
        folder = path.parent.relative_to(root).as_posix()
        frames = videos.setdefault(root.name if folder == "." else folder, {})
        if path.stem in frames:
            twice = f"frame {path.stem!r} of video {path.parent.name!r} is there twice"
            raise UserError(f"{twice}: {frames[path.stem].name} and {path.name}", hint="remove one of them")
        frames[path.stem] = path
    if not videos:
        raise UserError(f"{root} holds no {what}", hint="expected <video>/<frame>.png in it")
    return videos


def _by_prefix(root: Path, files: list[Path]) -> Frames:
    """DVPS: video and frame are the first two parts of the name."""
    videos: dict[str, dict[str, Path]] = {}
    for path in files:
        video, _, rest = path.name.partition("_")
        frame, separator, _ = rest.partition("_")
        if not separator:
            raise UserError(f"{path}: the name has no frame", hint="expected <video>_<frame>_*.png")
        if frame in (frames := videos.setdefault(video, {})):
            twice = f"frame {frame!r} of video {video!r} is there twice"
            raise UserError(f"{twice}: {frames[frame].name} and {path.name}", hint="remove one of them")
        frames[frame] = path
    return videos
