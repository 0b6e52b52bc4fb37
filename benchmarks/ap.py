"""COCO's AP against pycocotools and faster-coco-eval: a made data set of COCO's size, from loaded JSON to the summary.

python benchmarks/ap.py [--images N] [--only box|mask|memory] [--without pycocotools]

One round, as pycocotools alone takes minutes: ratios within 20 %. Each tool gets its own copy of the lists of dicts.
"read" is what a tool does with them first (COCO, loadRes; ours: parse), "score" evaluate, accumulate and summarize.
Peak memory is what both add to the resident set on top of these lists. "memory" updates image by image, with 100
found objects each, and computes: what 10,000 images need more than 1,000.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import time
from collections.abc import Callable
from typing import Any

from timing import _added_memory  # first: it sets how OpenMP waits

# isort: split
import numpy as np

from masklet.data.coco import parse_results, parse_truth
from masklet.inference.scores.detection import score_tables
from masklet.metrics.ap import AveragePrecision
from masklet.ops import rle, runs
from masklet.structures.objects import Objects

HEIGHT, WIDTH, CLASSES, DETECTIONS = 480, 640, 80, 100
TARGETS = {("box", "pycocotools"): 1 / 20, ("mask", "pycocotools"): 1 / 10}  # a quarter of the others


def boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """x y width height, of COCO's sizes: a third below 32 pixels, a few as large as the image."""
    size = np.exp(rng.normal(np.log(55), 0.95, n))
    shape = np.exp(rng.normal(0, 0.3, n))
    wh = np.stack([size * shape, size / shape], 1).clip(6, [WIDTH - 2, HEIGHT - 2])
    return np.concatenate([rng.random((n, 2)) * ([WIDTH, HEIGHT] - wh), wh], 1)


def outlines(rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    """A wavy ring of 24 points inside each box, as flat lists."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 0.43 + 0.07 * np.sin(rng.integers(2, 6, (len(table), 1)) * angle + rng.uniform(0, 6, (len(table), 1)))
    ring = 0.5 + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return (table[:, None, :2] + ring * table[:, None, 2:]).round(2).reshape(len(table), -1)


def made(images: int, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth with 7.2 objects an image, one in a hundred a crowd, and 100 detections, a quarter of them near one."""
    rng = np.random.default_rng(0)
    n = int(7.2 * images)
    owner, table = np.sort(rng.integers(0, images, n)), boxes(rng, n)
    labels = np.minimum(rng.zipf(1.3, n) - 1, 10**6) % CLASSES
    crowd = rng.random(n) < 0.01
    near = np.repeat(np.arange(n), 4)
    near = near[np.argsort(owner[near], kind="stable")]
    count = np.bincount(owner[near], minlength=images)
    place = np.arange(len(near)) - np.repeat(np.cumsum(count) - count, count)
    near = near[place < DETECTIONS]
    missing = DETECTIONS - np.bincount(owner[near], minlength=images)
    noise = np.concatenate([table[near, 2:], table[near, 2:]], 1) * rng.normal(0, 0.08, (len(near), 4))
    moved = table[near] + noise
    moved[:, :2] = moved[:, :2].clip(0, [WIDTH - 6, HEIGHT - 6])
    moved[:, 2:] = moved[:, 2:].clip(5, [WIDTH, HEIGHT] - moved[:, :2])
    far_labels = np.minimum(rng.zipf(1.3, missing.sum()) - 1, 10**6) % CLASSES
    image = np.concatenate([owner[near], np.repeat(np.arange(images), missing)])
    found = np.concatenate([moved, boxes(rng, int(missing.sum()))])
    found_labels = np.concatenate([labels[near], far_labels])
    scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 4, len(far_labels))]).round(3)
    order = np.argsort(image, kind="stable")
    image, found, found_labels, scores = image[order], found[order].round(2), found_labels[order], scores[order]
    table = table.round(2)
    truth = {
        "info": {},
        "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(CLASSES)],
        "annotations": [
            {"id": k + 1, "image_id": i + 1, "category_id": c + 1, "bbox": b, "area": b[2] * b[3] * 0.6, "iscrowd": w}
            for k, (i, c, b, w) in enumerate(
                zip(owner.tolist(), labels.tolist(), table.tolist(), crowd.astype(int).tolist(), strict=True)
            )
        ],
    }
    results = [
        {"image_id": i + 1, "category_id": c + 1, "score": s}
        for i, c, s in zip(image.tolist(), found_labels.tolist(), scores.tolist(), strict=True)
    ]
    if kind == "box":
        for result, box in zip(results, found.tolist(), strict=True):
            result["bbox"] = box
        return truth, results
    for item, ring in zip(truth["annotations"], outlines(rng, table).tolist(), strict=True):
        item["segmentation"] = [ring]
        if item["iscrowd"]:
            mask = runs.from_polygons([[ring]], np.array([HEIGHT]), np.array([WIDTH]))[0]
            item["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": mask.counts.tolist()}
    for low in range(0, len(results), 5000):
        rings = outlines(rng, found[low : low + 5000]).tolist()
        drawn = runs.from_polygons([[r] for r in rings], np.full(len(rings), HEIGHT), np.full(len(rings), WIDTH))
        texts = rle.to_strings([drawn[k] for k in range(len(drawn))])
        for result, text in zip(results[low : low + 5000], texts, strict=True):
            result["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": text}
    return truth, results


