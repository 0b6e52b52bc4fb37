"""PointRend against detectron2, stage by stage (`../shared/oracles`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import masklet
import oracle
from masklet.ops import polygons
from masklet.ops.roi import roi_align
from masklet.parts import point_heads
from masklet.parts.box_heads import Sampled
from masklet.parts.mask_heads import map_of
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures import Masks

SIZE = 221, 317


@pytest.fixture(scope="module")
def folder():
    return oracle.find("d2_pointrend_rcnn_r50_fpn")


@pytest.fixture(scope="module")
def net(folder):
    weights = oracle.state_dict(folder)
    return masklet.load("point_rend", weights=weights, short_side=0, threshold=0.0, max_objects=20)


@pytest.fixture(scope="module")
def pyramid(net, folder):
    with torch.no_grad():
        return net.features(oracle.image(folder))


def inputs(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_detectron2s(net, folder, pyramid):
    x = net.frame.pad(net.normalize(oracle.image(folder)))
    oracle.check("input.tensor", x, folder)
    for i, value in enumerate(pyramid.values()):
        oracle.check(f"fpn.p{i + 2}", value, folder)
    boxes = inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    oracle.check("roi.cls_logits", net.box.classify(pyramid, rois)[0], folder)
    pooled = net.mask.pool(pyramid, rois)
    oracle.check("roi.mask_pooled", pooled, folder)
    oracle.check("roi.coarse_mask_logits", net.mask.coarse(pooled), folder)
    oracle.check("roi.mask_probs", net.mask(pyramid, rois, classes), folder)

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
def test_other_conventions_differ(net, folder, pyramid):
    """As much as the reference itself differs from them, or by far more than what agrees."""
    controls, rois = oracle.meta(folder)["negative_controls"], as_rois([inputs("in.rois", folder).float()])
    logits = net.box.classify(pyramid, rois)[0]
    pool = replace(net.box.pool, pool=partial(roi_align, aligned=False))
    unaligned = net.box.predictor(net.box.head(pool(pyramid, rois)))[0]
    for name, other in (("roi_align_aligned_flipped", unaligned), ("class_order_shifted_by_one", logits.roll(1, 1))):
        assert oracle.difference("roi.cls_logits", other, folder) > controls[name] / 2 > 0.1
    classes = inputs("in.roi_classes", folder).long()
    swapped = net.mask(net.features(oracle.image(folder).flip(1)), rois, classes)
    assert oracle.difference("roi.mask_probs", swapped, folder) > 0.3
    shifted = net.mask.pool(pyramid, rois + rois.new_tensor([0, 0.5, 0.5, 0.5, 0.5]))
    assert oracle.difference("roi.mask_pooled", shifted, folder) > 0.1
    coarse = map_of(classes, net.mask.coarse(net.mask.pool(pyramid, rois)))[:, None]
    only_enlarged = F.interpolate(coarse, (224, 224), mode="bilinear")[:, 0].sigmoid()
    assert oracle.difference("roi.mask_probs", only_enlarged, folder) > 1


def test_losses_are_detectron2s(net, folder):
    """Everything is sampled; their masks are bitmaps. Points are drawn at random, so their loss is not recorded."""
    boxes, labels = inputs("in.gt_boxes", folder), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(boxes), -1, 2)
    masks = Masks(*SIZE, tuple(polygons.rasterize(ring, *SIZE) for ring in rings))
    pyramid = net.features(oracle.image(folder))
    candidates = net.rpn(pyramid, (224, 320))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.rpn, "sampler", RandomSampler(10**6, 0.5))
        losses = net.rpn.loss(candidates, [boxes])
    sampled = net.box.sample([inputs("in.loss_rois", folder)], [boxes], [labels])
    losses |= net.box.loss(pyramid, sampled)
    losses |= net.mask.loss(pyramid, sampled.positives(), [masks])
    assert 0 < losses.pop("point").item() < 5
    theirs = {"rpn_class": "rpn_cls", "rpn_box": "rpn_loc", "class": "cls", "box": "box_reg"}
    mask = losses.pop("mask")  # .2 % off: one or two of 980 cells; mmdetection's, below, is met
    assert mask.item() == pytest.approx(float(oracle.recorded("loss.loss_mask", folder)), rel=5e-3)
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(oracle.recorded(f"loss.loss_{theirs[name]}", folder)), rel=1e-4), (
            name
        )
    (mask + sum(losses.values())).backward()
    # Of the coarse head the recorded gradients are not met (.25 % in its loss are 8 % in its gradient): which bitmaps
    # they trained on is not recorded. docs/systems/point_rend.md says so.
    norm = oracle.meta(folder)["grad_norms"]["roi_heads.box_head.fc1.weight"]
    assert net.box.head.fc1.weight.grad.norm().item() == pytest.approx(norm, rel=5e-3)
    net.zero_grad(set_to_none=True)


def test_points_are_learned_where_the_mask_is(net, folder):
    """A box around half of a disc: the truth at a point is the disc's, whatever the box."""
    y, x = torch.arange(SIZE[0])[:, None] + 0.5, torch.arange(SIZE[1]) + 0.5
    disc = ((x - 100) ** 2 + (y - 90) ** 2 < 50**2)[None]
    box = torch.tensor([[100.0, 40, 160, 140]])
    sampled = Sampled(as_rois([box]), torch.tensor([3]), box, torch.tensor([0]), 80)
    points = torch.rand(1, 500, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_heads, "uncertain_points", lambda *_: points)
        patch.setattr(net.mask, "at", lambda _, rois, coarse, points: torch.zeros(1, 80, 500).log_softmax(1))
        found = net.mask.loss(net.features(oracle.image(folder)), sampled, [Masks.from_dense(disc)])
    at = box[:, :2] + points[0] * torch.tensor([60.0, 100.0])
    inside = ((at - torch.tensor([100.0, 90.0])).norm(dim=1) < 50).float()
    wanted = -(inside * torch.tensor(1 / 81).log() + (1 - inside) * torch.tensor(80 / 81).log()).mean()
    assert found["point"].item() == pytest.approx(wanted.item(), rel=0.02)  # at the boundary the truth is a share


