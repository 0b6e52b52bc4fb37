"""Clicking on an object until its mask is good."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.inference.clicking import simulate
from masklet.metrics.clicks import ClickScore
from masklet.ops.clicks import RITM, Click
from masklet.structures import UserError

TRUTH = torch.zeros(40, 60, dtype=torch.bool)
TRUTH[5:25, 8:40] = True


def discs(image, prompt):
    """A predictor that knows only the clicks: a disc of radius 8 around each, the later ones on top."""
    mask = torch.zeros(image.shape, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(image.shape[0]), torch.arange(image.shape[1]), indexing="ij")
    for (cx, cy), label in zip(prompt.points.tolist(), prompt.point_labels.tolist(), strict=True):
        mask[(x - cx) ** 2 + (y - cy) ** 2 <= 64] = bool(label)
    return mask


def test_the_mask_grows_with_the_clicks():
    found = simulate(discs, TRUTH, TRUTH, clicks=6)
    assert found.clicks[0] == Click(17, 14, True)
    assert len(found.ious) == len(found.clicks) == 6
    assert found.ious[0] == pytest.approx(197 / 640)  # a disc of 197 pixels inside
    assert found.ious[4] > found.ious[1] > found.ious[0]
    last = (found.mask & TRUTH).sum() / (found.mask | TRUTH).sum()
    assert found.ious[-1] == pytest.approx(last.item())
    again = simulate(discs, TRUTH, TRUTH, clicks=6)
    assert (again.ious, again.clicks) == (found.ious, found.clicks)


def test_a_perfect_mask_ends_it():
    found = simulate(lambda image, prompt: TRUTH[None].numpy(), TRUTH, TRUTH)
    assert found.ious == (1.0,)
    score = ClickScore()
    score.update(found.ious)
    assert score.compute()["noc90"] == score.compute()["iou@20"] == 1


def test_it_may_end_when_good_enough():
    assert len(simulate(discs, TRUTH, TRUTH, stop_at=0.5).ious) < len(simulate(discs, TRUTH, TRUTH).ious)


def test_what_is_not_valid_does_not_count():
    valid = torch.ones_like(TRUTH)
    valid[:, 30:] = False
    found = simulate(lambda image, prompt: TRUTH, TRUTH, TRUTH.numpy(), valid=valid)
    assert found.clicks == (Click(17, 14, True),)
    assert found.ious == (1.0,)


def test_a_predictor_that_never_listens():
    none = torch.zeros_like(TRUTH)
    same = simulate(lambda image, prompt: none, TRUTH, TRUTH, clicks=3)
    assert len(set(same.clicks)) == 1
    other = simulate(lambda image, prompt: none, TRUTH, TRUTH, clicks=3, rule=RITM)
    assert len(set(other.clicks)) == 3
    assert same.ious == other.ious == (0, 0, 0)


@pytest.mark.parametrize(
    ("predict", "truth", "options", "message"),
    [
        (discs, TRUTH & False, {}, "the truth mask is empty; leave out objects that are not there"),
        (discs, TRUTH.float(), {}, "truth is torch.float32 of shape (40, 60); give one bool mask (H, W)"),
        (discs, TRUTH, {"clicks": 0}, "clicks is 0; allow at least one"),
        (discs, TRUTH, {"valid": TRUTH[:9]}, "valid is 9x60 but the truth is 40x60; give one flag per pixel"),
        (lambda *_: TRUTH[:9], TRUTH, {}, "the predicted mask is 9x60 but the truth is 40x60; resize it to the image"),
        (
            lambda *_: TRUTH.float(),
            TRUTH,
            {},
            "the predictor returned torch.float32; threshold its logits at 0: mask = logits > 0",
        ),
        (lambda *_: {}, TRUTH, {}, "the predictor returned dict; it should return a bool mask (H, W)"),
    ],
)
def test_mistakes_are_named(predict, truth, options, message, as_user):
    with pytest.raises(UserError) as error:
        simulate(predict, np.zeros((40, 60)), truth, **options)
    assert str(error.value) == message
