"""Semantic maps, instances, panoptic maps, masklets, mattes, prompts and samples do what they say."""

import dataclasses

import numpy as np
import pytest
import torch

from masklet.ops import rle
from masklet.structures import (
    Classes,
    Instances,
    Masklets,
    Masks,
    Matte,
    Panoptic,
    Prompt,
    Sample,
    Segment,
    SemanticMap,
)
from masklet.structures.objects import Objects

STREET = Classes(("road", "car", "sky"))


def test_semantic_map():
    labels = torch.tensor([[0, 0, 1], [0, 2, 255]], dtype=torch.uint8)
    result = SemanticMap(labels, STREET, torch.rand(3, 2, 3))
    assert result.size == (2, 3)
    assert result.mask("road").tolist() == [[True, True, False], [True, False, False]]
    assert torch.equal(result.mask(1), labels == 1)
    assert result.area() == {"road": 0.5, "car": 1 / 6, "sky": 1 / 6}
    assert SemanticMap(labels.long(), STREET).area() == result.area()


def test_semantic_map_of_no_pixels():
    assert SemanticMap(torch.zeros(0, 4, dtype=torch.uint8), STREET).area() == {"road": 0, "car": 0, "sky": 0}


def instances(n=4):
    masks = Masks.from_dense(torch.rand(n, 20, 30) < 0.3)
    return Instances.from_masks(masks, torch.arange(n) % 3, STREET, torch.linspace(1, 0.1, n))


def test_instances():
    found = instances()
    assert len(found) == 4
    assert torch.equal(found.boxes, found.masks.boxes())
    kept = found[found.scores > 0.5]
    assert len(kept) == 2
    assert len(kept.masks) == 2
    assert kept.labels.tolist() == [0, 1]
    assert found[2].labels.tolist() == [2]
    assert torch.equal(found[[3, 1]].masks.dense(), found.masks.dense()[[3, 1]])
    assert [one.labels.item() for one in found] == [0, 1, 2, 0]
    assert Instances.from_masks(found.masks, found.labels, STREET).scores.tolist() == [1] * 4


def test_instances_without_masks():
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 2, 2]])
    found = Instances(boxes, torch.tensor([0, 1]), torch.tensor([0.5, 0.9]), None, (20, 30), STREET)
    assert found[1:].masks is None
    assert found[1:].boxes.tolist() == [[1, 1, 2, 2]]


def test_no_instances():
    empty = Instances.empty((20, 30), STREET)
    assert len(empty) == 0
    assert empty.masks is not None
    assert empty.masks.size == empty.size == (20, 30)
    assert len(empty[torch.zeros(0, dtype=torch.bool)]) == 0


@pytest.mark.parametrize("offset", [0, 70_000])
def test_panoptic(offset):
    ids = torch.tensor([[0, 1, 1], [2, 2, 3]]) + offset * torch.tensor([[0, 1, 1], [1, 1, 1]])
    segments = tuple(Segment(offset + i, label, label == 1, area=2) for i, label in ((3, 0), (1, 1), (2, 2)))
    panoptic = Panoptic(ids, segments)
    assert panoptic.size == (2, 3)
    assert panoptic.semantic().tolist() == [[255, 1, 1], [2, 2, 0]]
    assert panoptic.semantic(ignore=9)[0, 0] == 9
    assert panoptic.mask(segments[1]).tolist() == [[False, True, True], [False, False, False]]
    assert torch.equal(panoptic.mask(offset + 1), panoptic.mask(segments[1]))


def test_panoptic_of_no_pixels():
    assert Panoptic(torch.zeros(0, 0, dtype=torch.int64)).segments == ()


def test_masklets():
    first, second = (rle.encode(np.eye(4, 6, k=k, dtype=bool)) for k in (0, 1))
    tracks = Masklets(4, 6, {7: {0: first, 2: second}}, labels={7: 1}, scores={7: 1})
    tracks = tracks.with_frame(2, {9: first}).with_frame(5, {7: first})
    assert len(tracks) == 2
    assert tracks.size == (4, 6)
    assert tracks.frames == (0, 2, 5)
    numbers, masks = tracks.at(2)
    assert numbers == (7, 9)
    assert masks == Masks(4, 6, (second, first))
    assert tracks.at(1) == ((), Masks(4, 6))
    assert tracks.labels == {7: 1}
    with pytest.raises(TypeError):
        tracks.objects[7][3] = first


def test_matte():
    alpha = torch.tensor([[[0.0, 0.5, 1.0]]])
    matte = Matte(alpha, torch.ones(3, 1, 3))
    assert matte.size == (1, 3)
    assert matte.over(torch.zeros(3, 1, 3))[0].tolist() == [[0, 0.5, 1]]
    assert Matte(torch.zeros(1, 0, 3)).size == (0, 3)


def test_prompt():
    assert Prompt(torch.zeros(2, 2)).point_labels.tolist() == [1, 1]
    assert Prompt(torch.zeros(2, 2), torch.tensor([0, 1])).point_labels.tolist() == [0, 1]
    assert Prompt(boxes=torch.tensor([[0.0, 0, 2, 2]])).points is None
    assert Prompt(masks=torch.ones(1, 2, 2, dtype=torch.bool)).masks.shape == (1, 2, 2)


def test_sample():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    sample = Sample(
        image,
        "street.jpg",
        semantic=torch.full((20, 30), 255, dtype=torch.uint8),
        instances=instances(),
        panoptic=Panoptic(torch.zeros(20, 30, dtype=torch.int64)),
        matte=Matte(torch.zeros(1, 20, 30)),
        classes=STREET,
    )
    assert sample.size == sample.original_size == (20, 30)
    assert Sample(image.float(), original_size=(40, 60)).original_size == (40, 60)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.name = "other"


def test_what_only_some_tasks_know_is_chosen_with_the_objects():
    objects = Instances(
        torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), torch.ones(3), None, (5, 5), Classes(("person",)),
        torch.tensor([True, False, True]), torch.arange(18.0).view(3, 2, 3), torch.ones(3, 5),
    )  # fmt: skip
    chosen = objects[[2, 0]]
    assert chosen.crowd.tolist() == [True, True]
    assert torch.equal(chosen.keypoints, objects.keypoints[[2, 0]])
    assert chosen.rotated.shape == (2, 5)
    table = Objects.of_instances(objects)
    assert table.crowd.tolist() == [True, False, True]
    assert table.keypoints.shape == (3, 2, 3)
    assert Objects.of_instances(objects, crowd=[False] * 3).crowd.tolist() == [False] * 3
