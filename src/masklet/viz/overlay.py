"""A result laid over its photograph: one map of colour codes and one colour table, however many masks there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor

from masklet.structures import Classes, Instances, Masks, Matte, Panoptic, SemanticMap
from masklet.structures.errors import UserError
from masklet.viz.palettes import Color, bare, color_table
from masklet.viz.words import tag

Picture = UInt8[np.ndarray, "h w 3"]
STRIPE = 96  # rows that are blended at once: they stay in the processor's cache
BAND = 64  # rows of a dense mask that are counted at once
Crop = tuple[Bool[np.ndarray, "_ _"], int, int]  # a mask and the x, y of its corner
RGB = np.dtype((np.void, 3))  # three bytes as one element: numpy then copies pixels, not channels


@dataclass(frozen=True)
class Layer:
    """What is painted: per pixel a code, 0 for nothing, and per code a colour and a name."""

    codes: UInt8[np.ndarray, "h w"]
    colors: UInt8[np.ndarray, "256 3"]
    names: tuple[str, ...] = ()  # of codes 1, 2, ...; may be shorter than the codes in use

    def present(self) -> list[tuple[int, str, Color, float]]:
        """Code, name, colour and share of the pixels of each code in use, largest first."""
        counts = np.bincount(self.codes.reshape(-1), minlength=256)
        shares = counts / max(self.codes.size, 1)
        used = sorted(np.flatnonzero(counts[1:]) + 1, key=lambda c: -counts[c])
        name = dict(enumerate(self.names, 1))
        rgb = [(int(r), int(g), int(b)) for r, g, b in self.colors]
        return [(int(c), name.get(int(c), str(c)), rgb[c], float(shares[c])) for c in used]


def overlay(
    image: Any,
    result: Any,
    alpha: float = 0.5,
    contours: bool = True,
    names: bool = False,
    classes: Classes | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph with the result painted over it, at the photograph's size.

    `image` is uint8, (H, W, 3) or (3, H, W). `result` is a SemanticMap, Instances, Masks, Panoptic, Matte, or bool
    masks (N, H, W). `alpha` is the strength of the paint, `contours` draws outlines at full strength, and `names`
    writes each class or object into its largest region. `classes` names the labels of a Panoptic, which has none.
    """
    picture = as_picture(image)
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha}", hint="choose between 0 (photograph only) and 1 (paint only)")
    if isinstance(result, Matte):
        return _over_checkers(picture, result)
    layer = layer_of(result, classes)
    _same_size(picture, layer.codes.shape)
    out = _blend(picture, layer, alpha)
    if contours:
        _outline(out, layer)
    return _with_names(out, layer) if names else out


