from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.data.framing import RandomShortSide, RandomTurn, RandomWindow, by_size, evenly, turn
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError

CLASSES = Classes(("cell",), keypoints=("middle",))


def drawn(size=(40, 60), boxes=((4, 6, 14, 12), (30, 20, 50, 38))) -> Sample:
    """Two rectangles whose red value is their number and whose keypoint is their middle."""
    image, masks = torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(len(boxes), *size, dtype=torch.bool)
    points = torch.zeros(len(boxes), 1, 3)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
        image[0, y0:y1, x0:x1] = i + 1
        points[i, 0] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, 2])
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    objects = Instances.from_masks(Masks.from_dense(masks), labels, CLASSES)
    objects = Instances(objects.boxes, labels, objects.scores, objects.masks, size, CLASSES, keypoints=points)
    return Sample(image, "drawn", instances=objects, classes=CLASSES)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 5, -1])
def test_turns_move_everything_alike(quarters):
    sample = drawn()
    turned = turn(quarters, sample.size)(sample)
    assert turned.image.equal(sample.image.rot90(quarters, (1, 2)))
    assert turned.instances.masks == Masks.from_dense(sample.instances.masks.dense().rot90(quarters, (1, 2)))
    middles = (turned.instances.boxes[:, :2] + turned.instances.boxes[:, 2:]) / 2
    assert turned.instances.keypoints[:, 0, :2].equal(middles)
    back = turn(-quarters, turned.size)(turned)
    assert back.image.equal(sample.image)
    assert back.instances.keypoints.equal(sample.instances.keypoints)


def test_a_picture_lies_on_the_table_in_eight_ways():
    sample = drawn((20, 24), boxes=((4, 6, 14, 12),))
    seen = {RandomTurn()(sample, generator(i)).image.numpy().tobytes() for i in range(40)}
    assert len(seen) == 8


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), low=st.floats(0.4, 1.5), aim=st.sampled_from((0.0, 1.0)))
def test_a_window_shows_what_scaling_and_cropping_show(seed, low, aim):
    sample = drawn()
    window = RandomWindow((32, 48), (low, 2 * low), aim)(sample, generator(seed))
    assert window.size == (32, 48)
    objects = window.instances
    assert aim == 0 or len(objects) >= 1
    dense = objects.masks.dense()
    assert objects.boxes.equal(objects.masks.boxes())
    for mask in dense:
        red = window.image[0][mask]
        assert 0 < float(red.float().mean()) <= 2.01, "each mask lies on its own colour"
    again = RandomWindow((32, 48), (low, 2 * low), aim)(sample, generator(seed))
    assert again.image.equal(window.image)


def test_pixels_grow_by_the_factor():
    sample = drawn((64, 64), ((20, 20, 30, 30),))
    window = RandomWindow(64, (2.0, 2.0), aim=1.0)(sample, generator(1))
    assert int(window.instances.masks.areas()[0]) == 400
    small = RandomWindow(64, (0.5, 0.5))(sample, generator(1))
    assert int(small.instances.masks.areas()[0]) == 25
    assert (small.image[:, 0, 0] == 0).all() or (small.image[:, -1, -1] == torch.tensor([124, 116, 104])).all()


def test_a_window_of_a_picture_without_objects():
    empty = Sample(torch.zeros(3, 20, 20, dtype=torch.uint8), instances=Instances.empty((20, 20), CLASSES))
    assert len(RandomWindow(16, aim=1.0)(empty, generator(0)).instances) == 0
    assert RandomWindow(16)(Sample(torch.zeros(3, 20, 20)), generator(0)).size == (16, 16)


def test_scales_must_be_a_range():
    with pytest.raises(UserError) as error:
        RandomWindow(16, (2.0, 1.0))
    assert str(error.value) == "scales are (2.0, 1.0); give two positive numbers, the smaller one first"


def test_short_sides_stay_below_the_long_one():
    sizes = {RandomShortSide((20, 30), 60)(drawn(), generator(i)).size for i in range(20)}
    assert sizes == {(20, 30), (30, 45)}
    assert RandomShortSide((30,), 40)(drawn(), generator(0)).size == (27, 40)


def test_large_pictures_come_more_often():
    samples = [drawn(), drawn((160, 150)), drawn((40, 40))]
    shown = by_size(samples, 50)
    assert [samples.index(shown[i]) for i in range(len(shown))] == [0, 1, 1, 1, 2]


def test_some_samples_from_beginning_to_end():
    assert [evenly(range(10), 4)[i] for i in range(4)] == [0, 2, 5, 7]
    assert len(evenly(range(3), 10)) == 3
