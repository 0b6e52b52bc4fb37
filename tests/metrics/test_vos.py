"""J&F of videos: the recorded DAVIS scores, protocols worked by hand, merging, and what goes wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

import oracle
from conftest import shared
from masklet.metrics.region_contour import compare, j_and_f
from masklet.metrics.video_protocols import (
    PROTOCOLS,
    SAV,
    SemiSupervised,
    Unsupervised,
    VideoProtocol,
    YouTubeVOS,
    statistics,
)
from masklet.metrics.vos import JF, InteractiveJF, YouTubeVOSScore
from masklet.structures import UserError

KEYS = ["jf", "j", "j_recall", "j_decay", "f", "f_recall", "f_decay"]


def blobs(seed: int, objects: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true ids of a video (frames, 24, 30) in which objects move, vanish and come back."""
    rng = np.random.default_rng(seed)
    ids = ndimage.gaussian_filter(rng.normal(size=(objects + 1, frames + 1, 24, 30)), (0, 1, 3, 3)).argmax(0)
    ids = ids.astype(np.uint8)
    return np.roll(ids[:-1], 1, 2), ids[1:]


def score(metric, pred: np.ndarray, truth: np.ndarray, sequence: str = "v", only=None):
    for i in range(len(truth)) if only is None else only:
        metric.update(pred[i], truth[i], sequence, int(i))
    return metric


@pytest.mark.parametrize("sequence", ["car-shadow", "libby"])
def test_equals_davis_on_osvos(sequence: str):
    recorded = oracle.meta(shared("oracles", "davis_metrics", "osvos_on_davis2016"))["sequences"][sequence]
    metric = JF()
    for path in sorted(shared("data", "davis2016", "Annotations", "480p", sequence).glob("*.png")):
        partner = shared("data", "davis2016_osvos_predictions", "osvos", sequence) / path.name
        metric.update(*(np.array(Image.open(file)) > 0 for file in (partner, path)), sequence)
    scores, want = metric.compute(), recorded["without_first_and_last"]
    assert [scores[k] for k in KEYS[1:]] == pytest.approx([*want["J"], *want["F"]], abs=1e-6)
    frames = metric.sequences[sequence]
    ours = np.array([[frames[i].j[0], frames[i].f[0]] if len(frames[i].ids) else [1, 1] for i in sorted(frames)])
    np.testing.assert_allclose(ours, np.stack([recorded["J_per_frame"], recorded["F_per_frame"]], 1), atol=1e-6)
    for values, key in zip(ours.T, "JF", strict=True):
        assert statistics(values) == pytest.approx(recorded["all_frames"][key], abs=1e-6)
    assert abs(scores["j"] - recorded["all_frames"]["J"][0]) > 1e-6  # leaving frames out is seen


def test_statistics_by_hand():
    # bins of 10 frames: edges at frames 1, 3, 6, 8, 10, each part of both neighbours
    values = np.array([1, 1, 0.7, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2])
    mean, recall, decay = statistics(values)
    assert mean == pytest.approx(0.56)
    assert recall == pytest.approx(0.3)  # 0.5 is not above 0.5
    assert decay == pytest.approx(0.9 - 0.3)
    assert np.isnan(statistics(np.zeros(0))).all()
    assert statistics(np.full(1, 0.6)) == (0.6, 1.0, 0.0)


def test_decay_of_long_sequences():
    values = np.linspace(1, 0, 1000)  # bin edges past 255
    assert statistics(values)[2] == pytest.approx(0.75, abs=2e-3)


def mask(y: int, x: int = 2, number: int = 1) -> np.ndarray:
    ids = np.zeros((20, 20), np.uint8)
    ids[y : y + 4, x : x + 4] = number
    return ids


NOTHING = np.zeros((20, 20), np.uint8)


def test_semi_supervised_by_hand():
    # two objects; object 2 is found once, missed once, and rightly absent once; frames 0 and 4 do not count
    truth = [mask(2) + mask(10, 10, 2)] * 3 + [mask(2)] * 2
    pred = [NOTHING, mask(2) + mask(10, 10, 2), mask(2), mask(2), NOTHING]
    metric = JF()
    for p, t in zip(pred, truth, strict=True):
        metric.update(p, t, "pair")
    rows = metric.table()
    assert [(r["sequence"], r["object"], r["frames"], r["jf"]) for r in rows] == [
        ("pair", 1, 3, 1.0),
        ("pair", 2, 3, pytest.approx(2 / 3)),
    ]
    scores = metric.compute()
    assert scores["j"] == scores["f"] == scores["jf"] == scores["jf/pair"] == pytest.approx(5 / 6)
    assert scores["j_recall"] == pytest.approx(5 / 6)
    first, second = metric.curves()
    assert (first.name, first.group, second.name) == ("J", "pair", "F")
    assert first.x.tolist() == [1, 2, 3]
    assert first.y.tolist() == [1, 0.5, 1]


