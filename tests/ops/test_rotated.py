"""Rotated boxes against detectron2's recorded kernels, worked numbers and polygons cut in plain Python."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from masklet.ops import boxes, mask_targets, nms, rle, rotated
from masklet.ops import paste as upright
from masklet.ops.rotated import RotatedDeltaCoder, eighth_turn, half_turn


def read(folder, *names):
    return tuple(torch.from_numpy(oracle.recorded(name, folder)) for name in names)


def random_boxes(n, seed, dtype=torch.float32):
    noise = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0.0, 0, 1, 1, -400]), torch.tensor([20.0, 20, 25, 12, 400])
    return (low + torch.rand(n, 5, generator=noise) * (high - low)).to(dtype)


def cut(polygon, a, b):
    """The part of a polygon to the right of the line from a to b (one step of Sutherland and Hodgman, 1974)."""
    side = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) for x, y in polygon]
    out = []
    for i, (p, s) in enumerate(zip(polygon, side, strict=True)):
        q, t = polygon[i - 1], side[i - 1]
        if (s < 0) != (t < 0):
            share = t / (t - s)
            out.append((q[0] + share * (p[0] - q[0]), q[1] + share * (p[1] - q[1])))
        if s >= 0:
            out.append(p)
    return out


def iou_by_cutting(a, b):
    def area(polygon):
        return sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True)) / 2

    a, b = (list(map(tuple, rotated.corners(box.double()).tolist())) for box in (a, b))
    both = a
    for i in range(4):
        both = cut(both, b[i - 1], b[i])
    inter = area(both) if both else 0
    return inter / (area(a) + area(b) - inter)


def test_corners_by_hand():
    """4 by 2 around (10, 20); turned by 90 degrees the upper left corner goes to the lower left, as on the screen."""
    upright = torch.tensor([10.0, 20, 4, 2, 0])
    assert rotated.corners(upright).tolist() == [[8, 19], [12, 19], [12, 21], [8, 21]]
    turned = rotated.corners(torch.tensor([10.0, 20, 4, 2, 90]))
    torch.testing.assert_close(turned, torch.tensor([[9.0, 22], [9, 18], [11, 18], [11, 22]]))
    torch.testing.assert_close(rotated.bounds(torch.tensor([10.0, 20, 4, 2, 90])), torch.tensor([9.0, 18, 11, 22]))
    torch.testing.assert_close(
        rotated.bounds(rotated.from_xyxy(torch.tensor([1.0, 2, 5, 4]))), torch.tensor([1.0, 2, 5, 4])
    )


def test_iou_by_hand():
    """4 x 2 crossed with itself: 4 of 12 shared; at 45 degrees the shared octagon is .5174 of the union."""
    cross = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 2, 90], [0, 0, 4, 2, 45]])
    found = rotated.pairwise_iou(cross, cross)
    assert found[0].tolist() == pytest.approx([1, 1 / 3, 0.5174], abs=1e-4)
    assert found[1, 2] == pytest.approx(0.5174, abs=1e-4)


def test_iou_recorded_from_detectron2():
    folder = oracle.find("ops_rotated")
    a, b, expected = read(folder, "iou.boxes_a", "iou.boxes_b", "iou.out")
    torch.testing.assert_close(rotated.pairwise_iou(a, b), expected, atol=1e-5, rtol=0)
    mirrored = a * torch.tensor([1.0, 1, 1, 1, -1])
    assert (rotated.pairwise_iou(mirrored, b) - expected).abs().max() > 0.1, "the sense of rotation matters"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_iou_equals_cut_polygons(seed):
    a, b = random_boxes(4, seed), random_boxes(4, seed + 1)
    expected = torch.tensor([[iou_by_cutting(p, q) for q in b] for p in a])
    torch.testing.assert_close(rotated.pairwise_iou(a, b), expected, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-360, 360), st.floats(-1000, 1000))
def test_iou_knows_the_rectangles_only(seed, turn, shift):
    """Moved, turned or described otherwise, two rectangles overlap as before."""
    a, b = random_boxes(5, seed, torch.float64), random_boxes(5, seed + 1, torch.float64)
    found = rotated.iou(a, b)
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(rotated.iou(b, a), found)
    torch.testing.assert_close(rotated.iou(rotated.canonical(a), eighth_turn(b, a)), found)
    torch.testing.assert_close(rotated.iou(a, a), torch.ones(5, dtype=torch.float64))
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    spin = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)  # counter-clockwise on the screen
    moved = [torch.cat([box[:, :2] @ spin + shift, box[:, 2:4], box[:, 4:] + turn], 1) for box in (a, b)]
    torch.testing.assert_close(rotated.iou(*moved), found)


def test_iou_of_upright_boxes_and_without_area():
    noise = torch.rand(9, 2) * 10
    upright = torch.cat([noise, noise + torch.rand(9, 2) * 10], 1)
    mine = rotated.pairwise_iou(rotated.from_xyxy(upright), rotated.from_xyxy(upright))
    torch.testing.assert_close(mine, boxes.pairwise_iou(upright, upright))
    flat = torch.tensor([[0.0, 0, 4, 0, 30], [0, 0, 0, 0, 0], [0, 0, -3, 2, 0], [0, 0, 4, 4, 10]])
    found = rotated.iou(flat[:, None], flat[None])
    assert found[3, 3] == pytest.approx(1)
    found[3, 3] = 0
    assert (found == 0).all()


def test_iou_has_a_gradient():
    a, b = random_boxes(6, 3, torch.float64).requires_grad_(), random_boxes(6, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rotated.iou, (a, b))


def test_iou_in_parts(monkeypatch):
    a = random_boxes(30, 5)
    whole = rotated.pairwise_iou(a, a)
    monkeypatch.setattr(rotated, "AT_ONCE", 7)
    assert torch.equal(rotated.pairwise_iou(a, a), whole)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_nms_recorded_from_detectron2(threshold):
    folder = oracle.find("ops_rotated")
    some, scores, keep = read(folder, "nms.boxes", "nms.scores", f"nms.keep@{threshold}")
    assert rotated.nms(some, scores, threshold).tolist() == keep.tolist()
    assert nms.nms(rotated.bounds(some), scores, threshold).tolist() != keep.tolist()


def test_neighbours_at_an_angle_survive():
    """Five pencils side by side at 45 degrees: apart as rotated boxes, one heap as upright ones."""
    pencils = torch.tensor([[10.0 + 2 * i, 10 + 2 * i, 30, 2, 45] for i in range(5)])
    scores = torch.linspace(0.9, 0.5, 5)
    assert rotated.nms(pencils, scores, 0.3).tolist() == [0, 1, 2, 3, 4]
    assert nms.nms(rotated.bounds(pencils), scores, 0.3).tolist() == [0, 4]
    assert rotated.nms(pencils[[0, 0, 0]], scores[:3], 0.3, torch.tensor([0, 1, 0])).tolist() == [0, 1]


def test_soft_nms_of_rotated_boxes():
    cross = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 2, 90], [0, 0, 4, 2, 45]])
    index, left = nms.soft_nms(cross, torch.tensor([0.9, 0.8, 0.7]), decay=nms.Linear(0.4), overlap=rotated.iou)
    assert index.tolist() == [0, 1, 2]
    assert left.tolist() == pytest.approx([0.9, 0.8, 0.7 * (1 - 0.5174) ** 2], abs=1e-4)


@pytest.mark.parametrize(
    ("turn", "left", "swapped"),
    [
        (30, 30, False),
        (60, -30, True),
        (100, 10, True),
        (170, -10, False),
        (-60, 30, True),
        (45, 45, False),
        (135, 45, True),
        (200, 20, False),
        (-350, 10, False),
    ],
)
def test_wrap_table(turn, left, swapped):
    anchor, target = torch.tensor([0.0, 0, 8, 4, 15]), torch.tensor([0.0, 0, 6, 3, 15 + turn])
    told = eighth_turn(target, anchor)
    assert told.tolist() == pytest.approx([0, 0, *((3, 6) if swapped else (6, 3)), 15 + left])
    assert half_turn(target, anchor)[4] == pytest.approx(15 + (turn + 180) % 360 - 180)
    delta = RotatedDeltaCoder(wrap=eighth_turn).encode(anchor, target)
    assert delta[4] == pytest.approx(math.radians(left))


@pytest.mark.parametrize(("name", "weights"), [("w1", (1.0,) * 5), ("w10", (10.0, 10.0, 5.0, 5.0, 1.0))])
def test_deltas_recorded_from_detectron2(name, weights):
    folder = oracle.find("ops_rotated")
    source, target = read(folder, "coder.src", "coder.target")
    coder = RotatedDeltaCoder(weights)
    deltas = coder.encode(source, target)
    oracle.check(f"coder.deltas_{name}", deltas, folder)
    oracle.check(f"coder.decoded_{name}", coder.decode(source, deltas + 0.1), folder)
    other = RotatedDeltaCoder(weights, eighth_turn).encode(source, target)
    assert oracle.difference(f"coder.deltas_{name}", other, folder) > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([half_turn, eighth_turn]))
def test_deltas_round_trip(seed, wrap):
    source, target = (random_boxes(6, s, torch.float64) for s in (seed, seed + 1))
    coder = RotatedDeltaCoder((10.0, 10.0, 5.0, 5.0, 2.0), wrap, limit=1e6)
    deltas = coder.encode(source, target)
    torch.testing.assert_close(rotated.iou(coder.decode(source, deltas), target), torch.ones(6, dtype=torch.float64))
    if wrap is eighth_turn:
        assert (deltas[:, 4].abs() <= 2 * math.pi / 4 + 1e-9).all()


def test_canonical():
    angles = torch.tensor([-45.0, 44, 45, 90, 134, 180, -46, 725])
    told = rotated.canonical(torch.stack([torch.tensor([1.0, 2, 6, 3, a]) for a in angles]))
    assert told[:, 4].tolist() == pytest.approx([-45, 44, -45, 0, 44, 0, 44, 5])
    assert told[:, 2].tolist() == [6, 6, 3, 3, 3, 6, 3, 6]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_smallest_rectangle_equals_a_search(seed, count):
    """No angle of a fine search gives a smaller rectangle around the points, and all of them lie inside."""
    noise = np.random.default_rng(seed)
    objects = [noise.uniform(0, 50, (count, 2)), noise.integers(0, 4, (count, 2)).astype(float)]
    found = rotated.min_area_rectangles(objects).double()
    for points, box in zip(objects, found, strict=True):
        angles = np.radians(np.arange(0, 90, 0.25))
        turned = points @ np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]).T.swapaxes(
            1, 2
        )
        searched = np.ptp(turned, axis=1).prod(1).min()
        assert float(rotated.area(box)) <= searched + 1e-3
        c, s = math.cos(math.radians(box[4])), math.sin(math.radians(box[4]))
        own = (points - box[:2].numpy()) @ np.array([[c, s], [-s, c]])
        assert (np.abs(own) <= box[2:4].numpy() / 2 + 1e-3).all()
        assert -45 <= box[4] < 45


def test_smallest_rectangle_gives_a_rectangle_back():
    some = random_boxes(20, 9)
    found = rotated.min_area_rectangles(list(rotated.corners(some).double().numpy()))
    torch.testing.assert_close(rotated.iou(found, some), torch.ones(20), atol=1e-4, rtol=0)
    inside = [np.concatenate([c, c[:1], c * 0.5 + c.mean(0) * 0.5]) for c in rotated.corners(some).double().numpy()]
    torch.testing.assert_close(rotated.min_area_rectangles(inside), found, atol=1e-3, rtol=0)


def test_smallest_rectangle_of_lines_and_points():
    found = rotated.min_area_rectangles(
        [np.array([[3.0, 4.0]]), np.array([[0.0, 0], [1, 1], [3, 3], [1, 1]]), np.array([[2.0, 0], [2, 8]])]
    )
    assert found[0].tolist() == [3, 4, 0, 0, 0]
    assert found[1].tolist() == pytest.approx([1.5, 1.5, 18**0.5, 0, -45])
    assert sorted(found[2, 2:4].tolist()) == [0, 8]
    assert found[2, :2].tolist() == [2, 4]


def blobs(n, side, seed):
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 5, 5, generator=noise)
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)[:, 0]


def sampled(probs, some, height, width):
    """The definition: every pixel's middle, in the frame of its box, bilinear, zero outside; in float64."""
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    cx, cy, w, h, degrees = (side[:, None, None] for side in some.double().unbind(1))
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    across, down = ((x - cx) * cos - (y - cy) * sin) / w, ((x - cx) * sin + (y - cy) * cos) / h
    return F.grid_sample(probs[:, None].double(), 2 * torch.stack([across, down], -1), align_corners=False)[:, 0]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_paste_is_the_definition(threshold, monkeypatch):
    size, probs, some = (37, 53), blobs(12, 14, seed=1), random_boxes(12, 2) * torch.tensor([2.5, 2, 2, 2, 1])
    soft = sampled(probs, some, *size)
    masks = rotated.paste(probs, some, size, threshold)
    mine = rle.decode_many(masks, *size)
    assert (np.abs(soft.numpy()[mine != (soft >= threshold).numpy()] - threshold) <= 1e-5).all()
    assert 0 < mine.mean() < 0.9
    mirrored = rle.decode_many(rotated.paste(probs, some * torch.tensor([1.0, 1, 1, 1, -1]), size, threshold), *size)
    assert (mirrored != mine).mean() > 0.01
    monkeypatch.setattr(rotated, "AT_ONCE", 500)
    assert rotated.paste(probs, some, size, threshold) == masks


