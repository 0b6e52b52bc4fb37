"""Scores of prompts over a data set: objects and regions, clicks and boxes, models and GrabCut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sam_peers
from masklet.data.synthetic import synthetic
from masklet.inference.clicking import simulate
from masklet.inference.cutting import Cutter
from masklet.inference.evaluate_clicks import measure_prompts, objects_in
from masklet.models import build
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


def test_a_model_is_measured_as_it_is_simulated():
    torch.manual_seed(0)
    model = build("sam_vit_b", **sam_peers.TINY).eval()
    score = measure_prompts(model, [sample()], clicks=2)
    from masklet.inference.click import Clicker

    ious = [simulate(Clicker(model), sample().image, truth, 2).ious for truth in objects_in(sample())]
    assert score.compute()["iou@1"] == pytest.approx(sum(each[0] for each in ious) / 2)
    assert score.compute()["iou@2"] == pytest.approx(sum(each[-1] for each in ious) / 2)
    boxes = measure_prompts(model, [sample()], "box")
    assert (boxes.objects, list(boxes.compute())[:1]) == (2, ["iou@1"])
    assert measure_prompts(model, [sample(), sample()], "box", limit=3).objects == 3


def test_regions_of_label_maps_are_objects():
    labels = torch.zeros(60, 80, dtype=torch.uint8)
    labels[:30, :30], labels[40:, 50:], labels[0, 79] = 1, 1, 1
    labels[59] = 255
    classes = Classes(("ground", "thing"))
    found = list(objects_in(Sample(torch.zeros(3, 60, 80), semantic=labels, classes=classes)))
    assert [int(mask.sum()) for mask in found] == [int((labels == 0).sum()), 900, 570]  # a pixel is no region


def test_what_is_refused():
    with pytest.raises(UserError, match=r"^there is no protocol 'lines'; choose from clicks, box$"):
        measure_prompts(Cutter(), [sample()], "lines")
    with pytest.raises(UserError, match=r"^the data set has no objects; evaluate on data with objects or label maps$"):
        measure_prompts(Cutter(), [Sample(torch.zeros(3, 4, 4))])
    with pytest.raises(UserError, match=r"^unet takes no prompts; "):
        measure_prompts(build("unet", base=4, depth=1), synthetic("shapes3", split="val"))
