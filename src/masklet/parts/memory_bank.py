"""Memory as a value: which frames are kept, and what a new frame is shown of them (SAM 2, section 4).

Kept are all frames that somebody prompted, the maps of a few recent ones, and the pointers of some more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.memory import Recalled, map_positions
from masklet.parts.positions import sine_line
from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Remembered:
    """One frame, as n objects remember it: a map (dropped first, when the frame gets old) and a pointer each.

    `logits` are those of the mask itself, which models that follow the last mask keep for a while.
    """

    frame: int
    map: Float[Tensor, "n c h w"] | None
    pointer: Float[Tensor, "n p"]
    logits: Float[Tensor, "n h4 w4"] | None = None

    def __getitem__(self, which: Tensor | slice) -> Remembered:
        map, logits = (None if x is None else x[which] for x in (self.map, self.logits))
        return Remembered(self.frame, map, self.pointer[which], logits)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.map, self.pointer, self.logits) if x is not None)


@dataclass(frozen=True, eq=False)
class Memory:
    """What n objects have in memory, all of them of the same frames. It never changes: tracking gives a new one.

    `length` is that of the video where it is known: in short ones, pointers count their age on a shorter scale.
    """

    prompted: tuple[Remembered, ...] = ()
    recent: tuple[Remembered, ...] = ()
    length: int | None = None

    def __getitem__(self, which: Tensor | slice) -> Memory:
        """The memory of some of the objects."""
        return replace(
            self, prompted=tuple(r[which] for r in self.prompted), recent=tuple(r[which] for r in self.recent)
        )

    def __bool__(self) -> bool:
        return bool(self.prompted)

    @property
    def frames(self) -> tuple[tuple[int, ...], tuple[tuple[int, bool], ...], int | None]:
        """Which frames are in it, and how: memories that agree in this can be joined."""
        recent = tuple((r.frame, r.map is not None) for r in self.recent)
        return tuple(r.frame for r in self.prompted), recent, self.length

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in (*self.prompted, *self.recent))

    @classmethod
    def join(cls, memories: Sequence[Memory]) -> Memory:
        """One memory of all the objects; they must remember the same frames."""
        if len({memory.frames for memory in memories}) != 1:
            raise UserError("memories of different frames cannot be joined", hint="track these objects one by one")
        if len(memories) == 1:
            return memories[0]
        return Memory(
            tuple(_stacked(each) for each in zip(*(m.prompted for m in memories), strict=True)),
            tuple(_stacked(each) for each in zip(*(m.recent for m in memories), strict=True)),
            memories[0].length,
        )

    def last_mask(self, frame: int) -> Float[Tensor, "n h4 w4"] | None:
        """The logits of the mask of the frame nearest to `frame` that still has them."""
        known = [r for r in (*self.prompted, *self.recent) if r.logits is not None]
        return min(known, key=lambda r: abs(r.frame - frame)).logits if known else None

    def forget(self, frame: int) -> Memory:
        """Without what was prompted on a frame."""
        return replace(self, prompted=tuple(r for r in self.prompted if r.frame != frame))


def _stacked(entries: Sequence[Remembered]) -> Remembered:
    maps = [entry.map for entry in entries if entry.map is not None]
    logits = [entry.logits for entry in entries if entry.logits is not None]
    pointers = torch.cat([entry.pointer for entry in entries])
    joined = torch.cat(logits) if len(logits) == len(entries) else None
    return Remembered(entries[0].frame, torch.cat(maps) if maps else None, pointers, joined)


@dataclass(frozen=True)
class Keep:
    """How much is kept and shown.

    `maps` are those of a frame that is shown when all places are taken: one for what was prompted and the others for
    recent frames (the paper counts these: N = 6). `pointers` says how many frames pointers reach back, this one
    included. `prompted` limits how many prompted frames are shown, the nearest first (None: all). Recent frames are
    shown every `stride` frames.
    """

    maps: int = 7
    pointers: int = 16
    prompted: int | None = None
    stride: int = 1

    def recent(self, frame: int, back: bool) -> list[int]:
        """The frames whose maps are shown to `frame`, from the previous one to the oldest."""
        r, sign = self.stride, 1 if back else -1
        found = [frame + sign] if self.maps > 1 else []
        for age in range(2, self.maps):
            grid = -(-(frame + 2) // r) * r if back else (frame - 2) // r * r
            found.append(grid + sign * (age - 2) * r)
        return found

    def reach(self) -> int:
        """How many frames back a recent map may be needed."""
        return max((self.maps - 1) * self.stride, 1)


class MemoryBank(nn.Module):
    """Writes frames into memories and lays out what a new frame sees of them.

    `places` are vectors for the age of a map, the last one for prompted frames. Pointers are cut into tokens as narrow
    as the maps; with `aged_pointers` (SAM 2.1) they say how old they are. Maps are kept in bfloat16 if `half`.
    """

    def __init__(
        self,
        channels: int = 256,
        memory_channels: int = 64,
        keep: Keep | None = None,
        aged_pointers: bool = True,
        half: bool = True,
    ) -> None:
        super().__init__()
        keep = Keep() if keep is None else keep
        if keep.maps < 1 or keep.pointers < 1 or keep.stride < 1:
            raise UserError(f"a memory of {keep.maps} maps and {keep.pointers} pointers", hint="give 1 or more of each")
        if channels % memory_channels:
            came = f"{memory_channels} channels of memory do not divide {channels}"
            raise UserError(came, hint="pointers are cut into tokens of that width")
        self.keep, self.memory_channels, self.channels = keep, memory_channels, channels
        self.dtype = torch.bfloat16 if half else torch.float32
        self.places = nn.Parameter(torch.empty(keep.maps, memory_channels))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.age = nn.Linear(channels, memory_channels) if aged_pointers else None

    def write(self, memory: Memory, entry: Remembered, prompted: bool, back: bool = False) -> Memory:
        """The memory with one more frame in it; what no later frame in this direction can see is dropped."""
        if prompted:
            kept = [r for r in memory.prompted if r.frame != entry.frame]
            kept = sorted([*kept, entry], key=lambda r: r.frame)
            return replace(memory, prompted=tuple(kept), recent=self._recent(memory, entry.frame, back))
        return replace(memory, recent=(*self._recent(memory, entry.frame, back), entry))

    def _recent(self, memory: Memory, frame: int, back: bool) -> tuple[Remembered, ...]:
        """Without `frame` itself, what lies ahead of it, and what is too old; maps go before pointers."""
        out = []
        for r in memory.recent:
            age = (r.frame - frame) if back else (frame - r.frame)
            r = Remembered(r.frame, None if age >= self.keep.reach() else r.map, r.pointer)
            if 0 < age < max(self.keep.pointers - 1, self.keep.reach()):
                out.append(r)
        return tuple(out)

    def shown(self, memory: Memory, frame: int) -> tuple[list[Remembered], list[Remembered]]:
        """The prompted frames that are shown, and those left out: the nearest on both sides, then the nearest."""
        most, all_of_them = self.keep.prompted, list(memory.prompted)
        if most is None or len(all_of_them) <= most:
            return all_of_them, []
        before = [r for r in all_of_them if r.frame < frame]
        after = [r for r in all_of_them if r.frame >= frame]
        chosen = [*before[-1:], *after[:1]]
        rest = sorted((r for r in all_of_them if r not in chosen), key=lambda r: abs(r.frame - frame))
        chosen = [*chosen, *rest][:most]
        return [r for r in all_of_them if r in chosen], [r for r in all_of_them if r not in chosen]

    def recall(self, memory: Memory, frame: int, back: bool = False) -> Recalled | None:
        """What a frame sees; None where nothing was prompted yet."""
        shown, left_out = self.shown(memory, frame)
        if not shown:
            return None
        recent = {r.frame: r for r in (*left_out, *memory.recent)}
        maps = [(r.map, 0) for r in shown if r.map is not None]
        for age, number in reversed(list(enumerate(self.keep.recent(frame, back), 1))):
            if number in recent and (found := recent[number].map) is not None:
                maps.append((found, age))
        sign = -1 if back else 1
        horizon = self.keep.pointers if memory.length is None else min(self.keep.pointers, memory.length)
        pointers = [
            (r.pointer, sign * (frame - r.frame)) for r in shown if self.training or sign * (frame - r.frame) >= 0
        ]
        ages = {frame - sign * age: age for age in range(1, horizon)}
        pointers += [(recent[number].pointer, age) for number, age in ages.items() if number in recent]
        return self._laid_out(maps, pointers, horizon)

    def _laid_out(self, maps: list[tuple[Tensor, int]], pointers: list[tuple[Tensor, int]], horizon: int) -> Recalled:
        (n, c, h, w), device = maps[0][0].shape, maps[0][0].device
        stacked = torch.stack([x.flatten(2).transpose(1, 2) for x, _ in maps], 1).to(self.places.dtype)
        where = torch.stack([self.places[age - 1] for _, age in maps])  # the age of what was prompted, 0, is the last
        grid = map_positions(h, w, c, device)
        if not pointers:
            nothing = stacked.new_zeros(n, 0, c)
            return Recalled(stacked, grid + where[:, None], nothing, nothing[0])
        cut = self.channels // c
        tokens = torch.cat([p.unflatten(1, (cut, c)) for p, _ in pointers], 1).to(self.places.dtype)
        ages = torch.tensor([age for _, age in pointers], dtype=torch.float32, device=device) / max(horizon - 1, 1)
        if self.age is None:
            when = stacked.new_zeros(len(pointers) * cut, c)
        else:
            when = F.linear(sine_line(ages, self.channels), self.age.weight, self.age.bias).repeat_interleave(cut, 0)
        return Recalled(stacked, grid + where[:, None], tokens, when)
