"""Soft NMS as a choice of the second stage: the answers of the paper's rule by hand, class by class."""

from __future__ import annotations

import pytest
import torch

from masklet.models import build
from masklet.parts.box_heads import NMS, Pick
from masklet.structures.errors import UserError

ROW = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # IoU .5385, .5385 and .25
SCORES = torch.tensor([0.9, 0.8, 0.7])
TINY = {"num_classes": 2, "backbone": "resnet18", "channels": 8, "hidden": 8, "short_side": 0, "threshold": 0.0}


@pytest.mark.parametrize(
    ("nms", "want"),
    [
        ("greedy", [(0, 0.9), (2, 0.7)]),
        ("soft_linear", [(0, 0.9), (2, 0.7), (1, 0.1704)]),
        ("soft_gaussian", [(0, 0.9), (2, 0.6177), (1, 0.2508)]),
    ],
)
def test_what_overlaps_loses_score(nms, want):
    pick = Pick(threshold=0.0, count=3, distinct=NMS[nms])
    found = pick(ROW[None, :, None], SCORES[None, :, None], [(20, 20)]).trimmed()
    assert found.scores[0].tolist() == pytest.approx([score for _, score in want], abs=1e-4)
    assert torch.equal(found.boxes[0], ROW[[i for i, _ in want]])


def test_classes_leave_each_other_alone():
    """The third box is of the second class: it keeps its score, and the second loses by the first alone."""
    probs = torch.tensor([[0.9, 0], [0.8, 0], [0, 0.7]])[None]
    found = Pick(threshold=0.0, count=6, distinct=NMS["soft_linear"])(ROW[None, :, None], probs, [(20, 20)]).trimmed()
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7, 0.8 * (1 - 0.5385)], abs=1e-4)
    assert found.labels[0].tolist() == [0, 1, 0]


def test_what_is_left_with_nearly_nothing_goes():
    same = ROW[:1].expand(3, 4)
    found = Pick(threshold=0.0, count=3, distinct=NMS["soft_linear"])(
        same[None, :, None], SCORES[None, :, None], [(20, 20)]
    )
    assert found.scores[0].tolist() == pytest.approx([0.9, 0, 0])


def test_models_take_it_as_an_option():
    torch.manual_seed(0)
    soft = build("faster_rcnn", nms="soft_gaussian", **TINY).eval()
    hard = build("faster_rcnn", **TINY).eval()
    hard.load_state_dict(soft.state_dict())
    image = torch.rand(3, 64, 64)
    found, fewer = soft.predict(image), hard.predict(image)
    assert len(found) > len(fewer) > 0
    torch.testing.assert_close(found.scores[0], fewer.scores[0])
    with pytest.raises(UserError) as caught:
        build("faster_rcnn", nms="soft", **TINY)
    assert str(caught.value).startswith("unknown nms 'soft'; did you mean 'soft_linear'? choices: greedy")


def test_it_cannot_be_exported(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(UserError) as caught:
        Pick(distinct=NMS["soft_linear"])(ROW[None, :, None], SCORES[None, :, None], [(20, 20)])
    assert str(caught.value) == 'soft NMS has as many steps as there are boxes; export a model with nms="greedy"'
