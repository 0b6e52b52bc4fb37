"""Cascade (Mask) R-CNN against detectron2 and mmdetection, stage by stage, and what its paper compares it with."""

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
from masklet.ops import mask_targets
from masklet.ops.boxes import CASCADE_MMDET
from masklet.ops.roi import roi_align
from masklet.parts.box_heads import Truth
from masklet.parts.cascade import mean_of_probs, step_by_step
from masklet.parts.proposals import Proposals, clip_to
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures.errors import UserError
from mmdet_cascades import polygons, same_detections, same_ends, same_losses, same_masks

DETECTRON2_SIZE = 256, 320


@pytest.fixture(scope="module")
def d2():
    return oracle.find("d2_cascade_mask_rcnn_r50_fpn")


@pytest.fixture(scope="module")
def d2_net(d2):
    weights = oracle.state_dict(d2)
    return masklet.load("cascade_mask_rcnn", weights=weights, short_side=0, threshold=0.0, max_objects=20)


def read(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_detectron2s(d2_net, d2):
    net, size = d2_net, DETECTRON2_SIZE
    pyramid = net.features(oracle.image(d2))
    for name, value in pyramid.items():
        oracle.check(f"fpn.{name}", value, d2)
    first = boxes = read("in.rois", d2).float()
    oracle.check("roi.pooled", net.box.stages[0].pool(pyramid, as_rois([boxes])), d2)
    for i, stage in enumerate(net.box.stages):
        logits, deltas = stage.classify(pyramid, as_rois([boxes]))
        oracle.check(f"roi.stage{i}.cls_logits", logits, d2)
        oracle.check(f"roi.stage{i}.box_deltas", deltas[:, 0], d2)
        decoded = stage.coder.decode(boxes, deltas[:, 0])
        oracle.check(f"roi.stage{i}.decoded_boxes", decoded, d2)
        boxes = clip_to(decoded[None], [size])[0]
    third = net.box.stages[2].coder
    other = CASCADE_MMDET[2].decode(boxes, deltas[:, 0] * torch.tensor(third.weights))  # a percent apart
    assert (other - third.decode(boxes, deltas[:, 0] * torch.tensor(third.weights))).abs().max() > 0.1

    head = net.mask.branches[0]
    oracle.check("roi.mask_logits", head.head(head.pool(pyramid, as_rois([first]))), d2)
    found = net.box(pyramid, Proposals(first[None], torch.linspace(5, -5, len(first))[None]), [size])
    oracle.check("det.boxes", found.boxes[0], d2)
    oracle.check("det.scores", found.scores[0], d2)
    assert found.labels[0].tolist() == oracle.recorded("det.classes", d2).tolist()
    oracle.check("det.mask_probs", net.mask(pyramid, found.rois(), found.labels[0]), d2)


def test_image_in_masks_out(d2_net, d2):
    found = d2_net.predict(oracle.pixels(d2))
    oracle.check("e2e.boxes", found.boxes, d2, rtol=2e-4)
    oracle.check("e2e.scores", found.scores, d2, rtol=1e-3)
    assert found.labels.tolist() == oracle.recorded("e2e.classes", d2).tolist()
    bits = np.unpackbits(oracle.recorded("e2e.pasted_bits", d2), axis=1)[:, : 256 * 320]
    assert (found.masks.dense()[:4].flatten(1).numpy() != bits).mean() < 0.001


@torch.inference_mode()
def test_other_conventions_differ(d2_net, d2):
    net, rois = d2_net, as_rois([read("in.rois", d2).float()])
    controls, image, stage = oracle.meta(d2)["negative_controls"], oracle.image(d2), net.box.stages[0]
    pyramid = net.features(image)
    logits = stage.classify(pyramid, rois)[0]
    pool = replace(stage.pool.read, pool=partial(roi_align, aligned=False))
    for name, other in (
        ("rgb_bgr_swapped", stage.classify(net.features(image.flip(1)), rois)[0]),
        ("roi_align_aligned_flipped", stage.predictor(stage.head(pool(pyramid, rois)))[0]),
        ("class_order_shifted_by_one", logits.roll(1, 1)),
    ):
        assert oracle.difference("roi.stage0.cls_logits", other, d2) > controls[name] / 2 > 0.1
    shuffled = step_by_step(
        [net.box.stages[i] for i in (1, 0, 2)],
        pyramid,
        Proposals(rois[None, :, 1:], torch.zeros(1, len(rois))),
        [DETECTRON2_SIZE],
        net.box.how.average,
    )
    assert oracle.difference("det.boxes", shuffled.boxes[0], d2) > 0.1


def test_losses_are_detectron2s(d2_net, d2):
    """Everything is sampled; their masks are polygons, drawn at 28x28 inside each box."""
    net = d2_net
    boxes, labels = read("in.gt_boxes", d2), read("in.gt_classes", d2).long()
    rings = read("in.gt_polygons", d2).double().numpy().reshape(len(boxes), -1, 2)
    pyramid = net.features(oracle.image(d2))
    candidates = net.rpn(pyramid, DETECTRON2_SIZE)

    def drawn(own, masks, size):
        return mask_targets.from_polygons([[rings[i]] for i in own.objects], own.rois[:, 1:], size).float()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.rpn, "sampler", RandomSampler(10**6, 0.5))
        patch.setattr(net.mask.branches[0], "aims", drawn)
        losses = net.rpn.loss(candidates, [boxes])
        steps, more = net.box.learn(pyramid, [read("in.loss_rois", d2)], Truth([boxes], [labels], [DETECTRON2_SIZE]))
        losses |= more | net.mask.loss(pyramid, steps.positives(), [])
    theirs = {"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_loc", "mask1": "loss_mask"}
    theirs |= {f"class{i + 1}": f"loss_cls_stage{i}" for i in range(3)}
    theirs |= {f"box{i + 1}": f"loss_box_reg_stage{i}" for i in range(3)}
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(oracle.recorded(f"loss.{theirs[name]}", d2)), rel=1e-4), name
    sum(losses.values()).backward()
    norms = oracle.meta(d2)["grad_norms"]
    for mine, name in (
        (net.fpn.laterals[0], "backbone.fpn_lateral2"),
        (net.backbone.layer4[2].conv3, "backbone.bottom_up.res5.2.conv3"),
        (net.rpn.head.conv, "proposal_generator.rpn_head.conv"),
        *((net.box.stages[i].head.fc1, f"roi_heads.box_head.{i}.fc1") for i in range(3)),
        (net.mask.branches[0].head.convs[0], "roi_heads.mask_head.mask_fcn1"),
    ):
        assert mine.weight.grad.double().norm().item() == pytest.approx(norms[f"{name}.weight"], rel=1e-3), name
    net.zero_grad(set_to_none=True)


