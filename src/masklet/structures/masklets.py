"""Objects over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from masklet.ops.rle import RLE
from masklet.structures.errors import UserError
from masklet.structures.masks import Masks


@dataclass(frozen=True)
class Masklets:
    """The masks of each object through a video: object id -> frame number -> run lengths."""

    height: int
    width: int
    objects: Mapping[int, Mapping[int, RLE]]
    labels: Mapping[int, int] = field(default_factory=dict)  # object id -> class, where known
    scores: Mapping[int, int | float] = field(default_factory=dict)  # object id -> confidence, where known

    def __post_init__(self) -> None:
        objects = {int(i): MappingProxyType(dict(frames)) for i, frames in self.objects.items()}
        for name, value in (("objects", objects), ("labels", dict(self.labels)), ("scores", dict(self.scores))):
            object.__setattr__(self, name, MappingProxyType(value))
        for number, frames in objects.items():
            for frame, mask in frames.items():
                if frame < 0:
                    raise UserError(f"object {number} has a mask in frame {frame}", hint="frames count from 0")
                if (mask.height, mask.width) != (self.height, self.width):
                    came = f"object {number} in frame {frame} is {mask.height}x{mask.width}"
                    raise UserError(f"{came} but the video is {self.height}x{self.width}", hint="resize the mask")
        for what in ("labels", "scores"):
            if lost := sorted(set(getattr(self, what)) - set(objects)):
                raise UserError(f"{what} name object {lost[0]}, which has no masks", hint="give its masks as well")

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def frames(self) -> tuple[int, ...]:
        """The numbers of the frames that show an object, in order."""
        return tuple(sorted({frame for frames in self.objects.values() for frame in frames}))

    def at(self, frame: int) -> tuple[tuple[int, ...], Masks]:
        """The objects that one frame shows: their ids and, in the same order, their masks."""
        here = {number: frames[frame] for number, frames in self.objects.items() if frame in frames}
        return tuple(here), Masks(self.height, self.width, tuple(here.values()))

    def with_frame(self, frame: int, masks: Mapping[int, RLE]) -> Masklets:
        """The same masklets and one more frame of them (or that frame replaced)."""
        numbers = dict.fromkeys([*self.objects, *masks])
        objects = {i: {**self.objects.get(i, {}), **({frame: masks[i]} if i in masks else {})} for i in numbers}
        return Masklets(self.height, self.width, objects, self.labels, self.scores)