def as_picture(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """(H, W, 3) bytes from an array or tensor that is already RGB bytes, either way round."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise UserError(f"image is {array.dtype} {array.shape}", hint="pass RGB uint8, (H, W, 3) or (3, H, W)")
    if array.shape[0] == 3 and (array.shape[2] != 3 or isinstance(image, Tensor)):
        array = array.transpose(1, 2, 0)
    return np.ascontiguousarray(array)


def layer_of(result: Any, classes: Classes | None = None) -> Layer:
    """The colour codes of any result. Small objects are painted over large ones, so each stays visible."""
    if isinstance(result, Layer):
        return result
    if isinstance(result, SemanticMap):
        return _of_labels(result.labels, result.classes)
    if isinstance(result, Instances):
        pairs = zip(result.labels.tolist(), result.scores.tolist(), strict=True)
        names = [f"{result.classes.names[label]} {score:.2f}" for label, score in pairs]
        return _of_boxes(result, names) if result.masks is None else _of_objects(result.masks, names)
    if isinstance(result, Masks):
        return _of_objects(result, [f"object {i + 1}" for i in range(len(result))])
    if isinstance(result, Panoptic):
        return _of_segments(result, classes)
    if isinstance(result, Tensor | np.ndarray):
        masks = result.detach().cpu().numpy() if isinstance(result, Tensor) else result
        if masks.dtype == np.bool_ and masks.ndim in (2, 3):
            found = [_rows(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]
            names = [f"object {i + 1}" for i in range(len(found))]
            return _stacked(masks.shape[-2:], [crop for crop, _ in found], [area for _, area in found], names)
    raise TypeError(f"cannot paint a {type(result).__name__}; pass a result of masklet or bool masks (N, H, W)")


def cut_out(image: Any, result: Any, label: str | int) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA: the photograph where `label` (a class) is, transparent elsewhere."""
    picture = as_picture(image)
    mask = result.mask(label).cpu().numpy()
    _same_size(picture, mask.shape)
    return np.dstack([picture, mask.astype(np.uint8) * 255])


def _of_labels(labels: Tensor, classes: Classes) -> Layer:
    """Codes are labels plus one, so that 0 is free; byte labels wrap 255, the ignored one, to 0 by themselves."""
    colors, empty, values = color_table(classes), bare(classes), labels.cpu().numpy()
    if len(classes) > 255 or values.dtype != np.uint8:
        return _of_many_labels(values, classes)
    lut = np.arange(1, 257).astype(np.uint8)
    lut[[i for i in empty if 0 <= i < 256]] = 0
    lut[len(classes) :] = 0
    codes = np.take(lut, values)
    return Layer(codes, np.roll(colors, 1, axis=0) * (np.arange(256) > 0)[:, None].astype(np.uint8), classes.names)


def _of_many_labels(values: np.ndarray, classes: Classes) -> Layer:
    """Labels past 255: a photograph holds few of them, so the codes number those that occur."""
    empty, (found, where) = bare(classes), np.unique(values, return_inverse=True)
    kept = [int(v) for v in found if v not in empty and 0 <= v < len(classes)]
    colors = np.zeros((256, 3), np.uint8)
    code = {v: 1 + i % 255 for i, v in enumerate(kept)}
    for v in reversed(kept):
        colors[code[v]] = classes.colors[v]
    lut = np.array([code.get(int(v), 0) for v in found], np.uint8)
    return Layer(lut[where.reshape(values.shape)], colors, tuple(classes.names[v] for v in kept[:255]))


def _of_objects(masks: Masks, names: Sequence[str]) -> Layer:
    crops = ((part.numpy(), x, y) for part, x, y in map(masks.crop, range(len(masks))))
    return _stacked(masks.size, crops, masks.areas().tolist(), names)


def _of_boxes(found: Instances, names: Sequence[str]) -> Layer:
    """Objects of which only the boxes are known: their frames."""
    thick = max(1, round(min(found.size) / 200))
    crops: list[Crop] = []
    for x0, y0, x1, y1 in found.boxes.round().long().tolist():
        frame = np.ones((y1 - y0, x1 - x0), np.bool_)
        frame[thick:-thick, thick:-thick] = False
        crops.append((frame, x0, y0))
    return _stacked(found.size, crops, [frame.size for frame, _, _ in crops], names)


def _rows(mask: Bool[np.ndarray, "h w"]) -> tuple[Crop, int]:
    """The bands of rows that hold the mask, and its area: counting is the fastest way to find out."""
    counts = [np.count_nonzero(mask[y : y + BAND]) for y in range(0, len(mask), BAND)]
    full = np.flatnonzero(counts)
    top, bottom = (int(full[0]) * BAND, int(full[-1] + 1) * BAND) if len(full) else (0, 0)
    return (mask[top:bottom], 0, top), int(sum(counts))


def _stacked(size: tuple[int, ...], crops: Iterable[Crop], areas: Sequence[int], names: Sequence[str]) -> Layer:
    """Objects painted from the largest to the smallest. Past 255 objects the colours repeat."""
    codes = np.zeros(size, np.uint8)
    placed = list(crops)
    for i in sorted(range(len(placed)), key=lambda i: -areas[i]):
        mask, x, y = placed[i]
        np.copyto(codes[y : y + mask.shape[0], x : x + mask.shape[1]], np.uint8(1 + i % 255), where=mask)
    return Layer(codes, _object_colors(), tuple(names[:255]))


def _of_segments(result: Panoptic, classes: Classes | None) -> Layer:
    """Stuff in the colour of its class; things of one class in different colours."""
    count = 1 + max((segment.label for segment in result.segments), default=0)
    classes = Classes.default(count) if classes is None else classes
    if count > len(classes):
        raise UserError(f"label {count - 1} of a segment does not exist", hint=f"classes are 0..{len(classes) - 1}")
    ids = np.array([0, *(segment.id for segment in result.segments)])
    order = np.argsort(ids)
    codes = ((np.arange(len(ids)) + 254) % 255 + 1).astype(np.uint8) * (np.arange(len(ids)) > 0)
    colors, names, things = np.zeros((256, 3), np.uint8), [], 0
    for i, segment in enumerate(result.segments[:255]):
        colors[1 + i] = _object_colors()[1 + things % 255] if segment.thing else classes.colors[segment.label]
        things += segment.thing
        names.append(classes.names[segment.label])
    where = np.searchsorted(ids[order], result.ids.cpu().numpy())
    return Layer(codes[order][where].astype(np.uint8), colors, tuple(names))


@lru_cache(maxsize=1)
def _object_colors() -> UInt8[np.ndarray, "256 3"]:
    return np.roll(color_table(Classes.default(255)), 1, axis=0)


def _blend(picture: Picture, layer: Layer, alpha: float) -> Picture:
    """(1 - alpha) photograph + alpha paint, where there is paint; within one of the exact value.

    The table holds the paint already weighted, and nothing but bare pixels is 0 in it. So per stripe, which stays in
    the cache, the photograph is weighted (for one half by a shift, with no type wider than a byte), the paint added,
    and what is bare raised back to the photograph: copying chosen pixels would take longer.
    """
    weight = round(alpha * 256)
    if weight == 0:
        return picture.copy()
    out, bare = np.empty_like(picture), np.empty((min(STRIPE, len(picture)), *picture.shape[1:]), np.uint8)
    paint = np.maximum((layer.colors.astype(np.uint16) * weight + 128) >> 8, 1).astype(np.uint8)
    paint[0] = 0
    for y in range(0, len(picture), STRIPE):
        photo, part = picture[y : y + STRIPE], out[y : y + STRIPE]
        colors, kept = _colored(layer.codes[y : y + STRIPE], paint), bare[: len(part)]
        if weight == 128:
            np.right_shift(photo, 1, out=part)
        else:
            part[...] = np.multiply(photo, np.uint16(256 - weight), dtype=np.uint16) >> 8
        part += colors
        np.equal(colors, 0, out=kept.view(np.bool_))
        kept *= photo
        np.maximum(part, kept, out=part)
    return out


def _colored(codes: UInt8[np.ndarray, "h w"], colors: UInt8[np.ndarray, "256 3"]) -> Picture:
    """The table looked up at every pixel; Pillow's palette conversion is three times as fast as numpy's indexing."""
    paletted = Image.fromarray(np.ascontiguousarray(codes))
    paletted.putpalette(colors.tobytes())
    return np.asarray(paletted.convert("RGB"))


def outline(codes: UInt8[np.ndarray, "h w"], width: int = 1) -> Bool[np.ndarray, "h w"]:
    """Painted pixels that have another code `width` pixels above, below, left or right of them."""
    edge = np.zeros(codes.shape, bool)
    down, right = codes[width:] != codes[:-width], codes[:, width:] != codes[:, :-width]
    edge[width:] = down
    edge[:-width] |= down
    edge[:, width:] |= right
    edge[:, :-width] |= right
    edge &= codes != 0
    return edge


def outline_width(codes: UInt8[np.ndarray, "h w"]) -> int:
    """Thin lines on small pictures, thicker ones on large; 0 on pictures too small for any."""
    return min(max(1, round(max(codes.shape) / 640)), min(codes.shape) - 1)


def _outline(out: Picture, layer: Layer) -> None:
    if width := outline_width(layer.codes):
        where = np.flatnonzero(outline(layer.codes, width))
        colors = np.frombuffer(layer.colors.tobytes(), RGB)
        out.view(RGB).reshape(-1)[where] = colors[layer.codes.reshape(-1)[where]]


def _with_names(out: Picture, layer: Layer) -> Picture:
    """Each name written at the innermost point of the largest region of its code, where it fits."""
    height, width = layer.codes.shape
    size = max(11, round(max(height, width) / 55))
    step = max(1, max(height, width) // 400)
    small, canvas = layer.codes[::step, ::step], Image.fromarray(out)
    for code, name, color, _ in reversed(layer.present()):
        regions, count = ndimage.label(small == code)
        if not count:
            continue
        largest = regions == 1 + int(np.argmax(np.bincount(regions.reshape(-1))[1:]))
        inside = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
        if inside[y, x] * step >= 0.9 * size:
            label = tag(name, color, size)
            left = min(max(int(x) * step - label.width // 2, 0), max(width - label.width, 0))
            top = min(max(int(y) * step - label.height // 2, 0), max(height - label.height, 0))
            canvas.paste(label, (left, top), label)
    return np.array(canvas)


def _over_checkers(picture: Picture, matte: Matte) -> Picture:
    """The cut-out object over the grey checkerboard that stands for "transparent"."""
    alpha = matte.alpha.reshape(matte.alpha.shape[-2:]).float().cpu().numpy()[..., None]
    _same_size(picture, alpha.shape[:2])
    front = picture if matte.foreground is None else matte.foreground.float().cpu().numpy().transpose(1, 2, 0) * 255
    y, x = np.ogrid[: alpha.shape[0], : alpha.shape[1]]
    checkers = np.where((y // 12 + x // 12) % 2, 236, 205)[..., None]
    return (front * alpha + checkers * (1 - alpha) + 0.5).astype(np.uint8)


def _same_size(picture: Picture, size: Sequence[int]) -> None:
    if picture.shape[:2] != tuple(size):
        wrong, right = ("x".join(map(str, s)) for s in (size, picture.shape[:2]))
        raise UserError(f"result is {wrong} but image is {right}", hint="pass the image that was predicted")
