"""Prompts drawn from true masks."""

from __future__ import annotations

import torch

from masklet.ops.clicks import next_click
from masklet.ops.prompts import central_clicks


def test_central_clicks_fall_where_evaluations_click() -> None:
    truth = torch.zeros(4, 96, 128, dtype=torch.bool)
    truth[0, 20:60, 40:100] = True
    truth[1, 20:60, 40:100] = True
    truth[2, 20:60, 40:100] = True
    truth[3, 50, 50] = True  # too small for a middle
    found = truth.clone()
    found[0] = False
    found[1, 20:60, 60:] = False  # misses 40 of 60 columns
    found[2, 70:96, 0:40] = True  # covers too much
    found[3] = False
    points, labels = central_clicks(truth, found, torch.Generator().manual_seed(0))
    assert labels[:, 0].tolist() == [1, 1, 0, 1]
    for i in range(3):
        click = next_click(found[i], truth[i])
        assert click is not None
        x, y = points[i, 0].tolist()
        near = 5 if i == 1 else 15  # along the middle line of a long box all pixels are as far from the rim
        assert abs(x - click.x) <= near
        assert abs(y - click.y) <= 5
    assert points[3, 0].tolist() == [50, 50]
    first, kinds = central_clicks(truth, None, torch.Generator().manual_seed(0))
    assert kinds.all()
    assert 36 <= first[0, 0, 1] <= 44
    right, kinds = central_clicks(truth, truth)  # nothing is wrong: the background is clicked on
    assert not kinds.any()
    assert not truth[torch.arange(4), right[:, 0, 1].long(), right[:, 0, 0].long()].any()