def test_objects_are_those_up_to_the_highest_of_the_first_frame():
    truth = [mask(2, number=2), mask(2, number=3), mask(2, number=2), mask(2, number=2)]
    metric = score(JF(), np.stack([NOTHING] * 4), np.stack(truth))
    assert [(r["object"], r["j"]) for r in metric.table()] == [(1, 1.0), (2, 0.5)]  # 1 is rightly absent, 3 unknown


def test_void_is_background_where_masks_are_given():
    truth = [mask(2)] * 4
    hidden = [np.where(mask(10, 10), np.uint8(255), ids) for ids in truth]
    pred = np.stack([mask(2)] * 4)
    assert score(JF(), pred, np.stack(hidden)).compute() == score(JF(), pred, np.stack(truth)).compute()


def test_unsupervised_ignores_void_pixels():
    truth = np.stack([np.where(mask(10, 10), np.uint8(255), mask(2))] * 2)
    pred = np.stack([mask(2, number=3) + mask(10, 10, 3)] * 2)  # its second half lies in void
    assert score(JF(Unsupervised()), pred, truth).compute()["jf"] == 1.0
    assert score(JF(Unsupervised()), pred, np.where(truth == 255, 0, truth)).compute()["j"] == 0.5


def test_unsupervised_needs_no_names_and_leaves_the_rest_alone():
    truth = np.stack([mask(2) + mask(10, 10, 2)] * 2)
    pred = np.stack([mask(2, number=4) + mask(10, 10, 1) + mask(10, 2, 9)] * 2)
    metric = score(JF(Unsupervised()), pred, truth)
    assert metric.compute()["jf"] == 1.0
    alone = score(JF(Unsupervised()), np.stack([mask(10, 10, 1)] * 2), truth)
    assert [row["j"] for row in alone.table()] == [0.0, 1.0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_unsupervised_takes_the_best_of_all_assignments(seed: int):
    pred, truth = blobs(seed, 3, 4)
    truth[0, 0, :3] = 1, 2, 3
    pred[0, -1, :4] = 1, 2, 3, 4
    metric = score(JF(Unsupervised()), pred, truth)
    table = np.zeros((4, 3, 4, 2))
    for p, t, i in itertools.product(range(4), range(3), range(4)):
        table[p, t, i] = j_and_f(pred[i] == p + 1, truth[i] == t + 1)
    means = table.mean(axis=(2, 3))
    best = max(sum(means[p, t] for t, p in enumerate(order)) for order in itertools.permutations(range(4), 3))
    assert metric.compute()["jf"] == pytest.approx(best / 3)


def test_sav_counts_from_the_first_appearance():
    # the first and last frame do not count; object 2 appears in frame 2, where only the prediction has it
    truth = [mask(2), mask(2), mask(2), mask(2) + mask(10, 10, 2), mask(2)]
    pred = [NOTHING, mask(2), mask(2) + mask(10, 10, 2), mask(2) + mask(10, 10, 2), NOTHING]
    metric = score(JF(SAV()), np.stack(pred), np.stack(truth))
    assert [(r["object"], r["frames"], r["jf"]) for r in metric.table()] == [(1, 3, 1.0), (2, 2, 0.5)]
    assert metric.summary() == "Global score: J&F: 75.0 J: 75.0 F: 75.0"
    strange = score(JF(SAV()), np.stack(pred) + mask(15, 2, 7), np.stack(truth))
    assert [r["object"] for r in strange.table()] == [1, 2]  # ids that the truth never has are left alone


def test_youtube_vos_by_hand():
    late = mask(2) + mask(10, 10, 2)
    truth = np.stack([mask(2), mask(2), late, late])
    pred = np.stack([mask(2), NOTHING, late, mask(2)])
    seen = {"v": {1: True, 2: False}}
    metric = score(YouTubeVOSScore(seen), pred, truth)
    assert metric.compute() == {
        "g": pytest.approx(0.625),
        "j_seen": 0.75,
        "f_seen": 0.75,
        "j_unseen": 0.5,
        "f_unseen": 0.5,
        "jf": 0.625,
        "j": 0.625,
        "f": 0.625,
    }
    assert metric.summary() == ("Overall: 0.625  j_seen: 0.750  j_unseen: 0.500  f_seen: 0.750  f_unseen: 0.500")
    assert [(r["object"], r["category"], r["frames"]) for r in metric.table()] == [(1, "seen", 4), (2, "unseen", 2)]
    assert len(metric.curves()) == 2
    given_left_out = score(YouTubeVOSScore(seen, YouTubeVOS(skip_given=True)), pred, truth).compute()
    assert (given_left_out["j_seen"], given_left_out["j_unseen"]) == (pytest.approx(2 / 3), 0.0)
    listed = score(YouTubeVOSScore(seen, YouTubeVOS({"v": {1: [0, 1], 2: [2]}})), pred, truth).compute()
    assert (listed["j_seen"], listed["j_unseen"]) == (0.5, 1.0)
    only_seen = score(YouTubeVOSScore({"v": {1: True, 2: True}}), pred, truth).compute()
    assert np.isnan(only_seen["g"])
    assert only_seen["j"] == 0.625


def test_the_mean_of_g_weighs_kinds_not_objects():
    truth = np.stack([mask(2) + mask(10, 10, 2) + mask(10, 2, 3)] * 2)
    pred = np.stack([mask(2) + mask(10, 10, 2)] * 2)
    scores = score(YouTubeVOSScore({"v": {1: True, 2: True, 3: False}}), pred, truth).compute()
    assert (scores["g"], scores["jf"]) == (0.5, pytest.approx(2 / 3))


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(PROTOCOLS)))
@settings(max_examples=8, deadline=None)
def test_halves_merge_into_the_whole(seed: int, protocol: str):
    rng = np.random.default_rng(seed)
    rule, whole, parts = PROTOCOLS[protocol], JF(PROTOCOLS[protocol]), [JF(PROTOCOLS[protocol]) for _ in range(3)]
    for name in ("a", "b"):
        pred, truth = blobs(seed, 3, 6)
        truth[0, 0, :3] = truth[3, 0, :3] = pred[3, 0, :3] = 1, 2, 3
        score(whole, pred, truth, name)
        for i in rng.permutation(6):
            score(parts[rng.integers(3)], pred, truth, name, [i])
    merged = JF(rule)
    for i in rng.permutation(3):
        merged.merge(parts[i])
    assert merged.compute() == whole.compute()
    assert merged.table() == whole.table()
    scores = whole.compute()
    assert all(0 <= scores[key] <= 1 for key in ("jf", "j", "f", "j_recall", "f_recall"))
    assert scores["jf"] == pytest.approx(np.mean([scores["jf/a"], scores["jf/b"]]))