@pytest.fixture(scope="module")
def mmdet():
    return oracle.find("mmdet_cascade_mask_rcnn_r50_fpn")


@pytest.fixture(scope="module")
def mmdet_net(mmdet):
    weights = oracle.state_dict(mmdet)
    return masklet.load("cascade_mask_rcnn", weights=weights, short_side=0, threshold=0.0, max_objects=16)


@torch.inference_mode()
def test_every_stage_is_mmdets(mmdet_net, mmdet):
    net, size = mmdet_net, (192, 256)
    x = net.frame.pad(net.normalize(oracle.image(mmdet)))
    oracle.check("input.tensor", x, mmdet)
    pyramid = net.fpn(net.backbone(x))
    for i, value in enumerate(pyramid.values()):
        oracle.check(f"neck.{i}", value, mmdet)
    first = boxes = read("in.rois", mmdet).float()
    oracle.check("roi.stage0.pooled", net.box.stages[0].pool(pyramid, as_rois([boxes])), mmdet)
    for i, stage in enumerate(net.box.stages):
        logits, deltas = stage.classify(pyramid, as_rois([boxes]))
        oracle.check(f"roi.stage{i}.cls_logits", logits, mmdet)
        oracle.check(f"roi.stage{i}.box_deltas", deltas[:, 0], mmdet)
        boxes = clip_to(stage.coder.decode(boxes, deltas[:, 0])[None], [size])[0]
        if i < 2:
            oracle.check(f"roi.stage{i}.refined_rois", boxes, mmdet)
    classes = read("in.roi_classes", mmdet).long()
    for i, branch in enumerate(net.mask.branches):
        oracle.check(f"roi.stage{i}.mask_logits", branch.head(branch.pool(pyramid, as_rois([first]))), mmdet)
        oracle.check(f"roi.stage{i}.mask_logits_of_class", branch.logits(pyramid, as_rois([first]), classes), mmdet)
    proposals = Proposals(first[None], torch.zeros(1, len(first)))
    found = net.box(pyramid, proposals, [size])
    same_detections(found, mmdet)
    other = step_by_step(list(net.box.stages), pyramid, proposals, [size], mean_of_probs)
    assert oracle.difference("det.scores", other.scores[0], mmdet) > 0.01
    mean = torch.stack([branch(pyramid, found.rois(), found.labels[0]) for branch in net.mask.branches]).mean(0)
    torch.testing.assert_close(net.mask(pyramid, found.rois(), found.labels[0]), mean)
    same_masks(net, pyramid, found, size, mmdet)
    same_ends(net, mmdet)
    swapped = net.box.stages[0].classify(net.features(oracle.image(mmdet).flip(1)), as_rois([first]))[0]
    assert oracle.difference("roi.stage0.cls_logits", swapped, mmdet) > 0.5


def test_losses_are_mmdets(mmdet_net, mmdet):
    """Everything is sampled, the objects' own boxes again at every stage; their masks are bitmaps."""
    net, size = mmdet_net, (192, 256)
    boxes, labels = read("in.gt_boxes", mmdet), read("in.gt_classes", mmdet).long()
    masks = [polygons(read("in.gt_polygons", mmdet), size)]
    with torch.no_grad():
        pyramid = net.features(oracle.image(mmdet))
        steps, losses = net.box.learn(pyramid, [read("in.loss_rois", mmdet)], Truth([boxes], [labels], [size]))
        losses |= net.mask.loss(pyramid, steps.positives(), masks)
    same_losses(losses, mmdet)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cascade_rcnn",
            {"hard_examples": 64, "backbone": "resnet18"},
            "only one second stage can learn from hard examples; leave hard_examples out",
        ),
        (
            "htc",
            {"levels": "c4", "backbone": "resnet18", "anchor_sizes": (64,)},
            'the last stage can look at boxes once only; choose levels="fpn", "dc5" or "c5"',
        ),
        ("iterative_bbox", {"times": 0}, "times is 0; give 1 (Faster R-CNN) or more"),
        (
            "integral_loss_rcnn",
            {"overlaps": (0.6, 0.5)},
            "overlaps is (0.6, 0.5); give one IoU or more from 0 to 1, the smallest first",
        ),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises(UserError) as caught:
        build(name, **options)
    assert str(caught.value) == message
