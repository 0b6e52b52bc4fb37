"""What builders share."""

from __future__ import annotations

import inspect

import pytest

from masklet.models import MODELS, build, options
from masklet.models.base import extends


def house(rooms: int = 3, garden: bool = False) -> dict[str, object]:
    return {"rooms": rooms, "garden": garden}


@extends(house)
def hotel(rooms: int = 40, stars: int = 3, **common: object) -> dict[str, object]:
    """Many rooms."""
    return {"stars": stars, **house(rooms, **common)}


@extends(hotel)
def motel(parking: int, **common: object) -> dict[str, object]:
    return {"parking": parking, "common": common, **hotel(**common)}


def test_a_builder_takes_what_its_base_takes():
    taken = {key: (p.default, p.kind.name) for key, p in inspect.signature(hotel).parameters.items()}
    assert taken == {
        "rooms": (40, "POSITIONAL_OR_KEYWORD"),
        "garden": (False, "POSITIONAL_OR_KEYWORD"),
        "stars": (3, "KEYWORD_ONLY"),
    }
    assert hotel.__doc__ == "Many rooms."
    assert hotel(7, True) == {"rooms": 7, "garden": True, "stars": 3}
    assert hotel(stars=5) == {"rooms": 40, "garden": False, "stars": 5}
    with pytest.raises(TypeError, match="unexpected keyword argument 'pool'"):
        hotel(pool=1)


def test_in_two_steps_and_with_what_has_no_default():
    assert list(inspect.signature(motel).parameters) == ["rooms", "garden", "stars", "parking"]
    made = motel(parking=9, garden=True)
    assert made.pop("common") == {"rooms": 40, "garden": True, "stars": 3}
    assert made == {"rooms": 40, "garden": True, "stars": 3, "parking": 9}
    with pytest.raises(TypeError, match="missing a required argument: 'parking'"):
        motel()


def test_two_stage_systems_say_all_that_they_take():
    for name in MODELS.keys() & {"mask_rcnn", "keypoint_rcnn"}:
        assert list(options(name))[: len(options("faster_rcnn"))] == list(options("faster_rcnn"))
        assert all(p.kind is not p.VAR_KEYWORD for p in options(name).values())
    assert options("keypoint_rcnn")["num_classes"].default == 1
    net = build("mask_rcnn", backbone="resnet18", classes=("a", "b"), hidden=8, mask_channels=4, channels=8)
    assert net.mask.head.predictor.weight.shape == (2, 4, 1, 1)
