"""Frames where boxes are, dashes where they were, grids as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.structures.errors import UserError
from masklet.viz.anchors import GREY, SIDE, color_of, draw_boxes, draw_grids, draw_moves, enlarged

PHOTO = np.zeros((40, 60, 3), np.uint8)
BOX = torch.tensor([[10.0, 5, 30, 25]])
RED = (255, 0, 0)


def painted(picture: np.ndarray, color=RED) -> np.ndarray:
    return (picture == np.array(color)).all(-1)


def test_a_frame_is_drawn_on_the_sides_of_its_box():
    out = draw_boxes(PHOTO, BOX, RED, width=1)
    rows, columns = painted(out).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 25, 10, 30)
    assert not painted(out)[6:25, 11:30].any()
    assert not PHOTO.any()  # what came in is as it was
    dashed = draw_boxes(PHOTO, BOX, RED, width=1, dashed=True)
    assert 0 < painted(dashed).sum() < painted(out).sum()
    assert not (painted(dashed) & ~painted(out)).any()


def test_each_box_has_its_colour():
    two = torch.cat([BOX, BOX + 8])
    out = draw_boxes(PHOTO, two, [RED, GREY], width=1)
    assert painted(out).any()
    assert painted(out, GREY).any()
    assert draw_boxes(PHOTO, BOX[:0]).sum() == 0
    assert len({color_of(i) for i in range(7)}) == 7
    with pytest.raises(UserError) as caught:
        draw_boxes(PHOTO, two, [RED])
    assert str(caught.value) == "1 colours for 2 boxes; give one colour, or one for each box"


def test_a_move_begins_dashed_and_ends_solid():
    out = painted(draw_moves(PHOTO, [BOX, BOX + 4, BOX + 12], RED, width=1))
    end = painted(draw_boxes(PHOTO, BOX + 12, RED, width=1))
    assert out[end].all()
    assert 0.3 < out[painted(draw_boxes(PHOTO, BOX, RED, width=1))].mean() < 1
    assert out[10, 15]  # on the way of the corner
    with pytest.raises(UserError) as caught:
        draw_moves(PHOTO, [BOX, BOX[:0]])
    assert str(caught.value) == "every step of a move needs the same boxes; give one tensor of boxes for each step"


def test_grids_stand_in_pairs():
    one, none = torch.ones(28, 28), torch.zeros(28, 28)
    out = draw_grids([(one, none)] * 4, columns=3)
    cell = 28 * 4 + 2
    assert out.shape == (2 * (cell + 6) + 6, 3 * (2 * cell + 6) + 6, 3)
    assert (out[10, 10] == 255).all()
    assert (out[10, 10 + cell] == 0).all()
    with pytest.raises(UserError) as caught:
        draw_grids([])
    assert str(caught.value) == "there are no masks to draw"


def test_small_pictures_grow_before_lines_are_drawn():
    picture, zoom = enlarged(PHOTO)
    assert picture.shape[1] == SIDE
    assert zoom == pytest.approx(SIDE / 60)
    same, zoom = enlarged(np.zeros((700, 20, 3), np.uint8))
    assert same.shape == (700, 20, 3)
    assert zoom == 1
