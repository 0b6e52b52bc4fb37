"""Alpha mattes, trimaps and optical flow in files: stills in a folder, videos as folders of frames.

A folder of mattes holds pictures, or `pha/` with pictures and beside it `fgr/` (colours of the foreground) and
`trimap/`, as BackgroundMattingV2 and RobustVideoMatting lay them out. Pictures at the top are stills; every folder
below is a video, its frames in natural order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from masklet.data.images import BadFile, list_images, natural_key, open_image, read_image, upright
from masklet.structures import Matte, UserError
from masklet.structures.errors import missing_of

__all__ = ["MattePair", "matte_pairs", "read_alpha", "read_flow", "read_matte", "read_trimap"]

FLO_MAGIC = 202021.25  # the first four bytes of Middlebury's .flo, which read "PIEH"


@dataclass(frozen=True)
class MattePair:
    """The files of one frame: `video` it belongs to (None for a still) and `name`, the same on both sides."""

    name: str
    video: str | None
    pred: Path
    truth: Path
    trimap: Path | None = None
    pred_foreground: Path | None = None
    foreground: Path | None = None
    flow: Path | None = None

    def mattes(self) -> tuple[Matte, Matte]:
        """Prediction and truth, with the colours of the foreground where both have them."""
        if self.pred_foreground is None or self.foreground is None:
            return Matte(read_alpha(self.pred)), Matte(read_alpha(self.truth))
        return read_matte(self.pred, self.pred_foreground), read_matte(self.truth, self.foreground)


def read_alpha(path: str | Path) -> Float32[Tensor, "1 h w"]:
    """An alpha matte from a grey picture of 8 or 16 bits, or from the transparency of a cut-out."""
    image = upright(open_image(Path(path)))
    if "A" in image.getbands():
        transparency = np.array(image.getchannel("A"))
        if transparency.min() < 255:
            return _unit(transparency)
    return _unit(_grey(image, path, "matte"))


def read_matte(alpha: str | Path, foreground: str | Path) -> Matte:
    """A matte with the colours of its foreground."""
    colours = read_image(Path(foreground)).float() / 255
    opacity = read_alpha(alpha)
    if colours.shape[1:] != opacity.shape[1:]:
        (h, w), (height, width) = colours.shape[1:], opacity.shape[1:]
        raise UserError(f"{foreground} is {h}x{w} but {alpha} is {height}x{width}", hint="resize one of them")
    return Matte(opacity, colours)


def read_trimap(path: str | Path) -> UInt8[Tensor, "h w"]:
    """A trimap: 0 background, 255 foreground, 128 unknown. In the file any one grey between may mean unknown."""
    values = _grey(upright(open_image(Path(path))), path, "trimap")
    values = values if values.dtype == np.uint8 else (values // 257).astype(np.uint8)
    between = np.unique(values[(values != 0) & (values != 255)])
    if len(between) > 1:
        fault = f"the trimap has {len(between)} greys between black and white ({between[0]} and {between[-1]} are two)"
        raise BadFile(path, "trimap_values", fault, "it should have one; a JPEG does not keep it, save a PNG")
    return torch.from_numpy(np.where((values != 0) & (values != 255), np.uint8(128), values))


def read_flow(path: str | Path) -> Float32[Tensor, "2 h w"]:
    """Optical flow x y in pixels from a `.flo` (Middlebury) or `.npy` file, (2, H, W) or (H, W, 2)."""
    path = Path(path)
    if path.suffix == ".npy":
        try:
            flow = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise BadFile(path, "flow", f"this is not an array ({error})", "save it with numpy.save") from error
    else:
        words = np.fromfile(path, "<f4")
        width, height = (int(n) for n in words[1:3].view("<i4")) if len(words) >= 3 else (0, 0)
        if not len(words) or words[0] != FLO_MAGIC or len(words) != 3 + 2 * width * height:
            raise BadFile(path, "flow", "this is not a .flo file, or it is cut short", "write it again, or use .npy")
        flow = words[3:].reshape(height, width, 2)
    if flow.ndim != 3 or 2 not in (flow.shape[0], flow.shape[2]):
        fault = f"flow has shape {flow.shape}"
        raise BadFile(path, "flow", fault, "it should be (2, height, width) or (height, width, 2)")
    flow = flow if flow.shape[0] == 2 else flow.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(flow, np.float32))


def matte_pairs(
    predictions: Path,
    truth: Path,
    *,
    trimaps: Path | None = None,
    own_trimaps: bool = False,
    flow: Path | None = None,
    stills: bool = False,
) -> list[MattePair]:
    """The frames of a folder of true mattes with their predictions, video by video; none may be missing.

    Partners have the same place and name, whatever their suffix. `trimaps` and `flow` are folders of the same
    layout (flow of all but the first frame of a video); `own_trimaps` takes `trimap/` beside the true `pha/`.
    `stills` says that folders below the top hold stills, not videos. Predictions without a truth are left alone.
    """
    found = list(_leaves(_folder(truth)))
    if not found:
        raise UserError(f"{truth} holds no mattes", hint="it should hold pictures, or folders of pictures")
    _folder(predictions)
    pairs = []
    for place, mattes in found:
        files = list_images(mattes)
        partners = _partners(_inside(predictions / place), files, "matte")
        extra: dict[str, Sequence[Path | None]] = {}
        if trimaps is not None or own_trimaps:
            where = truth / place / "trimap" if trimaps is None else _inside(_folder(trimaps) / place)
            extra["trimap"] = _partners(where, files, "trimap")
        colours = [base / place / "fgr" for base in (predictions, truth)]
        if all(folder.is_dir() for folder in colours):
            extra["pred_foreground"], extra["foreground"] = (_partners(f, files, "foreground") for f in colours)
        video = None if stills or place == Path() else place.as_posix()
        if flow is not None and video is not None:
            extra["flow"] = [None, *_partners(_folder(flow) / place, files[1:], "flow", (".flo", ".npy"))]
        for i, (pred, file) in enumerate(zip(partners, files, strict=True)):
            fields = {key: paths[i] for key, paths in extra.items()}
            pairs.append(MattePair((place / file.stem).as_posix(), video, pred, file, **fields))
    return pairs


def _leaves(folder: Path, place: Path = Path()) -> Iterator[tuple[Path, Path]]:
    """The places below `folder` that hold mattes, and the folders that the pictures are in."""
    inside = _inside(folder)
    if list_images(inside):
        yield place, inside
    if inside == folder:
        for below in sorted((p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."), key=natural_key):
            if below.name not in ("fgr", "trimap"):
                yield from _leaves(below, place / below.name)


def _inside(folder: Path) -> Path:
    """The folder of the pictures themselves."""
    return folder / "pha" if (folder / "pha").is_dir() else folder


def _partners(folder: Path, files: Sequence[Path], what: str, suffixes: tuple[str, ...] = ()) -> list[Path]:
    """The file of the same stem for each file; none may be missing."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist", hint=f"it should hold a {what} for each of {len(files)} pictures")
    there: Mapping[str, Path] = {
        path.stem: path
        for path in (list_images(folder) if not suffixes else (p for p in folder.iterdir() if p.suffix in suffixes))
    }
    if missing := [file.stem for file in files if file.stem not in there]:
        more = missing_of(missing, files)
        raise UserError(f"{folder} has no {what} for {missing[0]!r}{more}", hint="files need the names of the truth")
    return [there[file.stem] for file in files]


def _grey(image: Image.Image, path: str | Path, what: str) -> np.ndarray:
    """One channel (H, W), uint8 or uint16; colour files pass only where all channels agree."""
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadFile(path, "values", f"the {what} has values to {values.max()}", "save it with 8 or 16 bits")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise BadFile(path, "values", f"the {what} holds floating point numbers", "save it with 8 or 16 bits")
    if image.mode in ("L", "LA", "1"):
        return np.array(image.convert("L"))
    channels = np.array(image.convert("RGB"))
    if (channels == channels[..., :1]).all():
        return np.ascontiguousarray(channels[..., 0])
    raise BadFile(path, "colour", f"the {what} is a colour picture", "save it as a grey PNG of 8 or 16 bits")


def _unit(values: np.ndarray) -> Float32[Tensor, "1 h w"]:
    return torch.from_numpy(values.astype(np.float32) / np.iinfo(values.dtype).max)[None]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder" if path.exists() else f"{path} does not exist",
            hint="name the folder of the pictures",
        )
    return path
