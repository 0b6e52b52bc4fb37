"""What recorded cascades of mmdetection are compared in: detections, masks in the image, losses of the stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from masklet.ops.paste import paste
from masklet.ops.polygons import rasterize
from masklet.parts.box_heads import Detections
from masklet.structures import Masks


def same_detections(found: Detections, folder: Path) -> None:
    """Boxes, scores and labels, in the same order."""
    oracle.check("det.boxes", found.boxes[0], folder)
    oracle.check("det.scores", found.scores[0], folder)
    assert found.labels[0].tolist() == oracle.recorded("det.labels", folder).tolist()


def same_masks(net: Any, pyramid: dict[str, Tensor], found: Detections, size: tuple[int, int], folder: Path) -> None:
    """In the image: at most .1 % of the pixels differ."""
    probs = net.mask(pyramid, found.rois(), found.labels[0])
    drawn = Masks(*size, tuple(paste(probs, found.boxes[0], size, placement=net.placement))).dense()
    bits = np.unpackbits(oracle.recorded("det.mask_bits", folder), axis=1)[:, : size[0] * size[1]]
    assert (drawn[: len(bits)].flatten(1).numpy() != bits).mean() < 0.001
    assert (
        drawn.sum((1, 2)).sub(torch.from_numpy(oracle.recorded("det.mask_area", folder))).abs().max()
        < 0.001 * size[0] * size[1]
    )
    alone = Masks(*size, tuple(paste(1 - probs, found.boxes[0], size, placement=net.placement))).dense()
    assert (alone[: len(bits)].flatten(1).numpy() != bits).mean() > 0.01


def same_ends(net: Any, folder: Path) -> None:
    """From the image alone: boxes to .02 pixels, scores, labels, and the areas of the masks."""
    found = net.predict(oracle.pixels(folder))
    want = {name: torch.from_numpy(oracle.recorded(f"e2e.{name}", folder)) for name in ("boxes", "labels", "mask_area")}
    torch.testing.assert_close(found.boxes, want["boxes"].float(), rtol=0, atol=0.02)
    oracle.check("e2e.scores", found.scores, folder, rtol=1e-3)
    assert found.labels.tolist() == want["labels"].tolist()
    height, width = found.size
    assert (found.masks.areas() - want["mask_area"]).abs().max() < 0.001 * height * width


def polygons(corners: Tensor, size: tuple[int, int]) -> Masks:
    """Bitmaps of objects that are a ring each."""
    return Masks(*size, tuple(rasterize(ring.double().numpy().reshape(-1, 2), *size) for ring in corners))


def same_losses(losses: Mapping[str, Tensor], folder: Path) -> None:
    """`class1` and so on against theirs, to a ten-thousandth."""
    for name, value in losses.items():
        kind, stage = {"class": "cls", "box": "bbox", "mask": "mask"}[name[:-1]], int(name[-1]) - 1
        want = float(oracle.recorded(f"loss.s{stage}.loss_{kind}", folder))
        assert value.item() == pytest.approx(want, rel=1e-4), name
    assert len(losses) == 9
