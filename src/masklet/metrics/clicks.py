"""How few clicks an interactive model needs, and how good its masks are after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from masklet.structures import Curve, UserError

__all__ = ["ClickScore"]

ONE = 1 << 60  # sums are whole numbers of this part: exact, and the same in any order


@dataclass
class Tally:
    """Of one data set: objects, sums of IoU after each click, and how many objects took 1, 2, ... clicks per target."""

    objects: int
    ious: list[int]
    needed: list[list[int]]

    def means(self) -> list[float]:
        """Mean IoU after each click."""
        return [total / (ONE * self.objects) for total in self.ious]

    def noc(self, target: int) -> float:
        """Mean number of clicks to reach a target."""
        return sum(k * n for k, n in enumerate(self.needed[target], 1)) / self.objects

    def failures(self, target: int) -> int:
        """Objects that took all clicks."""
        return self.needed[target][-1]


@dataclass
class ClickScore:
    """Mean IoU after 1, 2, ... clicks, and the number of clicks (NoC) to reach an IoU.

    An object that does not reach a target counts with all `clicks`; `failures` are the objects that took so many
    (RITM's ">=20@90%", Sofiiuk et al. 2021). With several data sets the means are those of the data sets' means, as in
    SAM and SAM 2 (Kirillov et al. 2023, Ravi et al. 2024); failures add up.

    A list of IoUs may end early: the last one counts for the clicks that were not needed.
    """

    clicks: int = 20
    targets: tuple[float, ...] = (0.85, 0.9)
    datasets: dict[str, Tally] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.clicks < 1:
            raise UserError(f"clicks is {self.clicks}", hint="count at least one")
        self.targets = tuple(self.targets)
        if bad := [t for t in self.targets if not (isinstance(t, int | float) and 0 < t <= 1)]:
            raise UserError(f"target {bad[0]!r} is not an IoU", hint="give fractions, 0.9 for 90 %")

    @property
    def objects(self) -> int:
        """How many objects have been counted."""
        return sum(tally.objects for tally in self.datasets.values())

    def update(self, ious: Sequence[float] | Tensor | np.ndarray, *, dataset: str = "") -> None:
        """Adds one object: its IoU after the first click, the second, and so on."""
        values = [float(v) for v in ious]
        if not 1 <= len(values) <= self.clicks:
            raise UserError(f"an object has {len(values)} IoUs", hint=f"give 1 to {self.clicks}, one per click")
        if bad := [v for v in values if not 0 <= v <= 1]:
            raise UserError(f"{bad[0]:g} is not an IoU", hint="give fractions between 0 and 1")
        if dataset not in self.datasets:
            self.datasets[dataset] = Tally(0, [0] * self.clicks, [[0] * self.clicks for _ in self.targets])
        tally = self.datasets[dataset]
        tally.objects += 1
        values += values[-1:] * (self.clicks - len(values))
        for i, value in enumerate(values):
            tally.ious[i] += round(value * ONE)
        for target, needed in zip(self.targets, tally.needed, strict=True):
            needed[next((i for i, value in enumerate(values) if value >= target), self.clicks - 1)] += 1

    def merge(self, other: ClickScore) -> None:
        """Adds the objects of another part of the data; the order does not matter."""
        mine, theirs = (self.clicks, self.targets), (other.clicks, other.targets)
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        for name, tally in other.datasets.items():
            known = self.datasets.get(name, Tally(0, [0] * self.clicks, [[0] * self.clicks for _ in self.targets]))
            self.datasets[name] = Tally(
                known.objects + tally.objects,
                [a + b for a, b in zip(known.ious, tally.ious, strict=True)],
                [[a + b for a, b in zip(*both, strict=True)] for both in zip(known.needed, tally.needed, strict=True)],
            )

    def compute(self) -> dict[str, float]:
        """iou@1, iou@2, ..., and per target noc90 and failures90; nothing where there are no objects."""
        if not self.datasets:
            return {}
        tallies = [self.datasets[name] for name in sorted(self.datasets)]
        ious = np.mean([tally.means() for tally in tallies], axis=0).tolist()
        out = {f"iou@{i}": value for i, value in enumerate(ious, 1)}
        for i, name in enumerate(self._percent()):
            out[f"noc{name}"] = float(np.mean([tally.noc(i) for tally in tallies]))
            out[f"failures{name}"] = float(sum(tally.failures(i) for tally in tallies))
        return out

    def summary(self) -> str:
        """Columns as in RITM's tables, a row per data set, and the mean IoU after 1, 3 and 5 clicks."""
        heads = [f"NoC@{p}%" for p in self._percent()] + [f">={self.clicks}@{p}%" for p in self._percent()]
        shown = [k for k in (1, 3, 5) if k <= self.clicks]
        lines = [["data set", "objects", *heads, *(f"mIoU@{k}" for k in shown)]]
        for name, tally in sorted(self.datasets.items()):
            targets = range(len(self.targets))
            lines.append(
                [
                    name or "all",
                    str(tally.objects),
                    *(f"{tally.noc(i):.2f}" for i in targets),
                    *(str(tally.failures(i)) for i in targets),
                    *(f"{100 * tally.means()[k - 1]:.2f}" for k in shown),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in lines
        )

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per data set."""
        rows: list[dict[str, float | int | str]] = []
        for name, tally in sorted(self.datasets.items()):
            row: dict[str, Any] = {"data set": name or "all", "objects": tally.objects}
            for i, percent in enumerate(self._percent()):
                row |= {f"noc{percent}": tally.noc(i), f"failures{percent}": tally.failures(i)}
            rows.append(row | {f"iou@{k}": value for k, value in enumerate(tally.means(), 1)})
        return rows

    def curves(self) -> list[Curve]:
        """Mean IoU over clicks, a line per data set."""
        clicks = np.arange(1, self.clicks + 1, dtype=np.float64)
        return [
            Curve(name or "all", clicks, np.array(tally.means()), "clicks", "mean IoU", group="mean IoU over clicks")
            for name, tally in sorted(self.datasets.items())
        ]

    def _percent(self) -> list[str]:
        return [f"{100 * target:g}" for target in self.targets]
