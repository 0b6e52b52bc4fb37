"""Mask R-CNN against detectron2, stage by stage (`../shared/oracles`), and what a user may do wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import masklet
import oracle
from masklet.models import build
from masklet.models.base import ShorterSide
from masklet.ops import mask_targets
from masklet.ops.roi import roi_align
from masklet.parts.proposals import Proposals, of_asked
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures import Instances
from masklet.structures.errors import UserError

SIZE = 203, 299


@pytest.fixture(scope="module")
def folder():
    return oracle.find("d2_mask_rcnn_r50_fpn")


@pytest.fixture(scope="module")
def net(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("detectron2") / "model_final.pth"
    torch.save({"model": oracle.state_dict(folder)}, path)
    model = masklet.load("mask_rcnn", weights=path, short_side=0, threshold=0.0, max_objects=20)
    path.unlink()
    return model


def inputs(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_detectron2s(net, folder):
    x = net.frame.pad(net.normalize(oracle.image(folder)))
    oracle.check("input.tensor", x, folder)
    stages = net.backbone(x)
    pyramid = net.fpn(stages)
    for i in range(2, 6):
        oracle.check(f"backbone.res{i}", stages[f"c{i}"], folder)
    for name, value in pyramid.items():
        oracle.check(f"fpn.{name}", value, folder)
    candidates = net.rpn(pyramid, (224, 320))
    for i, (name, anchors) in enumerate(zip(pyramid, candidates.anchors, strict=True)):
        logits, deltas = net.rpn.head(pyramid[name])
        oracle.check(f"rpn.logits.{i}", logits, folder)
        oracle.check(f"rpn.deltas.{i}", deltas, folder)
        oracle.check(f"rpn.anchors.{i}", anchors, folder)
    proposals = net.rpn.propose(candidates, [SIZE])
    assert len(proposals.each()[0]) == oracle.recorded("rpn.proposals.count", folder)
    oracle.check("rpn.proposals.boxes", proposals.boxes[0, :300], folder)
    oracle.check("rpn.proposals.logits", proposals.logits[0, :300], folder)

    boxes = inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    oracle.check("roi.pooled", net.box.pool(pyramid, rois), folder)
    oracle.check("roi.box_head", net.box.head(net.box.pool(pyramid, rois)), folder)
    logits, deltas = net.box.classify(pyramid, rois)
    oracle.check("roi.cls_logits", logits, folder)
    oracle.check("roi.box_deltas", deltas.flatten(1), folder)
    oracle.check("roi.mask_pooled", net.mask.pool(pyramid, rois), folder)
    oracle.check("roi.mask_logits", net.mask.head(net.mask.pool(pyramid, rois)), folder)
    oracle.check("roi.mask_logits_of_class", net.mask.logits(pyramid, rois, classes), folder)

    found = net.box(pyramid, Proposals(boxes[None], torch.linspace(5, -5, len(boxes))[None]), [SIZE])
    oracle.check("det.boxes", found.boxes[0], folder)
    oracle.check("det.scores", found.scores[0], folder)
    assert found.labels[0].tolist() == oracle.recorded("det.classes", folder).tolist()
    oracle.check("det.mask_probs", net.mask(pyramid, found.rois(), found.labels[0]), folder)


def test_image_in_masks_out(net, folder):
    found = net.predict(oracle.pixels(folder))
    oracle.check("e2e.boxes", found.boxes, folder, rtol=2e-4)
    oracle.check("e2e.scores", found.scores, folder, rtol=1e-3)
    assert found.labels.tolist() == oracle.recorded("e2e.classes", folder).tolist()
    bits = np.unpackbits(oracle.recorded("e2e.pasted_bits", folder), axis=1)[:, : SIZE[0] * SIZE[1]]
    assert (found.masks.dense()[:4].flatten(1).numpy() != bits).mean() < 0.001


@torch.inference_mode()
def test_other_conventions_differ(net, folder):
    """As much as the reference itself differs from them."""
    controls, rois = oracle.meta(folder)["negative_controls"], as_rois([inputs("in.rois", folder).float()])
    image = oracle.image(folder)
    pyramid = net.features(image)
    logits = net.box.classify(pyramid, rois)[0]
    swapped = net.box.classify(net.features(image.flip(1)), rois)[0]
    pool = replace(net.box.pool, pool=partial(roi_align, aligned=False))
    unaligned = net.box.predictor(net.box.head(pool(pyramid, rois)))[0]
    for name, other in (
        ("rgb_bgr_swapped", swapped),
        ("roi_align_aligned_flipped", unaligned),
        ("class_order_shifted_by_one", logits.roll(1, 1)),
    ):
        assert oracle.difference("roi.cls_logits", other, folder) > controls[name] / 2 > 0.1


def test_losses_are_detectron2s(net, folder):
    """Everything is sampled; their masks are polygons, drawn at 28x28 inside each box."""
    boxes, labels = inputs("in.gt_boxes", folder), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(boxes), -1, 2)
    pyramid = net.features(oracle.image(folder))
    candidates = net.rpn(pyramid, (224, 320))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.rpn, "sampler", RandomSampler(10**6, 0.5))
        losses = net.rpn.loss(candidates, [boxes])
    assert net.rpn.divisor is of_asked
    kind = net.rpn.matcher(torch.cat(candidates.anchors), boxes)[1]
    assert kind[::5].tolist() == oracle.recorded("rpn.labels", folder).tolist()
    sampled = net.box.sample([inputs("in.loss_rois", folder)], [boxes], [labels])
    losses |= net.box.loss(pyramid, sampled)
    own = sampled.positives()

    drawn = mask_targets.from_polygons([[rings[i]] for i in own.objects], own.rois[:, 1:], 28).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.mask, "aims", lambda *_: drawn)
        losses |= net.mask.loss(pyramid, own, [])
    theirs = {
        "rpn_class": "loss_rpn_cls",
        "rpn_box": "loss_rpn_loc",
        "class": "loss_cls",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(oracle.recorded(f"loss.{theirs[name]}", folder)), rel=1e-4), name
    sum(losses.values()).backward()
    norms = oracle.meta(folder)["grad_norms"]
    for mine, name in (
        (net.fpn.laterals[0], "backbone.fpn_lateral2"),
        (net.backbone.layer4[2].conv3, "backbone.bottom_up.res5.2.conv3"),
        (net.rpn.head.conv, "proposal_generator.rpn_head.conv"),
        (net.box.head.fc1, "roi_heads.box_head.fc1"),
        (net.mask.head.convs[0], "roi_heads.mask_head.mask_fcn1"),
    ):
        assert mine.weight.grad.norm().item() == pytest.approx(norms[f"{name}.weight"], rel=1e-3), name
    net.zero_grad(set_to_none=True)


def small(**options):
    torch.manual_seed(0)
    return build("mask_rcnn", num_classes=2, backbone="resnet18", channels=8, hidden=8, mask_channels=8, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "detectron"}, "unknown style 'detectron'; did you mean 'detectron2'? styles: "),
        ({"anchor_sizes": (32, 64)}, "2 anchor sizes for 5 levels; give one size for each level"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError) as caught:
        build("mask_rcnn", **options)
    assert str(caught.value).startswith(message)


def test_targets_that_do_not_fit():
    net, images = small(), torch.zeros(1, 3, 32, 40)
    for targets, message in (
        ([], "1 images but 0 targets; give one Instances for each image"),
        (
            [Instances.empty((33, 40), net.classes)],
            "target 0 is 33x40 but the images are 32x40; resize them together",
        ),
        (
            [Instances(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), torch.ones(1), None, (32, 40), net.classes)],
            "target 0 has no masks; train on a data set with masks, or a model without them",
        ),
    ):
        with pytest.raises(UserError) as caught:
            net.loss(images, targets)
        assert str(caught.value) == message


def test_the_shorter_side_decides():
    resize = ShorterSide(800, 1333)
    assert resize.size(600, 800) == (800, 1067)
    assert resize.size(400, 1000) == (533, 1333)
    assert resize(torch.rand(1, 3, 8, 4)).shape == (1, 3, 1333, 666)
    assert ShorterSide(0)(torch.rand(1, 3, 8, 4)).shape == (1, 3, 8, 4)


def test_detections_come_back_at_the_size_of_the_image():
    net = small(short_side=64, threshold=0.0).eval()
    found = net.predict(torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)))
    assert found.size == (16, 24)
    assert found.boxes[:, 2].max() <= 24
    assert found.boxes[:, 2].max() > 16
    assert found.masks.size == (16, 24)
