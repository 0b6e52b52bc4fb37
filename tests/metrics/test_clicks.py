"""Number of clicks and mean IoU over clicks, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklet.metrics.clicks import ClickScore
from masklet.structures import UserError


def of(*objects, **settings):
    score = ClickScore(**settings)
    for ious in objects:
        score.update(ious)
    return score


def test_two_objects_by_hand():
    found = of([0.5, 0.86, 0.8, 0.95], [0.7], clicks=5).compute()
    assert found == pytest.approx(
        {
            "iou@1": 0.6,
            "iou@2": 0.78,
            "iou@3": 0.75,
            "iou@4": 0.825,
            "iou@5": 0.825,  # the last IoU stays
            "noc85": (2 + 5) / 2,  # the second object never gets there
            "noc90": (4 + 5) / 2,
            "failures85": 1,
            "failures90": 1,
        }
    )


def test_reaching_the_target_with_the_last_click_is_a_failure_too():
    """As in RITM's tables, whose column is called ">=20@90%"."""
    found = of([0.1] * 19 + [0.95]).compute()
    assert (found["noc90"], found["failures90"]) == (20, 1)
    assert of([0.1] * 18 + [0.9]).compute()["failures90"] == 0


def test_the_mean_is_over_data_sets_not_objects():
    score = ClickScore(clicks=2)
    for _ in range(3):
        score.update([1.0], dataset="a")
    score.update([0.0, 0.5], dataset="b")
    found = score.compute()
    assert found["iou@1"] == 0.5
    assert found["iou@2"] == 0.75
    assert found["noc90"] == 1.5
    assert [row["objects"] for row in score.table()] == [3, 1]
    assert score.table()[1] == {
        "data set": "b",
        "objects": 1,
        "noc85": 2,
        "failures85": 1,
        "noc90": 2,
        "failures90": 1,
        "iou@1": 0,
        "iou@2": 0.5,
    }
    assert score.summary().splitlines() == [
        "data set  objects  NoC@85%  NoC@90%  >=2@85%  >=2@90%  mIoU@1",
        "a               3     1.00     1.00        0        0  100.00",
        "b               1     2.00     2.00        1        1    0.00",
    ]
    curve = score.curves()[1]
    assert (curve.name, curve.x.tolist(), curve.y.tolist()) == ("b", [1, 2], [0, 0.5])


LISTS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=12)


@given(LISTS, st.randoms(use_true_random=False))
def test_parts_merge_into_the_whole_in_any_order(objects, random):
    named = [(ious, random.choice("ab")) for ious in objects]
    whole, parts = ClickScore(clicks=6), [ClickScore(clicks=6) for _ in range(3)]
    for ious, name in named:
        whole.update(ious, dataset=name)
    for ious, name in random.sample(named, len(named)):
        random.choice(parts).update(ious, dataset=name)
    merged = ClickScore(clicks=6)
    for part in parts:
        merged.merge(part)
    assert merged.compute() == whole.compute()  # to the last bit
    assert merged.objects == whole.objects == len(objects)


@given(LISTS)
def test_scores_stay_in_range_and_better_masks_never_need_more_clicks(objects):
    found, better = of(*objects, clicks=6).compute(), of(*(np.sqrt(x) for x in objects), clicks=6).compute()
    assert all(0 <= v <= 1 for k, v in found.items() if k.startswith("iou"))
    assert 1 <= found["noc85"] <= found["noc90"] <= 6
    assert better["noc90"] <= found["noc90"]
    assert found["failures85"] <= found["failures90"] <= len(objects)
    plain = np.array([[*x, *([x[-1]] * (6 - len(x)))] for x in objects])
    assert [found[f"iou@{i}"] for i in range(1, 7)] == pytest.approx(plain.mean(0).tolist(), abs=1e-12)


def test_nothing_scored_has_no_scores():
    assert ClickScore().compute() == {}
    assert ClickScore().table() == ClickScore().curves() == []


def test_other_targets_and_tensors():
    assert of(torch.tensor([0.875]), targets=(0.875,)).compute()["noc87.5"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update([]), "an object has 0 IoUs; give 1 to 20, one per click"),
        (lambda s: s.update([0.5] * 21), "an object has 21 IoUs; give 1 to 20, one per click"),
        (lambda s: s.update([0.5, 85]), "85 is not an IoU; give fractions between 0 and 1"),
        (lambda s: s.update([float("nan")]), "nan is not an IoU; give fractions between 0 and 1"),
        (lambda _: ClickScore(0), "clicks is 0; count at least one"),
        (lambda _: ClickScore(targets=(85,)), "target 85 is not an IoU; give fractions, 0.9 for 90 %"),
        (
            lambda s: s.merge(ClickScore(5)),
            "cannot merge scores of different settings: (20, (0.85, 0.9)) and (5, (0.85, 0.9))",
        ),
    ],
)
def test_mistakes_are_named(call, message, as_user):
    with pytest.raises(UserError) as error:
        call(ClickScore())
    assert str(error.value) == message
