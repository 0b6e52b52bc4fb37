"""The NMS family against recorded originals (torchvision, Soft-NMS, YOLACT, mmdet), worked numbers and plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops as tv

import oracle
from masklet.ops import boxes, masks, nms

# Three boxes in a row: IoU of neighbours 7 / 13 = .5385, of the outer ones .25.
ROW = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def read(folder, *names):
    return tuple(torch.from_numpy(oracle.recorded(name, folder)) for name in names)


def random_set(n, seed, classes=3):
    noise = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=noise) * 20
    sides = torch.rand(n, 2, generator=noise) * 20 + 1
    labels = torch.randint(classes, (n,), generator=noise)
    return torch.cat([corner, corner + sides], 1), torch.rand(n, generator=noise), labels


def test_greedy_by_hand():
    assert nms.nms(ROW, SCORES, 0.5).tolist() == [0, 2]
    assert nms.greedy(boxes.pairwise_iou(ROW, ROW), SCORES, 0.5).tolist() == [0, 2]
    assert nms.batched_nms(ROW, SCORES, torch.tensor([0, 1, 0]), 0.2).tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_greedy_recorded(threshold):
    folder = oracle.find("ops_nms")
    found, scores, labels = read(folder, "boxes", "scores", "classes")
    labels = labels.long()
    keep, batched = read(folder, f"nms.keep@{threshold}", f"batched_nms.keep@{threshold}")
    iou = boxes.pairwise_iou(found, found)
    assert nms.nms(found, scores, threshold).tolist() == keep.tolist()
    assert nms.greedy(iou, scores, threshold).tolist() == keep.tolist()
    assert nms.batched_nms(found, scores, labels, threshold).tolist() == batched.tolist()
    assert nms.greedy(iou, scores, threshold, labels).tolist() == batched.tolist()
    assert keep.tolist() != batched.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 40), st.floats(0.05, 0.95))
def test_greedy_on_a_matrix_equals_torchvision(seed, n, threshold):
    found, scores, labels = random_set(n, seed)
    iou = boxes.pairwise_iou(found, found)
    kept = nms.greedy(iou, scores, threshold)
    assert kept.tolist() == tv.nms(found, scores, threshold).tolist()
    assert (iou[kept][:, kept].triu(1) <= threshold).all()
    batched = nms.greedy(iou, scores, threshold, labels)
    assert batched.tolist() == tv.batched_nms(found, scores, labels, threshold).tolist()


def test_soft_by_hand():
    index, scores = nms.soft_nms(ROW, SCORES, decay=nms.Linear(0.5))
    assert index.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.1704], abs=1e-4)
    index, scores = nms.soft_nms(ROW, SCORES, decay=nms.Gaussian(0.5))
    assert index.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.6177, 0.2508], abs=1e-4)


def hard(threshold):
    return lambda overlap: (overlap <= threshold).float()


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("kind", ["hard", "linear", "gaussian"])
def test_soft_recorded(kind, threshold):
    folder = oracle.find("ops_nms")
    found, scores, rows = read(folder, "boxes", "scores", f"soft_nms.{kind}@{threshold}")
    decay = {"hard": hard(threshold), "linear": nms.Linear(threshold), "gaussian": nms.Gaussian()}[kind]
    index, left = nms.soft_nms(found, scores, decay=decay, overlap=boxes.inclusive_iou)
    torch.testing.assert_close(torch.cat([found[index], left[:, None]], 1), rows, atol=1e-5, rtol=1e-4)
    if kind != "hard":  # without the pixel at the end the scores are others
        _, other = nms.soft_nms(found, scores, decay=decay)
        assert len(other) != len(rows) or not torch.allclose(other, rows[:, 4], atol=1e-3)


def soft_in_a_loop(found, scores, decay, min_score):
    """The definition, one detection after the other."""
    scores, todo, picks = scores.clone(), list(range(len(scores))), []
    while todo:
        best = max(todo, key=lambda i: scores[i])
        if scores[best] < min_score:
            break
        picks.append((best, float(scores[best])))
        todo.remove(best)
        for i in todo:
            scores[i] *= decay(boxes.iou(found[best], found[i]))
    return picks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 14), st.sampled_from([nms.Linear(0.2), nms.Gaussian(0.4)]))
def test_soft_equals_the_loop_in_every_group(seed, n, decay):
    found, scores, labels = random_set(n, seed)
    index, left = nms.soft_nms(found, scores, labels, decay, min_score=0.05)
    assert (left[:-1] >= left[1:]).all()
    for label in range(3):
        own = (labels == label).nonzero().flatten()
        expected = soft_in_a_loop(found[own], scores[own], decay, 0.05)
        mine = labels[index] == label
        assert index[mine].tolist() == own[[i for i, _ in expected]].tolist()
        assert left[mine].tolist() == pytest.approx([s for _, s in expected], abs=1e-6)


def test_soft_with_equal_boxes_and_nothing_left():
    twice = ROW[[0, 0, 0]]
    index, left = nms.soft_nms(twice, SCORES, torch.tensor([0, 0, 1]), nms.Linear())
    assert (index.tolist(), left.tolist()) == ([0, 2], SCORES[[0, 2]].tolist())
    index, left = nms.soft_nms(ROW, SCORES, min_score=0.95)
    assert index.shape == left.shape == (0,)


def test_fast_by_hand():
    """B is removed by A and removes C all the same: that is what makes it fast."""
    iou = boxes.pairwise_iou(ROW, ROW)
    assert nms.fast_nms(iou, SCORES[:, None], 0.5).index.tolist() == [0]
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0, 0.7]])  # C is of another class
    per_class = nms.fast_nms(iou, scores, 0.5)
    first = per_class.scores > 0
    assert per_class.index[first].tolist() == [0, 2]
    assert per_class.labels[first].tolist() == [0, 1]
    assert nms.cross_class_fast_nms(iou, scores, 0.5).index.tolist() == [0]


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_fast_recorded_from_yolact(threshold):
    folder = oracle.find("ops_nms")
    scores, found = read(folder, "yolact.scores", "yolact.boxes")
    iou = boxes.pairwise_iou(found, found)
    results = []
    for name, function in (("fast_nms", nms.fast_nms), ("cc_fast_nms", nms.cross_class_fast_nms)):
        kept = function(iou, scores.T, threshold)
        index, labels, left = (oracle.recorded(f"yolact.{name}@{threshold}.{k}", folder) for k in KEPT)
        assert kept.index.tolist() == index.tolist()
        assert kept.labels.tolist() == labels.tolist()
        np.testing.assert_array_equal(kept.scores, left)
        results.append(kept.index.tolist())
    assert results[0] != results[1]


KEPT = ("index", "classes", "scores")


def test_fast_looks_at_the_best_candidates_only():
    iou = torch.zeros(3, 3)
    assert nms.fast_nms(iou, SCORES[:, None], 0.5, per_class=2).index.tolist() == [0, 1]
    assert nms.cross_class_fast_nms(iou, SCORES[:, None], 0.5, candidates=1).index.tolist() == [0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 30))
def test_fast_keeps_no_more_than_greedy(seed, n):
    found, scores, _ = random_set(n, seed)
    iou = boxes.pairwise_iou(found, found)
    kept = nms.fast_nms(iou, scores[:, None], 0.4).index.tolist()
    assert set(kept) <= set(nms.nms(found, scores, 0.4).tolist())


def test_matrix_by_hand():
    left = nms.matrix_nms(boxes.pairwise_iou(ROW, ROW), SCORES)
    assert left.tolist() == pytest.approx([0.9, 0.4480, 0.6177], abs=1e-4)
    alone = nms.matrix_nms(boxes.pairwise_iou(ROW, ROW), SCORES, torch.tensor([0, 1, 2]))
    assert torch.equal(alone, SCORES)


@pytest.mark.parametrize(
    ("name", "decay"),
    [("gaussian_2.0", nms.Gaussian(1 / 2.0)), ("gaussian_0.5", nms.Gaussian(2.0)), ("linear_2.0", nms.Linear(0.0))],
)
def test_matrix_recorded_from_mmdet(name, decay):
    folder = oracle.find("ops_nms")
    shapes, labels, scores = read(folder, "matrix.masks", "matrix.labels", "matrix.scores")
    left = nms.matrix_nms(masks.pairwise_iou(shapes.bool(), shapes.bool()), scores, labels.long(), decay)
    index, recorded, theirs = read(folder, *(f"matrix.{name}.{k}" for k in ("index", "scores", "labels")))
    order = left.argsort(descending=True)
    order = order[left[order] >= 0.05]
    assert labels[order].tolist() == theirs.tolist()
    torch.testing.assert_close(left[order], recorded)
    assert order.tolist() == index.tolist()
    every = nms.matrix_nms(masks.pairwise_iou(shapes.bool(), shapes.bool()), scores, None, decay)
    assert not torch.allclose(every, left), "labels matter"


def test_matrix_drops_copies_without_nan():
    same = torch.ones(4, 4)
    scores = torch.tensor([0.5, 0.9, 0.7, 0.6])
    left = nms.matrix_nms(same, scores, decay=nms.Linear(0.0))
    assert left.tolist() == pytest.approx([0, 0.9, 0, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 25))
def test_the_order_of_the_input_does_not_matter(seed, n):
    found, scores, labels = random_set(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    iou, mixed = boxes.pairwise_iou(found, found), boxes.pairwise_iou(found[order], found[order])
    left = nms.matrix_nms(iou, scores, labels)
    torch.testing.assert_close(nms.matrix_nms(mixed, scores[order], labels[order]), left[order])
    assert ((left >= 0) & (left <= scores)).all()
    assert order[nms.greedy(mixed, scores[order], 0.4)].tolist() == nms.greedy(iou, scores, 0.4).tolist()
    soft, other = nms.soft_nms(found, scores, labels), nms.soft_nms(found[order], scores[order], labels[order])
    assert order[other[0]].tolist() == soft[0].tolist()


def test_nothing_to_suppress():
    none, no_scores, no_groups = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    square = torch.zeros(0, 0)
    assert nms.nms(none, no_scores, 0.5).shape == nms.greedy(square, no_scores, 0.5, no_groups).shape == (0,)
    assert nms.batched_nms(none, no_scores, no_groups, 0.5).shape == (0,)
    for groups in (None, no_groups):
        assert [t.shape for t in nms.soft_nms(none, no_scores, groups)] == [(0,), (0,)]
        assert nms.matrix_nms(square, no_scores, groups).shape == (0,)
    for function in (nms.fast_nms, nms.cross_class_fast_nms):
        kept = function(square, torch.zeros(0, 3), 0.5)
        assert kept.index.shape == kept.labels.shape == kept.scores.shape == (0,)


@pytest.mark.usefixtures("as_user")
def test_bad_input():
    message = r"^3 detections but 2 scores; give one score for each$"
    iou = boxes.pairwise_iou(ROW, ROW)
    for call in (
        lambda: nms.nms(ROW, SCORES[:2], 0.5),
        lambda: nms.batched_nms(ROW, SCORES[:2], torch.zeros(3).long(), 0.5),
        lambda: nms.greedy(iou, SCORES[:2], 0.5),
        lambda: nms.soft_nms(ROW, SCORES[:2]),
        lambda: nms.matrix_nms(iou, SCORES[:2]),
        lambda: nms.fast_nms(iou, SCORES[:2, None], 0.5),
        lambda: nms.cross_class_fast_nms(iou, SCORES[:2, None], 0.5),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    groups = torch.zeros(4, dtype=torch.long)
    for call in (
        lambda: nms.batched_nms(ROW, SCORES, groups, 0.5),
        lambda: nms.greedy(iou, SCORES, 0.5, groups),
        lambda: nms.soft_nms(ROW, SCORES, groups),
        lambda: nms.matrix_nms(iou, SCORES, groups),
    ):
        with pytest.raises(ValueError, match=r"^3 detections but 4 groups; name one for each$"):
            call()
    with pytest.raises(ValueError, match=r"^threshold is 50.0; overlaps are 0..1, and 0.5 is usual$"):
        nms.nms(ROW, SCORES, 50.0)
    with pytest.raises(ValueError, match=r"^sigma is 0.0; give a number above 0$"):
        nms.Gaussian(0.0)
