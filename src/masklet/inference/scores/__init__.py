"""Prediction files against truth files, whoever wrote them: one function per metric, by name.

A scorer is `score_x(predictions, truth, *, options..., progress=None) -> metric`; its signature is its configuration,
and the command line reads its options from it. What comes back computes (`compute()`), and where it can also prints
what the official tool prints (`summary()`), lists rows (`table()`) and draws (`curves()`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from masklet.structures import Curve

__all__ = ["SCORERS", "Drawn", "Metric", "Scorer", "Summed", "Tabled", "options", "scorer"]


class Metric(Protocol):
    """What every scorer returns."""

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        ...


@runtime_checkable
class Summed(Protocol):
    """A metric that can say what its official tool says."""

    def summary(self) -> str:
        """The official tool's lines."""
        ...


@runtime_checkable
class Tabled(Protocol):
    """A metric with one row per class, sequence or image."""

    def table(self) -> Sequence[Mapping[str, float | int | str]]:
        """The rows, all with the same keys."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A metric with something to draw."""

    def curves(self) -> Sequence[Curve]:
        """The lines."""
        ...


@dataclass(frozen=True)
class Scorer:
    """Where a scorer lives (`file:function` in this package), what it reads, and whether truth may be kind:path."""

    where: str
    about: str
    sources: bool = False


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "miou": Scorer("semantic:score_miou", "folders of index pictures: mIoU, accuracies and Dice", sources=True),
        "ap": Scorer("detection:score_ap", "COCO JSON: AP and AR of boxes, masks or keypoints; LVIS's rules for LVIS"),
        "voc_ap": Scorer("detection:score_voc_ap", "COCO JSON: AP of boxes as PASCAL VOC defines it"),
        "jf": Scorer("vos:score_jf", "folders of mask PNGs: J, F and J&F as DAVIS and SA-V (protocol=)"),
        "g": Scorer("vos:score_g", "folders of mask PNGs: G of YouTube-VOS, seen and unseen categories"),
        "boundary": Scorer("vos:score_boundary", "folders of index pictures: Boundary IoU"),
        "pq": Scorer("panoptic:score_pq", "COCO panoptic JSON with PNGs beside it: PQ, SQ, RQ as panopticapi"),
        "pq_humans": Scorer("panoptic:score_human_consistency", "the same of two annotators: how far people agree"),
        "vpq": Scorer(
            "video_panoptic:score_vpq", "videos of panoptic maps (VPS JSON, STEP PNG): video panoptic quality"
        ),
        "stq": Scorer("video_panoptic:score_stq", "videos of panoptic maps: segmentation and tracking quality"),
        "dvpq": Scorer("video_panoptic:score_dvpq", "videos of panoptic and depth maps: depth-aware VPQ"),
        "dstq": Scorer("video_panoptic:score_dstq", "videos of panoptic and depth maps: depth-aware STQ"),
        "depth": Scorer("video_panoptic:score_depth", "folders of depth maps: absRel, sqRel, RMSE, delta"),
        "matting": Scorer(
            "matting:score_matting", "folders of alpha pictures: MAD, SAD, MSE, Grad, Conn, dtSSD, MESSDdt"
        ),
        "noc": Scorer("clicks:score_noc", "IoUs or masks after each click: mean IoU over clicks, number of clicks"),
    }
)


def scorer(name: str) -> Callable[..., Metric]:
    """The function that scores files by metric `name`."""
    module, function = SCORERS[name].where.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """What `scorer(name)` takes besides predictions, truth and progress, with defaults."""
    known = inspect.signature(scorer(name)).parameters
    return {k: p for k, p in known.items() if p.kind is p.KEYWORD_ONLY and k != "progress"}
