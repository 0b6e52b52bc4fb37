"""Mask R-CNN on ResNet and Swin against mmdetection, stage by stage (`../shared/oracles`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import masklet
import oracle
from masklet.ops import polygons
from masklet.ops.roi import roi_align
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures import Masks

FOLDERS = "mmdet_mask_rcnn_r50_fpn", "mmdet_mask_rcnn_swin_t_fpn"


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request):
    return oracle.find(request.param)


@pytest.fixture(scope="module")
def net(folder):
    weights = {"state_dict": oracle.state_dict(folder)}
    return masklet.load("mask_rcnn", weights=weights, short_side=0, threshold=0.0, max_objects=16)


def inputs(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


def size(folder) -> tuple[int, int]:
    entry = oracle.meta(folder)["input"]
    return entry["height"], entry["width"]


@torch.inference_mode()
def test_every_stage_is_mmdets(net, folder):
    x = net.frame.pad(net.normalize(oracle.image(folder)))
    oracle.check("input.tensor", x, folder)
    stages = net.backbone(x)
    pyramid = net.fpn(stages)
    for i in range(4):
        oracle.check(f"backbone.{i}", stages[f"c{i + 2}"], folder, rtol=2e-4)
    candidates = net.rpn(pyramid, tuple(x.shape[2:]))
    for i, (name, anchors) in enumerate(zip(pyramid, candidates.anchors, strict=True)):
        oracle.check(f"neck.{i}", pyramid[name], folder)
        logits, deltas = net.rpn.head(pyramid[name])
        oracle.check(f"rpn.logits.{i}", logits, folder)
        oracle.check(f"rpn.deltas.{i}", deltas, folder)
        oracle.check(f"rpn.anchors.{i}", anchors, folder)
    proposals = net.rpn.propose(candidates, [size(folder)])
    assert len(proposals.each()[0]) == oracle.recorded("rpn.proposals.count", folder)
    oracle.check("rpn.proposals.boxes", proposals.boxes[0, :300], folder, rtol=1e-3)
    oracle.check("rpn.proposals.scores", proposals.logits[0, :300].sigmoid(), folder)

    boxes = inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    oracle.check("roi.pooled", net.box.pool(pyramid, rois), folder)
    logits, deltas = net.box.classify(pyramid, rois)
    oracle.check("roi.cls_logits", logits, folder)
    oracle.check("roi.box_deltas", deltas.flatten(1), folder)
    oracle.check("roi.mask_logits", net.mask.head(net.mask.pool(pyramid, rois)), folder)
    oracle.check("roi.mask_logits_of_class", net.mask.logits(pyramid, rois, classes), folder)

    found = net.box(pyramid, Proposals(boxes[None], torch.zeros(1, len(boxes))), [size(folder)])
    oracle.check("det.boxes", found.boxes[0], folder)
    oracle.check("det.scores", found.scores[0], folder)
    assert found.labels[0].tolist() == oracle.recorded("det.labels", folder).tolist()


def test_image_in_masks_out(net, folder):
    found = net.predict(oracle.pixels(folder))
    oracle.check("e2e.boxes", found.boxes, folder, rtol=5e-4)
    oracle.check("e2e.scores", found.scores, folder, rtol=1e-3)
    assert found.labels.tolist() == oracle.recorded("e2e.labels", folder).tolist()
    height, width = size(folder)
    bits = np.unpackbits(oracle.recorded("e2e.mask_bits", folder), axis=1)[:, : height * width]
    assert (found.masks.dense()[:6].flatten(1).numpy() != bits).mean() < 0.001
    np.testing.assert_allclose(found.masks.areas(), oracle.recorded("e2e.mask_area", folder), rtol=0.002, atol=2)


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


@torch.inference_mode()
def test_losses_are_mmdets(net, folder):
    """Everything is sampled; their masks are bitmaps, cut out by each box."""
    boxes, labels = inputs("in.gt_boxes", folder).float(), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(boxes), -1, 2)
    masks = Masks(*size(folder), tuple(polygons.rasterize(ring, *size(folder)) for ring in rings))
    pyramid = net.features(oracle.image(folder))
    candidates = net.rpn(pyramid, net.frame.covers(*size(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.rpn, "sampler", RandomSampler(10**6, 0.5))
        losses = net.rpn.loss(candidates, [boxes])
    sampled = net.box.sample([inputs("in.loss_rois", folder).float()], [boxes], [labels])
    losses |= net.box.loss(pyramid, sampled) | net.mask.loss(pyramid, sampled.positives(), [masks])
    theirs = {"rpn_class": "rpn_cls", "rpn_box": "rpn_bbox", "class": "cls", "box": "bbox", "mask": "mask"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(oracle.recorded(f"loss.loss_{theirs[name]}", folder)), rel=1e-4), (
            name
        )