def masklet(kind: str, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, np.ndarray]:
    """When the reading was done, and the twelve numbers."""
    known = parse_truth(truth, kind)
    found = parse_results(results, known, kind)
    read = time.process_time()
    return read, np.nan_to_num([s.value for s in score_tables(found, known, kind)._scores()], nan=-1)


def official(package: str) -> Callable[..., tuple[float, np.ndarray]]:
    """The same with one of the packages whose interface is that of pycocotools."""
    if package == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval

    def run(kind: str, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, np.ndarray]:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = truth
            coco.createIndex()
            found = coco.loadRes(results)
            read = time.process_time()
            score = COCOeval(coco, found, {"box": "bbox", "mask": "segm"}[kind])
            score.evaluate()
            score.accumulate()
            score.summarize()
        return read, np.array(score.stats[:12])

    return run


def streamed(images: int) -> None:
    """An evaluation loop with boxes, one update for each image, and its scores."""
    score, rng = AveragePrecision(CLASSES), np.random.default_rng(0)
    for i in range(images):
        true = boxes(rng, 7)
        found = np.concatenate([np.repeat(true, 4, 0) + rng.normal(0, 2, (28, 4)), boxes(rng, DETECTIONS - 28)])
        tables = []
        for table, scores in ((found, rng.random(DETECTIONS, np.float32)), (true, None)):
            corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:].clip(1)], 1)
            labels = rng.integers(0, 5, len(table))
            tables.append(Objects.of_image(labels, boxes=corners, scores=scores))
        score.update(*tables, image=i)
    score.compute()


def measured(
    call: Callable[..., tuple[float, np.ndarray]], kind: str, truth: dict[str, Any], results: list[dict[str, Any]]
) -> tuple[dict[str, float], np.ndarray]:
    """CPU seconds and added memory of one call, and its twelve numbers."""
    times: list[float] = []
    numbers = []

    def once() -> None:
        times.append(time.process_time())
        read, found = call(kind, truth, results)
        times.extend([read, time.process_time()])
        numbers.append(found)

    memory = _added_memory(once)
    start, read, end = times
    line = {"cpu_s": end - start, "read_cpu_s": read - start, "score_cpu_s": end - read}
    return {k: round(v, 3) for k, v in line.items()} | {"peak_rss_mb": memory or float("nan")}, numbers[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--only", default="", choices=("", "box", "mask", "memory"))
    parser.add_argument("--without", default="", help="a peer to leave out")
    options = parser.parse_args()
    names = [n for n in ("masklet", "faster-coco-eval", "pycocotools") if n != options.without]
    if options.only in ("", "memory"):  # first: a process full of lists would count its own pages as well
        needed = {n: _added_memory(lambda n=n: streamed(n)) or float("nan") for n in (1000, 10_000)}
        print(
            json.dumps(
                {
                    "case": "memory of 10,000 images over 1,000",
                    "mb": needed,
                    "grows_mb": round(needed[10_000] - needed[1000], 1),
                }
            ),
            flush=True,
        )
    for kind in ("box", "mask"):
        if options.only not in ("", kind):
            continue
        truth, results = made(options.images, kind)
        lines: dict[str, dict[str, float]] = {}
        numbers: dict[str, np.ndarray] = {}
        for name in names:
            call = masklet if name == "masklet" else official(name)
            mine = copy.deepcopy((truth, results)) if name != names[-1] else (truth, results)
            lines[name], numbers[name] = measured(call, kind, *mine)
            del mine
        ours = lines["masklet"]
        for name in names[1:]:
            if not np.allclose(numbers["masklet"], numbers[name], rtol=0, atol=1e-12):
                raise AssertionError(f"masklet and {name} differ: {numbers['masklet']} and {numbers[name]}")
            peer = lines[name]
            line = {
                "case": f"{kind} AP",
                "peer": name,
                "target": TARGETS.get((kind, name), 0.25),
                **{
                    f"{key.removesuffix('cpu_s')}ratio": round(ours[key] / peer[key], 4) for key in ours if "cpu" in key
                },
                "memory_ratio": round(ours["peak_rss_mb"] / peer["peak_rss_mb"], 3),
                **ours,
                **{f"peer_{key}": value for key, value in peer.items()},
                "shapes": f"{options.images} images, {len(truth['annotations'])} truths, {len(results)} detections",
                "rounds": 1,
                "threads": 1,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
