"""Objects of a large picture from overlapping windows of it: what a border cut is joined, what was seen twice is one.

Of two neighbouring windows each sees the strip that they share. There both should show the same pixels of an object,
so two finds are one object when they agree on that strip. A find that ends at the border of a window inside the picture
was cut: another window may have the whole, else the parts are united; where another window saw the place without a cut
and found nothing, there is nothing. Run lengths are kept, never a stack of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from masklet.ops import rle, rotated, runs
from masklet.ops.tiles import windows
from masklet.structures import Instances, Masks

Find = Callable[[Tensor], Instances]
Window = tuple[int, int, int, int]  # y0 x0 y1 x1
EDGE = 2.0  # a find that comes so near (pixels) to the border of its window may be cut by it
SAME = 0.5  # agreement on the shared strip from which two finds are one object


def find_in_tiles(find: Find, image: Tensor, tile: int, overlap: float = 0.25) -> Instances:
    """The objects of a (3, H, W) picture, best first: `find` sees overlapping windows of `tile` pixels at most.

    Objects larger than the overlap of two windows are put together from their parts. In memory are one window and the
    run lengths of what was found.
    """
    height, width = image.shape[1], image.shape[2]
    places = windows((height, width), tile, overlap)
    parts = [((y0, x0, y1, x1), find(image[:, y0:y1, x0:x1])) for y0, x0, y1, x1 in places]
    return join(parts, (height, width))


def join(parts: Sequence[tuple[Window, Instances]], size: tuple[int, int]) -> Instances:
    """The objects of a picture of `size` from those found in windows of it, in pixels of each window."""
    finds = _Finds.of(parts, size)
    if not len(finds.objects):
        return finds.objects
    order = torch.argsort(finds.objects.scores, descending=True, stable=True).numpy()
    rank, cut = np.argsort(order), finds.cut
    i, j = finds.same()
    i, j = np.where(rank[i] < rank[j], (i, j), (j, i))  # i is the better one
    whole = ~cut[i] & ~cut[j]
    kept = ~cut & _unbeaten(len(cut), i[whole], j[whole])  # of two that are whole the better one stays
    mixed = cut[i] != cut[j]
    complete, part = np.where(cut[i], (j, i), (i, j))[:, mixed]
    loose = cut.copy()
    loose[part[kept[complete]]] = False  # of a whole and a part the whole
    both = loose[i] & loose[j]
    return finds.united(kept, loose, i[both], j[both], order)


def _unbeaten(count: int, winner: Int64[np.ndarray, " k"], loser: Int64[np.ndarray, " k"]) -> Bool[np.ndarray, " n"]:
    """Who loses to nobody that stays, as greedy suppression finds them: who won so far is certain one round later."""
    stays = np.ones(count, bool)
    while True:
        after = np.ones(count, bool)
        after[loser[stays[winner]]] = False
        if (after == stays).all():
            return stays
        stays = after


@dataclass(frozen=True)
class _Finds:
    """All finds of all windows, in pixels of the picture."""

    objects: Instances
    window: Int64[np.ndarray, " n"]  # the number of the window of each
    places: Int64[np.ndarray, "t 4"]  # of the windows: x0 y0 x1 y1
    cut: Bool[np.ndarray, " n"]  # whether it may go on beyond its window
    doubtful: Bool[np.ndarray, " n"]  # whether it was cut, and another window would have seen more of it

    @classmethod
    def of(cls, parts: Sequence[tuple[Window, Instances]], size: tuple[int, int]) -> _Finds:
        height, width = size
        moved = [_moved(found, y0, x0, size) for (y0, x0, _, _), found in parts]
        places = np.array([(x0, y0, x1, y1) for (y0, x0, y1, x1), _ in parts], np.int64).reshape(-1, 4)
        window = np.repeat(np.arange(len(parts)), [len(found) for found in moved])
        objects = _concat(moved)
        # At the border of the picture nothing is cut.
        inner = np.where(
            places == np.array([0, 0, width, height]), np.array([-np.inf, -np.inf, np.inf, np.inf]), places
        )
        cut = ~_inside(objects.boxes.numpy(), inner[window])
        better = np.zeros_like(cut)
        for border in inner:
            better |= _inside(objects.boxes.numpy(), border)
        return cls(objects, window, places, cut, cut & better)

    def same(self) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Pairs of finds (i < j) of two windows that are one object."""
        i, j = self._near()
        shared, mine, yours = self._shared(i, j)
        union = mine + yours - shared
        agree = shared >= SAME * np.maximum(union, 1e-9)
        # A part that a border cut may be badly seen: it is enough that most of it lies on the other one.
        agree |= self.cut[j] & (shared >= SAME * np.maximum(yours, 1e-9)) & (shared > 0)
        agree |= self.cut[i] & (shared >= SAME * np.maximum(mine, 1e-9)) & (shared > 0)
        agree &= shared > 0
        return i[agree], j[agree]

    def _near(self) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Pairs of finds (i < j) of one class whose boxes meet, from two windows that do."""
        boxes, labels = self.objects.boxes.numpy(), self.objects.labels.numpy()
        meet = _meet(self.places[:, None], self.places[None])
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for a, b in zip(*np.nonzero(np.triu(meet, 1)), strict=True):
            one, two = np.flatnonzero(self.window == a), np.flatnonzero(self.window == b)
            close = _meet(boxes[one][:, None], boxes[two][None]) & (labels[one][:, None] == labels[two][None])
            at, of = np.nonzero(close)
            pairs.append((one[at], two[of]))
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(p[0] for p in pairs)]), np.concatenate([none, *(p[1] for p in pairs)])

    def _shared(
        self, i: Int64[np.ndarray, " k"], j: Int64[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Pixels that both finds cover, and what each covers of the strip that both windows see."""
        if self.objects.masks is None:
            boxes, places = self.objects.boxes.numpy().astype(np.float64), self.places[self.window]
            strip = _overlap(places[i], places[j])
            mine, yours = _overlap(boxes[i], strip), _overlap(boxes[j], strip)
            return _area(_overlap(mine, yours)), _area(mine), _area(yours)
        masks = runs.from_rles(self.objects.masks.items)
        seen = runs.from_rles([_rectangle(place, self.objects.size) for place in self.places])
        shared = runs.intersections(masks, masks, i, j)
        mine = runs.intersections(masks, seen, i, self.window[j])
        yours = runs.intersections(masks, seen, j, self.window[i])
        return shared.astype(np.float64), mine.astype(np.float64), yours.astype(np.float64)

    def united(
        self,
        kept: Bool[np.ndarray, " n"],
        loose: Bool[np.ndarray, " n"],
        i: Int64[np.ndarray, " k"],
        j: Int64[np.ndarray, " k"],
        order: Int64[np.ndarray, " n"],
    ) -> Instances:
        """The `kept` finds, and of the `loose` ones those that `i` and `j` tie together as one each; best first.

        Doubtful ones that are tied to no other are left out.
        One of several parts has the score, class and keypoints of its best part, and the box and mask of all its parts.
        """
        n = len(loose)
        _, group = connected_components(coo_array((np.ones(len(i), bool), (i, j)), (n, n)), directed=False)
        leaders: dict[int, list[int]] = {}
        for one in order[loose[order]].tolist():  # best first
            leaders.setdefault(int(group[one]), []).append(one)
        boxes, turned, items = self.objects.boxes.clone(), self.objects.rotated, None
        if self.objects.masks is not None:
            items = list(self.objects.masks.items)
        chosen = kept.copy()
        for members in leaders.values():
            first = members[0]
            chosen[first] = len(members) > 1 or not self.doubtful[first]
            if len(members) > 1:
                boxes[first, :2] = boxes[members, :2].amin(0)
                boxes[first, 2:] = boxes[members, 2:].amax(0)
                if items is not None:
                    items[first] = rle.merge([items[m] for m in members])
                    if turned is not None:
                        turned = turned.index_copy(0, torch.tensor([first]), rotated.of_masks([items[first]]))
        masks = None if items is None else Masks(*self.objects.size, tuple(items))
        best = order[chosen[order]]
        return replace(self.objects, boxes=boxes, masks=masks, rotated=turned)[torch.from_numpy(best)]


