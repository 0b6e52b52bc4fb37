from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.inference.evaluate import evaluate, measure
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError
from semantic_toys import Brightness, Toy

CLASSES = Classes(("sky", "road", "car"))


class Pictures:
    """A data set whose truth is what `Brightness` sees, but for a band of wrong labels."""

    def __init__(self, count=3, classes=CLASSES, wrong=0, labelled=True):
        self.count, self.classes, self.wrong, self.labelled = count, classes, wrong, labelled
        self.name, self.split = "made", "val"

    def __len__(self):
        return self.count

    def __iter__(self):
        return map(self.__getitem__, range(self.count))

    def paths(self, index):
        return ()

    def __getitem__(self, index):
        values = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat_interleave(10)
        labels = torch.arange(3, dtype=torch.uint8).repeat_interleave(10).repeat(20 + index // 2, 1)
        labels[: self.wrong] = 2
        labels[-1] = 255
        image = values.repeat(3, 20 + index // 2, 1)
        return Sample(image, f"picture {index}", labels if self.labelled else None, classes=self.classes)


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"flip": True}, {"tile": 32}, {"precision": "bf16"}])
def test_a_perfect_model_scores_one(options):
    scores = evaluate(Brightness(), Pictures(), **options)
    assert scores["miou"] == scores["pixel_accuracy"] == scores["iou/car"] == 1


def test_counts_by_hand():
    score = measure(Brightness(), Pictures(1, wrong=5))
    expected = torch.tensor([[140, 0, 0], [0, 140, 0], [50, 50, 190]])  # 19 rows count; 5 of them are called car
    assert torch.equal(score.confusion, expected)
    scores = score.compute()
    assert scores["iou/car"] == pytest.approx(190 / 290)
    assert scores["pixel_accuracy"] == pytest.approx(470 / 570)
    assert evaluate(Brightness(), Pictures(1, wrong=5)) == scores


def test_progress_and_the_scores_of_each_picture():
    steps, found = [], {}
    evaluate(
        Brightness(),
        Pictures(3, wrong=5),
        batch=2,
        progress=lambda done, total: steps.append((done, total)),
        each=lambda sample, result, scores: found.update({sample.name: (result.size, scores["iou/car"])}),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert found["picture 0"] == ((20, 30), pytest.approx(190 / 290))
    assert list(found) == ["picture 0", "picture 1", "picture 2"]


def test_unscored_classes_count_nowhere_and_are_never_chosen():
    """The truth's `road` is ignored, and what looks like road must be called something else."""
    classes = Classes(CLASSES.names, unscored=(1,))
    score = measure(Brightness(classes), Pictures(1, classes))
    assert score.confusion[:, 1].sum() == score.confusion[1].sum() == 0
    assert score.compute()["miou"] == 1
    assert "iou/road" not in score.compute()
    barred = measure(Brightness(classes), Pictures(1, classes, wrong=5))
    assert barred.confusion[2].sum() == 290  # also the pixels that it would have called road
    assert barred.confusion[2, 1] == 0


def test_samples_in_a_list_and_per_image_mode():
    samples = [Pictures(3, wrong=5)[i] for i in range(3)]
    assert evaluate(Brightness(), samples)["iou/car"] == evaluate(Brightness(), Pictures(3, wrong=5))["iou/car"]
    per_image = evaluate(Brightness(), samples, mode="image")["iou/car"]
    alone = [evaluate(Brightness(), [s])["iou/car"] for s in samples]
    assert per_image == pytest.approx(np.mean(alone))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (Brightness(), Pictures(0), "there is nothing to evaluate; the data set is empty; check path and split"),
        (Brightness(), Pictures(labelled=False), "picture 0 has no label map; evaluate data that has truth"),
        (
            Toy(Classes(("a", "b"))),
            Pictures(),
            "the data has 3 classes (sky, road, car) but the model 2 (a, b); "
            "evaluate a model that was trained for these classes",
        ),
        (
            Brightness(Classes(("sky", "car", "road"))),
            Pictures(),
            "class 1 is 'road' in the data but 'car' in the model; "
            "evaluate a model that was trained for these classes, in this order",
        ),
    ],
)
def test_what_cannot_be_evaluated(model, data, message):
    with pytest.raises(UserError) as error:
        evaluate(model, data)
    assert str(error.value) == message


def test_classes_without_names_fit_any():
    assert evaluate(Brightness(Classes.default(3)), Pictures())["miou"] == 1
