"""The objects of many images in flat arrays: what scores are counted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from masklet.ops import runs
from masklet.ops.runs import Runs
from masklet.structures.errors import UserError
from masklet.structures.instances import Instances
from masklet.structures.masks import Masks

Values = Sequence[Any] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Objects:
    """One row per object: true or found, of one image or of a whole data set.

    `image` is the number of the image that a row belongs to. Boxes are x y width height, the one exception from the
    house's convention: official tools compute with these numbers, and two corners would round differently. Keypoints
    are (x, y, visible), visible above 0. `crowd` and `ignore` belong to true objects, `scores` to found ones.
    """

    image: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    areas: Float64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"] | None = None
    masks: Runs | None = None
    keypoints: Float64[np.ndarray, "n k 3"] | None = None
    scores: Float64[np.ndarray, " n"] | None = None
    crowd: Bool[np.ndarray, " n"] | None = None
    ignore: Bool[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of_image(
        cls,
        labels: Values,
        *,
        scores: Values | None = None,
        boxes: Values | None = None,
        masks: Masks | Tensor | np.ndarray | None = None,
        keypoints: Values | None = None,
        areas: Values | None = None,
        crowd: Values | None = None,
        ignore: Values | None = None,
    ) -> Objects:
        """The objects of one image: boxes x0 y0 x1 y1, masks as `Masks` or bool (n, h, w), keypoints (n, k, 3).

        Where `areas` are not given they are those of the masks, else of the boxes, else of boxes around all keypoints.
        """
        n = len(labels)
        if isinstance(masks, Tensor | np.ndarray):
            masks = Masks.from_dense(masks)
        found = None if masks is None else runs.from_rles(masks.items)
        corners = None if boxes is None else _floats(boxes, (n, 4), "boxes")
        points = None if keypoints is None else _floats(keypoints, (n, -1, 3), "keypoints")
        if corners is not None:
            if n and (backwards := (corners[:, 2:] < corners[:, :2]).any(1)).any():
                i = int(backwards.argmax())
                message = f"box {i} ends before it begins: {corners[i].tolist()}"
                raise UserError(message, hint="boxes are x0 y0 x1 y1, not x y width height")
            corners = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        if areas is not None:
            sizes = _floats(areas, (n,), "areas")
        elif found is not None:
            sizes = found.areas.astype(np.float64)
        elif corners is not None:
            sizes = corners[:, 2] * corners[:, 3]
        elif points is not None:
            sizes = np.ptp(points[..., :2], axis=1).prod(-1) if n else np.zeros(0)
        else:
            raise UserError("objects need boxes, masks or keypoints, and came with none of them")
        table = cls(
            np.zeros(n, np.int64),
            _array(labels).astype(np.int64).reshape(n),
            sizes,
            corners,
            found,
            points,
            None if scores is None else _floats(scores, (n,), "scores"),
            None if crowd is None else _array(crowd).astype(bool),
            None if ignore is None else _array(ignore).astype(bool),
        )
        if bad := [f.name for f in fields(table) if (part := getattr(table, f.name)) is not None and len(part) != n]:
            came = f"{n} labels but {len(getattr(table, bad[0]))} {bad[0]}"
            raise UserError(f"every object needs one entry in every field, but there are {came}")
        return table

    @classmethod
    def of_instances(cls, instances: Instances, crowd: Values | None = None) -> Objects:
        """The objects of one image from what models predict and readers give."""
        boxes, masks, scores = instances.boxes, instances.masks, instances.scores
        crowd, points = instances.crowd if crowd is None else crowd, instances.keypoints
        return cls.of_image(instances.labels, boxes=boxes, masks=masks, scores=scores, keypoints=points, crowd=crowd)

    def take(self, chosen: Int[np.ndarray, " k"] | Bool[np.ndarray, " n"] | slice) -> Objects:
        """The rows that `chosen` names, in its order."""
        at = np.arange(len(self))[chosen]
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, part in parts.items():
            if part is not None:
                parts[name] = part.take(at) if isinstance(part, Runs) else part[at]
        return Objects(**parts)

    def of(self, image: int) -> Objects:
        """The same objects, of the image of this number."""
        return replace(self, image=np.full(len(self), image, np.int64))


def concat(tables: Sequence[Objects]) -> Objects:
    """One table after another; a field that one of them lacks is left out, but flags that it lacks are all off."""
    joined: dict[str, Any] = {}
    for name in (f.name for f in fields(Objects)):
        parts = [getattr(table, name) for table in tables]
        if name in ("crowd", "ignore") and any(part is not None for part in parts):
            parts = [np.zeros(len(t), bool) if p is None else p for t, p in zip(tables, parts, strict=True)]
        if all(part is not None for part in parts):
            joined[name] = runs.concat(parts) if name == "masks" else np.concatenate(parts)
    return Objects(**joined)


def _array(values: Values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _floats(values: Values, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Finite float64 numbers of this shape (-1 fits any length)."""
    array = _array(values).astype(np.float64)
    if not array.size and array.ndim != len(shape):
        array = array.reshape([max(side, 0) for side in shape])
    if array.ndim != len(shape) or any(want not in (-1, came) for want, came in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("k" if side == -1 else str(side) for side in shape)
        raise UserError(f"{what} have the shape {array.shape}", hint=f"for these objects it is ({wanted})")
    if not np.isfinite(array).all():
        i = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
        raise UserError(f"{what} of object {i} are not finite numbers: {array[i].tolist()}")
    return array
