"""Weights by name: what masklet brings along, trained by its own recipes on public photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Entry:
    """One name that `masklet.load` takes. The file itself says which system it is, its classes and its scores."""

    name: str
    about: str
    data: str
    licence: str = "Apache-2.0"

    @property
    def path(self) -> Path:
        return BUNDLED / f"{self.name}.safetensors"


CATALOG: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry("street", "Road scenes, 11 classes: road, car, pedestrian, tree, sky, ...", "CamVid"),
            Entry("flood", "Flooded ground in photographs and aerial pictures", "Flood Area Segmentation"),
            Entry("pets", "Cat or dog, its border, and the background", "Oxford-IIIT Pet"),
        )
    }
)
