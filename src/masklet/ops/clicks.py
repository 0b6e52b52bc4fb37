"""Where a careful annotator would click next: in the middle of the object, then in the middle of the worst mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, find_objects, label
from torch import Tensor

__all__ = ["RITM", "SAM2", "Click", "ClickRule", "first_clicks", "next_click"]

Mask = Bool[np.ndarray, "h w"] | Bool[Tensor, "h w"]
Depth = tuple[float, int, int]
FEW, MANY = 64, 2**14  # components to transform one by one, and to list at all


@dataclass(frozen=True)
class Click:
    """A pixel, and whether it belongs to the object."""

    x: int
    y: int
    positive: bool = True


@dataclass(frozen=True)
class ClickRule:
    """How a benchmark clicks: `twice` says whether a pixel may be clicked again."""

    name: str
    twice: bool


SAM2 = ClickRule("sam2", twice=True)  # Ravi et al. 2024, evaluation: only the masks decide
RITM = ClickRule("ritm", twice=False)  # Sofiiuk et al. 2021, whose clicker remembers what it clicked


def next_click(
    pred: Mask,
    truth: Mask,
    clicked: Iterable[Click] = (),
    *,
    valid: Mask | None = None,
    rule: ClickRule = SAM2,
) -> Click | None:
    """The click in the middle of the largest mistake, by the distance to its border; None where there is no mistake.

    Missed object pixels call for a positive click, wrongly covered ones for a negative click; where both regions are
    equally deep the click is negative. The image ends in a border of zeros. Of equally deep pixels the first in
    reading order is taken. With `pred` empty the click is the centre of the object. Pixels outside `valid` are no
    mistakes.
    """
    found, true = _array(pred), _array(truth)
    missed, wrong = true & ~found, found & ~true
    if valid is not None:
        inside = _array(valid)
        missed &= inside
        wrong &= inside
    taken = [] if rule.twice else [(click.y, click.x) for click in clicked]
    (depth, y, x), (other, other_y, other_x) = _deepest(missed, taken), _deepest(wrong, taken)
    if depth == other == 0:
        return None
    return Click(x, y, True) if depth > other else Click(other_x, other_y, False)


def first_clicks(masks: Bool[Tensor, "n h w"] | Bool[np.ndarray, "n h w"]) -> Float[Tensor, "n 2"]:
    """The pixel x y of each mask that is farthest from its border (zeros around the image); NaN for an empty mask."""
    out = torch.full((len(masks), 2), torch.nan)
    for i, mask in enumerate(masks):
        depth, y, x = _deepest(_array(mask), [])
        if depth:
            out[i, 0], out[i, 1] = x, y
    return out


def _deepest(mask: Bool[np.ndarray, "h w"], taken: list[tuple[int, int]]) -> Depth:
    """Distance to the border, y and x of the innermost pixel; 0 0 0 for an empty mask.

    Components are transformed inside their own boxes, the promising ones first: a pixel cannot be deeper than half
    its box, and what is not connected to it cannot be nearer than its border. Where too many are promising the
    whole mask is transformed at once.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0, 0
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    part = mask[box]
    components, count = label(part)
    if count == 1 or count > MANY:
        return _deepest_in(part, box, taken)
    boxes = find_objects(components)
    bounds = np.array([(min(b[0].stop - b[0].start, b[1].stop - b[1].start) + 1) // 2 for b in boxes])
    best = (0.0, 0, 0)
    for tried, i in enumerate(np.argsort(-bounds, kind="stable").tolist()):
        if bounds[i] < best[0]:
            break
        if tried == FEW:
            return _deepest_in(part, box, taken)
        y, x = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, boxes[i], strict=True))
        found = _deepest_in(components[boxes[i]] == i + 1, (y, x), taken)
        best = max(best, found, key=lambda d: (d[0], -d[1], -d[2]))
    return best


def _deepest_in(mask: Bool[np.ndarray, "h w"], box: tuple[slice, slice], taken: list[tuple[int, int]]) -> Depth:
    """The innermost pixel of the mask inside a box of the image, clicked pixels apart."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y0, x0 = box[0].start, box[1].start
    for y, x in taken:
        if 0 <= y - y0 < depth.shape[0] and 0 <= x - x0 < depth.shape[1]:
            depth[y - y0, x - x0] = 0
    y, x = (int(v) for v in np.unravel_index(depth.argmax(), depth.shape))
    return (float(depth[y, x]), y0 + y, x0 + x) if depth[y, x] else (0.0, 0, 0)


def _array(mask: Mask) -> Bool[np.ndarray, "h w"]:
    return mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
