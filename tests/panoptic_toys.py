"""Images of segments for tests: written down as runs, drawn at random, and those that panopticapi was recorded on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import oracle
from conftest import shared
from masklet.structures import Classes, Panoptic, Segment

TOY = Classes(("person", "car", "sky", "road"), things=(True, True, False, False))


@dataclass(frozen=True)
class Toy:
    """One image: two id maps with their segments; `image_id` and `file_name` as in the official JSON."""

    pred: np.ndarray
    pred_segments: tuple[Segment, ...]
    truth: np.ndarray
    truth_segments: tuple[Segment, ...]
    image_id: int = 1
    file_name: str = "1.png"

    def maps(self) -> tuple[np.ndarray, tuple[Segment, ...], np.ndarray, tuple[Segment, ...]]:
        """As `PanopticScore.update_maps` takes them."""
        return self.pred, self.pred_segments, self.truth, self.truth_segments

    def pair(self) -> tuple[Panoptic, Panoptic]:
        """As `PanopticScore.update` takes them."""
        return panoptic(self.pred, self.pred_segments), panoptic(self.truth, self.truth_segments)

    def swapped(self) -> Toy:
        """The truth as prediction, and the reverse."""
        return Toy(self.truth, self.truth_segments, self.pred, self.pred_segments, self.image_id, self.file_name)


def panoptic(ids: np.ndarray, segments: Sequence[Segment]) -> Panoptic:
    return Panoptic(torch.from_numpy(ids.astype(np.int64)), tuple(segments))


def segments(labels: Mapping[int, int], classes: Classes = TOY, crowd: Sequence[int] = ()) -> tuple[Segment, ...]:
    return tuple(Segment(i, int(k), classes.things[k], crowd=i in crowd) for i, k in labels.items())


def runs(
    pieces: Sequence[tuple[int, int, int]],
    truth: Mapping[int, int],
    pred: Mapping[int, int],
    crowd: Sequence[int] = (),
) -> Toy:
    """A picture one pixel high from (true id, predicted id, pixels), and the classes of the ids on either side."""
    maps = [np.repeat([p[side] for p in pieces], [p[2] for p in pieces])[None] for side in (1, 0)]
    return Toy(maps[0], segments(pred), maps[1], segments(truth, crowd=crowd))


def random_toy(seed: int, void: bool = True, crowd: bool = True, height: int = 12, width: int = 16) -> Toy:
    """Patches of up to ten segments; the prediction is the truth moved by a pixel or two and with some errors."""
    rng = np.random.default_rng(seed)
    lowest, count = int(not void), int(rng.integers(1, 10))
    truth = np.kron(rng.integers(lowest, count + 1, (height // 4, width // 4)), np.ones((4, 4), np.int64))
    pred = np.roll(truth, rng.integers(-2, 3, 2), (0, 1)) * 300
    for _ in range(rng.integers(0, 4)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pred[y : y + 4, x : x + 6] = rng.integers(lowest, count + 2) * 300
    known = [np.setdiff1d(ids, 0).tolist() for ids in (truth, pred)]
    labels = rng.integers(0, 4, count + 2)
    wrong = rng.random(count + 2) < 0.2
    true = segments({i: int(labels[i]) for i in known[0]})
    if crowd:
        true = tuple(Segment(s.id, s.label, s.thing, crowd=bool(s.thing and rng.random() < 0.3)) for s in true)
    found = segments({i: int((labels[i // 300] + wrong[i // 300]) % 4) for i in known[1]})
    return Toy(pred, found, truth, true)


def made() -> tuple[Classes, list[Toy], dict[str, Any]]:
    """The four images of `pq_made`, from its recipe, and what panopticapi said."""
    folder = shared("oracles", "panoptic_metrics", "pq_made")
    image, toys = oracle.keyfill(folder).image, []
    classes = Classes(
        tuple(f"class {i}" for i in range(1, 9)), things=(True,) * 4 + (False,) * 4, ids=tuple(range(1, 9))
    )
    for i in range(4):
        coarse = image(f"pq_made_{i}", 80, 120, 1)[0], image(f"pq_made_{i}", 80, 120, 2)[1]
        a, b = (np.floor(n * values).clip(0, n - 1).astype(np.int64) for n, values in zip((4, 3), coarse, strict=True))
        truth = 3 * a + b + 1
        pred = np.roll(truth, (1 + i, 2 * i - 1), (0, 1))
        truth[image(f"pq_made_v{i}", 80, 120, 1)[0] > 0.82] = 0
        pred[image(f"pq_made_w{i}", 80, 120, 1)[0] < 0.12] = 0
        if i == 3:
            pred[:] = 0
        true = {int(s): (int(s) + i) % 8 for s in np.setdiff1d(truth, 0)}
        found = {257 * int(p) + 5: (int(p) + i + (p % 5 == 0)) % 8 for p in np.setdiff1d(pred, 0)}
        crowd = [s for s, label in true.items() if s % 7 == i and label < 4]
        pred = np.where(pred > 0, 257 * pred + 5, 0)
        toys.append(Toy(pred, segments(found, classes), truth, segments(true, classes, crowd), i + 1, f"{i + 1}.png"))
    return classes, toys, oracle.meta(folder)["result"]


def coco_sample() -> tuple[Classes, list[Toy], dict[str, Any]]:
    """The two images of panopticapi's sample data with the made prediction of `pq_coco_sample`, and the record."""
    folder, data = shared("oracles", "panoptic_metrics", "pq_coco_sample"), shared("data", "coco_panoptic_sample")
    image, uniform = oracle.keyfill(folder).image, oracle.keyfill(folder).uniform
    official = json.loads((data / "panoptic_examples.json").read_text())
    categories, toys = official["categories"], []
    classes = Classes(
        tuple(c["name"] for c in categories),
        things=tuple(bool(c["isthing"]) for c in categories),
        ids=tuple(c["id"] for c in categories),
    )
    for annotation in official["annotations"]:
        truth = png_ids(data / "panoptic_examples" / annotation["file_name"])
        pred = np.roll(truth, (5, -7), (0, 1))
        pred[image("pq_coco_hole", *truth.shape, 1)[0] > 0.8] = 0
        described = annotation["segments_info"]
        labels = {s["id"]: classes.ids.index(s["category_id"]) for s in described}
        found = {}
        draws = uniform("pq_coco" + str(annotation["image_id"]), (len(described),))
        for number, draw in zip(labels, draws, strict=True):
            if draw < -0.7:
                pred[pred == number] = 0
            elif (pred == number).any():
                found[number] = (labels[number] + (draw > 0.75)) % len(classes)
        crowd = [s["id"] for s in described if s["iscrowd"]]
        true = segments(labels, classes, crowd)
        toys.append(Toy(pred, segments(found, classes), truth, true, annotation["image_id"], annotation["file_name"]))
    return classes, toys, oracle.meta(folder)


def png_ids(path: Path) -> np.ndarray:
    """R + 256 G + 65536 B, in plain numpy."""
    return np.array(Image.open(path)).astype(np.int64) @ [1, 256, 65536]
