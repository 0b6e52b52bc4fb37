"""Class names, colours and numbers, and the error that users see."""

import json
import pickle

import pytest
import torch

from masklet.structures import Classes, UserError
from masklet.structures.classes import default_colors

STREET = Classes(("sky", "car"), colors=((1, 2, 3), (4, 5, 6)), things=(False, True), ids=(3, 9), unscored=(0,))


def test_defaults_are_filled_in():
    classes = Classes(("a", "b"))
    assert classes.names == ("a", "b")
    assert classes.things == (False, False)
    assert classes.ids == (0, 1)
    assert classes.ignore == 255
    assert len(classes) == 2


@pytest.mark.parametrize("classes", [STREET, Classes.default(3), Classes.default(400)])
def test_json_round_trip(classes):
    assert Classes.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    assert hash(Classes.from_dict(classes.to_dict())) == hash(classes)


def test_colors_are_all_different_and_stable():
    colors = default_colors(1000)
    assert len(set(colors)) == 1000
    assert colors[:30] == default_colors(30)
    assert default_colors(0) == ()


def test_first_colors_are_far_apart():
    colors = torch.tensor(default_colors(12)).float()
    distance = torch.cdist(colors, colors) + 1e3 * torch.eye(12)
    assert distance.min() > 50


def test_lists_become_tuples(as_user):
    assert Classes(["a", "b"], colors=[[0, 0, 0], [1, 1, 1]]) == Classes(("a", "b"), colors=((0, 0, 0), (1, 1, 1)))


def test_index():
    assert [STREET.index("car"), STREET.index(1), STREET.index("sky")] == [1, 1, 0]


def test_default_moves_ignore_away_from_many_classes():
    assert Classes.default(255).ignore == 255
    assert Classes.default(256).ignore == -1


def test_check_accepts_labels_and_ignore():
    STREET.check(torch.tensor([0, 1, 255]))
    STREET.check(torch.zeros(0, dtype=torch.uint8))
    with pytest.raises(UserError, match="the truth contains the label 2"):
        STREET.check(torch.tensor([0, 2, 255]), "truth")


def test_user_error_is_a_value_error_that_travels_between_processes():
    error = pickle.loads(pickle.dumps(UserError("mask is too small", hint="resize it")))
    assert isinstance(error, ValueError)
    assert (str(error), error.message, error.hint) == ("mask is too small; resize it", "mask is too small", "resize it")
    assert str(UserError("just so")) == "just so"
