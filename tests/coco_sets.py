"""Small random truth and results in the format of COCO, with crowds and ties, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HEIGHT, WIDTH = 90, 130
OFFICIAL = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}


def ellipse(box: list[float]) -> dict[str, Any]:
    x, y, w, h = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 < 1
    found = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def made(rng: np.random.Generator, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One to five images, up to three classes; a fifth crowds, many equal scores and equal boxes, some images empty."""
    images, classes = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in rng.permutation(images).tolist():
        here = []
        for _ in range(rng.integers(0, 7) if rng.random() < 0.85 else 0):
            wh = np.minimum(rng.uniform(0.6, 1.3, 2) * rng.choice([12, 30, 60, 100]), [WIDTH, HEIGHT])
            xy = rng.uniform(0, 1, 2) * (np.array([WIDTH, HEIGHT]) - wh)
            box, label = np.round([*xy, *wh], int(rng.integers(0, 3))).tolist(), int(rng.integers(classes))
            here.append((box, label))
            area = round(box[2] * box[3] * rng.uniform(0.6, 1), 1)
            crowd = int(rng.random() < 0.2)
            annotations.append(
                {"image_id": image * 3 + 1, "category_id": label * 7 + 2, "bbox": box, "area": area, "iscrowd": crowd}
            )
        for _ in range(rng.integers(0, 25) if rng.random() < 0.85 else 0):
            label = int(rng.integers(classes))
            if here and rng.random() < 0.7:
                near, same = here[rng.integers(len(here))]
                box = (np.array(near) + rng.normal(0, rng.choice([0, 1, 4]), 4)).clip([0, 0, 1, 1])
                label = label if rng.random() < 0.15 else same
            else:
                box = rng.uniform([0, 0, 5, 5], [WIDTH - 10, HEIGHT - 10, 60, 60])
            score = round(float(rng.random()), int(rng.choice([1, 3])))
            result = {
                "image_id": image * 3 + 1,
                "category_id": label * 7 + 2,
                "bbox": box.round(1).tolist(),
                "score": score,
            }
            results.append(result)
    for i, item in enumerate(annotations):
        item["id"] = i + 1
    joints = np.random.default_rng(3).uniform(0, 1, (17, 2))
    for item in (*annotations, *results):
        if kind == "mask":
            item["segmentation"] = ellipse(item["bbox"])
        if kind == "keypoints":
            box, seen = np.array(item["bbox"]), (rng.random((17, 1)) < 0.6) * 2 * (rng.random() < 0.8)
            points = (box[:2] + joints * box[2:] + rng.normal(0, 0.7, (17, 2))).round(1)
            item["keypoints"] = np.concatenate([points, seen], 1).reshape(-1).tolist()
    for item in annotations:
        if kind == "keypoints":
            item["num_keypoints"] = sum(v > 0 for v in item["keypoints"][2::3])
    for item in results if kind != "box" else ():
        del item["bbox"]  # pycocotools would take areas from it
    categories = [{"id": c * 7 + 2, "name": f"class {c}"} for c in range(classes)]
    pictures = [{"id": i * 3 + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)]
    return {"images": pictures, "categories": categories, "annotations": annotations}, results


def verdict(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str, max_dets: tuple[int, ...], use_classes: bool = True
) -> tuple[COCOeval, str]:
    """What pycocotools counts, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy({"info": {}, **truth})
        coco.createIndex()
        score = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), OFFICIAL[kind])
        score.params.useCats, score.params.maxDets = int(use_classes), list(max_dets)
        score.evaluate()
        score.accumulate()
    printed = io.StringIO()
    if len(max_dets) == 3 or kind == "keypoints":
        with contextlib.redirect_stdout(printed):
            score.summarize()
    return score, printed.getvalue()


def federated(seed: int, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Such a set as LVIS has them: frequencies, classes known to be absent, classes that are not listed completely."""
    rng = np.random.default_rng(seed)
    truth, results = made(rng, kind)
    labels = [category["id"] for category in truth["categories"]]
    for category in truth["categories"]:
        category["frequency"] = "rcf"[int(rng.integers(3))]
    for image in truth["images"]:
        have = {item["category_id"] for item in truth["annotations"] if item["image_id"] == image["id"]}
        image["neg_category_ids"] = [c for c in labels if c not in have and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in labels if c in have and rng.random() < 0.3]
    for item in truth["annotations"]:
        del item["iscrowd"]
    return truth, results
