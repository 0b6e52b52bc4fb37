"""Points on maps: known answers, and agreement with torch's grid_sample where it has the same question."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.parts.points import (
    PointHead,
    bitmaps_in_boxes,
    closest_classes,
    closest_to_zero,
    grid_points,
    points_in_boxes,
    sample_points,
    subdivide,
    uncertain_points,
    unsure_cells,
)


def test_a_point_in_the_middle_of_a_cell_has_its_value():
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = grid_points(3, 4, maps)
    assert points[:2].tolist() == [[0.125, pytest.approx(1 / 6)], [0.375, pytest.approx(1 / 6)]]
    torch.testing.assert_close(sample_points(maps, points[None])[0, 0], torch.arange(12.0), rtol=0, atol=1e-5)
    between = torch.tensor([[[0.3, 0.5], [0.0, 0.5], [-1.0, 0.5]]])  # beyond the map there is 0
    assert sample_points(maps, between)[0, 0].tolist() == [pytest.approx(4.7), 2.0, 0.0]
    assert sample_points(maps, between, "nearest")[0, 0].tolist() == [5.0, 4.0, 0.0]


def test_points_of_boxes_are_read_off_the_image_of_the_box():
    feature = torch.stack([torch.arange(12.0).view(1, 3, 4), 100 + torch.arange(12.0).view(1, 3, 4)])
    rois = torch.tensor([[1.0, 0, 0, 8, 8], [0.0, 4, 4, 12, 12]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25]], [[0.25, 0.25], [0.5, 0.5]]])
    found = points_in_boxes(feature, rois, points, 4)  # cells are 4 pixels wide; the first middle is at 2
    assert found[:, 0].tolist() == [[100.0, 101.0], [5.0, 7.5]]
    assert points_in_boxes(feature, rois[:0], points[:0], 4).shape == (0, 1, 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_bitmaps_at_points_are_as_grid_sample_has_them(seed):
    torch.manual_seed(seed)
    masks, which = torch.rand(3, 9, 7) > 0.5, torch.randint(0, 3, (5,))
    corner = torch.rand(5, 2) * 12 - 3
    rois = torch.cat([which[:, None].float(), corner, corner + torch.rand(5, 2) * 9], 1)
    points = torch.rand(5, 11, 2)
    pixels = rois[:, None, 1:3] + points * (rois[:, 3:] - rois[:, 1:3])[:, None]
    grid = 2 * pixels / torch.tensor([7.0, 9.0]) - 1
    want = F.grid_sample(masks[which][:, None].float(), grid[:, None], align_corners=False)[:, 0, 0]
    torch.testing.assert_close(bitmaps_in_boxes(masks, rois, points), want, rtol=1e-4, atol=1e-5)


def test_how_sure():
    logits = torch.tensor([[2.0, -0.5, 0.1]])[:, None]
    assert closest_to_zero(logits).tolist() == [[-2.0, -0.5, pytest.approx(-0.1)]]
    classes = torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.5, -7.0]])[None]
    assert closest_classes(classes).tolist() == [[-0.5, 0.0]]
    assert closest_classes(classes[:, :1]).tolist() == [[0.0, 0.0]]  # one class is always right


def test_points_to_learn_from_gather_at_the_boundary():
    """Left is -1, right +1: with 147 of 196 from 588, three quarters lie where interpolation crosses zero."""
    logits = torch.tensor([-4.0, -1, 1, 4]).expand(2, 1, 4, 4)
    points = uncertain_points(logits, closest_to_zero, 196)
    assert points.shape == (2, 196, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    x = points[:, :147, 0]
    assert (x - 0.5).abs().max() < 0.18  # the nearest quarter of all
    assert points[:, 147:, 0].std() > 0.2
    again = uncertain_points(logits, closest_to_zero, 196, generator=torch.Generator().manual_seed(1))
    same = uncertain_points(logits, closest_to_zero, 196, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, same)
    assert uncertain_points(logits[:0], closest_to_zero, 8).shape == (0, 8, 2)


def test_the_least_sure_cells():
    where, points = unsure_cells(torch.tensor([[[0.0, 3.0, 1.0], [2.0, -1.0, 0.5]]]), 2)
    assert where.tolist() == [[1, 3]]
    assert points[0].tolist() == [[0.5, 0.25], [pytest.approx(1 / 6), 0.75]]
    assert unsure_cells(torch.zeros(1, 2, 2), 9)[0].shape == (1, 4)


def disc(points):
    """Logits of a disc at any point: positive inside."""
    return 20 * (0.31 - (points - torch.tensor([0.47, 0.52])).norm(dim=-1))[:, None]


def test_asking_for_all_cells_is_asking_once_at_the_end():
    coarse = disc(grid_points(7, 7, torch.zeros(1))[None]).view(1, 1, 7, 7)
    dense = disc(grid_points(56, 56, torch.zeros(1))[None]).view(1, 1, 56, 56)
    asked = []

    def ask(points):
        asked.append(points.shape[1])
        return disc(points)

    assert torch.equal(subdivide(coarse, ask, closest_to_zero, 56 * 56, 3), dense)
    assert asked == [56 * 56]  # twice it was enough to enlarge


def test_boundaries_of_a_disc_become_sharp():
    """784 questions a step instead of all: 224x224 from 7x7, equal to the disc itself, which enlarging is not."""
    none = torch.zeros(1)
    coarse = disc(grid_points(7, 7, none)[None]).view(1, 1, 7, 7)
    dense = disc(grid_points(224, 224, none)[None]).view(224, 224) > 0
    asked = []

    def ask(points):
        asked.append(points.shape[1])
        return disc(points)

    found = subdivide(coarse, ask, closest_to_zero, 784, 5)[0, 0] > 0
    plain = F.interpolate(coarse, (224, 224), mode="bilinear", align_corners=False)[0, 0] > 0
    assert asked == [784] * 4  # the 28x28 all at once
    assert torch.equal(found, dense)
    assert (plain != dense).sum() > 500


def test_every_layer_of_the_point_head_sees_the_coarse_logits():
    head = PointHead(4, 3, width=5, depth=2)
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 3] == [(5, 7, 1), (5, 8, 1), (3, 8, 1)]
    fine, coarse = torch.rand(2, 4, 6), torch.rand(2, 3, 6)
    first = head(fine, coarse)
    assert first.shape == (2, 3, 6)
    with torch.no_grad():  # of the fine features nothing is left
        head.layers[0].weight.zero_()
        head.predictor.weight[:, :5].zero_()
        head.predictor.weight[:, 5:] = torch.eye(3)[..., None]
    torch.testing.assert_close(head(fine, coarse), coarse)


def test_a_point_is_answered_alone():
    head = PointHead(4, 3, width=5)
    fine, coarse = torch.rand(2, 4, 6), torch.rand(2, 3, 6)
    torch.testing.assert_close(head(fine, coarse)[..., 2:3], head(fine[..., 2:3], coarse[..., 2:3]))
