"""Made data sets: the same for the same seed, different otherwise, and true to their description."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.data.sources import open_source
from masklet.data.synthetic import KINDS, synthetic
from masklet.structures import UserError


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind(name: str):
    data = synthetic(name, size=48, count=3)
    assert len(data) == 3
    seen = set()
    for i, sample in enumerate(data):
        again = synthetic(name, size=48, count=9)[i]
        assert torch.equal(sample.image, again.image), "the number of samples must not change them"
        assert torch.equal(sample.semantic, again.semantic)
        assert sample.image.dtype == sample.semantic.dtype == torch.uint8
        assert sample.classes == data.classes == KINDS[name].classes
        seen |= set(sample.semantic.unique().tolist())
        if sample.instances is not None:
            union = torch.zeros(sample.size, dtype=torch.int64)
            for mask, label in zip(sample.instances.masks.dense(), sample.instances.labels, strict=True):
                assert union[mask].eq(0).all(), "objects do not overlap: masks are modal"
                union[mask] = label
            things = torch.tensor(data.classes.things)[sample.semantic.long()]
            assert torch.equal(union, sample.semantic.long() * things)
    assert len(seen) >= 2
    assert data.paths(0) == ()
    assert data.name == name
    assert not torch.equal(data[0].image, data[1].image)
    assert not torch.equal(data[0].image, synthetic(name, "val", size=48)[0].image)
    assert not torch.equal(data[0].image, synthetic(name, size=48, seed=1)[0].image)


def test_pictures_are_the_same_everywhere():
    """One digest, so that a change of the drawing (and of every figure measured on it) is noticed."""
    sample = synthetic("shapes3", size=32)[0]
    assert sample.semantic.flatten().bincount(minlength=4).tolist() == DIGEST


DIGEST = [599, 178, 192, 55]


def test_rods_are_many_and_their_boxes_overlap():
    for sample in synthetic("rods", count=4):
        assert 6 <= len(sample.instances) <= 12
        boxes = sample.instances.boxes
        corner, end = torch.maximum(boxes[:-1, :2], boxes[1:, :2]), torch.minimum(boxes[:-1, 2:], boxes[1:, 2:])
        inter = (end - corner).clamp(min=0).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert (inter / (area[:-1] + area[1:] - inter)).min() > 0.5


def test_stripes_are_one_pixel_wide():
    for sample in synthetic("stripes", count=4):
        row, column = sample.semantic[0], sample.semantic[:, 0]
        line = row if len(row.unique()) > 1 else column
        assert not ((line[1:] == 1) & (line[:-1] == 1)).any()
        assert int(line.sum()) > 0


def test_shapes_number_one_to_six_and_sizes_and_splits():
    data = synthetic("shapes3", "all", size=(24, 40), count=5)
    assert len(data) == 10
    assert data[0].size == (24, 40)
    assert data[7].name == "shapes3_val_0002"
    assert {1 <= len(s.instances) <= 6 for s in data} == {True}
    assert len(synthetic("shapes3")) == 200
    assert len(synthetic("flood", "val")) == 50
    assert [s.name for s in data[2:4]] == ["shapes3_train_0002", "shapes3_train_0003"]
    assert len(open_source("synthetic:cells", "val", size=16, count=3)) == 3
    sized = open_source("synthetic:drinks@24x40", "val")
    assert sized[1].size == (24, 40)
    assert sized[1].name == "drinks_val_0001"


def test_flood_has_water_and_land():
    shares = [float((s.semantic == 1).float().mean()) for s in synthetic("flood", size=32, count=8)]
    assert 0.2 < np.mean(shares) < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "shapes"},
            "unknown synthetic data set 'shapes'; did you mean shapes3? choose from "
            "shapes3, rods, stickmen, rings, stripes, cells, flood, drinks, scenes, rooms",
        ),
        ({"name": "rods", "split": "dev"}, "unknown split 'dev'; choose from train, val, test, all"),
        ({"name": "rods", "size": 4}, "size is 4x4; shapes need at least 8x8 pixels"),
        ({"name": "rods", "count": 0}, "count is 0; ask for at least one sample"),
        (
            {"name": "rods@24", "split": "val"},
            "the size of rods is '24'; write it once, as rods@96x128: height, width",
        ),
        (
            {"name": "rods@24x24", "size": 16},
            "the size of rods is '24x24'; write it once, as rods@96x128: height, width",
        ),
    ],
)
def test_wrong_requests(options: dict, message: str):
    with pytest.raises(UserError) as caught:
        synthetic(**options)
    assert str(caught.value) == message


def test_joints_lie_on_people():
    data, flags = synthetic("stickmen", count=12), set()
    assert data.classes.keypoints[5] == "left_shoulder"
    for sample in data:
        objects, dense = sample.instances, sample.instances.masks.dense()
        assert objects.keypoints.shape == (len(objects), 17, 3)
        for mask, points in zip(dense, objects.keypoints, strict=True):
            for x, y, visible in points.tolist():
                if visible:
                    assert bool(mask[int(y), int(x)]) == (visible == 2)
                else:
                    assert x == y == 0
            whole = (points[[5, 6, 15, 16], 2] == 2).all()
            if whole:  # left is on the right, feet are below
                assert points[5, 0] > points[6, 0]
                assert points[15, 1] > points[5, 1]
        flags |= set(objects.keypoints[..., 2].unique().tolist())
    assert flags == {0, 1, 2}
