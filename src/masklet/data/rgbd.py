"""Colour and depth: photographs with a depth image each, as NYUDv2 has them, and HHA pictures made of these.

    root/images/[<split>/]*.jpg   root/depth/[<split>/]*.png   root/labels/[<split>/]*.png   root/classes.txt
    root/camera.json              {"fx": 518.9, "fy": 519.5, "cx": 325.6, "cy": 253.7}, in pixels
    root/hha/[<split>/]*.png      made before, as `masklet data convert --to rgbd` does; else made when read

Depth is a 16-bit PNG of millimetres or a float TIFF of metres; 0 was not measured. Without camera.json the camera is
NYUDv2's Kinect, stretched to the size of the picture. Images, labels and classes are those of `folder:`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from masklet.data.folder import list_folder
from masklet.data.images import BadFile, open_image, read_image, to_float, upright
from masklet.data.pairs import CHECK, Pairs, Samples, broken, keyed
from masklet.ops.hha import Camera, hha, kinect
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError

DEPTHS = MappingProxyType({"metres": 1, "hha": 3})  # how a model may want its depth, and how many channels that is
FARTHEST = 100.0  # metres; beyond it the file was not in millimetres


@dataclass(frozen=True)
class RGBDPhoto:
    """A picture and its depth: paths, or an image and metres (H, W). Without `camera` it is a Kinect's."""

    image: Any
    depth: Any
    camera: Camera | None = None


@dataclass(frozen=True)
class RGBD(Samples):
    """A semantic data set with depth; `depth_as` says whether samples come with metres, with HHA, or without."""

    pairs: Pairs
    depths: tuple[Path, ...]
    hhas: tuple[Path | None, ...]
    camera: Camera | None
    depth_as: str | None = "metres"

    @property
    def name(self) -> str:
        return "rgbd"

    @property
    def split(self) -> str:
        return self.pairs.split

    @property
    def classes(self) -> Classes:
        return self.pairs.classes

    def __len__(self) -> int:
        return len(self.pairs)

    def paths(self, index: int) -> tuple[Path, ...]:
        """The image, the label file and the depth image of sample `index`."""
        return (*self.pairs.paths(index), self.depths[index])

    def seeing(self, depth_as: str | None) -> RGBD:
        """The same samples with their depth as a model wants it."""
        return replace(self, depth_as=depth_as)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> RGBD: ...
    def __getitem__(self, index: int | slice) -> Sample | RGBD:
        if isinstance(index, slice):
            return replace(self, pairs=self.pairs[index], depths=self.depths[index], hhas=self.hhas[index])
        sample, file, made = self.pairs[index], self.depths[index], self.hhas[index]
        if self.depth_as is None:
            return sample
        if self.depth_as == "hha" and made is not None:
            file, depth = made, to_float(read_image(made))
        else:
            depth = encoded(read_depth(file), self.depth_as, self.camera)
        if tuple(depth.shape[1:]) != sample.size:
            raise BadFile(file, "size_mismatch", _mismatch(depth, sample.image), CHECK)
        return replace(sample, depth=depth)


def rgbd(root: Path, split: str = "train", mask_suffix: str = "") -> RGBD:
    """Images, depth and labels; `mask_suffix` as for `folder:`."""
    pairs = list_folder(root, split, mask_suffix).pairs()
    if not (root / "depth").is_dir():
        raise broken(root, "no_depth_folder", "no folder for depth in it", "put 16-bit PNGs of millimetres in `depth`")
    below = _beside(root / "images", pairs)
    depths, hhas = _by_key(root / "depth"), _by_key(root / "hha")
    if missing := next((key for key in below if key not in depths), None):
        raise broken(root / "depth", "image_without_depth", f"no depth image is called {missing!r}", "add it")
    found = tuple(depths[key] for key in below)
    return RGBD(pairs, found, tuple(map(hhas.get, below)), read_camera(root / "camera.json"))


def _by_key(folder: Path) -> dict[str, Path]:
    return dict(keyed(folder)) if folder.is_dir() else {}


def _beside(images: Path, pairs: Pairs) -> list[str]:
    """Where each image lies in its folder, split included, without extension."""
    folder = next((p for p in pairs.images[0].parents if p.name.casefold() in ("images", "image", "imgs")), images)
    return [path.relative_to(folder).with_suffix("").as_posix() for path in pairs.images]