def test_paste_without_rotation_equals_paste():
    probs, low = blobs(9, 28, seed=3), torch.rand(9, 2) * 40 - 5
    corners = torch.cat([low, low + torch.rand(9, 2) * 30 + 1], 1)
    mine = rle.decode_many(rotated.paste(probs, rotated.from_xyxy(corners), (40, 50)), 40, 50)
    assert (mine != rle.decode_many(upright.paste(probs, corners, (40, 50)), 40, 50)).mean() < 1e-3


def test_paste_brings_a_target_back():
    """A rotated bar, cut out by a rotated box and pasted again, is the bar."""
    bar = rotated.corners(torch.tensor([30.0, 25, 40, 9, 33])).double().numpy()
    around = torch.tensor([[29.0, 26, 48, 20, 25]])
    target = mask_targets.from_polygons_rotated([[bar]], around, 112)
    (back,) = rotated.paste(target.float(), around, (50, 60))
    truth = mask_targets.polygons.rasterize(bar, 50, 60)
    assert rle.iou([back], [truth])[0, 0] > 0.93
    (box,) = rotated.min_area_rectangles([bar])
    torch.testing.assert_close(box, torch.tensor([30.0, 25, 40, 9, 33]), atol=1e-4, rtol=0)


def test_paste_of_boxes_elsewhere_and_without_area():
    odd = torch.tensor(
        [
            [-50.0, -50, 9, 9, 30],
            [10, 10, 0, 5, 0],
            [10, 10, 5, -1, 0],
            [float("nan"), 1, 2, 3, 4],
            [10, 10, 1e6, 1e6, 20],
        ]
    )
    masks = rotated.paste(torch.ones(5, 28, 28), odd, (20, 30))
    assert [mask.area for mask in masks] == [0, 0, 0, 0, 600]
    assert rotated.paste(torch.ones(0, 28, 28), torch.zeros(0, 5), (20, 30)) == []
    assert [mask.width for mask in rotated.paste(torch.ones(5, 28, 28), odd, (0, 30))] == [30] * 5


