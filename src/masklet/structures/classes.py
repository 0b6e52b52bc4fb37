"""The classes of a data set or model: names, colours, things or stuff, numbers on disk."""

from __future__ import annotations

import colorsys
import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Integer
from torch import Tensor

from masklet.structures.errors import UserError

# Far apart from each other on photographs and on screens, the first eight also for colour-blind eyes.
_COLORS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66),
    (110, 60, 20), (145, 30, 180), (60, 180, 75), (230, 25, 75), (70, 240, 240), (240, 50, 230), (188, 246, 12),
    (250, 190, 190), (0, 0, 128), (128, 128, 0), (170, 255, 195), (128, 0, 0), (255, 216, 177),
)  # fmt: skip


def default_colors(n: int) -> tuple[tuple[int, int, int], ...]:
    """`n` different colours: a fixed list, then hues that never come back at the golden angle."""
    colors = list(_COLORS[:n])
    step = 0
    while len(colors) < n:
        hue, saturation, value = step * 0.618034 % 1, (0.9, 0.55, 0.75)[step % 3], (0.95, 0.8, 0.6, 1.0)[step % 4]
        r, g, b = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
        if (r, g, b) not in colors:
            colors.append((r, g, b))
        step += 1
    return tuple(colors)


@dataclass(frozen=True)
class Classes:
    """Names and colours of the labels 0..n-1; travels from the data set through the checkpoint to every export."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()  # generated where not given
    things: tuple[bool, ...] = ()  # countable objects; all False (stuff) where not given
    ids: tuple[int, ...] = ()  # the numbers on disk; 0..n-1 where not given
    ignore: int = 255
    unscored: tuple[int, ...] = ()  # classes that a benchmark leaves out of its score
    keypoints: tuple[str, ...] = ()  # the points of every object, such as left_eye, where the data set has them

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise UserError(f"class names came as one text {self.names!r}", hint="give a list of names")
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("names", tuple(self.names))
        n = len(self.names)
        if n == 0:
            raise UserError("there are no classes", hint="name at least one")
        if bad := [color for color in self.colors if len(color) != 3]:
            raise UserError(f"the colour {tuple(bad[0])} is not R, G, B", hint="give three numbers in 0..255")
        put("colors", tuple((int(r), int(g), int(b)) for r, g, b in self.colors) or default_colors(n))
        put("things", tuple(bool(t) for t in self.things) or (False,) * n)
        put("ids", tuple(int(i) for i in self.ids) or tuple(range(n)))
        put("unscored", tuple(int(i) for i in self.unscored))
        put("keypoints", tuple(self.keypoints))
        for what in ("colors", "things", "ids"):
            if len(getattr(self, what)) != n:
                raise UserError(f"{n} classes but {len(getattr(self, what))} {what}", hint="give one for each class")
        for whose, what, values in (
            ("classes", "name", self.names),
            ("classes", "id", self.ids),
            ("keypoints", "name", self.keypoints),
        ):
            if len(set(values)) != len(values):
                twice = next(v for i, v in enumerate(values) if v in values[:i])
                raise UserError(f"two {whose} have the {what} {twice!r}", hint=f"every {what} must be different")
        for name, color in zip(self.names, self.colors, strict=True):
            if not all(0 <= v <= 255 for v in color):
                raise UserError(f"the colour {color} of class {name!r} is not in 0..255", hint="use 8-bit RGB")
        if 0 <= self.ignore < n:
            hint = "choose a number that is not a class, such as 255" if n <= 255 else "use 65535 or -1"
            raise UserError(f"ignore={self.ignore} is also the class {self.names[self.ignore]!r}", hint=hint)
        if missing := [i for i in self.unscored if not 0 <= i < n]:
            raise UserError(f"unscored class {missing[0]} does not exist", hint=f"classes are 0..{n - 1}")

    @classmethod
    def default(cls, n: int, ignore: int = 255) -> Classes:
        """`n` classes without real names: "class 0", "class 1", ..."""
        return cls(tuple(f"class {i}" for i in range(n)), ignore=ignore if not 0 <= ignore < n else -1)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str | int) -> int:
        """The label of a class, given its name (or the label itself)."""
        if isinstance(name, int):
            if not 0 <= name < len(self):
                raise UserError(f"class {name} does not exist", hint=f"classes are 0..{len(self) - 1}")
            return name
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, 3, 0.5) or self.names[:20]
            raise UserError(f"no class is called {name!r}", hint=f"did you mean {', '.join(near)}?")
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return {k: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
                for k, value in asdict(self).items()}  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Classes:
        """The inverse of `to_dict`."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"classes have no field {unknown[0]!r}", hint=f"the fields are {', '.join(sorted(known))}")
        if "names" not in values:
            raise UserError("the classes have no names", hint='give {"names": [...]}')
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**{**plain, "colors": tuple(tuple(color) for color in values.get("colors", ()))})

    def check(self, labels: Integer[Tensor, "*shape"], what: str = "label map") -> None:
        """Refuse labels that are neither a class nor `ignore`."""
        n = len(self)
        if not labels.numel() or (int(labels.max()) < n and int(labels.min()) >= 0):
            return
        if labels.dtype == torch.uint8 and self.ignore == 255 and int((labels + 1).max()) <= n:  # 255 + 1 wraps to 0
            return
        bad = labels[((labels >= n) | (labels < 0)) & (labels != self.ignore)]
        if bad.numel():
            hint = f"labels are 0..{n - 1}, and {self.ignore} for pixels to ignore"
            raise UserError(f"the {what} contains the label {int(bad[0])}, but there are {n} classes", hint=hint)


def names_of(classes: Classes | int) -> tuple[str, ...]:
    """Class names as they appear in scores; numbers where only their count is known."""
    return tuple(map(str, range(classes))) if isinstance(classes, int) else classes.names
