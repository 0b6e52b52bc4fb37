"""Why FCN won: one answer for every pixel, from a classifier of 46x46 patches, in three ways that agree.

The classifier has the layers of Farabet et al. 2013 (three 7x7 convolutions, two pools). Sliding cuts a patch around
every pixel and computes again what neighbouring patches share. Shift-and-stitch runs the convolutional form of the
same net once for every shift below its stride; with holes in its filters one run is enough.

python examples/sliding_window.py --size 96
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.parts.dense import atrous, convolutionize, shift_and_stitch

PATCH, STRIDE = 46, 4

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=96, help="side of the picture in pixels")
parser.add_argument("--classes", type=int, default=8)
args = parser.parse_args()

torch.manual_seed(0)
classifier = nn.Sequential(
    *(nn.Conv2d(3, 16, 7), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 7), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 7), nn.ReLU(), nn.Flatten(), nn.Linear(64, args.classes)),
).eval()
picture = torch.rand(1, 3, args.size, args.size)
around = F.pad(picture, (PATCH // 2, PATCH // 2 - 1) * 2, mode="reflect")  # every pixel gets a whole patch


def sliding(picture: Tensor, rows: int = 4) -> Tensor:
    """The classifier on every patch, some rows of pixels at a time."""
    answers = []
    for top in range(0, picture.shape[2] - PATCH + 1, rows):
        patches = F.unfold(picture[:, :, top : top + rows + PATCH - 1], PATCH)  # 1, 3 * 46 * 46, pixels
        answers.append(classifier(patches[0].T.reshape(-1, 3, PATCH, PATCH)))
    return torch.cat(answers).T.reshape(1, args.classes, args.size, args.size)


def timed(way: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    return way(around), time.perf_counter() - started


dense = convolutionize(classifier, PATCH)
holes = atrous(dense)
with torch.inference_mode():
    (slid, slow), (stitched, middle), (once, fast) = map(
        timed, (sliding, lambda x: shift_and_stitch(dense, x, STRIDE), holes)
    )
print(f"{args.size}x{args.size} pixels, {args.classes} classes, patches of {PATCH}")
for name, seconds, scores in (
    ("a patch for every pixel", slow, slid),
    ("shift and stitch", middle, stitched),
    ("once, with holes", fast, once),
):
    difference = (scores - slid).abs().max() / slid.std()
    print(f"{name:<24}{seconds:8.3f} s {slow / seconds:8.1f} x   largest difference {difference:.0e} of the spread")