def read_camera(path: Path) -> Camera | None:
    """The camera in a JSON file of fx, fy, cx, cy; None where there is no such file."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        camera = Camera(*(float(values[name]) for name in Camera._fields))
    except (ValueError, TypeError, KeyError):
        hint = 'write {"fx": 518.9, "fy": 519.5, "cx": 325.6, "cy": 253.7}, in pixels'
        raise broken(path, "bad_table", "this is not a camera", hint) from None
    if min(camera.fx, camera.fy) <= 0:
        raise broken(path, "bad_table", f"its focal lengths are {camera.fx} and {camera.fy}", "give pixels above 0")
    return camera


def read_depth(source: Any) -> Float32[Tensor, "1 h w"]:
    """Metres from a depth image (16-bit millimetres, or float metres) or an array (H, W) of metres; 0 is unknown."""
    if isinstance(source, str | Path):
        image = upright(open_image(Path(source)))
        if image.mode not in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
            hint = "save depth as a 16-bit PNG of millimetres, or as a float TIFF of metres"
            raise BadFile(source, "depth_mode", f"the depth image has pixels of mode {image.mode}", hint)
        values = np.array(image).astype(np.float32)
        values /= 1 if image.mode == "F" else 1000
    else:
        values = np.array(source, np.float32)
        values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2:
        raise UserError(f"depth has shape {values.shape}", hint="give metres as (height, width)")
    low, high = (values.min(), values.max()) if values.size else (0, np.nan)
    if not 0 <= low <= high <= FARTHEST:  # also refuses NaN
        of = f" of {source}" if isinstance(source, str | Path) else ""
        hint = "files hold 16-bit millimetres or float metres, arrays metres; 0 where nothing was measured"
        raise UserError(f"depth{of} goes from {low:.4g} to {high:.4g} metres", hint=hint)
    return torch.from_numpy(np.ascontiguousarray(values))[None]


def encoded(depth: Float32[Tensor, "1 h w"], depth_as: str, camera: Camera | None = None) -> Float32[Tensor, "d h w"]:
    """Metres as they are, or as an HHA picture in [0, 1]."""
    if depth_as == "metres":
        return depth
    values = depth[0].numpy()
    return torch.from_numpy(hha(values, camera or kinect(*values.shape))).float() / 255


def read_rgbd(image: Any, depth: Any, depth_as: str, camera: Camera | None = None) -> Float32[Tensor, "c h w"]:
    """What a model with this `depth_as` reads: RGB in [0, 1] and, below it, metres (4 channels) or HHA (6)."""
    picture, far = to_float(read_image(image)), read_depth(depth)
    if far.shape[1:] != picture.shape[1:]:
        raise UserError(_mismatch(far, picture), hint="resize one of them, or check that the files belong together")
    return torch.cat([picture, encoded(far, depth_as, camera)])


def _mismatch(depth: Tensor, image: Tensor) -> str:
    sizes = [f"{x.shape[1]}x{x.shape[2]}" for x in (depth, image)]
    return f"depth is {sizes[0]} but its image is {sizes[1]} (height x width)"


def seen_as(samples: Any, depth_as: str | None) -> Any:
    """A data set with its depth as a model wants it; None, for a model without eyes for depth, drops it."""
    if hasattr(samples, "seeing"):
        return samples.seeing(depth_as)
    if depth_as is not None:
        name = getattr(samples, "name", "this data set")
        raise UserError(f"depth is wanted, and {name} has none", hint="give data of the kind rgbd:")
    return samples


def picture_of(sample: Sample) -> Tensor:
    """What a model is shown of a sample: its image, with the channels of its depth below it if it has any."""
    return sample.image if sample.depth is None else torch.cat([to_float(sample.image), sample.depth])


def with_depth(sources: Sequence[Any], depth: str | Path, camera: Camera | None = None) -> list[RGBDPhoto]:
    """Pictures with their depth: `depth` is a file for one, or a folder with a file of the same name for each."""
    depth = Path(depth).expanduser()
    if not depth.exists():
        raise UserError(f"{depth} does not exist", hint="give a depth image, or a folder of them")
    if not depth.is_dir():
        if len(sources) != 1:
            raise UserError(f"one depth image for {len(sources)} pictures", hint="give a folder of depth images")
        return [RGBDPhoto(sources[0], depth, camera)]
    files = _by_key(depth)
    for source in sources:
        stem = Path(str(source)).stem
        if stem not in files:
            raise UserError(f"no depth image in {depth} is called {stem!r}", hint="give both files one name")
    return [RGBDPhoto(source, files[Path(str(source)).stem], camera) for source in sources]
