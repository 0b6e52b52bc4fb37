"""Every pixel belongs to one segment: an object or a piece of ground."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic map: a single thing, or all of one kind of stuff."""

    id: int
    label: int
    thing: bool
    score: int | float = 1.0
    area: int = 0
    crowd: bool = False  # in truth: many things drawn as one, which scores leave out


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A segment id for every pixel (0 is void) and what each segment is."""

    ids: Int64[Tensor, "h w"]
    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        if self.ids.ndim != 2 or self.ids.dtype != torch.int64:
            came = f"{self.ids.dtype} of shape {tuple(self.ids.shape)}"
            raise UserError(f"panoptic ids are int64 (h, w), these are {came}", hint="convert them with .long()")
        known = [s.id for s in self.segments]
        if len(set(known)) != len(known):
            twice = next(i for i in known if known.count(i) > 1)
            raise UserError(f"two segments have the id {twice}", hint="ids are unique within one image")
        if 0 in known:
            raise UserError("a segment has the id 0", hint="0 is void; count segments from 1")
        present = {i for i in self._present() if i != 0}
        if missing := sorted(present - set(known)):
            raise UserError(f"the map contains id {missing[0]}, which no segment describes", hint="0 means void")
        if empty := sorted(set(known) - present):
            raise UserError(f"segment {empty[0]} has no pixel in the map", hint="leave empty segments out")

    def _present(self) -> list[int]:
        if not self.ids.numel():
            return []
        if 0 <= int(self.ids.min()) <= int(self.ids.max()) < 2**16:  # counting is far cheaper than sorting
            return torch.bincount(self.ids.flatten()).nonzero()[:, 0].tolist()
        flat = self.ids.flatten()
        starts = torch.cat([flat.new_ones(1, dtype=torch.bool), flat[1:] != flat[:-1]])  # segments are runs: sort these
        return flat[starts].unique().tolist()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.ids.shape[0], self.ids.shape[1]

    def mask(self, segment: int | Segment) -> Bool[Tensor, "h w"]:
        """The pixels of one segment."""
        number = segment.id if isinstance(segment, Segment) else segment
        if number not in (known := [s.id for s in self.segments]):
            raise UserError(f"no segment has the id {number}", hint=f"the ids are {', '.join(map(str, known[:20]))}")
        return self.ids == number

    def semantic(self, ignore: int = 255) -> Int64[Tensor, "h w"]:
        """The class of every pixel; void becomes `ignore`."""
        ids = torch.tensor([0, *(s.id for s in self.segments)])
        labels = torch.tensor([ignore, *(s.label for s in self.segments)])
        order = ids.argsort()
        return labels[order][torch.searchsorted(ids[order], self.ids)]