def test_summary_is_the_table_of_the_official_tool():
    pred, truth = np.stack([mask(2)] * 5), np.stack([mask(2)] * 5)
    for rule in (SemiSupervised(), Unsupervised()):
        assert score(JF(rule), pred, truth).summary().splitlines()[1:] == [
            " J&F-Mean    J-Mean  J-Recall   J-Decay    F-Mean  F-Recall   F-Decay",
            "    1.000     1.000     1.000     0.000     1.000     1.000     0.000",
        ]
    assert score(JF(YouTubeVOS()), pred, truth).summary() == "J&F: 1.000 J: 1.000 F: 1.000"


def test_nothing_was_scored():
    assert all(np.isnan(value) for value in JF().compute().values())
    assert JF().table() == JF().curves() == []


def test_interactive_by_hand():
    metric = InteractiveJF()
    for sample, rows in {"a": [(10, 0.4), (30, 0.6), (90, 0.8)], "b": [(10, 0.6), (30, 0.8)]}.items():
        for i, (seconds, jf) in enumerate(rows, 1):
            metric.update(sample, i, seconds, jf)
    # means: (0, 0), (10, .5), (30, .7), and (60, .8) where b stays at (30, .8)
    assert metric.compute() == {"auc": pytest.approx((2.5 + 12 + 22.5) / 60), "jf@60": pytest.approx(0.8)}
    assert metric.summary() == "AUC: 0.617  J&F@60s: 0.800"
    (curve,) = metric.curves()
    assert curve.x.tolist() == [0, 10, 30, 60]
    assert len(metric.table()) == 5
    early = InteractiveJF(20)
    early.update("a", 1, 10, 0.5)
    early.update("a", 2, 30, 0.7)
    assert early.compute()["jf@20"] == pytest.approx(0.6)
    assert np.isnan(InteractiveJF().compute()["auc"])


def test_interactive_parts_merge():
    whole, parts = InteractiveJF(), [InteractiveJF(), InteractiveJF()]
    for i in range(1, 5):
        for sample in "ab":
            point = (sample, i, 5.0 * i, 0.2 * i)
            whole.update(*point)
            parts[(i + (sample == "a")) % 2].update(*point)
    parts[1].merge(parts[0])
    assert parts[1].compute() == whole.compute()


def bad_interactive(*rows: tuple) -> InteractiveJF:
    metric = InteractiveJF()
    for row in rows:
        metric.update(*row)
    return metric


