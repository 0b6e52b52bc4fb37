"""VPQ, STQ, DVPQ and DSTQ: values worked by hand, numbers recorded from deeplab2, a plain reference, and properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masklet.metrics.panoptic import PanopticScore
from masklet.metrics.video_panoptic import DSTQ, DVPQ, STQ, VPQ
from masklet.structures import Classes, Panoptic, Segment

CLASSES = Classes(("road", "tree", "sky", "person", "car"), things=(False, False, False, True, True))
TWO = Classes(("car", "sky"), things=(True, False))


def panoptic(
    ids, labels: dict[int, int], crowd: Sequence[int] = (), things: Sequence[bool] = CLASSES.things
) -> Panoptic:
    """An id map and the class of each id that it shows."""
    ids = torch.as_tensor(ids, dtype=torch.int64)
    ids = ids[None] if ids.ndim == 1 else ids
    there = [i for i in labels if bool((ids == i).any())]
    return Panoptic(ids, tuple(Segment(i, labels[i], things[labels[i]], crowd=i in crowd) for i in there))


def whole(metric, frames, video=""):
    for frame in frames:
        metric.update(*frame, video=video)
    return metric


# --- by hand -------------------------------------------------------------------------------------------------------


def test_association_of_the_spec():
    # One true track of 8 pixels; id 1 covers 6 of them and 2 others, id 2 covers the last 2.
    truth = panoptic([9, 9, 9, 9, 9, 9, 9, 9, 3, 3], {9: 0, 3: 1}, things=TWO.things)
    pred = panoptic([1, 1, 1, 1, 1, 1, 2, 2, 1, 1], {1: 0, 2: 0}, things=TWO.things)
    found = whole(STQ(TWO), [(pred, truth)]).compute()
    assert found["aq"] == pytest.approx(0.5125)  # 1/8 (6 6/10 + 2 2/8)
    assert found["sq"] == pytest.approx((8 / 10 + 0) / 2)
    assert found["stq"] == pytest.approx(math.sqrt(0.5125 * 0.4))
    over_two = STQ(TWO)  # the same tubes, one half a frame each
    for half in (slice(None, None, 2), slice(1, None, 2)):
        cut = [panoptic(m.ids[:, half], {s.id: s.label for s in m.segments}, things=TWO.things) for m in (pred, truth)]
        over_two.update(*cut)
    assert over_two.compute() == pytest.approx(found)


@pytest.mark.parametrize(
    ("truth", "pred", "aq", "sq"),
    [  # one row of pixels; 1xx is car number xx, 100 a crowd in the truth, 7 sky, 0 void
        ([101] * 5, [101, 101, 102, 102, 102], (2 * 2 / 5 + 3 * 3 / 5) / 5, 1.0),
        ([101] * 5, [7, 101, 101, 101, 101], 4 * 4 / 5 / 5, (4 / 5 + 0) / 2),
        ([101] * 5, [0, 101, 101, 101, 101], 4 * 4 / 5 / 5, (4 / 5 + 0) / 2),  # void predicted: a class of its own
        ([100] + [101] * 5, [102] * 4 + [101] * 2, (3 * 3 / 5 + 2 * 2 / 5) / 5, 1.0),  # the crowd leaves both sides
        ([0] + [101] * 5, [101] * 6, 5 * 5 / 6 / 5, 1.0),  # true void stays in predicted tubes, not in the IoU
        ([7] + [101] * 4, [101] * 5, 4 * 4 / 5 / 4, (4 / 5 + 0) / 2),
        ([7] * 5, [7] * 5, 0.0, 1.0),  # nothing to track
    ],
)
def test_tracks_crowds_and_void_by_hand(truth, pred, aq, sq):
    labels = {100: 0, 101: 0, 102: 0, 7: 1}
    metric = STQ(TWO)
    metric.update(panoptic(pred, labels, things=TWO.things), panoptic(truth, labels, (100,), TWO.things))
    found = metric.compute()
    assert (found["aq"], found["sq"]) == pytest.approx((aq, sq))


def test_an_id_whose_class_flips_is_two_tubes_and_tubes_of_two_classes_may_meet():
    truth = panoptic([1] * 4, {1: 4})
    metric = whole(STQ(CLASSES), [(panoptic([1] * 4, {1: label}), truth) for label in (4, 4, 4, 3)])
    found = metric.compute()
    assert found["aq"] == pytest.approx((12 * 12 / 16 + 4 * 4 / 16) / 16)
    assert found["sq"] == pytest.approx((12 / 16 + 0) / 2)
    only_wrong = whole(STQ(CLASSES), [(panoptic([1] * 4, {1: 3}), truth)] * 4).compute()
    assert (only_wrong["aq"], only_wrong["sq"]) == (1, 0)


def test_predicted_void_as_a_miss_is_no_class():
    truth, pred = panoptic([1, 1, 1, 1], {1: 4}), panoptic([1, 1, 1, 0], {1: 4})
    assert whole(STQ(CLASSES), [(pred, truth)]).compute()["sq"] == pytest.approx(3 / 8)
    assert whole(STQ(CLASSES, predicted_void="miss"), [(pred, truth)]).compute()["sq"] == pytest.approx(3 / 4)


def test_swapping_two_ids_in_one_frame_costs_what_the_formula_says():
    """Two squares of 4 pixels over 4 frames, perfect but for their ids in the last."""
    labels = {1: 4, 2: 4, 5: 0}
    truth = panoptic([1] * 4 + [2] * 4 + [5] * 8, labels)
    swapped = panoptic([2] * 4 + [1] * 4 + [5] * 8, labels)
    frames = [(truth, truth)] * 3 + [(swapped, truth)]
    found = whole(STQ(CLASSES), frames).compute()
    aq = (12 * 12 / 20 + 4 * 4 / 28) / 16  # three frames shared of 16 + 16 - 12 pixels, one of 16 + 16 - 4
    assert (found["aq"], found["sq"], found["stq"]) == pytest.approx((aq, 1, math.sqrt(aq)))
    vpq = whole(VPQ(CLASSES), frames).compute()
    # k=2: of three windows the last has IoU 4/12 for both cars: TP 4, FP 2, FN 2. k=3: 8/16 is no match either,
    # k=4: 12/20 is.
    cars = (1, 4 / 6, 2 / 4, 12 / 20)
    assert [vpq[f"vpq@{k}"] for k in (1, 2, 3, 4)] == pytest.approx([(1 + c) / 2 for c in cars])
    assert (vpq["vpq/car"], vpq["vpq_things"]) == pytest.approx((sum(cars) / 4,) * 2)
    assert vpq["vpq_stuff"] == vpq["vpq/road"] == 1
    assert vpq["vpq"] == pytest.approx((1 + sum(cars) / 4) / 2)
    assert math.isnan(vpq["vpq/tree"])


def test_void_and_crowds_in_tubes_by_hand():
    labels = {1: 4, 2: 4, 8: 4, 5: 0}
    frames = [
        # truth: a car, void, a crowd of cars; prediction: the car and void, one car on the crowd
        (panoptic([1, 1, 1, 1, 2, 2, 2, 2], labels), panoptic([1, 1, 1, 0, 8, 8, 8, 8], labels, (8,))),
        (panoptic([1, 1, 1, 5, 2, 2, 5, 5], labels), panoptic([1, 1, 5, 5, 8, 8, 5, 5], labels, (8,))),
    ]
    metric = whole(VPQ(CLASSES, windows=(2,)), frames)
    # car: 5 shared, 5 true, 7 predicted of which 1 on void: 5/6. Car 2: 6 of 6 on the crowd, no FP. Road: 3 of 4.
    found = metric.compute()
    assert found["vpq/car"] == pytest.approx(5 / 6)
    assert found["vpq/road"] == pytest.approx(3 / 4)
    assert found["vpq"] == found["vpq@2"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    half = [(panoptic([2, 2, 2, 2], labels), panoptic([8, 8, 5, 5], {**labels, 5: 3}, (8,)))]
    assert whole(VPQ(CLASSES, windows=(1,)), half).table()[4]["fp"] == 1  # exactly half excused is not excused


def test_an_iou_of_exactly_half_is_no_match():
    labels = {1: 4, 5: 0}
    found = whole(VPQ(CLASSES, windows=(1,)), [(panoptic([1, 1, 0, 0], labels), panoptic([1, 1, 1, 1], labels))])
    row = found.table()[4]
    assert (row["tp"], row["fp"], row["fn"]) == (0, 1, 1)


def test_windows_end_with_their_video():
    labels = {1: 4, 5: 0}
    good, empty = panoptic([1, 1, 5, 5], labels), panoptic([5, 5, 5, 5], labels)
    metric = VPQ(CLASSES, windows=(1, 2, 3))
    for video in ("a", "b"):  # interleaved: each video remembers its own frames
        metric.update(good, good, video=video)
    for video in ("a", "b"):
        metric.update(empty, good, video=video)
    assert metric.counts[:, 0, 4].tolist() == [2, 0, 0]  # two frames each: no window of three, none across videos
    assert metric.counts[:, 2, 4].tolist() == [2, 2, 0]
    found = metric.compute()
    assert math.isnan(found["vpq@3"])
    assert math.isnan(found["vpq"])


def test_the_first_frame_of_a_window_names_the_class_of_a_tube():
    truth = panoptic([1] * 4, {1: 4})
    frames = [(panoptic([1] * 4, {1: label}), truth) for label in (4, 3)]
    assert whole(VPQ(CLASSES, windows=(2,)), frames).compute()["vpq/car"] == 1
    assert whole(VPQ(CLASSES, windows=(2,)), frames[::-1]).compute()["vpq/car"] == 0


def test_wrong_depth_takes_pixels_away():
    """A car of 10 pixels at 10 m; 7 predicted exactly, two 20 % off, one 40 % off; a road with right depth."""
    maps = panoptic([1] * 10 + [5] * 10, {1: 4, 5: 0})
    depth = torch.full((1, 20), 10.0)
    called = depth.clone()
    called[0, :3] = torch.tensor([12.0, 8.0, 14.0])
    metric = DVPQ(CLASSES, windows=(1,))
    metric.update(maps, maps, called, depth)
    found = metric.compute()
    at = {0.1: (1 + 0.7) / 2, 0.25: (1 + 0.9) / 2, 0.5: 1.0}
    assert [found[f"dvpq@lambda{limit:g}"] for limit in at] == pytest.approx(list(at.values()))
    assert found["dvpq@1,0.1"] == found["dvpq@lambda0.1"]
    assert found["dvpq"] == found["dvpq@1"] == pytest.approx(sum(at.values()) / 3)
    assert found["dvpq/car"] == pytest.approx((0.7 + 0.9 + 1) / 3)
    unknown = DVPQ(CLASSES, windows=(1,))
    unknown.update(maps, maps, called, depth * 0)
    assert unknown.compute()["dvpq"] == 1  # where the true depth is unknown nothing is wrong
    broken = DVPQ(CLASSES, windows=(1,))
    broken.update(maps, maps, depth * torch.nan, depth)
    assert broken.compute()["dvpq"] == 0


def test_depth_quality_by_hand():
    maps = panoptic([1] * 4 + [5] * 4, {1: 4, 5: 0})
    truth = torch.tensor([[10.0, 10, 10, 10, 10, 0, 0, 0]])
    called = torch.tensor([[10.0, 11, 12, 20, -1, 5, 5, 5]])  # of five known: two within 10 %, three within 25 %
    metric = DSTQ(CLASSES)
    metric.update(maps, maps, called, truth, video="a")
    found = metric.compute()
    assert (found["dq@1.1"], found["dq@1.25"]) == (2 / 5, 3 / 5)
    assert found["dq"] == pytest.approx(math.sqrt(6) / 5)
    assert found["stq"] == 1
    assert found["dstq"] == pytest.approx((math.sqrt(6) / 5) ** (1 / 3))
    assert found["dstq@1.1"] == pytest.approx(0.4 ** (1 / 3))
    assert metric.table()[0]["dstq"] == found["dstq"]
    none = DSTQ(CLASSES)
    none.update(maps, maps, called, truth * 0)
    assert (none.compute()["dq"], none.compute()["dstq"]) == (0, 0)


# --- somebody else's code ------------------------------------------------------------------------------------------


def mixed(seed: int, size: int, below: int) -> np.ndarray:
    """`size` whole numbers in 0..below-1 from a hash of 64 bits (splitmix64): the same on every machine."""
    with np.errstate(over="ignore"):
        z = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 7919)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(below)).astype(np.int64)


def step_video(seed: int, frames: int = 5) -> tuple[np.ndarray, ...]:
    """Class and instance maps (T, 30, 40) of truth and prediction: six moving blocks with noise, 255 for void."""
    height, width = 30, 40
    stuff = mixed(seed, 48, 3).reshape(6, 8).repeat(5, 0).repeat(5, 1)
    t_class, t_number, p_class, p_number = (np.zeros((frames, height, width), np.int64) for _ in range(4))
    for t in range(frames):
        t_class[t], p_class[t] = stuff, np.roll(stuff, 1 + t % 2, 1)
        for n in range(6):
            label, number, y, x, dy, dx, h, w = mixed(100 * seed + n, 8, 24).tolist()
            label, number, h, w = 3 + label % 2, number % 4, 5 + h % 7, 5 + w % 7
            y, x = max(y + t * (dy % 7 - 3), 0), max(x + t * (dx % 7 - 3), 0)
            t_class[t, y : y + h, x : x + w], t_number[t, y : y + h, x : x + w] = label, number
            flips = (n + t) % 5 == 0
            shift = np.s_[t, y + n % 2 : y + h, x + n % 3 : x + w + 1]
            p_class[shift] = 7 - label if flips else label
            p_number[shift] = n + (10 if (t, n) == (3, 1) else 0)
        void = mixed(1000 + 10 * seed + t, height * width, 100).reshape(height, width)
        t_class[t][void < 5], p_class[t][void % 50 > 47] = 255, 255
    for labels, numbers in ((t_class, t_number), (p_class, p_number)):
        numbers[(labels < 3) | (labels == 255)] = 0
    return t_class, t_number, p_class, p_number


def step_frame(labels: np.ndarray, numbers: np.ndarray, truth: bool) -> Panoptic:
    """Class and instance maps as one id map; instance 0 of a thing in the truth is a crowd."""
    ids = np.where(labels == 255, 0, 1000 * (labels + 1) + numbers)
    known = {int(i): int(i) // 1000 - 1 for i in np.unique(ids) if i}
    return panoptic(ids, known, [i for i, k in known.items() if truth and k >= 3 and i % 1000 == 0])


def step_frames(seed: int) -> list[tuple[Panoptic, Panoptic]]:
    t_class, t_number, p_class, p_number = step_video(seed)
    return [
        (step_frame(p_class[t], p_number[t], truth=False), step_frame(t_class[t], t_number[t], truth=True))
        for t in range(len(t_class))
    ]


RECORDED = {
    "all": [0.33123368309186346, 0.24140560209732803, 0.45448718613566674],
    "each": [
        [0.35896421213885193, 0.28199748417331616, 0.45693778430048687],
        [0.25678848884886896, 0.1535044172072276, 0.4295663226177245],
        [0.3502033142633157, 0.27688757920791235, 0.44293197142266766],
    ],
}


def test_stq_equals_the_numbers_of_deeplab2():
    """Recorded from deeplab2@58eadb39 (Apache-2.0), evaluation/numpy/segmentation_and_tracking_quality.py,
    on `step_video` of seeds 0, 1, 2, with 5 classes, things 3 and 4, ignore 255: crowds, flips, void on both sides."""
    metric = STQ(CLASSES)
    for seed in range(3):
        whole(metric, step_frames(seed), video=str(seed))
    found = metric.compute()
    assert [found[key] for key in ("stq", "aq", "sq")] == pytest.approx(RECORDED["all"], abs=1e-12)
    rows = [[row[key] for key in ("stq", "aq", "sq")] for row in metric.table()]
    assert np.array(rows) == pytest.approx(np.array(RECORDED["each"]), abs=1e-12)
    without = STQ(CLASSES, predicted_void="miss")  # negative control: another convention gives other numbers
    for seed in range(3):
        whole(without, step_frames(seed), video=str(seed))
    assert abs(without.compute()["sq"] - RECORDED["all"][2]) > 0.05


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_window_scores_like_one_wide_picture_under_the_rules_of_pq(k):
    """VPQ^1 is PQ of all frames, per class (spec H12); VPQ^k that of k frames beside each other."""
    vpq, pq = VPQ(CLASSES, windows=(k,)), PanopticScore(CLASSES)
    for seed in range(3):
        frames = step_frames(seed)
        whole(vpq, frames, video=str(seed))
        for start in range(len(frames) - k + 1):
            pq.update(*(joined(side) for side in zip(*frames[start : start + k], strict=True)))
    found, wanted = vpq.compute(), pq.compute()
    assert found["vpq"] == pytest.approx(wanted["pq"], abs=1e-12)
    assert (found[f"sq@{k}"], found[f"rq@{k}"]) == pytest.approx((wanted["sq"], wanted["rq"]), abs=1e-12)
    assert found["vpq_things"] == pytest.approx(wanted["pq_things"], abs=1e-12)
    for name in CLASSES.names:
        assert found[f"vpq/{name}"] == pytest.approx(wanted[f"pq/{name}"], abs=1e-12)


def joined(frames: Sequence[Panoptic]) -> Panoptic:
    """Frames beside each other in one picture."""
    segments = {s.id: s for frame in reversed(frames) for s in frame.segments}
    order = dict.fromkeys(s.id for frame in frames for s in frame.segments)
    return Panoptic(torch.cat([f.ids for f in frames], 1), tuple(segments[i] for i in order))


# --- a plain reference -----------------------------------------------------------------------------------------------


def plain_vpq(videos, windows, classes) -> float:
    """The definition with sets of pixels: every window, every pair of tubes."""
    means = []
    for k in windows:
        found = {c: [0.0, 0, 0, 0] for c in range(len(classes))}  # IoU, TP, FP, FN
        for frames in videos:
            for start in range(len(frames) - k + 1):
                truth, pred, crowds = {}, {}, {}
                for t, (p, g) in enumerate(frames[start : start + k]):
                    for side, tubes in ((g, truth), (p, pred)):
                        for segment in side.segments:
                            pixels = {(t, *yx) for yx in (side.ids == segment.id).nonzero().tolist()}
                            tubes.setdefault(segment.id, (segment.label, set()))[1].update(pixels)
                    crowds |= {s.id: s.crowd for s in g.segments if s.id not in crowds}
                everything = {(t, y, x) for t in range(k) for y in range(2) for x in range(3)}
                void = everything - set().union(*(pixels for _, pixels in truth.values()))
                hit_t, hit_p = set(), set()
                for i, (label, a) in truth.items():
                    for j, (p_label, b) in pred.items():
                        if label == p_label and not crowds[i]:
                            iou = len(a & b) / len(a | (b - void))
                            if iou > 0.5:
                                hit_t.add(i), hit_p.add(j)
                                found[label][0] += iou
                                found[label][1] += 1
                last = {label: pixels for i, (label, pixels) in truth.items() if crowds[i]}
                for i, (label, _) in truth.items():
                    found[label][3] += i not in hit_t and not crowds[i]
                for j, (label, b) in pred.items():
                    excused = len(b & void) + len(b & last.get(label, set()))
                    found[label][2] += j not in hit_p and excused / len(b) <= 0.5
        scores = [s / (tp + fp / 2 + fn / 2) for s, tp, fp, fn in found.values() if tp + fp + fn]
        means.append(sum(scores) / len(scores) if scores else math.nan)
    return sum(means) / len(means)


def plain_stq(videos, classes) -> tuple[float, float]:
    """AQ and SQ with sets of pixels; tubes are named by video, class and id."""
    truth, pred, semantic = {}, {}, {}
    for v, frames in enumerate(videos):
        for t, (p, g) in enumerate(frames):
            crowd = {s.id for s in g.segments if s.crowd and classes.things[s.label]}
            labels = [{0: None, **{s.id: s.label for s in side.segments}} for side in (g, p)]
            for at in [(y, x) for y in range(2) for x in range(3)]:
                true, called = int(g.ids[at]), int(p.ids[at])
                semantic[v, t, at] = labels[0][true], labels[1][called]
                if true in crowd:
                    continue
                for side, i, tubes in ((0, true, truth), (1, called, pred)):
                    label = labels[side][i]
                    if label is not None and classes.things[label]:
                        tubes.setdefault((v, label, i), set()).add((t, at))
    aq = [sum(len(a & b) ** 2 / len(a | b) for q, b in pred.items() if q[0] == g[0]) / len(a) for g, a in truth.items()]
    ious = []
    for c in [*range(len(classes)), None]:
        both = [pair for pair in semantic.values() if pair[0] is not None]
        union = sum(c in pair for pair in both)
        if union:
            ious.append(sum(pair == (c, c) for pair in both) / union)
    return sum(aq) / len(aq) if aq else 0.0, sum(ious) / len(ious) if ious else math.nan


@st.composite
def tiny_videos(draw):
    """One to three videos of 2x3 pixels: ids 1..4 (0 is void), which of them is what, and which are crowds."""
    labels = draw(st.lists(st.integers(0, 4), min_size=4, max_size=4))
    known = {i + 1: label for i, label in enumerate(labels)}
    crowd = draw(st.sets(st.integers(1, 4), max_size=2))
    crowds = [i for i in sorted(crowd) if CLASSES.things[known[i]]]
    ids = st.lists(st.sampled_from([0, 1, 1, 2, 2, 3, 4]), min_size=6, max_size=6)
    frames = st.lists(st.tuples(ids, ids), min_size=2, max_size=4)
    return known, crowds, draw(st.lists(frames, min_size=1, max_size=3))


def built(case):
    known, crowds, videos = case
    return [
        [(panoptic(np.reshape(p, (2, 3)), known), panoptic(np.reshape(g, (2, 3)), known, crowds)) for p, g in frames]
        for frames in videos
    ]


def scored(metric, videos, names=None):
    for name, frames in zip(names or map(str, range(len(videos))), videos, strict=True):
        whole(metric, frames, video=name)
    return metric


LATE_CROWD = (  # two crowds of one class, the lower number in the later frame: that one is the last
    {1: 0, 2: 3, 3: 3, 4: 3},
    [2, 3],
    [
        [
            ([0, 0, 0, 2, 0, 0], [0, 0, 0, 4, 0, 0]),
            ([0] * 6, [0, 0, 0, 0, 0, 3]),
            ([0, 0, 2, 0, 0, 0], [0, 0, 2, 0, 0, 0]),
        ]
    ],
)


@settings(max_examples=40, deadline=None)
@given(tiny_videos())
@example(LATE_CROWD)
def test_both_agree_with_a_plain_reference_and_stay_in_range(case):
    videos = built(case)
    vpq = scored(VPQ(CLASSES, windows=(1, 2)), videos).compute()
    assert vpq["vpq"] == pytest.approx(plain_vpq(videos, (1, 2), CLASSES), nan_ok=True)
    stq = scored(STQ(CLASSES), videos).compute()
    assert (stq["aq"], stq["sq"]) == pytest.approx(plain_stq(videos, CLASSES), nan_ok=True)
    assert all(math.isnan(v) or 0 <= v <= 1 + 1e-12 for v in (*vpq.values(), *stq.values()))


@settings(max_examples=20, deadline=None)
@given(tiny_videos(), st.permutations([5, 70000, 3, 12]), st.integers(0, 3))
def test_names_of_objects_and_parts_of_the_data_do_not_matter(case, others, cut):
    videos = built(case)

    def renamed(side):
        names = {0: 0, **{i: others[i - 1] for i in range(1, 5)}}
        ids = torch.tensor([[names[i] for i in row] for row in side.ids.tolist()])
        return Panoptic(ids, tuple(replace(s, id=names[s.id]) for s in side.segments))

    for make in (lambda: VPQ(CLASSES, windows=(1, 2)), lambda: STQ(CLASSES)):
        found = scored(make(), videos)
        again = scored(make(), [[(renamed(p), g) for p, g in frames] for frames in videos])
        assert again.compute() == pytest.approx(found.compute(), nan_ok=True)
        names = [str(i) for i in range(len(videos))]
        left, right = scored(make(), videos[:cut], names[:cut]), scored(make(), videos[cut:], names[cut:])
        right.merge(left)
        assert right.compute() == pytest.approx(found.compute(), nan_ok=True)
    halves = STQ(CLASSES), STQ(CLASSES)  # STQ alone does not care how the frames of a video are dealt out
    for n, frames in enumerate(videos):
        for t, frame in enumerate(frames):
            halves[t % 2].update(*frame, video=str(n))
    halves[0].merge(halves[1])
    assert halves[0].compute() == pytest.approx(scored(STQ(CLASSES), videos).compute(), nan_ok=True)


def test_a_perfect_prediction_is_1():
    for seed in range(3):
        frames = [(g, g) for _, g in step_frames(seed)]
        vpq, stq = whole(VPQ(CLASSES), frames).compute(), whole(STQ(CLASSES), frames).compute()
        assert {v for k, v in vpq.items() if not math.isnan(v)} == {1.0}
        assert (stq["stq"], stq["aq"], stq["sq"]) == pytest.approx((1, 1, 1))
        depth = torch.rand(30, 40) + 1
        both = [(*frame, depth, depth) for frame in frames]
        assert whole(DVPQ(CLASSES), both).compute()["dvpq"] == 1
        assert whole(DSTQ(CLASSES), both).compute()["dstq"] == pytest.approx(1)


def test_depth_scores_merge_and_shrink_with_lambda():
    torch.manual_seed(1)
    videos = [[(*f, torch.rand(30, 40) + 1, torch.rand(30, 40) + 1) for f in step_frames(seed)] for seed in range(2)]
    for make in (lambda: DVPQ(CLASSES), lambda: DSTQ(CLASSES)):
        found, left, right = scored(make(), videos), scored(make(), videos[:1], "0"), scored(make(), videos[1:], "1")
        right.merge(left)
        assert right.compute() == pytest.approx(found.compute(), nan_ok=True)
        assert right.frames == found.frames == {"0": 5, "1": 5}
    scores = scored(DVPQ(CLASSES), videos).compute()
    assert scores["dvpq@lambda0.1"] <= scores["dvpq@lambda0.25"] <= scores["dvpq@lambda0.5"]
    plain = scored(VPQ(CLASSES), [[frame[:2] for frame in frames] for frames in videos]).compute()
    loose = scored(DVPQ(CLASSES, lambdas=(100.0,)), videos).compute()
    assert loose["dvpq"] == plain["vpq"]


def test_the_state_is_counts_of_a_few_frames():
    metric = VPQ(CLASSES, windows=(1, 3))
    for _ in range(8):
        whole(metric, step_frames(0), video="long")
    assert metric.frames == {"long": 40}
    assert len(metric._recent["long"]) == 2
    assert all(len(frame.pixels.pixels) < 200 for frame in metric._recent["long"])


def test_unscored_classes_do_not_enter_the_means():
    classes = replace(CLASSES, unscored=(0,))
    frames = step_frames(0)
    vpq, stq = whole(VPQ(classes), frames).compute(), whole(STQ(classes), frames).compute()
    assert math.isnan(vpq["vpq/road"])
    assert math.isnan(stq["iou/road"])
    rest = [whole(VPQ(CLASSES), frames).compute()[f"vpq/{name}"] for name in ("tree", "sky")]
    assert vpq["vpq_stuff"] == pytest.approx(sum(rest) / 2)


# --- words -----------------------------------------------------------------------------------------------------------


def test_summaries_and_tables():
    labels = {1: 4, 5: 0}
    frame = panoptic([1, 1, 5, 5], labels), panoptic([1, 1, 5, 5], labels)
    assert whole(VPQ(CLASSES, windows=(1,)), [frame]).summary().splitlines() == [
        "VPQ, windows of 1",
        "          |    PQ     SQ     RQ     N",
        "-" * 38,
        "All       | 100.0  100.0  100.0     2",
        "Things    | 100.0  100.0  100.0     1",
        "Stuff     | 100.0  100.0  100.0     1",
        "",
        "vpq_all:100.0000",
        "vpq_thing:100.0000",
        "vpq_stuff:100.0000",
    ]
    assert whole(STQ(CLASSES), [frame] * 2, video="0002").summary().splitlines() == [
        "STQ: 1.000000",
        "AQ: 1.000000",
        "IoU: 1.000000",
        "0002: STQ 1.000000  AQ 1.000000  IoU 1.000000  (2 frames)",
    ]
    assert whole(STQ(CLASSES), [frame] * 2, video="0002").table() == [
        {"video": "0002", "stq": 1.0, "aq": 1.0, "sq": 1.0, "frames": 2, "tracks": 1}
    ]
    depth = torch.ones(1, 4)
    deep = *frame, depth, depth
    assert whole(DVPQ(CLASSES, windows=(1,)), [deep]).summary().splitlines() == [
        "  lambda                  k = 1",
        "     0.1  100.0 | 100.0 | 100.0",
        "    0.25  100.0 | 100.0 | 100.0",
        "     0.5  100.0 | 100.0 | 100.0",
        "DVPQ: 100.0",
    ]
    assert whole(DSTQ(CLASSES), [deep]).summary().splitlines()[:2] == ["DSTQ: 1.000000", "DQ: 1.000000"]
    rows = whole(DVPQ(CLASSES, windows=(1,), lambdas=(0.5,)), [deep]).table()
    assert rows[4] == {"class": "car", "kind": "thing", "dvpq": 1.0, "vpq@lambda0.5": 1.0}
    assert math.isnan(STQ(CLASSES).compute()["stq"])
    assert math.isnan(VPQ(CLASSES).compute()["vpq"])


ONE = panoptic([1, 1], {1: 4})


def merged(*metrics):
    metrics[0].merge(metrics[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VPQ(CLASSES, windows=()), "windows are []; give different numbers of frames, from 1"),
        (lambda: VPQ(CLASSES, windows=(2, 0)), "windows are [2, 0]; give different numbers of frames, from 1"),
        (lambda: VPQ(CLASSES, windows="12"), "windows are ['1', '2']; give different numbers of frames, from 1"),
        (lambda: DVPQ(CLASSES, lambdas=("a",)), "lambdas are ['a']; give different numbers above 0"),
        (lambda: DVPQ(CLASSES, lambdas=(0.5, 0.5)), "lambdas are [0.5, 0.5]; give different numbers above 0"),
        (lambda: DSTQ(CLASSES, thresholds=(0.5,)), "thresholds are [0.5]; give different ratios, from 1"),
        (lambda: STQ(CLASSES, predicted_void="no"), "predicted_void is 'no'; choose 'class' or 'miss'"),
        (
            lambda: VPQ(CLASSES).update(ONE, panoptic([1, 1, 1], {1: 4}), video="a"),
            "prediction of video 'a' is 1x2 but truth is 1x3; resize the prediction to the truth (nearest)",
        ),
        (
            lambda: STQ(TWO).update(ONE, ONE, video="a"),
            "the prediction of video 'a' has a segment of class 4; classes are 0..1",
        ),
        (
            lambda: VPQ(TWO).update(panoptic([0, 0], {}), ONE),
            "the truth has a segment of class 4; classes are 0..1",
        ),
        (
            lambda: DVPQ(CLASSES).update(ONE, ONE, torch.ones(1, 3), torch.ones(1, 2)),
            "the predicted depth is 1x3 but the panoptic map is 1x2; resize the depth",
        ),
        (
            lambda: DSTQ(CLASSES).update(ONE, ONE, torch.ones(1, 2), torch.ones(1, 1, 2)),
            "the true depth has shape (1, 1, 2); expected (H, W)",
        ),
        (
            lambda: merged(whole(VPQ(CLASSES), [(ONE, ONE)], "a"), whole(VPQ(CLASSES), [(ONE, ONE)], "a")),
            "video 'a' is in both scores; give all frames of a video to one of them",
        ),
        (
            lambda: merged(STQ(TWO), STQ(TWO, predicted_void="miss")),
            "cannot merge scores of different predicted_void: class and miss",
        ),
        (
            lambda: merged(STQ(TWO), STQ(replace(TWO, things=(True, True)))),
            "cannot merge scores of different things: (True, False) and (True, True)",
        ),
        (
            lambda: merged(VPQ(TWO, (1,)), VPQ(TWO, (1, 2))),
            "cannot merge scores of different windows: (1,) and (1, 2)",
        ),
        (
            lambda: merged(VPQ(TWO), VPQ(Classes(("car", "tree"), things=(True, False)))),
            "cannot merge scores of different names: ('car', 'sky') and ('car', 'tree')",
        ),
        (
            lambda: merged(DVPQ(TWO), DVPQ(TWO, lambdas=(0.1,))),
            "cannot merge scores of different lambdas: (0.1, 0.25, 0.5) and (0.1,)",
        ),
        (
            lambda: merged(DSTQ(TWO), DSTQ(TWO, thresholds=(1.1,))),
            "cannot merge scores of different thresholds: (1.25, 1.1) and (1.1,)",
        ),
    ],
)
def test_bad_input_says_what_came_and_what_to_do(call, message, as_user):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        call()
    assert str(caught.value) == message
