"""Every data set by name: `open_source("camvid:path/to/camvid", split="val")`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from masklet.data.ade20k import list_ade20k
from masklet.data.camvid import list_camvid
from masklet.data.cityscapes import list_cityscapes
from masklet.data.coco_instances import coco
from masklet.data.coco_panoptic import coco_panoptic
from masklet.data.flood import list_flood
from masklet.data.folder import list_folder
from masklet.data.labelme import labelme
from masklet.data.nuclei import nuclei
from masklet.data.pairs import Listing
from masklet.data.pets import list_pets
from masklet.data.rgbd import rgbd
from masklet.data.rotated_quads import dota, icdar
from masklet.data.sa1b import sa1b
from masklet.data.sbd import sbd, voc_instances
from masklet.data.synthetic import synthetic
from masklet.data.via import via
from masklet.data.videos import davis, sav, youtube_vos
from masklet.data.voc import list_voc
from masklet.data.yolo import yolo
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError


@runtime_checkable
class Dataset(Protocol):
    """Numbered samples with one set of classes; the order is the natural order of the file names."""

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def classes(self) -> Classes: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...
    def __iter__(self) -> Iterator[Sample]: ...
    def paths(self, index: int) -> tuple[Path, ...]: ...


SOURCES: Mapping[str, Callable[..., Listing | Dataset]] = MappingProxyType(
    {
        "folder": list_folder,
        "flood": list_flood,
        "camvid": list_camvid,
        "rgbd": rgbd,
        "pets": list_pets,
        "voc": list_voc,
        "cityscapes": list_cityscapes,
        "ade20k": list_ade20k,
        "coco": coco,
        "coco_panoptic": coco_panoptic,
        "nuclei": nuclei,
        "labelme": labelme,
        "yolo": yolo,
        "voc_instances": voc_instances,
        "sbd": sbd,
        "icdar": icdar,
        "dota": dota,
        "via": via,
        "davis": davis,
        "youtube_vos": youtube_vos,
        "sav": sav,
        "sa1b": sa1b,
        "synthetic": synthetic,
    }
)


def open_source(text: str, split: str = "train", **options: Any) -> Dataset:
    """The data set that `kind:path` names, e.g. `camvid:data/camvid` or `synthetic:shapes3`.

    `split` is train, val, test or all. What is broken on disk is an error here or when the sample is read; see
    `masklet.data.check.check` for a list of everything that is.
    """
    found = find_source(text, split, **options)
    return found.pairs() if isinstance(found, Listing) else found


def find_source(text: str, split: str = "train", **options: Any) -> Listing | Dataset:
    """What `kind:path` names, before its files are paired."""
    kind, colon, path = text.partition(":")
    if not colon or not path:
        hint = f"write `folder:{text}`" if Path(text).exists() else f"kinds are {', '.join(SOURCES)}"
        raise UserError(f"data source {text!r} is not of the form `kind:path`", hint=hint)
    if kind not in SOURCES:
        near = difflib.get_close_matches(kind, SOURCES, 1)
        raise UserError(
            f"unknown kind of data {kind!r}",
            hint=(f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(SOURCES)}",
        )
    accepted = [name for name in inspect.signature(SOURCES[kind]).parameters if name not in ("root", "name", "split")]
    if unknown := sorted(options.keys() - set(accepted)):
        takes = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
        raise UserError(f"{kind} has no option {unknown[0]!r}", hint=takes)
    return SOURCES[kind](path if kind == "synthetic" else Path(path), split, **options)
