"""Painting masks over a photograph against supervision and torchvision.

python benchmarks/overlay.py [--threads N] [--rounds N]
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import cv2
import numpy as np
import supervision
import torch
from torchvision.utils import draw_segmentation_masks

from masklet.structures import Masks
from masklet.viz.overlay import layer_of, overlay

HEIGHT, WIDTH, COUNT = 1080, 1920, 20


def discs() -> np.ndarray:
    """Twenty discs of 60 to 260 pixels radius, some over others."""
    rng, (y, x) = np.random.default_rng(0), np.ogrid[:HEIGHT, :WIDTH]
    centres, radii = rng.uniform(0, (HEIGHT, WIDTH), (COUNT, 2)), rng.uniform(60, 260, COUNT)
    return np.stack([(y - cy) ** 2 + (x - cx) ** 2 < r * r for (cy, cx), r in zip(centres, radii, strict=True)])


def main() -> None:
    options = threads()
    cv2.setNumThreads(options.threads)
    photo = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    dense = discs()
    compact, tensor = Masks.from_dense(dense), torch.from_numpy(dense)
    channels_first = torch.from_numpy(photo).permute(2, 0, 1).contiguous()
    colors = [tuple(map(int, layer_of(compact).colors[1 + i])) for i in range(COUNT)]
    palette = supervision.ColorPalette([supervision.Color(*color[::-1]) for color in colors])  # it paints blue first
    annotator = supervision.MaskAnnotator(palette, 0.5, supervision.ColorLookup.INDEX)
    found = supervision.Detections(xyxy=compact.boxes().numpy(), mask=dense, class_id=np.arange(COUNT))
    peers = {
        "supervision MaskAnnotator": lambda: annotator.annotate(photo.copy(), found),
        "torchvision draw_segmentation_masks": lambda: draw_segmentation_masks(channels_first, tensor, 0.5, colors),
    }

    def alike(ours: np.ndarray, theirs: np.ndarray | torch.Tensor) -> bool:
        """The same colours but for rounding; torchvision, which mixes where masks overlap, is compared outside."""
        single = dense.sum(0) < 2
        other = theirs.permute(1, 2, 0).numpy() if isinstance(theirs, torch.Tensor) else theirs
        where = single if isinstance(theirs, torch.Tensor) else np.ones_like(single)
        return int(np.abs(ours.astype(int) - other)[where].max()) <= 1

    facts = {"rounds": options.rounds, "target": 0.1, "shapes": f"{COUNT}x{HEIGHT}x{WIDTH}", "dtype": "uint8"}
    compare("overlay", lambda: overlay(photo, compact, contours=False), peers, same=alike, **facts)
    compare("overlay of dense masks", lambda: overlay(photo, dense, contours=False), peers, same=alike, **facts)
    compare("overlay with contours", lambda: overlay(photo, compact), peers, **facts)


if __name__ == "__main__":
    main()