def test_nothing():
    none = torch.zeros(0, 5)
    assert rotated.pairwise_iou(none, none).shape == (0, 0)
    assert rotated.pairwise_iou(none, random_boxes(3, 0)).shape == (0, 3)
    assert rotated.nms(none, torch.zeros(0), 0.5).shape == (0,)
    assert rotated.min_area_rectangles([]).shape == (0, 5)
    assert RotatedDeltaCoder().decode(none, none).shape == rotated.canonical(none).shape == (0, 5)


def test_bad_input():
    with pytest.raises(ValueError, match=r"^object 1 has no points; leave objects without points out$"):
        rotated.min_area_rectangles([np.ones((3, 2)), np.zeros((0, 2))])
    with pytest.raises(ValueError, match=r"^weights are \(1.0, 1.0, 1.0, 1.0, 0.0\); give five numbers above 0$"):
        RotatedDeltaCoder((1.0, 1.0, 1.0, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"^2 masks but 3 boxes; give one box for each mask$"):
        rotated.paste(torch.ones(2, 28, 28), random_boxes(3, 0), (9, 9))
    with pytest.raises(
        ValueError, match=r"^threshold is 0.0; choose one above 0, where the surroundings are, and up to 1$"
    ):
        rotated.paste(torch.ones(3, 28, 28), random_boxes(3, 0), (9, 9), 0.0)
    with pytest.raises(ValueError, match=r"^threshold is 30.0; overlaps are 0..1, and 0.5 is usual$"):
        rotated.nms(random_boxes(3, 0), torch.ones(3), 30.0)


def test_standing_boxes():
    assert rotated.upright(torch.tensor([[10.0, 20, 6, 4, 33]])).tolist() == [[7, 18, 13, 22]]


@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.5, 0.5)])
def test_stretched_boxes(scale):
    """The same everywhere: as the corners move. Not the same: middle, direction of w, and lengths along both axes."""
    boxes = random_boxes(30, 11)
    found = rotated.stretched(boxes, *scale)
    middles = torch.tensor(scale)
    torch.testing.assert_close(found[:, :2], boxes[:, :2] * middles)
    before, after = rotated.corners(boxes) * middles, rotated.corners(found)
    torch.testing.assert_close((after[:, 1] - after[:, 0]), (before[:, 1] - before[:, 0]), atol=1e-3, rtol=1e-4)
    length = (before[:, 2] - before[:, 1]).norm(dim=1)
    torch.testing.assert_close((after[:, 2] - after[:, 1]).norm(dim=1), length, atol=1e-3, rtol=1e-4)
    if scale[0] == scale[1]:
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-4)


def test_boxes_of_masks():
    """Upright rectangles exactly, turned ones within a pixel, whatever run lengths do at the borders of columns."""
    masks = torch.zeros(4, 9, 12, dtype=torch.bool)
    masks[0, 2:5, 3:10] = True
    masks[1, :, 4:7] = True  # one run for three columns
    masks[2, 4, 4] = True
    found = rotated.of_masks(rle.encode_many(masks))
    assert rotated.bounds(found[:3]).tolist() == [[3, 2, 10, 5], [4, 0, 7, 9], [4, 4, 5, 5]]
    assert found[3].tolist() == [0] * 5
    assert rotated.of_masks([]).shape == (0, 5)
    wanted = torch.tensor([[40.0, 50, 60, 12, 30], [60, 60, 14, 90, -20], [30, 70, 40, 40, 44]])
    drawn = rotated.paste(torch.ones(3, 28, 28), wanted, (120, 120))
    found = rotated.of_masks(drawn)
    assert rotated.iou(found, wanted).min() > 0.85
    assert (found[:, :2] - wanted[:, :2]).abs().max() < 0.7
    square = rotated.canonical(found)[:, 2:4] - rotated.canonical(wanted)[:, 2:4]
    assert square.abs().max() < 1.5
