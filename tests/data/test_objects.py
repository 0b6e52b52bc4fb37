"""What counts as an object, for training and for scores, and which pixels nobody knows."""

from __future__ import annotations

import pytest
import torch

from masklet.data.objects import known_pixels, objects_in
from masklet.data.pets import CLASSES as PETS
from masklet.structures import Classes, Instances, Masks, Matte, Panoptic, Sample, Segment

IMAGE = torch.zeros(3, 40, 60)


def label_map() -> torch.Tensor:
    ids = torch.zeros(40, 60, dtype=torch.int64)
    ids[:, :25], ids[:, 30:58] = 1, 1
    ids[:4, 58:] = 2
    return ids


def areas(sample: Sample) -> list[int]:
    return objects_in(sample).areas().tolist()


def test_label_maps_have_an_object_in_every_large_region_that_is_not_ground():
    for ground in ("background", "Void", "unlabelled"):
        assert areas(Sample(IMAGE, semantic=label_map(), classes=Classes((ground, "sky", "pole")))) == [1000, 1120]
    road = torch.zeros(40, 60, dtype=torch.uint8)
    road[:, 30:] = 1
    assert areas(Sample(IMAGE, semantic=road, classes=Classes(("road", "sky")))) == [1200, 1200]
    assert areas(Sample(IMAGE, semantic=road)) == [1200, 1200]  # without names all but 255
    road[:] = 255
    assert areas(Sample(IMAGE, semantic=road, classes=Classes(("a",)))) == []
    assert areas(Sample(IMAGE, semantic=road)) == []
    assert areas(Sample(IMAGE)) == []


def test_pixels_that_touch_at_a_corner_are_connected():
    ids = torch.zeros(40, 60, dtype=torch.uint8)
    ids[:20, :20], ids[20:, 20:40] = 1, 1
    assert areas(Sample(IMAGE, semantic=ids, classes=Classes(("background", "a")))) == [800]


def test_one_class_at_random_is_enough_for_training():
    ids = torch.zeros(40, 60, dtype=torch.uint8)
    ids[:, 30:] = 1
    sample = Sample(IMAGE, semantic=ids, classes=Classes(("a", "b")))
    drawn = [objects_in(sample, torch.Generator().manual_seed(i)).boxes()[0, 0].item() for i in range(8)]
    assert set(drawn) == {0.0, 30.0}


def test_segments_mattes_and_instances():
    segments = (Segment(1, 0, True, area=2120), Segment(2, 0, True, area=8))
    assert areas(Sample(IMAGE, panoptic=Panoptic(label_map(), segments))) == [2120, 8]
    crowded = (segments[0], Segment(2, 0, True, area=8, crowd=True))
    assert areas(Sample(IMAGE, panoptic=Panoptic(label_map(), crowded))) == [2120]
    alpha = torch.zeros(1, 40, 60)
    alpha[:, :10] = 0.7
    assert areas(Sample(IMAGE, matte=Matte(alpha))) == [600]
    found = Instances.from_masks(
        Masks.from_dense((label_map() == 1)[None]), torch.zeros(1, dtype=torch.int64), Classes(("a",))
    )
    assert areas(Sample(IMAGE, instances=found)) == [2120]
    object.__setattr__(found, "crowd", torch.tensor([True]))
    assert areas(Sample(IMAGE, instances=found)) == []


def test_the_border_of_a_pet_is_neither_an_object_nor_known():
    trimap = torch.ones(40, 60, dtype=torch.uint8)
    trimap[5:35, 5:40], trimap[8:32, 8:37] = 2, 0
    sample = Sample(IMAGE, semantic=trimap, classes=PETS)
    assert areas(sample) == [24 * 29]
    known = known_pixels(sample)
    assert known is not None
    assert torch.equal(known, trimap != 2)


@pytest.mark.parametrize("ignored", [255, 7])
def test_ignored_pixels_are_not_known(ignored: int):
    ids = torch.zeros(40, 60, dtype=torch.uint8)
    sample = Sample(IMAGE, semantic=ids, classes=Classes(("a",), ignore=ignored))
    assert known_pixels(sample) is None  # all are
    ids[0] = ignored
    known = known_pixels(sample)
    assert known is not None
    assert int(known.sum()) == 39 * 60
    assert known_pixels(Sample(IMAGE)) is None


def test_all_of_the_only_class_is_one_object():
    """A pet behind a fence, and a flood on both sides of a road: figure and ground, however many pieces there are."""
    ids = torch.ones(40, 60, dtype=torch.uint8)
    ids[:3], ids[10:20] = 0, 0
    assert areas(Sample(IMAGE, semantic=ids, classes=Classes(("dry", "flooded")))) == [27 * 60]
    assert areas(Sample(IMAGE, semantic=ids, classes=PETS)) == [13 * 60]
    assert areas(Sample(IMAGE, semantic=torch.ones_like(ids), classes=PETS)) == []
