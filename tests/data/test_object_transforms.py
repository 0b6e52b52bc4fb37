"""Crowds, keypoints and rotated boxes move with the picture; large-scale jitter, copy-paste and batches of objects."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared
from masklet.data import transforms as T
from masklet.data.collate import collate_instances
from masklet.data.copy_paste import CopyPaste, paste
from masklet.data.sources import open_source
from masklet.data.synthetic import synthetic
from masklet.structures import Classes, Instances, Masks, Panoptic, Sample, UserError

PERSON = Classes(("person",), things=(True,), keypoints=("nose", "left_eye", "right_eye"))
SIZE = (40, 60)


def sample(image: int = 0, at: tuple[int, int] = (10, 20), crowd: bool = False) -> Sample:
    """One object of 8 x 12 pixels at (y, x) = `at` with three keypoints and a rotated box around it."""
    y, x = at
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, y : y + 8, x : x + 12] = True
    points = torch.tensor([[[x + 1.5, y + 1.5, 2], [x + 10.5, y + 1.5, 1], [0, 0, 0]]])
    masks = Masks.from_dense(mask)
    objects = Instances(
        masks.boxes(), torch.zeros(1, dtype=torch.int64), torch.ones(1), masks, SIZE, PERSON, torch.tensor([crowd]),
        points, torch.tensor([[x + 6.0, y + 4.0, 12.0, 8.0, 0.0]]),
    )  # fmt: skip
    return Sample(torch.full((3, *SIZE), image, dtype=torch.uint8), name="a", instances=objects, classes=PERSON)


def test_a_mirror_exchanges_left_and_right():
    found = T.flip(SIZE)(sample()).instances
    assert found.boxes.tolist() == [[28, 10, 40, 18]]
    assert found.keypoints.tolist() == [[[38.5, 11.5, 2], [0, 0, 0], [29.5, 11.5, 1]]]
    upside_down = T.flip(SIZE, vertical=True)(sample()).instances
    assert upside_down.keypoints.tolist() == [[[21.5, 28.5, 2], [0, 0, 0], [30.5, 28.5, 1]]]
    unnamed = sample()
    unnamed = replace(unnamed, instances=replace(unnamed.instances, classes=Classes(("person",))), classes=None)
    with pytest.raises(UserError) as caught:
        T.flip(SIZE)(unnamed)
    message = "there are 3 keypoints and 0 names for them, so left and right are not known"
    assert str(caught.value) == f"{message}; name them in Classes.keypoints, or do not mirror"


def test_keypoints_outside_are_not_labelled():
    found = T.window(12, 22, (10, 10), SIZE)(sample()).instances
    assert found.keypoints.tolist() == [[[0, 0, 0]] * 3]
    assert found.crowd.tolist() == [False]
    assert len(T.window(0, 0, (8, 8), SIZE)(sample()).instances) == 0


def corners(rotated: torch.Tensor) -> torch.Tensor:
    cx, cy, w, h, degrees = rotated.double().unbind(-1)
    cos, sin = torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)
    u, v = torch.stack([cos, -sin], -1) * w[:, None] / 2, torch.stack([sin, cos], -1) * h[:, None] / 2
    centre = torch.stack([cx, cy], -1)
    return torch.stack([centre + a * u + b * v for a in (-1, 1) for b in (-1, 1)], 1)


@settings(max_examples=60, deadline=None)
@given(st.floats(-89, 89), st.floats(-180, 180), st.sampled_from(["flip", "upside down", "rotate", "resize", "window"]))
def test_rotated_boxes_move_as_their_corners(angle: float, turn: float, what: str):
    move = {
        "flip": T.flip(SIZE),
        "upside down": T.flip(SIZE, vertical=True),
        "rotate": T.rotate(turn, SIZE),
        "resize": T.resize((80, 120), SIZE),
        "window": T.window(-5, 7, (50, 50), SIZE),
    }[what]
    box = torch.tensor([[26.0, 14.0, 12.0, 8.0, angle]], dtype=torch.float64)
    moved = move._rotated(box)
    assert -90 <= moved[0, 4] <= 90
    distance = torch.cdist(move.points(corners(box)), corners(moved))[0]
    assert distance.amin(0).max() < 1e-3
    assert distance.amin(1).max() < 1e-3


def test_uneven_stretch_by_hand():
    """Detectron2's rule: a side along (1, 1), stretched by 2 and 1, has sqrt(5 / 2) of its length."""
    moved = T.resize((40, 120), SIZE)._rotated(torch.tensor([[10.0, 10, 6, 4, 45]]))
    turned = math.degrees(math.atan2(2, 1))
    assert moved[0].tolist() == pytest.approx([20, 10, 6 * math.sqrt(2.5), 4 * math.sqrt(2.5), turned], abs=1e-4)