def _moved(found: Instances, y0: int, x0: int, size: tuple[int, int]) -> Instances:
    """What was found in a window, in pixels of the picture."""
    corner = torch.tensor([x0, y0], dtype=found.boxes.dtype)
    masks, points, turned = found.masks, found.keypoints, found.rotated
    if masks is not None:
        crops = [masks.crop(i) for i in range(len(masks))]
        masks = Masks.from_crops([part for part, _, _ in crops], [(x + x0, y + y0) for _, x, y in crops], *size)
    if points is not None:
        points = torch.cat([points[..., :2] + corner, points[..., 2:]], -1)
    if turned is not None:
        turned = torch.cat([turned[:, :2] + corner, turned[:, 2:]], -1)
    boxes = found.boxes + corner.repeat(2)
    return replace(found, boxes=boxes, masks=masks, keypoints=points, rotated=turned, size=size)


def _concat(parts: Sequence[Instances]) -> Instances:
    """All objects of some lists of one picture."""
    first = parts[0]
    fields = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("boxes", "labels", "scores", "crowd", "keypoints", "rotated")
        if getattr(first, name) is not None
    }
    masks = None
    if first.masks is not None:
        masks = Masks(*first.size, tuple(item for part in parts if part.masks is not None for item in part.masks.items))
    return Instances(masks=masks, size=first.size, classes=first.classes, **fields)


def _rectangle(place: Int64[np.ndarray, " 4"], size: tuple[int, int]) -> rle.RLE:
    x0, y0, x1, y1 = place.tolist()
    return rle.from_crops([np.ones((y1 - y0, x1 - x0), bool)], [(x0, y0)], *size)[0]


def _inside(boxes: np.ndarray, border: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Which boxes keep away from the border of a window."""
    return np.asarray((boxes[:, :2] >= border[..., :2] + EDGE).all(1) & (boxes[:, 2:] <= border[..., 2:] - EDGE).all(1))


def _meet(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which boxes x0 y0 x1 y1 share a pixel."""
    return np.asarray(((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1))


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The box that two boxes share; its end lies before its beginning where they share nothing."""
    return np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], 1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
