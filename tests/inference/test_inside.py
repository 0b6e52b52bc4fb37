"""What a look inside a two-stage model shows is what its losses are made of, in pixels of the picture."""

from __future__ import annotations

import pytest
import torch

from masklet.data.images import to_float
from masklet.data.synthetic import synthetic
from masklet.inference.inside import look_inside
from masklet.models import build
from masklet.models.base import ShorterSide
from masklet.ops.boxes import iou, pairwise_iou
from masklet.structures import Instances
from masklet.structures.errors import UserError
from masklet.viz.anchors import training_sheet

TINY = {"backbone": "resnet18", "channels": 8, "hidden": 8, "short_side": 0, "anchor_sizes": (8, 16, 24, 32, 64)}


@pytest.fixture(scope="module")
def sample():
    return synthetic("shapes3", "train", 64, 4)[1]


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn", "iterative_bbox"])
def test_every_number_is_in_pixels_of_the_picture(name, sample):
    torch.manual_seed(0)
    model = build(name, classes=sample.instances.classes, **TINY)
    inside = look_inside(model, to_float(sample.image), sample.instances)
    assert model.training
    truth = inside.truth
    torch.testing.assert_close(truth, sample.instances.boxes)
    assert len(inside.positive) == len(inside.refined) == len(inside.objects) > 0
    assert len(inside.positive) + len(inside.negative) == model.rpn.sampler.count
    best = pairwise_iou(inside.positive, truth)
    assert (best[torch.arange(len(best)), inside.objects] == best.amax(1)).all()
    assert (pairwise_iou(inside.negative, truth).amax(1) < 0.3).all()
    assert [len(level) for level in inside.anchors] == [3] * 5
    assert len(inside.proposals) <= len(inside.candidates) == 100
    matched = inside.labels >= 0
    assert (iou(inside.sampled[matched], truth[inside.of]) >= 0.5).all()
    assert (inside.labels[matched] == sample.instances.labels[inside.of]).all()
    assert len(inside.steps) == (2 if name == "mask_rcnn" else 4)
    assert torch.equal(inside.steps[0], inside.sampled[matched])
    if name == "iterative_bbox":
        assert inside.masks is inside.true_masks is None
    else:
        own = (iou(inside.sampled[matched], truth[inside.of]) == 1).nonzero()[:, 0]  # objects' own boxes
        assert inside.masks.shape == inside.true_masks.shape == (int(matched.sum()), 28, 28)
        assert (inside.true_masks[own].mean((1, 2)) > 0.3).all()
    sheet = training_sheet(sample.image, inside, width=400)
    assert sheet.shape[1] == 400


def test_a_larger_frame_changes_no_place(sample):
    """The model works at twice the size; anchors of 16 pixels there are 8 here."""
    torch.manual_seed(0)
    model = build("mask_rcnn", classes=sample.instances.classes, **TINY)
    model.resize = ShorterSide(128, 1000)
    inside = look_inside(model, to_float(sample.image), sample.instances)
    sides = (inside.anchors[1][:, 2:] - inside.anchors[1][:, :2]).prod(1).sqrt()
    torch.testing.assert_close(sides, torch.full((3,), 8.0))
    assert (iou(inside.sampled[inside.labels >= 0], inside.truth[inside.of]) >= 0.5).all()


def test_pictures_without_objects_and_models_without_proposals(sample):
    torch.manual_seed(0)
    classes = sample.instances.classes
    model = build("mask_rcnn", classes=classes, **TINY)
    inside = look_inside(model, to_float(sample.image), Instances.empty((64, 64), classes))
    assert len(inside.positive) == len(inside.of) == len(inside.truth) == 0
    assert training_sheet(sample.image, inside, width=300).shape[1] == 300
    with pytest.raises(UserError) as caught:
        look_inside(build("unet", base=4), to_float(sample.image), sample.instances)
    assert str(caught.value) == "unet has no proposals to look at; take a two-stage model, mask_rcnn for instance"