def test_real_keypoints_stay_on_their_person():
    person = open_source(f"coco:{shared('data', 'coco_keypoints_mini')}", "val")[0]
    old = person.instances
    twice = T.flip(person.size)(T.flip(person.size)(person)).instances
    assert torch.allclose(twice.keypoints, old.keypoints, atol=1e-3)
    height, width = person.size
    half = T.resize((height // 2, width // 2), person.size)(person).instances
    factor = torch.tensor([width // 2 / width, height // 2 / height, 1])
    assert torch.allclose(half.keypoints, old.keypoints * factor, atol=1e-3)


def test_large_scale_jitter():
    data, seen = synthetic("shapes3", size=48), []
    jitter = T.LargeScaleJitter((40, 64))
    for seed in range(40):
        found = jitter(data[0], torch.Generator().manual_seed(seed))
        assert found.size == found.instances.size == (40, 64)
        again = jitter(data[0], torch.Generator().manual_seed(seed))
        assert torch.equal(found.image, again.image)
        assert found.instances.masks.items == again.instances.masks.items
        inside = (found.image != torch.tensor(T.MEAN_COLOR).view(3, 1, 1)).any(0)
        seen.append(int(inside.any(1).sum()))
    assert min(seen) < 12 < 39 < max(seen), "from a tenth of the size to twice the size"
    fits = T.LargeScaleJitter((40, 64), (1.0, 1.0))(data[0], torch.Generator())
    assert (fits.image[:, :, 40:] == torch.tensor(T.MEAN_COLOR).view(3, 1, 1)).all()
    assert fits.semantic[:, 40:].unique().tolist() == [255]
    with pytest.raises(UserError, match=r"scales is \(2.0, 1.0\); give two positive numbers, the smaller one first"):
        T.LargeScaleJitter(scales=(2.0, 1.0))


def test_paste_by_hand():
    target, source = sample(10), sample(200, at=(8, 26))
    found = paste(target, source, torch.tensor([True]))
    assert found.instances.masks.areas().tolist() == [8 * 12 - 6 * 6, 96]
    assert found.instances.boxes.tolist() == [[20, 10, 32, 18], [26, 8, 38, 16]]
    assert found.instances.keypoints[0].tolist() == [[21.5, 11.5, 2], [30.5, 11.5, 1], [0, 0, 0]]
    assert found.image[0].unique(return_counts=True)[1].tolist() == [40 * 60 - 96, 96]
    assert found.instances.rotated.shape == (2, 5)
    behind = paste(target, sample(200, at=(9, 20)), torch.tensor([True])).instances
    assert behind.keypoints[0, 0].tolist() == [21.5, 11.5, 1], "labelled, but hidden now"
    assert behind.boxes[0].tolist() == [20, 17, 32, 18]
    assert len(paste(target, sample(at=(10, 20)), torch.tensor([True])).instances) == 1, "out of sight"
    assert paste(target, source, torch.tensor([False])) is target
    assert paste(target, sample(crowd=True), torch.tensor([True])) is target


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 199), st.integers(0, 199), st.integers(0, 2**20))
def test_paste_keeps_every_pixel_of_one_of_both(i: int, j: int, seed: int):
    data = synthetic("shapes3", size=48)
    target, source = data[i], data[j]
    chosen = torch.rand(len(source.instances), generator=torch.Generator().manual_seed(seed)) < 0.5
    found = paste(target, source, chosen)
    front = source.instances[chosen].masks.union()
    assert torch.equal(found.image, torch.where(front, source.image, target.image))
    assert torch.equal(found.semantic, torch.where(front, source.semantic, target.semantic))
    masks = found.instances.masks.dense()
    n = int(chosen.sum())
    assert not (masks[: len(masks) - n] & front).any()
    assert torch.equal(masks.any(0), target.instances.masks.union() & ~front | front)
    assert (found.instances.masks.areas() > 0).all()
    assert torch.equal(found.instances.boxes, found.instances.masks.boxes())
    for mask, label in zip(masks, found.instances.labels, strict=True):
        assert (found.semantic[mask] == label).all()


def test_copy_paste_of_a_data_set():
    data = synthetic("shapes3", size=48)
    jitter = T.Compose([T.LargeScaleJitter(40), T.RandomFlip()])
    train = T.Compose([jitter, CopyPaste(data, jitter, smooth=1.0)])
    found = [train(data[0], torch.Generator().manual_seed(seed)) for seed in range(8)]
    again = train(data[0], torch.Generator().manual_seed(3))
    assert torch.equal(found[3].image, again.image)
    assert len({len(sample.instances) for sample in found}) > 1
    assert {sample.size for sample in found} == {(40, 40)}
    never = CopyPaste(data, jitter, p=0.0)
    assert never(data[0], torch.Generator()).instances.masks.items == data[0].instances.masks.items


BAD = {
    "sizes": (
        lambda: paste(sample(), T.resize((20, 30), SIZE)(sample()), torch.tensor([True])),
        "copy-paste onto a of 40x60 from a of 20x30; bring both to one size first, for example with LargeScaleJitter",
    ),
    "classes": (
        lambda: paste(
            sample(), replace(sample(), instances=Instances.empty(SIZE, Classes(("x",)))), torch.zeros(0) > 0
        ),
        "copy-paste between samples of different classes; take both from one data set",
    ),
    "no masks": (
        lambda: paste(sample(), replace(sample(), instances=None), torch.zeros(0) > 0),
        "copy-paste needs masks of objects, and a of 40x60 has none; use other data",
    ),
    "rotated boxes": (
        lambda: paste(
            sample(), replace(sample(), instances=replace(sample().instances, rotated=None)), torch.tensor([True])
        ),
        "only one of the two samples of copy-paste has rotated boxes; take both from one data set",
    ),
    "a label map": (
        lambda: paste(sample(), replace(sample(), semantic=torch.zeros(SIZE, dtype=torch.uint8)), torch.tensor([True])),
        "only one of the two samples of copy-paste has a label map; take both from one data set",
    ),
    "a panoptic map": (
        lambda: paste(
            replace(sample(), panoptic=Panoptic(torch.zeros(SIZE, dtype=torch.int64))), sample(), torch.tensor([True])
        ),
        "copy-paste knows objects and label maps, and a of 40x60 has a panoptic map; leave it out of the sample first",
    ),
    "no samples": (
        lambda: collate_instances([]),
        "a batch without samples; check the length of the data set",
    ),
    "no objects": (
        lambda: collate_instances([sample(), replace(sample(), instances=None)]),
        "sample 'a' has no objects; train on a data set with instances",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str):
    call, message = BAD[case]
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == message


def test_batches_of_objects():
    small = T.resize((20, 50), SIZE)(sample(255))
    images, targets = collate_instances([sample(51), small], multiple=32, fill=0.5)
    assert images.shape == (2, 3, 64, 64)
    assert images[0, 0, 0, 0].item() == pytest.approx(0.2)
    assert images[1, :, :20, :50].unique().tolist() == [1.0]
    assert images[1, :, 20:].unique().tolist() == images[1, :, :, 50:].unique().tolist() == [0.5]
    assert [target.size for target in targets] == [(40, 60), (20, 50)]
    assert targets[0].masks is not None
