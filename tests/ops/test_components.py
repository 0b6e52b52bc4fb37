"""Holes and specks by hand, corners counted as touching."""

from __future__ import annotations

import numpy as np
import torch

from masklet.ops.components import components, smoothed_over

PICTURE = """
.......#
.####...
.#.##...
.##.#.#.
.####...
........
#.......
"""


def logits() -> torch.Tensor:
    rows = PICTURE.split()
    return torch.tensor([[3.0 if c == "#" else -5.0 for c in row] for row in rows])[None]


def test_parts_touch_at_corners() -> None:
    parts, sizes = components(np.eye(3, dtype=bool))
    assert parts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert sizes.tolist() == [6, 3]


def test_holes_are_filled_and_specks_go() -> None:
    given = logits()
    filled = smoothed_over(given, fill_hole_area=2)
    assert filled[0, 2, 2] == filled[0, 3, 3] == torch.tensor(0.1)  # one hole of two pixels, around a corner
    assert int((filled != given).sum()) == 2
    assert torch.equal(smoothed_over(given, fill_hole_area=1), given)
    clean = smoothed_over(given, max_sprinkle_area=1)
    assert [clean[0, y, x].item() for y, x in ((0, 7), (3, 6), (6, 0))] == [torch.tensor(-0.1).item()] * 3
    assert int((clean != given).sum()) == 3
    both = smoothed_over(torch.cat([given, -given]), 2, 1)
    assert torch.equal(both[0], torch.where(clean != given, clean, filled)[0])
    assert torch.equal(given, logits())  # what came in stays
    assert smoothed_over(given) is given


def test_a_mask_that_is_nowhere_stays_so() -> None:
    nowhere = torch.full((1, 8, 8), -1024.0)
    assert torch.equal(smoothed_over(nowhere, 8, 8), nowhere)
    assert not (smoothed_over(-nowhere, 8, 8) < 0).any()
