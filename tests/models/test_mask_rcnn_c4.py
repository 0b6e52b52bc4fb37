"""R-CNNs on one map of the backbone: C4 against detectron2 (`../shared/oracles`), DC5 and C5, sizes of all presets."""

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
from masklet.models.faster_rcnn import LEVELS, POOLS
from masklet.ops import mask_targets
from masklet.ops.roi import roi_align
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler
from masklet.structures.errors import UserError

SIZE = 175, 261


@pytest.fixture(scope="module")
def folder():
    return oracle.find("d2_mask_rcnn_r50_c4")


@pytest.fixture(scope="module")
def net(folder):
    weights = {"model": oracle.state_dict(folder)}
    return masklet.load("mask_rcnn", weights=weights, short_side=0, threshold=0.0, max_objects=20)


def inputs(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_detectron2s(net, folder):
    x = net.frame.pad(net.normalize(oracle.image(folder)))
    oracle.check("input.tensor", x, folder)
    maps = net.fpn(net.backbone(x))
    assert list(maps) == ["c4"]
    oracle.check("backbone.res4", maps["c4"], folder)
    candidates = net.rpn(maps, net.frame.covers(*SIZE))
    logits, deltas = net.rpn.head(maps["c4"])
    oracle.check("rpn.logits.0", logits, folder)
    oracle.check("rpn.deltas.0", deltas, folder)
    oracle.check("rpn.anchors.0", candidates.anchors[0], folder)
    proposals = net.rpn.propose(candidates, [SIZE])
    assert len(proposals.each()[0]) == oracle.recorded("rpn.proposals.count", folder)
    oracle.check("rpn.proposals.boxes", proposals.boxes[0, :300], folder)
    oracle.check("rpn.proposals.logits", proposals.logits[0, :300], folder)

    boxes = inputs("in.rois", folder).float()
    rois, classes = as_rois([boxes]), inputs("in.roi_classes", folder).long()
    oracle.check("roi.pooled", net.box.pool(maps, rois), folder)
    oracle.check("roi.res5", net.mask.pool(maps, rois), folder)
    logits, deltas = net.box.classify(maps, rois)
    oracle.check("roi.cls_logits", logits, folder)
    oracle.check("roi.box_deltas", deltas.flatten(1), folder)
    oracle.check("roi.mask_logits", net.mask.head(net.mask.pool(maps, rois)), folder)
    oracle.check("roi.mask_logits_of_class", net.mask.logits(maps, rois, classes), folder)

    found = net.box(maps, Proposals(boxes[None], torch.linspace(5, -5, len(boxes))[None]), [SIZE])
    oracle.check("det.boxes", found.boxes[0], folder)
    oracle.check("det.scores", found.scores[0], folder)
    assert found.labels[0].tolist() == oracle.recorded("det.classes", folder).tolist()
    oracle.check("det.mask_probs", net.mask(maps, found.rois(), found.labels[0]), folder)


@pytest.mark.slow  # half a minute of one core: the last stage looks at a thousand boxes
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
    maps = net.features(image)
    logits = net.box.classify(maps, rois)[0]
    swapped = net.box.classify(net.features(image.flip(1)), rois)[0]
    pool = replace(net.box.pool, pool=partial(roi_align, aligned=False))
    unaligned = net.box.predictor(net.box.head(pool(maps, rois)))[0]
    for name, other in (
        ("rgb_bgr_swapped", swapped),
        ("roi_align_aligned_flipped", unaligned),
        ("class_order_shifted_by_one", logits.roll(1, 1)),
    ):
        assert oracle.difference("roi.cls_logits", other, folder) > controls[name] / 2 > 0.1


def test_losses_are_detectron2s(net, folder):
    """Everything is sampled; their masks are polygons, drawn at 14x14 inside each box."""
    boxes, labels = inputs("in.gt_boxes", folder), inputs("in.gt_classes", folder).long()
    rings = inputs("in.gt_polygons", folder).double().numpy().reshape(len(boxes), -1, 2)
    maps = net.features(oracle.image(folder))
    candidates = net.rpn(maps, net.frame.covers(*SIZE))
    kind = net.rpn.matcher(torch.cat(candidates.anchors), boxes)[1]
    assert kind.tolist() == oracle.recorded("rpn.labels", folder).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.rpn, "sampler", RandomSampler(10**6, 0.5))
        losses = net.rpn.loss(candidates, [boxes])
    sampled = net.box.sample([inputs("in.loss_rois", folder)], [boxes], [labels])
    losses |= net.box.loss(maps, sampled)
    own = sampled.positives()
    drawn = mask_targets.from_polygons([[rings[i]] for i in own.objects], own.rois[:, 1:], 14).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.mask, "aims", lambda *_: drawn)
        losses |= net.mask.loss(maps, own, [])
    theirs = {"rpn_class": "rpn_cls", "rpn_box": "rpn_loc", "class": "cls", "box": "box_reg", "mask": "mask"}
    for name, value in losses.items():
        want = float(oracle.recorded(f"loss.loss_{theirs[name]}", folder))
        assert value.item() == pytest.approx(want, rel=1e-4), name
    sum(losses.values()).backward()
    norms = oracle.meta(folder)["grad_norms"]
    for mine, name in (
        (net.backbone.layer3[5].conv3, "backbone.res4.5.conv3"),
        (net.rpn.head.conv, "proposal_generator.rpn_head.conv"),
        (net.box.head.stage[2].conv2, "roi_heads.res5.2.conv2"),  # of boxes and masks together
        (net.box.predictor.deltas, "roi_heads.box_predictor.bbox_pred"),
        (net.mask.head.up, "roi_heads.mask_head.deconv"),
    ):
        assert mine.weight.grad.norm().item() == pytest.approx(norms[f"{name}.weight"], rel=1e-3), name
    net.zero_grad(set_to_none=True)


