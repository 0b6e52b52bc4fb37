"""How far two people agree who segmented the same images: panoptic quality between them, as tables and as a curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from masklet.metrics.panoptic import Outcomes, PanopticScore
from masklet.structures import Classes, Curve, Panoptic

__all__ = ["HUMANS", "HumanConsistency"]

TABLES: tuple[Mapping[str, str], ...] = tuple(  # columns of the paper's tables 1 and 2 -> keys of PanopticScore
    MappingProxyType({f"{q}{mark}": f"{q.lower()}{kind}" for q in ("PQ", "SQ", "RQ") for mark, kind in part.items()})
    for part in (
        {"": "", "_st": "_stuff", "_th": "_things"},
        {"_S": "_small", "_M": "_medium", "_L": "_large"},
    )
)
COLUMNS: Mapping[str, str] = MappingProxyType({**TABLES[0], **TABLES[1]})
HUMANS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {  # as published, in percent
        name: MappingProxyType(dict(zip(COLUMNS, map(float, numbers.split()), strict=True)))
        for name, numbers in {
            "Cityscapes": "69.7 71.3 67.4 84.2 84.4 83.9 82.1 83.4 80.2 35.1 62.3 84.8 67.8 81.0 89.9 51.5 76.5 94.1",
            "ADE20k": "67.1 70.3 65.9 85.8 85.5 85.9 78.0 82.4 76.4 49.9 69.4 79.0 78.0 84.0 87.8 64.2 82.5 89.8",
            "Vistas": "57.5 62.6 53.4 79.5 81.6 77.9 71.4 76.0 67.7 35.6 47.7 69.4 70.1 76.6 83.1 51.5 62.3 82.6",
        }.items()
    }
)


@dataclass
class HumanConsistency:
    """How far two people agree who segmented the same images (Kirillov et al., 2019, sec. 6): a ceiling for machines.

    PQ is symmetric but for void and crowd, which only the truth has. Every image is therefore scored twice, either
    annotation as the truth once, and both directions are counted together: exchanging the people changes nothing.
    """

    classes: Classes
    threshold: int | float = 0.5
    alpha: int | float = 0.5
    sizes: tuple[int | float, int | float] | None = None

    def __post_init__(self) -> None:
        self.first, self.second = (  # named after who is the truth
            PanopticScore(self.classes, self.threshold, self.alpha, self.sizes) for _ in range(2)
        )

    @property
    def images(self) -> int:
        """Images with two annotations."""
        return self.first.images

    def update(self, one: Panoptic, other: Panoptic) -> None:
        """Adds one image, segmented by both."""
        self.first.update(other, one)
        self.second.update(one, other)

    def add(self, one_as_truth: Outcomes, other_as_truth: Outcomes) -> None:
        """Adds what `PanopticScore.count` found in one image, either way."""
        self.first.add(one_as_truth)
        self.second.add(other_as_truth)

    def merge(self, other: HumanConsistency) -> None:
        """Adds another part of the data; the order does not matter."""
        self.first.merge(other.first)
        self.second.merge(other.second)

    def both(self) -> PanopticScore:
        """Both directions counted together."""
        together = PanopticScore(self.classes, self.threshold, self.alpha, self.sizes)
        together.merge(self.first)
        together.merge(self.second)
        return together

    def compute(self) -> dict[str, float]:
        """What `PanopticScore.compute` gives, and PQ with the first and with the second person as the truth."""
        one, other = self.first.compute()["pq"], self.second.compute()["pq"]
        return self.both().compute() | {"pq_first_as_truth": one, "pq_second_as_truth": other}

    def table(self) -> list[dict[str, float | int | str]]:
        """Rows with the columns of the paper's tables 1 and 2, in percent: here, either direction, and as published."""
        parts = {"both": self.both(), "first as truth": self.first, "second as truth": self.second}
        rows: list[dict[str, float | int | str]] = []
        for name, part in parts.items():
            scores = part.compute()
            rows.append({"data": name} | {column: 100 * scores[key] for column, key in COLUMNS.items()})
        for name, values in HUMANS.items():
            rows.append({"data": f"{name} (published)"} | dict(values))
        return rows

    def summary(self) -> str:
        """The paper's tables 1 (stuff and things) and 2 (small, medium, large), with our rows above the published."""
        lines, rows = list[str](), self.table()
        for part in TABLES:
            lines += ["", " " * 24 + "".join(f"{column:>7s}" for column in part)]
            lines += [f"{row['data']:24s}" + "".join(f"{row[column]:7.1f}" for column in part) for row in rows]
        return "\n".join(lines[1:])

    def curves(self) -> list[Curve]:
        """Which share of the matches has at most a given IoU (fig. 6: with threshold=0)."""
        return self.both().curves()