@pytest.mark.slow
@torch.inference_mode()
def test_mmdetections_files_are_the_same_system():
    folder = oracle.find("mmdet_point_rend_r50_caffe_fpn")
    weights = {"state_dict": oracle.state_dict(folder)}
    net = masklet.load("point_rend", weights=weights, short_side=0, threshold=0.0, max_objects=16)
    size, boxes = (203, 299), inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    pyramid = net.features(oracle.image(folder))
    for i, value in enumerate(pyramid.values()):
        oracle.check(f"neck.{i}", value, folder)
    oracle.check("roi.cls_logits", net.box.classify(pyramid, rois)[0], folder)
    oracle.check("roi.mask_logits", net.mask.coarse(net.mask.pool(pyramid, rois)), folder)
    oracle.check("roi.refined_mask_logits_of_class", net.mask.logits(pyramid, rois, classes), folder)
    found = net.box(pyramid, Proposals(boxes[None], torch.zeros(1, len(boxes))), [size])
    oracle.check("det.boxes", found.boxes[0], folder)
    oracle.check("det.scores", found.scores[0], folder)
    truth, labels = inputs("in.gt_boxes", folder).float(), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(truth), -1, 2)
    masks = [Masks(*size, tuple(polygons.rasterize(ring, *size) for ring in rings))]
    sampled = net.box.sample([inputs("in.loss_rois", folder).float()], [truth], [labels])
    losses = net.box.loss(pyramid, sampled) | net.mask.loss(pyramid, sampled.positives(), masks)
    for name, theirs in (("class", "cls"), ("box", "bbox"), ("mask", "mask")):
        want = float(oracle.recorded(f"loss.loss_{theirs}", folder))
        assert losses[name].item() == pytest.approx(want, rel=1e-4), name
