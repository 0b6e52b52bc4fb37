"""VOC's AP against its definition written as a loop, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.metrics.voc_ap import VocAP
from masklet.structures import Classes
from masklet.structures.objects import Objects


def objects(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Objects.of_image(np.zeros(len(boxes), int) if labels is None else labels, boxes=boxes, scores=scores, **more)


def made(seed):
    """Images of random boxes with labels, scores and difficult flags; many scores are equal."""
    rng, images, beyond = np.random.default_rng(seed), [], np.array([0, 0, 40, 40])
    for _ in range(rng.integers(1, 5)):
        true = rng.integers(0, 30, (rng.integers(0, 6), 4)) + beyond
        near = true[rng.integers(0, len(true), 8)] + rng.integers(-6, 7, (8, 4)) if len(true) else np.zeros((0, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])  # a small box may be shaken until it ends before it begins
        found = np.concatenate([near, rng.integers(0, 30, (rng.integers(0, 5), 4)) + beyond])
        images.append(
            (found, rng.integers(0, 2, len(found)), rng.random(len(found)).round(1),
             true, rng.integers(0, 2, len(true)), rng.random(len(true)) < 0.2)
        )  # fmt: skip
    return images


def by_the_book(images, label, threshold, points):
    """The development kit's steps, one box after another."""
    total, used, outcomes = 0, set(), []
    rows = []
    for i, (_, labels, scores, _, true_labels, difficult) in enumerate(images):
        total += int(((true_labels == label) & ~difficult).sum())
        rows += [(-s, i, k) for k, (s, c) in enumerate(zip(scores, labels, strict=True)) if c == label]
    for _, i, k in sorted(rows):
        box, best, chosen = images[i][0][k], -np.inf, None
        for g, (other, c) in enumerate(zip(images[i][3], images[i][4], strict=True)):
            if c != label:
                continue
            w, h = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
            if w > 0 and h > 0:
                overlap = w * h / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - w * h)
                if overlap > best:
                    best, chosen = overlap, g
        if best >= threshold:
            if images[i][5][chosen]:
                continue
            outcomes.append((i, chosen) not in used)
            used.add((i, chosen))
        else:
            outcomes.append(False)
    if not total:
        return math.nan
    right = np.cumsum(outcomes) if outcomes else np.zeros(0)
    recall, precision = right / total, right / np.arange(1, len(right) + 1)
    if points == "eleven":
        return (
            sum(max([p for r, p in zip(recall, precision, strict=True) if r >= t / 10], default=0) for t in range(11))
            / 11
        )
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i + 1] - recall[i]) * precision[i + 1] for i in range(len(recall) - 1))


def score(images, order=None, **options):
    out = VocAP(Classes(("a", "b")), **options)
    for i in range(len(images)) if order is None else order:
        found, labels, scores, true, true_labels, difficult = images[i]
        out.update(objects(found, labels, scores), objects(true, true_labels), image=i, difficult=difficult)
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["area", "eleven"]), st.sampled_from([0.5, 0.75]))
def test_equals_the_book(seed, points, threshold):
    images = made(seed)
    found = score(images, points=points, threshold=threshold).compute()
    want = [by_the_book(images, label, threshold, points) for label in (0, 1)]
    assert [found["ap/a"], found["ap/b"]] == pytest.approx(want, abs=1e-12, nan_ok=True)
    known = [value for value in want if not math.isnan(value)]
    assert found["ap"] == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_parts_merge_into_the_whole(seed, random):
    images = made(seed)
    order = random.sample(range(len(images)), len(images))
    cut = random.randint(0, len(images))
    first, second = score(images, order[:cut]), score(images, order[cut:])
    second.merge(first)
    whole = score(images)
    assert second.compute() == pytest.approx(whole.compute(), nan_ok=True, abs=0)
    assert second.images == len(images)


def test_worked_by_hand():
    """Right, twice the same (wrong), right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1; a fourth is difficult."""
    true = objects([[0, 0, 40, 40], [60, 0, 100, 40], [0, 60, 40, 100]])
    found = objects([[0, 0, 40, 40], [0, 0, 40, 38], [60, 0, 100, 40], [0, 60, 40, 100]], scores=[0.9, 0.8, 0.7, 0.95])
    for points, want in (("area", 0.5 + 0.5 * 2 / 3), ("eleven", (6 + 5 * 2 / 3) / 11)):
        out = VocAP(1, points=points)
        out.update(found, true, image="a", difficult=[False, False, True])
        assert out.compute() == pytest.approx({"ap": want, "ap/0": want})
    assert out.table() == [{"class": "0", "ap": pytest.approx(want), "recall": 1.0, "truths": 2}]
    (curve,) = out.curves()
    assert curve.x.tolist() == [0.5, 0.5, 1]
    assert curve.y.tolist() == [1, 0.5, pytest.approx(2 / 3)]


def test_nothing():
    assert all(map(math.isnan, VocAP(2).compute().values()))
    out = VocAP(1)
    out.update(objects([], scores=[]), objects([[0, 0, 1, 1]]), image=0)
    assert out.compute()["ap"] == 0


def once(*names):
    out = VocAP(1)
    for name in names:
        out.update(objects([[0, 0, 1, 1]], scores=[1.0]), objects([[0, 0, 1, 1]]), image=name)
    return out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VocAP(1, points="12"), "points is '12'; choose 'area' (VOC 2010) or 'eleven' (VOC 2007)"),
        (lambda: VocAP(1, threshold=0), "threshold is 0; an IoU above 0 and up to 1; VOC's is 0.5"),
        (lambda: once("a", "a"), "image 'a' came twice; update once for each image, with everything in it"),
        (lambda: once("a").merge(once("a")), "image 'a' is in both parts; give every image to one part only"),
        (
            lambda: VocAP(1).merge(VocAP(1, points="eleven")),
            "cannot merge scores of different settings: (('0',), 0.5, 'area') and (('0',), 0.5, 'eleven')",
        ),
        (
            lambda: VocAP(1).update(objects([[0, 0, 1, 1]]), objects([[0, 0, 1, 1]]), image=0),
            "the predictions have no scores; give one score for each object",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message
