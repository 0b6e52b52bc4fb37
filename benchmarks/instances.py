"""Mask R-CNN from an image to run lengths, against torchvision's with the same weights and pycocotools.

python benchmarks/instances.py [--threads N] [--rounds N]
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

import masklet

HEIGHT, WIDTH = 800, 1066


def peer() -> Any:
    """torchvision's model with random weights that find a hundred objects and are sure of them."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.01)
    return model


def encoded(found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    masks = (found["masks"][:, 0] >= 0.5).numpy().astype(np.uint8)
    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0)))


def areas(rles: list[dict[str, Any]]) -> np.ndarray:
    return np.sort(coco.area(rles)).astype(np.int64)


def main() -> None:
    options = threads()
    theirs = peer()
    ours = masklet.load("mask_rcnn", weights=theirs.state_dict())
    coarse = torch.rand(1, 3, 25, 33)
    image = nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)[0]
    with torch.inference_mode():
        count = len(theirs([image])[0]["scores"])
        compare(
            "mask_rcnn image to rle",
            lambda: ours.predict(image).masks.rle(),
            {"torchvision+pycocotools": lambda: encoded(theirs([image])[0])},
            same=lambda mine, other: (
                len(mine) == len(other) and np.abs(areas(mine) - areas(other)).sum() < 1e-3 * areas(other).sum()
            ),
            rounds=options.rounds,
            target=0.6,
            shapes=f"{HEIGHT}x{WIDTH}, {count} objects",
            dtype="float32",
        )


if __name__ == "__main__":
    main()