def failing(rule: VideoProtocol, pred: list[np.ndarray], truth: list[np.ndarray]):
    return lambda: score(JF(rule), np.stack(pred), np.stack(truth), "dog").compute()


def merging(first, second):
    return lambda: first.merge(second)


ONE = [mask(2)] * 4


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            failing(SemiSupervised(), [mask(2), mask(2, number=3), mask(2), mask(2)], ONE),
            "frame 1 of 'dog' predicts object 3, but the first true frame has only object 1; "
            "predicted ids are those of the first true frame",
        ),
        (
            failing(YouTubeVOS(), [mask(2), mask(2, number=5), mask(2), mask(2)], [mask(2) + mask(10, 10, 3)] * 4),
            "frame 1 of 'dog' predicts object 5, but the truth has objects 1, 3; predicted ids are those of the truth",
        ),
        (
            failing(Unsupervised(), [mask(2, number=21)] * 4, ONE),
            "'dog' has a proposal 21, but 20 are allowed; keep the best 20 and number them from 1",
        ),
        (
            failing(SemiSupervised(), ONE, [NOTHING] * 4),
            "the first true frame of 'dog' shows no object; its ids count from 1, and 255 is void; "
            "black and white masks (DAVIS 2016) need joined=true",
        ),
        (failing(SAV(), ONE, [NOTHING] * 4), "'dog' has no true object in any frame that counts; leave it out"),
        (failing(YouTubeVOS(), ONE, [NOTHING] * 4), "'dog' has no true object in any frame; leave it out"),
        (
            failing(YouTubeVOS({"dog": {1: [0], 4: [1, 2]}}), ONE, ONE),
            "'dog' never shows object 4 in a true frame; check meta.json",
        ),
        (
            failing(SemiSupervised(), ONE[:2], ONE[:2]),
            "'dog' has 2 frames, and the first and the last do not count; give at least 3",
        ),
        (
            lambda: score(JF(), np.stack(ONE), np.stack(ONE), "dog", [3, 3]),
            "frame 3 of 'dog' came twice; score every frame once",
        ),
        (
            lambda: JF().update(NOTHING[:10], NOTHING, "dog", 7),
            "frame 7 of 'dog': prediction is 10x20 but truth is 20x20; resize the prediction to the truth (nearest)",
        ),
        (
            merging(score(JF(), np.stack(ONE), np.stack(ONE), "dog"), score(JF(), np.stack(ONE), np.stack(ONE), "dog")),
            "frame 0 of 'dog' came twice; score every frame once",
        ),
        (
            merging(JF(SAV()), JF(YouTubeVOS())),
            "cannot merge scores of different settings: (SAV(), 0.008) and "
            "(YouTubeVOS(frames={}, skip_given=False), 0.008)",
        ),
        (lambda: JF(bound=-1), "bound is -1; give a share of the image diagonal, 0.008 for DAVIS"),
        (
            lambda: YouTubeVOSScore({}).update(NOTHING, NOTHING, "dog"),
            "nobody said which objects of 'dog' are seen; check meta.json",
        ),
        (
            lambda: score(YouTubeVOSScore({"v": {}}), np.stack(ONE), np.stack(ONE)).compute(),
            "nobody said whether object 1 of 'v' is seen; check meta.json",
        ),
        (
            merging(YouTubeVOSScore({}), YouTubeVOSScore({"v": {1: True}})),
            "cannot merge scores of different seen categories; use one meta.json for all parts",
        ),
        (
            lambda: bad_interactive(("a", 0, 1, 0.5)),
            "interaction 0 of 'a' took 1 seconds and scored 0.5; "
            "interactions count from 1, seconds from 0, and J&F lies in [0, 1]",
        ),
        (
            lambda: bad_interactive(("a", 1, 1, 0.5), ("a", 1, 2, 0.5)),
            "interaction 1 of 'a' came twice; add every interaction once",
        ),
        (
            lambda: bad_interactive(("a", 2, 1, 0.5)).compute(),
            "'a' lacks interaction 1; number interactions 1, 2, 3, ...",
        ),
        (
            lambda: bad_interactive(("a", 1, 3, 0.5), ("a", 2, 1, 0.5)).compute(),
            "the seconds of 'a' run backwards; give seconds since the start",
        ),
        (merging(InteractiveJF(), InteractiveJF(30)), "cannot merge values at 60 and 30 seconds"),
        (
            merging(bad_interactive(("a", 1, 1, 0.5)), bad_interactive(("a", 1, 1, 0.5))),
            "interaction 1 of 'a' came twice; add every interaction once",
        ),
    ],
)
def test_bad_input(call, message: str):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message


def test_state_is_small():
    frame = compare(mask(2), mask(3))
    assert sum(part.nbytes for part in (frame.pred, frame.truth, frame.j, frame.f)) == 32
