"""Mask Scoring R-CNN against mmdetection, stage by stage (`../shared/oracles`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import masklet
import oracle
from masklet.models import build
from masklet.ops import polygons
from masklet.parts.mask_heads import map_of, mean_bce
from masklet.parts.mask_iou_heads import mask_iou_loss, mask_ious, shares_of
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import as_rois
from masklet.structures import Masks

SIZE = 203, 299


@pytest.fixture(scope="module")
def folder():
    return oracle.find("mmdet_ms_rcnn_r50_caffe_fpn")


@pytest.fixture(scope="module")
def net(folder):
    weights = {"state_dict": oracle.state_dict(folder)}
    return masklet.load("mask_scoring_rcnn", weights=weights, short_side=0, threshold=0.0, max_objects=16)


@pytest.fixture(scope="module")
def pyramid(net, folder):
    with torch.no_grad():
        return net.features(oracle.image(folder))


def inputs(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_mmdets(net, folder, pyramid):
    oracle.check("input.tensor", net.frame.pad(net.normalize(oracle.image(folder))), folder)
    for i, value in enumerate(pyramid.values()):
        oracle.check(f"neck.{i}", value, folder)
    boxes = inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    oracle.check("roi.cls_logits", net.box.classify(pyramid, rois)[0], folder)
    cells = net.mask.pool(pyramid, rois)
    logits = net.mask.head(cells)
    oracle.check("roi.mask_logits", logits, folder)
    own = map_of(classes, logits)
    oracle.check("roi.mask_logits_of_class", own, folder)
    guesses = net.iou(cells, own.sigmoid())
    oracle.check("roi.mask_iou", guesses, folder)
    assert oracle.difference("roi.mask_iou", net.iou(cells, own), folder) > 0.05  # logits are no probabilities
    assert oracle.difference("roi.mask_iou", guesses.roll(1, 1), folder) > 1

    found = net.box(pyramid, Proposals(boxes[None], torch.zeros(1, len(boxes))), [SIZE])
    oracle.check("det.boxes", found.boxes[0], folder)
    assert found.labels[0].tolist() == oracle.recorded("det.labels", folder).tolist()
    cells, labels = net.mask.pool(pyramid, found.rois()), found.labels[0]
    fits = net.fits(cells, map_of(labels, net.mask.head(cells)).sigmoid(), labels)
    oracle.check("det.scores", found.scores[0] * fits, folder)


def test_image_in_masks_out(net, folder):
    """Their scores are products with any number; here guesses are cut to 0..1, and products are in order."""
    theirs = oracle.recorded("e2e.boxes", folder)
    found = net.predict(oracle.pixels(folder))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(net, "fits", lambda cells, masks, labels: torch.ones(len(labels)))
        plain = net.predict(oracle.pixels(folder))
    order = (plain.boxes - torch.from_numpy(theirs)[:, None]).abs().amax(2).argmin(1)  # two scores are 2e-6 apart
    torch.testing.assert_close(plain.scores[order], plain.scores, rtol=0, atol=1e-5)
    plain = plain[order]
    oracle.check("e2e.boxes", plain.boxes, folder, rtol=5e-4)
    assert plain.labels.tolist() == oracle.recorded("e2e.labels", folder).tolist()
    bits = np.unpackbits(oracle.recorded("e2e.mask_bits", folder), axis=1)[:, : SIZE[0] * SIZE[1]]
    assert (plain.masks.dense()[:6].flatten(1).numpy() != bits).mean() < 0.001
    same = (found.boxes[:, None] - torch.from_numpy(theirs)).abs().amax(2).argmin(1)
    assert sorted(same.tolist()) == list(range(len(theirs)))
    quality = torch.from_numpy(oracle.recorded("e2e.scores", folder))[same] / plain.scores[same]
    torch.testing.assert_close(found.scores, plain.scores[same] * quality.clamp(0, 1), rtol=2e-3, atol=1e-4)
    assert (found.scores.diff() <= 0).all()


@torch.inference_mode()
def test_losses_are_mmdets(net, folder, pyramid):
    """They cut logits, not probabilities, at a half to get the mask whose IoU is learned."""
    boxes, labels = inputs("in.gt_boxes", folder).float(), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(boxes), -1, 2)
    masks = [Masks(*SIZE, tuple(polygons.rasterize(ring, *SIZE) for ring in rings))]
    sampled = net.box.sample([inputs("in.loss_rois", folder).float()], [boxes], [labels])
    own = sampled.positives()
    cells = net.mask.pool(pyramid, own.rois)
    logits = map_of(own.labels, net.mask.head(cells))
    aims = net.mask.aims(own, masks, logits.shape[-1])
    shares, guesses = shares_of(own, masks), net.fits(cells, logits.sigmoid(), own.labels)
    losses = net.box.loss(pyramid, sampled) | {"mask": mean_bce(logits, aims)}
    losses["mask_iou"] = mask_iou_loss(guesses, mask_ious(logits > 0.5, aims, shares))
    theirs = {"class": "cls", "box": "bbox", "mask": "mask", "mask_iou": "mask_iou"}
    for name, value in losses.items():
        want = float(oracle.recorded(f"loss.loss_{theirs[name]}", folder))
        assert value.item() == pytest.approx(want, rel=1e-4), name
    ours = mask_iou_loss(guesses, mask_ious(logits > 0, aims, shares))
    cut_off = mask_iou_loss(guesses, mask_ious(logits > 0.5, aims, torch.ones_like(shares)))
    want = float(oracle.recorded("loss.loss_mask_iou", folder))
    assert abs(ours.item() - want) > 1e-4 * want
    assert abs(cut_off.item() - want) > 1e-3 * want


def test_the_product_ranks():
    torch.manual_seed(0)
    options = {"num_classes": 2, "backbone": "resnet18", "channels": 8, "hidden": 8, "mask_channels": 8}
    net = build("mask_scoring_rcnn", iou_hidden=8, threshold=0.0, short_side=0, **options).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(net, "fits", lambda cells, masks, labels: torch.ones(len(labels)))
        plain = net.detect(image)
        quality = torch.rand(plain["scores"].shape[1])
        patch.setattr(net, "fits", lambda cells, masks, labels: quality)
        found = net.detect(image)
    order = (plain["scores"][0] * quality).argsort(descending=True, stable=True)
    torch.testing.assert_close(found["scores"][0], (plain["scores"][0] * quality)[order])
    for name in ("boxes", "labels", "masks"):
        torch.testing.assert_close(found[name][0], plain[name][0, order])
