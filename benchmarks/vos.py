"""J&F and Boundary IoU of a frame against the methods of davis2017-evaluation and boundary-iou-api.

python benchmarks/vos.py [--threads N] [--rounds N] [--only jf|boundary] [--davis CHECKOUT]

davis2017-evaluation is not on PyPI. `--davis` names a checkout of github.com/davisvideochallenge/davis2017-evaluation;
without one the peer is its published method as stated here (`plain_jf`): for each object two full-frame boundary maps,
two dilations by a disk with OpenCV, counts. Both sides start from two maps of object ids in memory. OpenCV has as many
threads as torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from timing import compare, threads  # before torch: it sets how OpenMP waits

# isort: split
import cv2
import numpy as np
from scipy import ndimage

from masklet.metrics.boundary import BoundaryIoU
from masklet.metrics.region_contour import compare as score_frame

Scores = np.ndarray


def blobs(height: int, width: int, objects: int, shift: int = 0) -> np.ndarray:
    """Ids of wavy discs side by side, a sixth to a third of the height in radius, moved by `shift` pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out = np.zeros((height, width), np.uint8)
    for k in range(objects):
        cy, cx = rng.uniform(0.3, 0.7) * height + shift, (k + 0.5) / objects * width + shift
        a, b = rng.uniform(height / 6, height / 3, 2) * min(1, 3 / objects)
        edge = 1 + 0.2 * np.sin(6 * np.arctan2(y - cy, x - cx) + shift / 3)
        out[((y - cy) / b) ** 2 + ((x - cx) / a) ** 2 < edge] = k + 1
    return out


def scattered(height: int, width: int, objects: int, shift: int = 0) -> np.ndarray:
    """Ids of regions that fill the whole frame and are ragged: the worst case for crops and for runs."""
    noise = np.random.default_rng(0).normal(size=(objects + 1, height, width))
    return np.roll(ndimage.gaussian_filter(noise, (0, 6, 6)).argmax(0).astype(np.uint8), shift, 1)


def outline(mask: np.ndarray) -> np.ndarray:
    """seg2bmap, from its definition."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    out = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    out[-1] = mask[-1] ^ right[-1]
    out[:, -1] = mask[:, -1] ^ below[:, -1]
    out[-1, -1] = False
    return out


def plain_jf(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of one object in a frame as davis2017-evaluation computes them."""
    union = (pred | truth).sum()
    j = (pred & truth).sum() / union if union else 1.0
    radius = int(np.ceil(0.008 * np.linalg.norm(pred.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    edges = outline(pred), outline(truth)
    grown = [cv2.dilate(edge.astype(np.uint8), disk) for edge in edges]
    lengths = [edge.sum() for edge in edges]
    if not all(lengths):
        return j, float(lengths[0] == lengths[1])
    precision, recall = ((edges[i] * grown[1 - i]).sum() / lengths[i] for i in (0, 1))
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_boundary_iou(pred: np.ndarray, truth: np.ndarray) -> float:
    """Boundary IoU of one mask as boundary-iou-api computes it."""
    depth = max(1, round(0.02 * float(np.linalg.norm(pred.shape))))

    def ring(mask: np.ndarray) -> np.ndarray:
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=depth)
        return (mask - eroded[1:-1, 1:-1]) > 0

    p, t = ring(pred.astype(np.uint8)), ring(truth.astype(np.uint8))
    return float((p & t).sum() / (p | t).sum())


def jf_cases(rounds: int, of_object: Callable[[np.ndarray, np.ndarray], tuple[float, float]], peer: str) -> None:
    cases = [
        ("3 objects", blobs, 480, 854, 3, 0.2),
        ("1 object", blobs, 480, 854, 1, None),
        ("10 objects", blobs, 480, 854, 10, None),
        ("3 ragged objects that fill the frame", scattered, 480, 854, 3, None),
        ("3 objects", blobs, 1080, 1920, 3, None),
    ]
    for name, make, height, width, objects, target in cases:
        pred, truth = make(height, width, objects, 4), make(height, width, objects)

        def ours(pred: np.ndarray = pred, truth: np.ndarray = truth) -> Scores:
            frame = score_frame(pred, truth)
            return np.stack([frame.j, frame.f])

        def theirs(pred: np.ndarray = pred, truth: np.ndarray = truth, objects: int = objects) -> Scores:
            return np.array([of_object(pred == k, truth == k) for k in range(1, objects + 1)]).T

        compare(
            f"J&F of a frame, {name}",
            ours,
            {peer: theirs},
            same=np.array_equal,
            rounds=rounds,
            target=target,
            shapes=f"{height}x{width}",
            dtype="uint8",
        )


def matched_case(rounds: int, of_object: Callable[[np.ndarray, np.ndarray], tuple[float, float]], peer: str) -> None:
    pred, truth = blobs(480, 854, 20, 4), blobs(480, 854, 3)

    def ours() -> Scores:
        frame = score_frame(pred, truth, matched=True)
        return np.stack([frame.j, frame.f])

    def theirs() -> Scores:
        pairs = [[of_object(pred == p, truth == t) for t in range(1, 4)] for p in range(1, 21)]
        return np.moveaxis(np.array(pairs), 2, 0)

    compare(
        "J&F of all pairs of a frame, 20 proposals and 3 objects",
        ours,
        {peer: theirs},
        same=np.array_equal,
        rounds=rounds,
        shapes="480x854",
        dtype="uint8",
    )


def boundary_cases(rounds: int) -> None:
    for height, width in ((480, 854), (1024, 2048)):
        pred, truth = blobs(height, width, 3, 4), blobs(height, width, 3)

        def ours(pred: np.ndarray = pred, truth: np.ndarray = truth) -> Scores:
            metric = BoundaryIoU()
            metric.update(pred, truth)
            return np.array([row["boundary_iou"] for row in metric.table()])

        def theirs(pred: np.ndarray = pred, truth: np.ndarray = truth) -> Scores:
            return np.array([plain_boundary_iou(pred == k, truth == k) for k in (1, 2, 3)])

        compare(
            "Boundary IoU of an image, 3 masks",
            ours,
            {"method of boundary-iou-api": theirs},
            same=np.array_equal,
            rounds=rounds,
            shapes=f"{height}x{width}",
            dtype="uint8",
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--davis", help="checkout of davis2017-evaluation")
    own, rest = parser.parse_known_args()
    options = threads(rest)
    cv2.setNumThreads(options.threads)
    of_object, peer = plain_jf, "method of davis2017-evaluation"
    if own.davis:
        sys.path.insert(0, own.davis)
        from davis2017.metrics import db_eval_boundary, db_eval_iou

        def official(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
            return float(db_eval_iou(truth, pred)), float(db_eval_boundary(truth, pred))

        of_object, peer = official, "davis2017-evaluation"
    if options.only in "jf":
        jf_cases(options.rounds, of_object, peer)
        matched_case(options.rounds, of_object, peer)
    if options.only in "boundary":
        boundary_cases(options.rounds)
