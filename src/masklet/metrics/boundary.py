"""Boundary IoU: how well outlines agree, whatever the size of the object (Cheng et al., 2021).

With G_d the true pixels at most d from the true background, and P_d the same of the prediction:

    boundary_iou  |G_d ∩ P_d| / |G_d ∪ P_d|,  d = 2 % of the image diagonal     (sec. 5)

Large masks gain nothing from their insides. Distance is counted in king's steps (d erosions by a 3x3 square), and
beyond the image all is background, as in `mask_to_boundary` of boundary-iou-api.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, UInt
from torch import Tensor

from masklet.metrics.region_contour import Layers, ObjectMaps
from masklet.ops.boundaries import MAX_PLANES, band, band_width, bit_planes, content_box, shared_pixels
from masklet.structures import UserError

__all__ = ["BoundaryIoU", "boundary_iou"]


@dataclass
class BoundaryIoU:
    """Boundary IoU and IoU of every mask of a data set, and their means over masks.

    A mask is an object or a class of an image: what has the same id in the prediction and in the truth, on either
    side at least. `background` is the id that is no mask (None: all ids are masks). Pixels of the truth equal to
    `ignore` count nowhere.
    """

    fraction: int | float = 0.02  # of the diagonal: how deep a boundary is; 1 and above are pixels
    background: int | None = 0
    ignore: int = 255
    images: dict[str, Float64[np.ndarray, "n 3"]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.fraction <= 0:
            raise UserError(f"fraction is {self.fraction}", hint="give a share of the image diagonal, such as 0.02")

    def update(self, pred: ObjectMaps, truth: ObjectMaps, image: str | None = None) -> None:
        """Adds one image: (H, W) label maps, or `Masks`, whose i-th is mask i + 1."""
        name = f"image {len(self.images)}" if image is None else image
        if name in self.images:
            raise UserError(f"{name} came twice", hint="score every image once")
        self.images[name] = self._compare(Layers.of(pred, "prediction"), Layers.of(truth, "truth"))

    def merge(self, other: BoundaryIoU) -> None:
        """Adds the images of another part of the data; the order does not matter."""
        mine, theirs = ((m.fraction, m.background, m.ignore) for m in (self, other))
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        if twice := sorted(self.images.keys() & other.images.keys()):
            raise UserError(f"{twice[0]} came twice", hint="give every image a name of its own")
        self.images.update(other.images)

    def compute(self) -> dict[str, float]:
        """boundary_iou and iou, means over all masks, and boundary_iou/<id>; NaN without masks."""
        rows = self._rows()
        means = rows[:, 1:].mean(axis=0) if len(rows) else (np.nan, np.nan)
        each = {f"boundary_iou/{row['id']}": float(row["boundary_iou"]) for row in self.table()}
        return {"boundary_iou": float(means[0]), "iou": float(means[1]), **each}

    def summary(self) -> str:
        """Both means in one line."""
        scores = self.compute()
        number = len(self._rows())
        return f"Boundary IoU: {scores['boundary_iou']:.3f}  IoU: {scores['iou']:.3f}  ({number} masks)"

    def table(self) -> list[dict[str, float | int | str]]:
        """A row for each id."""
        rows = self._rows()
        return [
            {
                "id": int(k),
                "masks": len(mine),
                "boundary_iou": float(mine[:, 1].mean()),
                "iou": float(mine[:, 2].mean()),
            }
            for k in np.unique(rows[:, 0])
            for mine in [rows[rows[:, 0] == k]]
        ]

    def _rows(self) -> Float64[np.ndarray, "n 3"]:
        return np.concatenate([np.zeros((0, 3)), *(self.images[name] for name in sorted(self.images))])

    def _compare(self, pred: Layers, truth: Layers) -> Float64[np.ndarray, "n 3"]:
        """Id, Boundary IoU and IoU of the masks of one image."""
        pred.check_size(truth)
        depth = int(self.fraction) if self.fraction >= 1 else band_width(*truth.shape, self.fraction)
        counts = np.ones(truth.shape, bool) if truth.stacked else truth.maps[0] != self.ignore
        pred, truth = self._from_one(pred), self._from_one(truth)
        box = content_box(*pred.maps, *truth.maps)
        pred, truth, counts = pred.cut(box), truth.cut(box), counts[box]
        ids = np.union1d(pred.present(), truth.present())
        shift = int(self.background != 0)
        if not truth.stacked:
            ids = ids[ids != self.ignore + shift]
        rows = [np.zeros((0, 3))]
        for i in range(0, len(ids), MAX_PLANES // 2):
            some = ids[i : i + MAX_PLANES // 2]
            (maps, values), (more, others) = pred.planes(some), truth.planes(some)
            planes = bit_planes([*maps, *more], [*values, *others])
            ratios = [
                _ratios(np.where(counts, part, part.dtype.type(0)), len(some)) for part in (band(planes, depth), planes)
            ]
            rows.append(np.stack([some - shift, *ratios], axis=1))
        out = np.concatenate(rows)
        return out[~np.isnan(out[:, 1])]  # where all of a boundary is ignored, there is nothing to score

    def _from_one(self, side: Layers) -> Layers:
        """Label maps whose ids count from 1, with 0 for the background."""
        if self.background == 0 or side.stacked:
            return side
        ids = side.maps[0].astype(np.int64) + 1
        if self.background is not None:
            ids[side.maps[0] == self.background] = 0
        return Layers((ids,), False, side.shape)


def boundary_iou(
    pred: Bool[np.ndarray, "h w"] | Bool[Tensor, "h w"],
    truth: Bool[np.ndarray, "h w"] | Bool[Tensor, "h w"],
    fraction: int | float = 0.02,
) -> float:
    """Boundary IoU of one mask; 1 where both are empty."""
    metric = BoundaryIoU(fraction)
    metric.update(pred, truth)
    scores = metric.compute()
    return 1.0 if np.isnan(scores["boundary_iou"]) else scores["boundary_iou"]


def _ratios(planes: UInt[np.ndarray, "h w"], count: int) -> Float64[np.ndarray, " n"]:
    """IoU of plane i and plane `count` + i; NaN where both are empty."""
    shared = shared_pixels(planes, 2 * count)
    areas, both = shared.diagonal(), shared.diagonal(count)
    union = areas[:count] + areas[count:] - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)
