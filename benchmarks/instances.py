"""Mask R-CNN from an image to run lengths, and a training step, against torchvision's with the same weights.

python benchmarks/instances.py [--threads N] [--rounds N] [--only fp32|automatic|agreement|training]

Predicting is one 800x1066 image to a hundred masks as COCO's run lengths; torchvision needs pycocotools for the last
step. "automatic" is the precision that `masklet.predict` chooses. The weights are random, as none can be fetched, and
made so that a hundred objects are found. "agreement" matches what float32 and the automatic precision find: the share
of objects with a partner of their class whose mask overlaps by .8; scores of random weights are close to each other, so
suppression may keep another of two equals. Training is one step (losses and gradients) on two 512x512 images with
constant batch norms on both sides, as with published weights.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import json
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

import masklet
from masklet.inference.image import Predictor, Settings
from masklet.structures import Instances, Masks

HEIGHT, WIDTH, SIDE, OBJECTS = 800, 1066, 512, 8


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


def frozen(module: nn.Module) -> nn.Module:
    """With constant batch norms, as torchvision has them where weights are given."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            constant = FrozenBatchNorm2d(child.num_features, child.eps)
            constant.load_state_dict({k: v for k, v in child.state_dict().items() if k != "num_batches_tracked"})
            setattr(module, name, constant)
        else:
            frozen(child)
    return module


def encoded(found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    masks = (found["masks"][:, 0] >= 0.5).numpy().astype(np.uint8)
    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0)))


def areas(rles: list[dict[str, Any]]) -> np.ndarray:
    return np.sort(coco.area(rles)).astype(np.int64)


def smooth(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, height // 32, width // 32)
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def agreement(exact: Instances, other: Instances) -> float:
    """The share of objects that have a partner."""
    assert exact.masks is not None
    assert other.masks is not None
    overlap = exact.masks.iou(other.masks) * (exact.labels[:, None] == other.labels).double()
    return (overlap.amax(1) > 0.8).double().mean().item()


def predicting(only: str, rounds: int) -> None:
    theirs = peer()
    ours, image = masklet.load("mask_rcnn", weights=theirs.state_dict()), smooth(HEIGHT, WIDTH)
    automatic = Predictor(ours, Settings())

    @torch.inference_mode()
    def other() -> list[dict[str, Any]]:
        return encoded(theirs([image])[0])

    def close(mine: list[dict[str, Any]], rles: list[dict[str, Any]]) -> bool:
        return len(mine) == len(rles) and np.abs(areas(mine) - areas(rles)).sum() < 1e-3 * areas(rles).sum()

    cases = {
        "fp32": (lambda: ours.predict(image).masks.rle(), close, 0.6, torch.float32),
        "automatic": (lambda: automatic([image])[0].masks.rle(), lambda a, b: len(a) == len(b), 0.4, automatic.dtype),
    }
    for name, (call, same, target, dtype) in cases.items():
        if only in name:
            compare(
                f"mask_rcnn image to rle, {name}",
                call,
                {"torchvision+pycocotools fp32": other},
                same=same,
                rounds=rounds,
                target=target,
                shapes=f"{HEIGHT}x{WIDTH}, 100 objects",
                dtype=str(dtype).removeprefix("torch."),
            )
    if only in "agreement":
        share = agreement(ours.predict(image), automatic([image])[0])
        print(json.dumps({"case": "mask_rcnn agreement of automatic and fp32", "share": round(share, 3)}), flush=True)


def training(rounds: int) -> None:
    theirs: Any = frozen(peer()).train()
    ours = masklet.load("mask_rcnn", weights=theirs.state_dict()).train()
    theirs.transform.min_size, theirs.transform.max_size = (SIDE,), SIDE
    images = torch.stack([smooth(SIDE, SIDE) for _ in range(2)])
    y, x = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    targets = []
    for _ in images:
        middles, radii = torch.rand(OBJECTS, 2, 1, 1) * SIDE, 20 + 80 * torch.rand(OBJECTS, 1, 1)
        discs = (y - middles[:, 0]) ** 2 + (x - middles[:, 1]) ** 2 < radii**2
        targets.append(Instances.from_masks(Masks.from_dense(discs), torch.randint(0, 90, (OBJECTS,)), ours.classes))
    as_theirs = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.dense().byte()} for t in targets]

    def step(model: nn.Module, losses: Any) -> float:
        model.zero_grad(set_to_none=True)
        total = sum(losses().values())
        total.backward()
        return float(total.detach())

    compare(
        "mask_rcnn training step",
        lambda: step(ours, lambda: ours.loss(images, targets)),
        {"torchvision fp32": lambda: step(theirs, lambda: theirs(list(images), as_theirs))},
        same=lambda a, b: abs(a - b) < 0.2 * b,  # both draw their proposals at random
        rounds=rounds,
        target=0.9,
        shapes=f"2x3x{SIDE}x{SIDE}, {OBJECTS} objects each",
        dtype="float32",
    )


def main() -> None:
    options = threads()
    if options.only in ("", "fp32", "automatic", "agreement"):
        predicting(options.only, options.rounds)
    if options.only in ("", "training"):
        training(options.rounds)


if __name__ == "__main__":
    main()
