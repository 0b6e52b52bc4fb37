"""Scores of prompts over a data set: objects and regions, clicks and boxes, models and GrabCut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sam_peers
from masklet.data.objects import objects_in
from masklet.data.pets import CLASSES as PETS
from masklet.data.synthetic import synthetic
from masklet.inference.click import Clicker, ClickSession, look
from masklet.inference.clicking import simulate
from masklet.inference.cutting import Cutter
from masklet.inference.evaluate_clicks import measure_prompts, outcomes
from masklet.models import build
from masklet.ops.clicks import next_click
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError


def sample() -> Sample:
    """A red and a blue rectangle on green; a crowd."""
    image = torch.full((3, 60, 80), 0.2)
    image[1] = 0.7
    dense = torch.zeros(3, 60, 80, dtype=torch.bool)
    dense[0, 8:40, 10:36], dense[1, 20:52, 44:72], dense[2, 54:, :9] = True, True, True
    image[:, dense[0]], image[:, dense[1]] = torch.tensor([[0.9], [0.1], [0.1]]), torch.tensor([[0.1], [0.1], [0.9]])
    classes = Classes(("thing",))
    found = Instances.from_masks(Masks.from_dense(dense), torch.zeros(3, dtype=torch.int64), classes)
    return Sample(image, "a", instances=replace(found, crowd=torch.tensor([False, False, True])), classes=classes)


def test_grabcut_finds_even_colours():
    for protocol in ("clicks", "box"):
        score = measure_prompts(Cutter(), [sample()], protocol, clicks=3)
        assert score.objects == 2
        assert score.compute()["iou@1"] > 0.95


def test_a_model_is_measured_as_it_is_simulated(monkeypatch):
    torch.manual_seed(0)
    model = build("sam_vit_b", **sam_peers.TINY).eval()
    looks = []
    monkeypatch.setattr("masklet.inference.evaluate_clicks.look", lambda *both: looks.append(0) or look(*both))
    score = measure_prompts(model, [sample()], clicks=3)
    assert len(looks) == 1  # at the picture, for both objects and all clicks
    clicker, truths = Clicker(model), list(objects_in(sample()).dense())
    ious = [simulate(clicker, sample().image, truth, 3).ious for truth in truths]
    for i in range(3):
        assert score.compute()[f"iou@{i + 1}"] == pytest.approx(sum(each[i] for each in ious) / 2)
    boxes = measure_prompts(model, [sample()], "box")
    assert (boxes.objects, list(boxes.compute())[:1]) == (2, ["iou@1"])
    assert measure_prompts(model, [sample(), sample()], "box", limit=3).objects == 3


def test_what_was_predicted_stands_beside_what_is_true():
    torch.manual_seed(0)
    model = build("sam_vit_b", **sam_peers.TINY).eval()
    (one, two), (three,) = (list(outcomes(model, [sample()], clicks=2, of_each=n)) for n in (None, 1))
    assert three.predicted == pytest.approx(one.predicted)  # the first of those that are spread over a picture
    assert len(one.ious) == len(one.predicted) == len(two.predicted) == 2
    session = ClickSession(model, sample().image)
    click = next_click(torch.zeros(60, 80, dtype=torch.bool), objects_in(sample()).dense()[0])
    session.click(click.x, click.y)
    assert one.predicted[0] == pytest.approx(session.score())
    assert [len(each.predicted) for each in outcomes(model, [sample()], "box")] == [1, 1]
    assert [each.predicted for each in outcomes(Cutter(), [sample()], "box")] == [(), ()]


def test_pixels_that_nobody_knows_do_not_count():
    image = torch.full((3, 60, 80), 0.2)
    labels = torch.ones(60, 80, dtype=torch.uint8)
    labels[15:45, 20:60] = 2  # a border, coloured as the object is
    labels[20:40, 25:55] = 0
    image[:, labels != 1] = torch.tensor([[0.9], [0.1], [0.1]])
    known = Sample(image, "a", semantic=labels, classes=PETS)
    strict = Sample(image, "b", semantic=labels, classes=Classes(PETS.names))
    assert measure_prompts(Cutter(), [known], clicks=1).compute()["iou@1"] == 1
    pet, border = (each.ious[0] for each in outcomes(Cutter(), [strict], clicks=1))
    assert pet == pytest.approx(600 / 1200)  # the border counts as wrong
    assert border < 0.6


def test_what_is_refused():
    with pytest.raises(UserError, match=r"^there is no protocol 'lines'; choose from clicks, box$"):
        measure_prompts(Cutter(), [sample()], "lines")
    with pytest.raises(UserError, match=r"^clicks is 0; "):
        list(outcomes(Cutter(), [sample()], clicks=0))
    with pytest.raises(UserError, match=r"^the data set has no objects; evaluate on data with objects or label maps$"):
        measure_prompts(Cutter(), [Sample(torch.zeros(3, 4, 4))])
    with pytest.raises(UserError, match=r"^unet takes no prompts; "):
        measure_prompts(build("unet", base=4, depth=1), synthetic("shapes3", split="val"))