def test_the_stage_for_boxes_is_there_once(net):
    """Boxes and masks look through the same layers, which the state dict names once and a move takes along."""
    assert net.mask.pool.stage is net.box.head.stage
    assert not any("mask.pool" in name or "layer4" in name for name in net.state_dict())
    with torch.device("meta"):
        ghost = build("mask_rcnn", levels="c4").to_empty(device="cpu")
    assert next(ghost.mask.pool.stage.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("model", "options", "parameters", "tensors"),
    [  # spec, section 0; detectron2's frozen norms are buffers, mmdet's are parameters (53,120 in a ResNet-50)
        ("mask_rcnn", {"levels": "c4"}, 35_909_612, 279),
        ("mask_rcnn", {}, 44_343_216, 307),
        ("mask_rcnn", {"levels": "dc5"}, 172_353_516, 291),
        ("mask_rcnn", {"class_agnostic": True}, 43_999_013 + 1025 * 4 * 79, 307),  # their boxes are for all classes too
        ("faster_rcnn", {}, 41_699_936, 295),
        ("keypoint_rcnn", {}, 59_133_158, 313),
        ("mask_rcnn", {"backbone": "swin_t"}, 47_794_602, 219),  # mmdet has 12 tables of offsets more
        ("mask_rcnn", {"levels": "c4", "style": "mmdet_caffe"}, 35_962_732 - 53_120, 279),
    ],
)
def test_presets_are_as_large_as_theirs(model, options, parameters, tensors):
    with torch.device("meta"):
        net = build(model, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


def tiny(**options):
    torch.manual_seed(0)
    return build("mask_rcnn", num_classes=2, backbone="resnet18", hidden=8, mask_channels=4, short_side=0, **options)


@pytest.mark.parametrize(("levels", "stride"), [("c4", 16), ("dc5", 16), ("c5", 32)])
def test_one_level_at_its_stride(levels, stride):
    net = tiny(levels=levels, anchor_sizes=(16, 40))
    (level,) = net.features(torch.rand(1, 3, 70, 100)).values()
    assert level.shape[2:] == (-(-70 // stride), -(-100 // stride))
    assert net.fpn.strides == {levels[-2:]: stride}
    assert net.rpn.anchors.count == 6
    budgets = net.rpn.budgets
    assert (budgets[True].before, budgets[True].after) == (12000, 2000)
    assert (budgets[False].before, budgets[False].after) == (6000, 1000)


def test_boxes_are_read_in_five_ways():
    """On a ramp RoIAlign is exact, rounding moves what is read, and the largest sample is above the mean."""
    ramp = torch.arange(20.0).expand(1, 8, 20, 20) * 16 + 8  # the place of each cell's middle in pixels
    box = torch.tensor([[0.0, 30.0, 30.0, 96.0, 96.0]])
    read = {pool: tiny(levels="c4", pool=pool).mask.pool.pool({"c4": ramp}, box)[0, 0, 0] for pool in POOLS}
    places = torch.linspace(30, 96, 29)[:-1:2] + 66 / 28
    torch.testing.assert_close(read["align"], places, rtol=1e-5, atol=1e-3)
    assert (read["align_max"] > read["align"]).all()
    torch.testing.assert_close(read["warp_average"], torch.linspace(32, 112, 29)[:-1:2] + 80 / 28)
    assert (read["warp"] > read["warp_average"]).all()
    assert set(read["pool"].tolist()) <= set(ramp[0, 0, 0].tolist())
    assert set(POOLS) == {"align", "align_max", "pool", "warp", "warp_average"}
    assert set(LEVELS) == {"fpn", "c4", "dc5", "c5", "conv5"}


def test_a_cascade_has_no_stage_for_each_of_its_boxes():
    with pytest.raises(UserError) as caught:
        build("cascade_rcnn", backbone="resnet18", levels="c4")
    assert str(caught.value) == 'the last stage can look at boxes once only; choose levels="fpn", "dc5" or "c5"'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "c6"}, "unknown levels 'c6'; did you mean 'c5'? levels: c4, c5, conv5, dc5, fpn"),
        ({"pool": "aligned"}, "unknown pool 'aligned'; did you mean 'align'? pools: align, align_max"),
        ({"levels": "c4", "backbone": "swin_t"}, 'only a ResNet has a last stage for the boxes; choose levels="fpn"'),
        ({"levels": "dc5", "backbone": "vgg16"}, "vgg16 has no option 'contract_dilation'"),
        ({"anchor_sizes": (32, 64)}, "2 anchor sizes for 5 levels; give one size for each level"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError) as caught:
        build("mask_rcnn", **options)
    assert str(caught.value).startswith(message)
