"""Panoptic quality against panopticapi: PNG files, and maps in memory.

python benchmarks/panoptic.py [--threads N] [--rounds N] [--only files|memory] [--panopticapi CHECKOUT] [--images N]

panopticapi is not on PyPI. `--panopticapi` names a checkout of github.com/cocodataset/panopticapi; without one the
peer is its published method as stated here (`Plain`): the same decoding, codes and np.unique, one loop over pairs.
The images are made: 640x480, 15 to 25 segments, the prediction moved by a few pixels with one segment in six wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing import compare, threads  # before torch: it sets how OpenMP waits

# isort: split
import numpy as np
import torch
from PIL import Image

from masklet.data.coco_panoptic import write_coco_panoptic
from masklet.inference.scores.panoptic import score_pq
from masklet.metrics.panoptic import PanopticScore
from masklet.ops.panoptic import overlaps
from masklet.structures import Classes, Panoptic, Segment

CLASSES = Classes(
    tuple(f"class {i}" for i in range(1, 134)), things=tuple(i < 80 for i in range(133)), ids=tuple(range(1, 134))
)
HEIGHT, WIDTH = 480, 640


def picture(rng: np.random.Generator) -> tuple[Panoptic, Panoptic]:
    """Prediction and truth: wavy cells around random centres, with colours as COCO's PNGs have them."""
    n = int(rng.integers(15, 26))
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    y, x = y + 6 * np.sin(x / rng.uniform(5, 30)), x + 6 * np.sin(y / rng.uniform(5, 30))
    nearest, cells = np.full((HEIGHT, WIDTH), np.inf, np.float32), np.zeros((HEIGHT, WIDTH), np.int64)
    for i, (cy, cx, size) in enumerate(rng.uniform((0, 0, 0.5), (HEIGHT, WIDTH, 2.0), (n, 3))):
        distance = ((y - cy) ** 2 + (x - cx) ** 2) / np.float32(size)
        closer = distance < nearest
        nearest[closer], cells[closer] = distance[closer], i
    cells[nearest > np.quantile(nearest, 0.97)] = n  # void
    numbers = np.append(rng.choice(2**24 - 1, n, replace=False) + 1, 0)
    labels = rng.integers(0, len(CLASSES), n)
    wrong = np.where(rng.random(n) < 1 / 6, (labels + 1) % len(CLASSES), labels)
    moved = np.roll(cells, rng.integers(-4, 5, 2), (0, 1))
    return tuple(
        Panoptic(
            torch.from_numpy(numbers[map_]),
            tuple(
                Segment(int(numbers[i]), int(kinds[i]), CLASSES.things[kinds[i]])
                for i in np.setdiff1d(np.unique(map_), n).tolist()
            ),
        )
        for map_, kinds in ((moved, wrong), (cells, labels))
    )  # type: ignore[return-value]


def files(folder: Path, count: int) -> tuple[Path, Path]:
    """`count` pairs on disk; twenty different ones, copied, for drawing takes longer than scoring."""
    rng, paths = np.random.default_rng(0), []
    drawn = [picture(rng) for _ in range(min(20, count))]
    for side, name in enumerate(("pred", "truth")):
        few = write_coco_panoptic(
            folder / f"few_{name}.json", [(i, f"{i}.jpg", pair[side]) for i, pair in enumerate(drawn)], CLASSES
        )
        data = json.loads(few.read_text())
        path = folder / f"{name}.json"
        path.with_suffix("").mkdir()
        annotations = []
        for i in range(count):
            entry = data["annotations"][i % len(drawn)]
            shutil.copyfile(few.with_suffix("") / entry["file_name"], path.with_suffix("") / f"{i}.png")
            annotations.append(entry | {"image_id": i, "file_name": f"{i}.png"})
        path.write_text(json.dumps({"annotations": annotations, "categories": data["categories"]}))
        paths.append(path)
    return paths[0], paths[1]


Counts = Mapping[int, tuple[int, int, int, float]]  # category -> TP, FP, FN, sum of IoU


class Plain:
    """panopticapi's published method in our words: codes of both ids, np.unique, dictionaries, a loop over pairs."""

    name = "panopticapi's method, restated"

    def read(self, path: Path) -> np.ndarray:
        colors = np.array(Image.open(path), dtype=np.uint32)
        return colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]

    def count(self, pred: np.ndarray, truth: np.ndarray) -> tuple[dict[int, int], dict[tuple[int, int], int]]:
        """The areas of the prediction and the intersections."""
        found = dict(zip(*(v.tolist() for v in np.unique(pred, return_counts=True)), strict=True))
        codes, pixels = np.unique(truth.astype(np.uint64) * 2**24 + pred.astype(np.uint64), return_counts=True)
        return found, {(int(c) >> 24, int(c) & 0xFFFFFF): int(n) for c, n in zip(codes, pixels, strict=True)}

    def image(self, pred: np.ndarray, found: list[dict], truth: np.ndarray, true: list[dict], tally: Any) -> None:
        area, shared = self.count(pred, truth)
        preds, truths = {s["id"]: s["category_id"] for s in found}, {s["id"]: s for s in true}
        matched = set()
        for (t, p), n in shared.items():
            if t in truths and p in preds and not truths[t]["iscrowd"] and truths[t]["category_id"] == preds[p]:
                iou = n / (area[p] + truths[t]["area"] - n - shared.get((0, p), 0))
                if iou > 0.5:
                    tally[preds[p]][0] += 1
                    tally[preds[p]][3] += iou
                    matched |= {("t", t), ("p", p)}
        crowds = {s["category_id"]: s["id"] for s in true if s["iscrowd"]}
        for s in true:
            tally[s["category_id"]][2] += not s["iscrowd"] and ("t", s["id"]) not in matched
        for p, category in preds.items():
            excused = shared.get((0, p), 0) + shared.get((crowds.get(category, -1), p), 0)
            tally[category][1] += ("p", p) not in matched and excused / area[p] <= 0.5

    def score(self, pred: Path, truth: Path) -> Counts:
        """Two JSON files."""
        found, true = (json.loads(path.read_text())["annotations"] for path in (pred, truth))
        by_image = {entry["image_id"]: entry for entry in found}
        tally: dict[int, list] = defaultdict(lambda: [0, 0, 0, 0.0])
        for entry in true:
            other = by_image[entry["image_id"]]
            ids = self.read(pred.with_suffix("") / other["file_name"])
            true_ids = self.read(truth.with_suffix("") / entry["file_name"])
            self.image(ids, other["segments_info"], true_ids, entry["segments_info"], tally)
        return {k: tuple(v) for k, v in tally.items() if any(v)}


