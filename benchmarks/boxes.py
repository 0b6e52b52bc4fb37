"""Overlaps of boxes and mask targets against torchvision and pycocotools.

python benchmarks/boxes.py [--threads N] [--rounds N] [--only overlap|targets]
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torchvision import ops as tv

from masklet.ops import boxes, mask_targets


def random_boxes(n: int) -> Tensor:
    """Boxes of 5 to 155 pixels anywhere in an image of 800 x 800."""
    corner = torch.rand(n, 2) * 800
    return torch.cat([corner, corner + torch.rand(n, 2) * 150 + 5], 1)


def overlap_cases(rounds: int) -> None:
    for name, n, m in (("proposals with themselves", 2000, 2000), ("objects with anchors", 20, 200_000)):
        a, b = random_boxes(n), random_boxes(m)
        for ours, theirs in ((boxes.pairwise_iou, tv.box_iou), (boxes.pairwise_giou, tv.generalized_box_iou)):
            compare(
                f"{ours.__name__}, {name}",
                lambda f=ours, a=a, b=b: f(a, b),
                {"torchvision": lambda f=theirs, a=a, b=b: f(a, b)},
                same=lambda x, y: torch.allclose(x, y, atol=1e-5),
                rounds=rounds,
                shapes=f"{n}x4, {m}x4",
                dtype="float32",
            )


def target_cases(rounds: int) -> None:
    """Polygons of 20 points, drawn at 28 x 28 inside 128 proposals around them."""
    rng, n, size = np.random.default_rng(0), 128, 28
    proposals = random_boxes(n)
    angle = np.sort(rng.uniform(0, 2 * np.pi, (n, 20)), 1)
    reach = rng.uniform(0.5, 1.2, (n, 20, 1)) * np.stack([np.cos(angle), np.sin(angle)], 2)
    low, high = proposals[:, None, :2].double().numpy(), proposals[:, None, 2:].double().numpy()
    polygons = (low + high) / 2 + reach * (high - low) / 2

    def one_by_one() -> np.ndarray:
        masks = []
        for points, box in zip(polygons, proposals.numpy(), strict=True):
            scale = size / np.maximum(box[2:] - box[:2], 0.1).astype(np.float64)
            flat = ((points - box[:2]) * scale).reshape(-1).tolist()
            masks.append(coco.decode(coco.merge(coco.frPyObjects([flat], size, size))))
        return np.stack(masks).astype(bool)

    compare(
        "mask targets from polygons",
        lambda: mask_targets.from_polygons([[p] for p in polygons], proposals, size),
        {"pycocotools, object by object": one_by_one},
        same=lambda a, b: np.array_equal(a.numpy(), b),
        rounds=rounds,
        shapes=f"{n} polygons of 20 points -> {n}x{size}x{size}",
    )


if __name__ == "__main__":
    options = threads()
    torch.manual_seed(0)
    for name, cases in {"overlap": overlap_cases, "targets": target_cases}.items():
        if options.only in name:
            cases(options.rounds)
