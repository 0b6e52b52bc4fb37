from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coco_sets import verdict
from masklet.inference.evaluate import evaluate
from masklet.inference.evaluate_objects import measure_objects
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError

CLASSES = Classes(("disc", "box"), keypoints=tuple(f"p{i}" for i in range(17)))
SIZE = (60, 80)


def truth(rng: np.random.Generator, points: bool) -> Instances:
    """Ellipses, some of them crowds."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    count = int(rng.integers(1, 7))
    places = rng.uniform((8, 8, 4, 4), (52, 72, 20, 20), (count, 4))
    masks = np.stack([((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1 for cy, cx, a, b in places])
    found = Instances.from_masks(Masks.from_dense(masks), torch.from_numpy(rng.integers(0, 2, count)), CLASSES)
    keypoints = None
    if points:
        keypoints = torch.from_numpy(rng.uniform(0, 60, (count, 17, 3)).astype(np.float32))
        keypoints[..., 2] = torch.from_numpy(rng.integers(0, 3, (count, 17)))
    return replace(found, crowd=torch.from_numpy(rng.random(count) < 0.2), keypoints=keypoints)


def guess(rng: np.random.Generator, real: Instances) -> Instances:
    """What a fair model might say of it."""
    keep = torch.from_numpy(rng.random(len(real)) < 0.8).nonzero()[:, 0].repeat(2)
    masks = real.masks[keep].dense().roll(tuple(rng.integers(-2, 3, 2).tolist()), (1, 2))
    scores = torch.from_numpy(rng.random(len(keep)).round(3).astype(np.float32))
    labels = torch.where(torch.rand(len(keep)) < 0.8, real.labels[keep], 1 - real.labels[keep])
    found = Instances.from_masks(Masks.from_dense(masks), labels, CLASSES, scores)
    points = real.keypoints
    if points is not None:
        points = points[keep] + torch.randn(len(keep), 17, 3)
    return replace(found, keypoints=points)


class Guesses(torch.nn.Module):
    """A model that says what it was told, picture by picture."""

    classes = CLASSES

    def __init__(self, answers: list[Instances], **options):
        super().__init__()
        self.answers, self.spec = iter(answers), {"model": "guesses", "options": options}

    def predict(self, image):
        return next(self.answers)


def official(data: list[Sample], answers: list[Instances], kind: str):
    """What pycocotools says."""
    images, annotations, results = [], [], []
    for number, (sample, answer) in enumerate(zip(data, answers, strict=True), 1):
        images.append({"id": number, "height": SIZE[0], "width": SIZE[1]})
        for found, items in ((sample.instances, annotations), (answer, results)):
            rles, areas = found.masks.rle(), found.masks.areas().tolist()
            for i, (x0, y0, x1, y1) in enumerate(found.boxes.tolist()):
                item = {"image_id": number, "category_id": int(found.labels[i]) + 1, "area": areas[i]}
                if kind != "keypoints" or items is annotations:
                    item |= {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if kind == "mask" or items is annotations:
                    item |= {"segmentation": rles[i]}
                if found.keypoints is not None and (kind == "keypoints" or items is annotations):
                    visible = (found.keypoints[i, :, 2] > 0).sum().item()
                    item |= {"keypoints": found.keypoints[i].flatten().tolist(), "num_keypoints": visible}
                if items is annotations:
                    item |= {"id": len(items) + 1, "iscrowd": int(found.crowd[i])}
                else:
                    item |= {"score": float(found.scores[i])}
                items.append(item)
    names = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES.names)]
    said = {"images": images, "annotations": annotations, "categories": names}
    return verdict(said, results, kind, (20,) if kind == "keypoints" else (1, 10, 100))[0].stats


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    data = [Sample(torch.zeros(3, *SIZE), f"{i}.png", instances=truth(rng, True), classes=CLASSES) for i in range(6)]
    answers = [guess(rng, sample.instances) for sample in data]
    scores = evaluate(Guesses(answers), data)
    for kind, prefix in (("mask", ""), ("box", "box_"), ("keypoints", "keypoint_")):
        stats = official(data, answers, kind)
        assert scores[f"{prefix}ap"] == pytest.approx(stats[0], abs=1e-12), kind
        assert scores[f"{prefix}ap50"] == pytest.approx(stats[1], abs=1e-12), kind
        assert scores[f"{prefix}ap75"] == pytest.approx(stats[2], abs=1e-12), kind
    assert {"ap/disc", "ap/box"} <= set(scores)
    worse = [replace(a, masks=Masks.from_dense(a.masks.dense().roll(5, 2))) for a in answers]
    assert evaluate(Guesses(worse), data)["ap"] < scores["ap"] - 0.1


def test_as_many_objects_count_as_the_model_gives():
    """COCO's tools look at 100 of a class: 150 dots that are all found have a recall of two thirds."""
    ids = torch.zeros(60, 80, dtype=torch.int64)
    ids[::4, ::4] = torch.arange(1, 301).view(15, 20)
    masks, _ = Masks.from_ids(ids)
    real = Instances.from_masks(masks[slice(150)], torch.zeros(150, dtype=torch.int64), CLASSES)
    data = [Sample(torch.zeros(3, *SIZE), "dots", instances=real, classes=CLASSES)]
    assert evaluate(Guesses([real], max_objects=400), data)["ar@400"] == 1
    assert evaluate(Guesses([real]), data)["ar@100"] == pytest.approx(2 / 3)
    assert evaluate(Guesses([real], max_objects=400), data, max_dets=100)["ar@100"] == pytest.approx(2 / 3)


def test_boxes_alone_are_enough():
    real = truth(np.random.default_rng(0), False)
    data = [Sample(torch.zeros(3, *SIZE), "a", instances=real, classes=CLASSES)]
    scores = evaluate(Guesses([replace(real, masks=None)]), data)
    assert scores["ap"] == scores["box_ap"] == 1
    score = measure_objects(Guesses([real]), data)
    assert score.table()[0]["class"] == "disc"
    assert "Average Precision" in score.summary()
    assert score.curves()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "there is nothing to evaluate; the data set is empty; check path and split"),
        ([Sample(torch.zeros(3, *SIZE), "a")], {}, "a has no objects; evaluate data that has truth"),
        (
            [Sample(torch.zeros(3, *SIZE), "a")],
            {"mode": "image"},
            "mode and absent are for one class per pixel; this model finds objects; leave them out",
        ),
    ],
)
def test_mistakes(data, options, message):
    with pytest.raises(UserError) as error:
        evaluate(Guesses([]), data, **options)
    assert str(error.value) == message
