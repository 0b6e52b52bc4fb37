"""Panoptic quality: panopticapi's recorded numbers, examples worked by hand, and properties of any pair of maps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.metrics.human_consistency import HUMANS, HumanConsistency
from masklet.metrics.panoptic import PanopticScore
from masklet.ops.panoptic import match
from masklet.structures import Classes, Panoptic, Segment, UserError
from panoptic_toys import TOY, Toy, coco_sample, made, random_toy, runs

PERSON, CAR, SKY, ROAD = range(4)
SEEDS = st.integers(0, 2**32 - 1)


def score(*toys: Toy, classes: Classes = TOY, **options) -> PanopticScore:
    found = PanopticScore(classes, **options)
    for toy in toys:
        found.update_maps(*toy.maps())
    return found


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """Equal to the last bit, NaN with NaN."""
    return list(a) == list(b) and np.array_equal(list(a.values()), list(b.values()), equal_nan=True)


def worst(found: PanopticScore, recorded: dict, classes: Classes) -> float:
    """The largest difference from what panopticapi recorded; counts must be equal."""
    scores, rows = found.compute(), {row["class"]: row for row in found.table()}
    difference = 0.0
    for kind, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for q in ("pq", "sq", "rq"):
            difference = max(difference, abs(scores[q + suffix] - recorded[kind][q]))
    for number, name in zip(classes.ids, classes.names, strict=True):
        counts, each = recorded["counts"][str(number)], recorded["per_class"][str(number)]
        if not counts["tp"] + counts["fp"] + counts["fn"]:  # panopticapi writes 0 and does not count it
            assert name not in rows
            assert all(math.isnan(scores[f"{q}/{name}"]) for q in ("pq", "sq", "rq"))
            continue
        assert [rows[name][k] for k in ("tp", "fp", "fn")] == [counts[k] for k in ("tp", "fp", "fn")]
        difference = max(difference, *(abs(scores[f"{q}/{name}"] - each[q]) for q in ("pq", "sq", "rq")))
    return difference


# panopticapi


def test_made_images_equal_panopticapi():
    classes, toys, recorded = made()
    found = score(*toys, classes=classes)
    assert worst(found, recorded, classes) < 1e-12
    assert found.summary() == (
        "          |    PQ     SQ     RQ     N\n"
        "--------------------------------------\n"
        "All       |  23.3   45.6   38.2     8\n"
        "Things    |  34.9   58.8   58.4     4\n"
        "Stuff     |  11.7   32.5   18.1     4"
    )


def test_coco_sample_equals_panopticapi():
    classes, toys, recorded = coco_sample()
    assert worst(score(*toys, classes=classes), recorded["result"], classes) < 1e-12
    itself = score(*(replace(t, pred=t.truth, pred_segments=t.truth_segments) for t in toys), classes=classes)
    found = itself.compute()
    assert {found[q + kind] for q in ("pq", "sq", "rq") for kind in ("", "_things", "_stuff")} == {1.0}
    assert itself.summary().splitlines()[2:] == [
        "All       | 100.0  100.0  100.0     8",
        "Things    | 100.0  100.0  100.0     4",
        "Stuff     | 100.0  100.0  100.0     4",
    ]


@pytest.mark.parametrize("wrong", ["classes shifted", "no crowd", "void is a class", "truth and prediction exchanged"])
def test_parity_can_fail(wrong: str):
    classes, toys, recorded = made()
    if wrong == "classes shifted":
        toys = [
            replace(t, pred_segments=tuple(replace(s, label=(s.label + 1) % 8) for s in t.pred_segments)) for t in toys
        ]
    elif wrong == "no crowd":
        toys = [replace(t, truth_segments=tuple(replace(s, crowd=False) for s in t.truth_segments)) for t in toys]
    elif wrong == "void is a class":
        toys = [
            replace(t, truth=np.where(t.truth, t.truth, 99), truth_segments=(*t.truth_segments, Segment(99, 7, False)))
            for t in toys
        ]
    else:
        toys = [t.swapped() for t in toys]
    assert abs(score(*toys, classes=classes).compute()["pq"] - recorded["All"]["pq"]) > 1e-3


# By hand


def test_golden_of_the_spec():
    toy = runs(
        [
            (1, 11, 50),  # sky: 51 pixels found, 50 are right
            (2, 11, 1),
            (2, 12, 12),  # a person of 16 pixels found with 12: IoU .75
            (2, 0, 3),
            (3, 13, 8),  # a person of 16 pixels found with 8: IoU .5 is no match
            (3, 14, 2),
            (3, 0, 6),
            (4, 15, 6),  # inside a crowd of persons: no FP
            (0, 16, 5),  # on void: no FP
            (0, 14, 2),  # exactly half on void: still a FP
        ],
        truth={1: SKY, 2: PERSON, 3: PERSON, 4: PERSON},
        pred={11: SKY, 12: PERSON, 13: PERSON, 14: PERSON, 15: PERSON, 16: PERSON},
        crowd=[4],
    )
    found = score(toy)
    assert found.table() == [
        {"class": "person", "kind": "thing", "pq": 0.3, "sq": 0.75, "rq": 0.4, "tp": 1, "fp": 2, "fn": 1},
        {"class": "sky", "kind": "stuff", "pq": 50 / 51, "sq": 50 / 51, "rq": 1.0, "tp": 1, "fp": 0, "fn": 0},
    ]
    scores = found.compute()
    assert scores["pq/person"] == 0.3
    assert scores["pq"] == pytest.approx(0.6402, abs=5e-5)
    assert scores["sq"] * scores["rq"] == pytest.approx(0.6056, abs=5e-5)  # the averages do not multiply
    assert (scores["sq"], scores["rq"]) == (pytest.approx(0.8652, abs=5e-5), pytest.approx(0.7))
    assert math.isnan(scores["pq/car"])


@pytest.mark.parametrize(("alpha", "rq", "pq"), [(0.5, 2 / 3, 0.4667), (0.25, 0.8, 0.56), (0.0, 1.0, 0.7)])
def test_alpha_weighs_errors_and_leaves_sq_alone(alpha: float, rq: float, pq: float):
    pieces = [(1, 11, 8), (1, 0, 2), (2, 12, 6), (2, 0, 4), (3, 0, 5), (4, 13, 5)]
    toy = runs(pieces, {1: CAR, 2: CAR, 3: CAR, 4: ROAD}, {11: CAR, 12: CAR, 13: CAR})
    found = score(toy, alpha=alpha).compute()
    assert found["sq/car"] == pytest.approx(0.7)
    assert found["rq/car"] == pytest.approx(rq)
    assert found["pq/car"] == pytest.approx(pq, abs=5e-5)


def test_half_is_no_match():
    toy = runs([(1, 11, 5), (1, 0, 5)], {1: CAR}, {11: CAR})
    assert [score(toy).table()[0][k] for k in ("tp", "fp", "fn")] == [0, 1, 1]
    found = score(toy, threshold=0.25)
    assert [found.table()[0][k] for k in ("tp", "fp", "fn")] == [1, 0, 0]
    assert found.compute()["pq"] == 0.5


def test_below_half_the_largest_sum_wins():
    rows, columns = match(np.array([[0.45, 0.44], [0.44, 0.0]]), 0.25)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]  # a greedy one takes .45
    assert [len(part) for part in match(np.array([[0.45, 0.44], [0.24, 0.0]]), 0.25)] == [1, 1]
    # in pixels: IoU 60/140, 40/100 and 40/100
    toy = runs([(1, 11, 60), (1, 12, 40), (2, 11, 40)], {1: CAR, 2: CAR}, {11: CAR, 12: CAR})
    found = score(toy, threshold=0.25)
    assert found.table()[0] == {
        "class": "car", "kind": "thing", "pq": 0.4, "sq": 0.4, "rq": 1.0, "tp": 2, "fp": 0, "fn": 0,
    }  # fmt: skip
    other = replace(toy, pred_segments=(Segment(11, CAR, True), Segment(12, PERSON, True)))
    assert score(other, threshold=0.25).compute()["sq/car"] == 60 / 140  # classes are matched apart


def test_threshold_zero_does_not_match_what_does_not_touch():
    toy = runs([(1, 11, 1), (1, 0, 9), (2, 0, 4), (3, 12, 4)], {1: CAR, 2: CAR, 3: SKY}, {11: CAR, 12: CAR})
    assert [score(toy, threshold=0.0).table()[0][k] for k in ("tp", "fp", "fn")] == [1, 1, 1]


def test_only_the_last_crowd_of_a_class_excuses():
    pieces = [(1, 11, 6), (2, 12, 6), (3, 0, 2)]
    toy = runs(pieces, {1: PERSON, 2: PERSON, 3: SKY}, {11: PERSON, 12: PERSON}, crowd=[1, 2])
    assert score(toy).table()[0]["fp"] == 1  # 11 lies on the first crowd, which the second one replaced
    backwards = replace(toy, truth_segments=(toy.truth_segments[1], toy.truth_segments[0], toy.truth_segments[2]))
    assert score(backwards).table()[0]["fp"] == 1
    of_another_class = runs(pieces, {1: CAR, 2: PERSON, 3: SKY}, {11: PERSON, 12: PERSON}, crowd=[1, 2])
    assert score(of_another_class).table()[0]["fp"] == 1


def test_void_and_crowd_together_excuse():
    toy = runs([(0, 11, 2), (1, 11, 3), (2, 11, 4)], {1: PERSON, 2: SKY}, {11: PERSON}, crowd=[1])
    assert [row["class"] for row in score(toy).table()] == ["sky"]  # 5 of 9 pixels


def test_sizes():
    pieces = [(i, i + 10, 10 * i) for i in range(1, 9)] + [(9, 0, 1)]
    toy = runs(
        [*pieces, (10, 21, 100)], dict.fromkeys(range(1, 10), CAR) | {10: SKY}, dict.fromkeys((*range(11, 19), 21), CAR)
    )
    found = score(toy, sizes=(20, 50)).compute()
    assert found["pq_small"] == 2 / 2.5  # 10 and 20; 1 is missed
    assert found["pq_medium"] == 1.0  # 30, 40, 50
    assert found["pq_large"] == (3 / 3.5 + 0) / 2  # 60, 70, 80 and one made up; the sky is missed
    quarters = score(toy).compute()  # areas 1, 10..80, 100: quartiles at 22.5 and 67.5
    assert (quarters["pq_small"], quarters["pq_medium"]) == (2 / 2.5, 1.0)
    assert quarters["pq_large"] == (2 / 2.5 + 0) / 2
    assert math.isnan(score(runs([(1, 2, 5)], {1: CAR}, {2: CAR}), sizes=(10, 20)).compute()["pq_large"])


def test_overlaps_as_a_curve():
    pieces = [(1, 11, 10), (2, 12, 6), (2, 0, 4), (3, 13, 4), (3, 0, 6)]
    toy = runs(pieces, {1: CAR, 2: CAR, 3: SKY}, {11: CAR, 12: CAR, 13: SKY})
    every, things, stuff = score(toy, threshold=0.0).curves()
    assert [c.name for c in (every, things, stuff)] == ["all", "things", "stuff"]
    at = lambda curve, iou: curve.y[np.searchsorted(curve.x, iou + 1e-9) - 1]  # noqa: E731
    assert [at(every, x) for x in (0.39, 0.4, 0.6, 0.99, 1.0)] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert [at(things, 0.6), at(stuff, 0.4)] == [0.5, 1.0]
    assert [c.name for c in score(toy).curves()] == ["all", "things"]  # IoU .4 is no match at .5


def test_nothing_at_all():
    found = PanopticScore(TOY)
    assert all(math.isnan(v) for v in found.compute().values())
    assert found.table() == found.curves() == []
    assert found.summary().splitlines()[-1] == "Stuff     |   nan    nan    nan     0"
    empty = np.zeros((3, 4), np.int64)
    found.update_maps(empty, (), empty, ())
    assert math.isnan(found.compute()["pq"])
    assert found.images == 1


def test_unscored_classes_stay_out():
    toy = runs([(1, 11, 5), (2, 0, 5)], {1: CAR, 2: SKY}, {11: CAR})
    found = score(toy, classes=replace(TOY, unscored=(SKY,)))
    assert found.compute()["pq"] == 1.0
    assert "pq/sky" not in found.compute()
    assert [row["class"] for row in found.table()] == ["car"]


# Properties


@given(
    st.lists(SEEDS, min_size=1, max_size=4), st.sampled_from([0.0, 0.3, 0.5, 0.75]), st.sampled_from([0.25, 0.5, 1.0])
)
@settings(max_examples=60, deadline=None)
def test_ranges_and_products(seeds: list[int], threshold: float, alpha: float):
    found = score(*map(random_toy, seeds), threshold=threshold, alpha=alpha)
    scores = found.compute()
    assert all(math.isnan(v) or 0 <= v <= 1 for v in scores.values())
    for name in TOY.names:
        product = scores[f"sq/{name}"] * scores[f"rq/{name}"]
        assert product == pytest.approx(scores[f"pq/{name}"], abs=1e-12, nan_ok=True)
    iou = [row["sq"] for row in found.table() if row["tp"]]
    assert all(v >= threshold for v in iou)


@given(st.lists(SEEDS, min_size=2, max_size=6), st.randoms(use_true_random=False), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_order_and_parts_do_not_matter(seeds: list[int], order, cut: int):
    toys = [random_toy(seed) for seed in seeds]
    whole = score(*toys)
    shuffled = list(toys)
    order.shuffle(shuffled)
    first, second = score(*shuffled[cut:]), score(*shuffled[:cut])
    first.merge(second)
    assert same(first.compute(), whole.compute())
    assert first.images == whole.images
    assert first.summary() == whole.summary()


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_numbers_of_segments_do_not_matter(seed: int):
    toy = random_toy(seed)
    renumbered = replace(
        toy,
        pred=np.where(toy.pred > 0, 2**24 - 1 - toy.pred, 0),
        pred_segments=tuple(replace(s, id=2**24 - 1 - s.id) for s in toy.pred_segments),
    )
    assert same(score(toy).compute(), score(renumbered).compute())


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_symmetric_without_void_and_crowd(seed: int):
    toy = random_toy(seed, void=False, crowd=False)
    there, back = score(toy), score(toy.swapped())
    assert there.compute()["pq"] == pytest.approx(back.compute()["pq"])
    humans = HumanConsistency(TOY)
    humans.update(*toy.pair())
    assert humans.compute()["pq"] == pytest.approx(there.compute()["pq"])


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_structures_equal_maps(seed: int):
    toy = random_toy(seed)
    found = PanopticScore(TOY)
    found.update(*toy.pair())
    assert same(found.compute(), score(toy).compute())


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_equals_the_definition(seed: int):
    """The rules once more, one pair of masks at a time."""
    toy = random_toy(seed)
    tally = {label: [0, 0, 0, 0.0] for label in range(4)}
    masks = [{s.id: (ids == s.id, s) for s in segments} for ids, segments in (toy.maps()[:2], toy.maps()[2:])]
    void, matched = toy.truth == 0, set()
    for true, t in masks[1].values():
        for found, p in masks[0].values():
            union = ((true | found) & ~(void & found)).sum()
            iou = (true & found).sum() / union
            if t.label == p.label and not t.crowd and iou > 0.5:
                tally[t.label][0] += 1
                tally[t.label][3] += iou
                matched |= {("t", t.id), ("p", p.id)}
        tally[t.label][2] += ("t", t.id) not in matched and not t.crowd
    for found, p in masks[0].values():
        crowds = [true for true, t in masks[1].values() if t.crowd and t.label == p.label]
        excused = void | crowds[-1] if crowds else void
        if ("p", p.id) not in matched and (found & excused).sum() / found.sum() <= 0.5:
            tally[p.label][1] += 1
    scores = score(toy).compute()
    for label, (tp, fp, fn, iou) in tally.items():
        want = iou / (tp + fp / 2 + fn / 2) if tp + fp + fn else math.nan
        assert scores[f"pq/{TOY.names[label]}"] == pytest.approx(want, abs=1e-12, nan_ok=True)


# Two people


def test_two_people_are_exchangeable():
    toys = [random_toy(seed) for seed in range(6)]
    one, other, parts = HumanConsistency(TOY), HumanConsistency(TOY), [HumanConsistency(TOY) for _ in range(2)]
    for i, toy in enumerate(toys):
        one.update(*toy.pair())
        other.update(*toy.swapped().pair())
        parts[i % 2].update(*toy.pair())
    parts[1].merge(parts[0])
    same_keys = [k for k in one.compute() if "as_truth" not in k]
    assert same({k: one.compute()[k] for k in same_keys}, {k: other.compute()[k] for k in same_keys})
    assert one.compute()["pq_first_as_truth"] == other.compute()["pq_second_as_truth"]
    assert same(parts[1].compute(), one.compute())
    assert one.images == parts[1].images == 6
    assert [c.name for c in one.curves()] == ["all", "things", "stuff"]


def test_tables_of_the_paper():
    humans = HumanConsistency(TOY)
    humans.update(*runs([(1, 11, 8), (1, 12, 2), (2, 12, 30)], {1: CAR, 2: SKY}, {11: CAR, 12: SKY}).pair())
    rows = humans.table()
    published = [f"{name} (published)" for name in ("Cityscapes", "ADE20k", "Vistas")]
    assert [row["data"] for row in rows] == ["both", "first as truth", "second as truth", *published]
    assert list(rows[0]) == [
        "data", "PQ", "PQ_st", "PQ_th", "SQ", "SQ_st", "SQ_th", "RQ", "RQ_st", "RQ_th",
        "PQ_S", "PQ_M", "PQ_L", "SQ_S", "SQ_M", "SQ_L", "RQ_S", "RQ_M", "RQ_L",
    ]  # fmt: skip
    assert (rows[0]["PQ_th"], rows[0]["PQ_st"]) == (pytest.approx(80.0), pytest.approx(93.75))
    text = humans.summary().splitlines()
    assert text[0].split() == list(rows[0])[1:10]
    assert text[4].split() == [
        "Cityscapes",
        "(published)",
        "69.7",
        "71.3",
        "67.4",
        "84.2",
        "84.4",
        "83.9",
        "82.1",
        "83.4",
        "80.2",
    ]
    assert text[8].split() == list(rows[0])[10:]
    assert text[12].split() == [
        "Cityscapes",
        "(published)",
        "35.1",
        "62.3",
        "84.8",
        "67.8",
        "81.0",
        "89.9",
        "51.5",
        "76.5",
        "94.1",
    ]


def test_published_averages_do_not_multiply():
    for row in HUMANS.values():
        assert abs(row["SQ"] * row["RQ"] / 100 - row["PQ"]) > 0.1
        assert row["PQ_S"] < row["PQ_M"] < row["PQ_L"]


# Bad input

ONE = np.ones((2, 3), np.int64)
A, NOTHING = (Segment(1, CAR, True),), np.zeros((2, 3), np.int64)

BAD = {
    "sizes": (
        (ONE, A, np.ones((4, 3), np.int64), A),
        "the prediction is 2x3 but the truth is 4x3 (height x width); "
        "resize the prediction to the truth (nearest neighbour), or check that the files belong together",
    ),
    "unknown id": (
        (ONE * 7, A, ONE, A),
        "the prediction contains id 7, which no segment describes; describe it, or set its pixels to 0 (void)",
    ),
    "unknown true id": (
        (ONE, A, ONE * 7, A),
        "the truth contains id 7, which no segment describes; describe it, or set its pixels to 0 (void)",
    ),
    "no pixels": (
        (NOTHING, A, ONE, A),
        "segment 1 of the prediction has no pixel in the map; leave empty segments out",
    ),
    "no true pixels": (
        (ONE, A, NOTHING, A),
        "segment 1 of the truth has no pixel in the map; leave empty segments out",
    ),
    "twice": ((ONE, A * 2, ONE, A), "two segments of the prediction have the id 1; ids are unique within one image"),
    "zero": (
        (ONE, A, ONE, (*A, Segment(0, 1, True))),
        "a segment of the truth has the id 0; 0 is void; count segments from 1",
    ),
    "class": (
        (ONE, (Segment(1, 4, True),), ONE, A),
        "segment 1 of the prediction has the class 4, which does not exist; classes are 0..3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_maps(case: str):
    found = PanopticScore(TOY)
    with pytest.raises(UserError) as caught:
        found.update_maps(*BAD[case][0])
    assert str(caught.value) == BAD[case][1]
    assert found.images == 0


def test_bad_settings(as_user):
    for options, message in (
        ({"threshold": 1.0}, "the IoU threshold is 1.0; choose a number in 0 <= threshold < 1"),
        ({"threshold": -0.1}, "the IoU threshold is -0.1; choose a number in 0 <= threshold < 1"),
        ({"alpha": -1.0}, "alpha is -1.0; it weighs errors: 0 or more, 0.5 for F1"),
        ({"sizes": (9, 3)}, "the sizes are (9, 3); give two areas in pixels, the smaller one first"),
    ):
        with pytest.raises(UserError) as caught:
            PanopticScore(TOY, **options)
        assert str(caught.value) == message


def test_merge_refuses_other_settings():
    for other, message in (
        (PanopticScore(TOY, alpha=0.25), "cannot merge panoptic scores of different alpha: 0.5 and 0.25"),
        (PanopticScore(TOY, threshold=0.3), "cannot merge panoptic scores of different threshold: 0.5 and 0.3"),
        (PanopticScore(TOY, sizes=(1, 2)), "cannot merge panoptic scores of different sizes: None and (1, 2)"),
        (
            PanopticScore(replace(TOY, things=(True,) * 4)),
            "cannot merge panoptic scores of different things: (True, True, False, False) and (True, True, True, True)",
        ),
    ):
        with pytest.raises(UserError) as caught:
            PanopticScore(TOY).merge(other)
        assert str(caught.value) == message


def test_a_wrong_structure_is_named():
    pred, truth = (Panoptic(torch.ones(1, n, dtype=torch.int64), A) for n in (5, 4))
    with pytest.raises(UserError, match="the prediction is 1x5 but the truth is 1x4"):
        PanopticScore(TOY).update(pred, truth)