class Official(Plain):
    """panopticapi itself, on one core."""

    name = "panopticapi"

    def __init__(self, checkout: Path):
        sys.path.insert(0, str(checkout))
        from panopticapi.evaluation import pq_compute_single_core

        self.single_core = pq_compute_single_core

    def score(self, pred: Path, truth: Path) -> Counts:
        found, true = (json.loads(path.read_text()) for path in (pred, truth))
        by_image = {entry["image_id"]: entry for entry in found["annotations"]}
        pairs = [(entry, by_image[entry["image_id"]]) for entry in true["annotations"]]
        categories = {c["id"]: c for c in true["categories"]}
        with contextlib.redirect_stdout(io.StringIO()):
            stat = self.single_core(0, pairs, str(truth.with_suffix("")), str(pred.with_suffix("")), categories)
        return {k: (c.tp, c.fp, c.fn, c.iou) for k, c in stat.pq_per_cat.items() if c.tp + c.fp + c.fn}


def same(score: PanopticScore, counts: Counts) -> bool:
    """Equal counts, and equal sums of IoU but for the order of adding."""
    rows = {CLASSES.ids[CLASSES.names.index(str(row["class"]))]: row for row in score.table()}
    return rows.keys() == counts.keys() and all(
        (row["tp"], row["fp"], row["fn"]) == counts[k][:3]
        and abs(float(row["sq"]) * int(row["tp"]) - counts[k][3]) < 1e-9 * max(1, counts[k][3])
        for k, row in rows.items()
    )


def file_cases(peer: Plain, count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        pred, truth = files(Path(name), count)
        for workers, target in ((1, 0.65), (2, 0.65)):  # with two threads, ms_median / peer_ms_median should be 0.4
            compare(
                f"pq of {count} PNG pairs, decoded in {workers} thread(s)",
                lambda workers=workers: score_pq(pred, truth, threads=workers),
                {peer.name: lambda: peer.score(pred, truth)},
                same=same,
                rounds=rounds,
                target=target,
                shapes=f"{HEIGHT}x{WIDTH}",
                dtype="RGB PNG",
            )


def memory_cases(rounds: int) -> None:
    plain, rng = Plain(), np.random.default_rng(1)
    pairs = [picture(rng) for _ in range(8)]
    maps = [tuple(p.ids.numpy().astype(np.uint32) for p in pair) for pair in pairs]

    def kernel() -> list[dict[tuple[int, int], int]]:
        tables = [overlaps(truth, pred) for pred, truth in maps]
        return [dict(zip(zip(t.tolist(), p.tolist(), strict=True), n.tolist(), strict=True)) for t, p, n in tables]

    compare(
        "intersections of 8 pairs in memory",
        kernel,
        {plain.name: lambda: [plain.count(*pair)[1] for pair in maps]},
        same=lambda a, b: a == b,
        rounds=rounds,
        target=0.35,
        shapes=f"{HEIGHT}x{WIDTH}",
        dtype="uint32",
    )

    def ours() -> PanopticScore:
        score = PanopticScore(CLASSES)
        for (pred, truth), (found, true) in zip(maps, pairs, strict=True):
            score.update_maps(pred, found.segments, truth, true.segments)
        return score

    def theirs() -> Counts:
        tally: dict[int, list] = defaultdict(lambda: [0, 0, 0, 0.0])
        for (pred, truth), described in zip(maps, infos, strict=True):
            plain.image(pred, described[0], truth, described[1], tally)
        return {k: tuple(v) for k, v in tally.items() if any(v)}

    infos = [[segments_info(p) for p in pair] for pair in pairs]
    compare(
        "pq of 8 pairs in memory",
        ours,
        {plain.name: theirs},
        same=same,
        rounds=rounds,
        target=0.35,
        shapes=f"{HEIGHT}x{WIDTH}",
        dtype="uint32",
    )


def segments_info(panoptic: Panoptic) -> list[dict[str, int]]:
    """The JSON's entries, with the areas."""
    pixels = dict(zip(*(v.tolist() for v in np.unique(panoptic.ids.numpy(), return_counts=True)), strict=True))
    return [
        {"id": s.id, "category_id": CLASSES.ids[s.label], "iscrowd": int(s.crowd), "area": pixels[s.id]}
        for s in panoptic.segments
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--panopticapi", type=Path, help="a checkout of github.com/cocodataset/panopticapi")
    parser.add_argument("--images", type=int, default=500)
    mine, others = parser.parse_known_args()
    options = threads(others)
    if options.only in "memory":
        memory_cases(options.rounds)
    if options.only in "files":
        file_cases(Official(mine.panopticapi) if mine.panopticapi else Plain(), mine.images, options.rounds)
