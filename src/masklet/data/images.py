"""Pictures and label maps from files, PIL images, arrays and tensors: every convention of the outside ends here.

Inside, a picture is an RGB tensor (3, H, W), uint8 or float32 in [0, 1], and a label map is (H, W). EXIF orientation is
applied once, when the picture is read. Grey becomes RGB, transparency is laid over white, 16 bits become 8.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from masklet.structures.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".jp2", ".gif")
TURNS = MappingProxyType(  # what puts an image upright, by its EXIF orientation
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how TIFF and BigTIFF begin
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


class BadFile(UserError):
    """A file that is not what it should be: `fault` says what is wrong without the path, `code` names the kind."""

    def __init__(self, path: str | Path, code: str, fault: str, hint: str):
        super().__init__(f"{path}: {fault}", hint)
        self.path, self.code, self.fault = path, code, fault
        self.args = (path, code, fault, hint)  # the error survives pickling between processes


def natural_key(path: Any) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which `frame_2` comes before `frame_10`."""
    parts = re.split(r"(\d+)", str(path))
    return tuple((0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in parts if part)


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The picture files of a folder in natural order; hidden files are left out."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    files = [p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and not p.is_dir()]
    return sorted(files, key=natural_key)


def open_image(path: Path) -> Image.Image:
    """An opened and fully decoded PIL image, EXIF not yet applied; every way a file can be broken is one sentence."""
    if path.is_dir():
        raise BadFile(path, "folder", "this is a folder, not an image", "name the files inside it")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the file does not exist; check the spelling and the folder") from None
    except PermissionError:
        raise BadFile(path, "no_permission", "the file may not be read", "check its permissions") from None
    except UnidentifiedImageError:
        if path.stat().st_size == 0:
            raise BadFile(path, "empty_file", "the file is empty (0 bytes)", "copy it again, or remove it") from None
        with open(path, "rb") as file:
            if file.read(4) in TIFF:
                fault = "Pillow does not read this TIFF; it may have more than 4 bands"
                hint = "read it with tifffile or rasterio, and pass the three bands to see as an array"
                raise BadFile(path, "unreadable", fault, hint) from None
        fault = "this is not an image that can be read"
        raise BadFile(path, "unreadable", fault, "convert it to PNG or JPEG, or remove it") from None
    except Image.DecompressionBombError:
        fault = "the image has more pixels than Pillow's safety limit"
        raise BadFile(path, "too_large", fault, "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        fault = f"the file is damaged or cut short ({error})"
        raise BadFile(path, "truncated", fault, "copy it again, or remove it") from error


def read_image(source: Any) -> UInt8[Tensor, "3 h w"]:
    """One picture as RGB bytes, from a path, PIL image, array (H, W[, 1|3|4]) or tensor ([1|3|4,] H, W).

    Floating point values must lie in [0, 1]. EXIF orientation is applied to files and PIL images.
    """
    if isinstance(source, str | Path):
        source = open_image(Path(source))
    if isinstance(source, Image.Image):
        source = _pixels(upright(source))
    shape = tuple(getattr(source, "shape", ()))
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise UserError(f"image array has shape {shape}", hint="pass one image as (height, width, channels)")
        source = torch.from_numpy(_native(source))
        source = source if source.ndim == 2 else source.permute(2, 0, 1)
        layout, three = "(height, width, channels) with 1, 3 or 4 channels", "image[..., [2, 1, 0]]"
    elif isinstance(source, Tensor):
        layout, three = "(channels, height, width) with 1, 3 or 4 channels", "image[[2, 1, 0]]"
    else:
        raise TypeError(
            f"cannot read an image from {type(source).__name__}; pass a path, a PIL image, an array or a tensor"
        )
    if source.ndim == 2:
        source = source[None]
    if source.ndim != 3 or len(source) not in (1, 3, 4):
        many = source.ndim == 3 and len(source) > 4
        choose = f"; of {len(source)} bands choose the three to see: {three}" if many else ""
        raise UserError(f"image has shape {shape}", hint=f"expected (height, width) or {layout}{choose}")
    return _rgb(source)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; an unreadable EXIF block says nothing."""
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none."""
    try:
        value = image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, KeyError, struct.error):
        return 1
    return value if value in range(1, 9) else 1


def read_labels(path: str | Path) -> Integer[Tensor, "h w"]:
    """The values of a label file as they are on disk: uint8 for 8-bit files, int64 for 16-bit and wider ones.

    Palette images give their indices. Colour files pass only where all channels agree, for then they are grey.
    """
    return torch.from_numpy(label_values(open_image(Path(path)), path))


def label_values(image: Image.Image, path: str | Path) -> np.ndarray:
    """Whole numbers (H, W) of an opened label image: uint8, or int64 where the file holds more than 8 bits."""
    image = upright(image)
    if image.mode == "1":
        return np.array(image, np.uint8)  # 0 and 1
    if image.mode in ("L", "P"):
        return np.array(image)
    if image.mode in SIXTEEN_BIT or image.mode == "I":
        return np.array(image).astype(np.int64)
    if image.mode in ("RGB", "RGBA", "LA"):
        channels = np.array(image)
        grey = channels[..., 0]
        if all(np.array_equal(grey, channels[..., c]) for c in range(1, 3 if image.mode != "LA" else 1)):
            return np.ascontiguousarray(grey)
        raise BadFile(
            path,
            "mask_in_colour",
            f"the mask is a colour picture ({image.mode}), not a map of class numbers",
            "give the classes' colours in classes.json, or save one channel of class numbers",
        )
    fault = f"the mask has pixels of mode {image.mode}, not class numbers"
    raise BadFile(path, "mask_mode", fault, "save it as an 8-bit or 16-bit PNG")


def to_float(image: Tensor) -> Float[Tensor, "*b c h w"]:
    """float32 in [0, 1] from bytes; floating point pictures pass."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def as_batch(images: Any, channels: int = 3) -> list[Float[Tensor, "c h w"]]:
    """What a model is fed, from anything: one picture or many, as a list of float32 RGB tensors in [0, 1].

    A tensor (B, 3, H, W) or an array (B, H, W, C) counts as B pictures. With more than 3 `channels` a picture is a
    float tensor that has them all, the colours first: there is no other way to say what the rest means.
    """
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, Sequence) or isinstance(images, str):
        images = [images]
    return [_as_float(image) if channels == 3 else _complete(image, channels) for image in images]


def _complete(image: Any, channels: int) -> Tensor:
    """A float tensor of so many channels, of which the first three are checked to be colours."""
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != channels or not image.is_floating_point():
        came = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise UserError(
            f"the model reads {channels} channels but the picture is {came}",
            hint=f"give each picture its depth: masklet.data.rgbd.read_rgbd makes ({channels}, height, width) of both",
        )
    _check_range(image[:3])
    return image.float()


def _as_float(image: Any) -> Tensor:
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3 and len(image) == 3:
        _check_range(image)
        return image.float()  # 8 bits would lose what a float picture knows, and its gradient
    return to_float(read_image(image))


def _pixels(image: Image.Image) -> np.ndarray:
    """Any PIL mode as an array of uint8 or uint16, grey or RGB or RGBA."""
    if image.mode in SIXTEEN_BIT:
        return np.array(image).astype(np.uint16)
    if image.mode == "I":  # 32-bit container; Pillow also opens 16-bit PNG here
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"image has 32-bit values from {values.min()} to {values.max()}", hint="save it with 8 or 16 bits"
            )
        return values.astype(np.uint16)
    if image.mode == "F":
        return np.array(image)
    if image.mode in ("RGB", "RGBA", "L"):
        if "transparency" in image.info:
            return np.array(image.convert("RGBA"))
        return np.array(image)
    transparent = image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info
    return np.array(image.convert("RGBA" if transparent else "RGB"))


def _native(array: np.ndarray) -> np.ndarray:
    """The same values in an order and type that torch accepts."""
    if array.dtype.hasobject or array.dtype.kind not in "buif":
        raise UserError(f"image array holds {array.dtype}", hint="pass uint8, uint16 or float in [0, 1]")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array) if array.flags.writeable else array.copy()


def _check_range(image: Tensor) -> None:
    if image.numel() == 0:
        raise UserError(f"image is empty: its shape is {tuple(image.shape)}", hint="pass at least one pixel")
    low, high = (v.item() for v in torch.aminmax(image.detach()))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also refuses NaN
        raise UserError(
            f"floating point image has values from {low:.4g} to {high:.4g}", hint="scale it to [0, 1] or pass uint8"
        )


def _rgb(image: Tensor) -> Tensor:
    """uint8 (3, H, W) from grey, RGB or RGBA of any sensible type."""
    if image.numel() == 0:
        raise UserError(f"image is empty: its shape is {tuple(image.shape)}", hint="pass at least one pixel")
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.is_floating_point():
        _check_range(image)
        image = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    elif image.dtype == torch.uint16:
        image = ((image.to(torch.int32) + 128) // 257).to(torch.uint8)
    elif image.dtype != torch.uint8:
        low, high = (int(v) for v in torch.aminmax(image))
        if low < 0 or high > 255:
            raise UserError(
                f"{image.dtype} image has values from {low} to {high}", hint="pass uint8, uint16 or float in [0, 1]"
            )
        image = image.to(torch.uint8)
    if len(image) == 4:
        color, alpha = image[:3].to(torch.int32), image[3:].to(torch.int32)
        image = ((color * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return image.expand(3, -1, -1).contiguous()
