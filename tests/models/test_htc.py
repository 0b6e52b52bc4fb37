"""Hybrid Task Cascade against mmdetection, stage by stage, and what its figure says about who learns from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import masklet
import oracle
from masklet.data.collate import collate_surroundings
from masklet.data.synthetic import synthetic
from masklet.models import build
from masklet.parts.box_heads import Truth
from masklet.parts.mask_flow import pixel_loss
from masklet.parts.proposals import Proposals, clip_to
from masklet.parts.pyramid import as_rois
from masklet.recipes.instances import InstanceStep
from masklet.structures import Instances, Masks
from masklet.structures.errors import UserError
from mmdet_cascades import polygons, same_detections, same_ends, same_losses, same_masks

SIZE = 203, 299


@pytest.fixture(scope="module")
def folder():
    return oracle.find("mmdet_htc_r50_fpn")


@pytest.fixture(scope="module")
def net(folder):
    return masklet.load("htc", weights=oracle.state_dict(folder), short_side=0, threshold=0.0, max_objects=16)


def read(name: str, folder) -> Tensor:
    return torch.from_numpy(oracle.recorded(name, folder))


@torch.inference_mode()
def test_every_stage_is_mmdets(net, folder):
    x = net.frame.pad(net.normalize(oracle.image(folder)))
    oracle.check("input.tensor", x, folder)
    pyramid = net.features(oracle.image(folder))
    for i, name in enumerate(net.fpn.strides):
        oracle.check(f"neck.{i}", pyramid[name], folder)
    oracle.check("semantic.pred", pyramid["stuff"], folder)
    oracle.check("semantic.feat", pyramid["context"], folder)
    first = boxes = read("in.rois", folder).float()
    oracle.check("roi.stage0.pooled", net.box.stages[0].pool.read.read(pyramid, as_rois([boxes])), folder)
    for i, stage in enumerate(net.box.stages):
        logits, deltas = stage.classify(pyramid, as_rois([boxes]))
        oracle.check(f"roi.stage{i}.cls_logits", logits, folder)
        oracle.check(f"roi.stage{i}.box_deltas", deltas[:, 0], folder)
        boxes = clip_to(stage.coder.decode(boxes, deltas[:, 0])[None], [SIZE])[0]
        if i < 2:
            oracle.check(f"roi.stage{i}.refined_rois", boxes, folder)
    seen = net.mask.pool(pyramid, as_rois([first]))
    for i in range(3):
        oracle.check(f"roi.stage{i}.mask_logits", net.mask.maps(seen, i), folder)
    alone = net.mask.heads[2](seen)  # without what the heads before it saw
    assert oracle.difference("roi.stage2.mask_logits", alone, folder) > 0.1
    found = net.box(pyramid, Proposals(first[None], torch.zeros(1, len(first))), [SIZE])
    same_detections(found, folder)
    same_masks(net, pyramid, found, SIZE, folder)
    same_ends(net, folder)
    plain = {name: value for name, value in pyramid.items() if name != "context"}
    plain["context"] = torch.zeros_like(pyramid["context"])
    blind = net.box.stages[0].classify(plain, as_rois([first]))[0]
    assert oracle.difference("roi.stage0.cls_logits", blind, folder) > 0.1


@torch.no_grad()
def test_losses_are_mmdets(net, folder):
    """Everything is sampled; masks are learned in the boxes that the stage has just moved."""
    truth = Truth([read("in.gt_boxes", folder)], [read("in.gt_classes", folder).long()], [SIZE])
    masks = [polygons(read("in.gt_polygons", folder), SIZE)]
    pyramid = net.features(oracle.image(folder))
    losses = net.refine(pyramid, [read("in.loss_rois", folder)], truth, masks)
    same_losses(losses, folder)
    stuff = read("in.sem_gt", folder)[None].long()
    want = float(oracle.recorded("loss.loss_semantic_seg", folder))
    assert net.pixels(pyramid["stuff"], stuff).item() == pytest.approx(want, rel=1e-4)
    shifted = net.pixels(pyramid["stuff"], stuff.roll(4, 2)).item()
    assert abs(shifted / want - 1) > 1e-3


def small(**options):
    torch.manual_seed(0)
    options = {"num_classes": 2, "backbone": "resnet18", "channels": 8, "hidden": 8, "mask_channels": 8} | options
    return build("htc", **options)


def objects(net) -> list[Instances]:
    boxes = torch.tensor([[4.0, 4, 30, 30], [20, 10, 50, 40]])
    dense = torch.zeros(2, 48, 64, dtype=torch.bool)
    dense[0, 4:30, 4:30] = dense[1, 10:40, 20:50] = True
    return [Instances(boxes, torch.tensor([0, 1]), torch.ones(2), Masks.from_dense(dense), (48, 64), net.classes)]


def test_the_last_mask_head_teaches_the_first():
    """Through the flow, and not where its gates are shut: then masks know nothing of each other."""
    net = small(stuff_classes=0).train()
    x = torch.rand(2, 8, 14, 14)
    net.mask.maps(x, 2).sum().backward()
    assert net.mask.heads[0].convs[0].weight.grad.abs().max() > 0
    net.zero_grad()
    with torch.no_grad():
        for gate in net.mask.gates:
            gate.weight.zero_()
            gate.bias.fill_(-1)
    torch.testing.assert_close(net.mask.maps(x, 2), net.mask.heads[2](x))


def test_what_pixels_show_is_learned_where_it_is_given():
    net, images = small(stuff_classes=5).train(), torch.rand(1, 3, 48, 64)
    stuff = torch.randint(0, 5, (1, 48, 64))
    torch.manual_seed(1)
    without = net.loss(images, objects(net))
    torch.manual_seed(1)
    given = net.loss(images, objects(net), stuff)
    assert without.keys() == given.keys()
    assert without["semantic"] == 0 < given["semantic"]
    assert all(given[name] == without[name] for name in given if name != "semantic")
    assert "semantic" not in small(stuff_classes=0).loss(images, objects(net))
    with pytest.raises(UserError) as caught:
        net.loss(images, objects(net), stuff + 1)
    assert str(caught.value) == "stuff has the class 5 but the model knows 5; build it with stuff_classes=6"


def test_a_training_hands_on_what_pixels_show():
    """Drawn shapes have label maps; 255 fills what is outside a smaller picture, and a sample without a map."""
    samples = [synthetic("shapes3", "train", side, 2)[0] for side in (48, 40)]
    images, targets, stuff = collate_surroundings([*samples, replace(samples[0], semantic=None)])
    assert images.shape == (3, 3, 48, 48)
    assert torch.equal(stuff[0], samples[0].semantic.long())
    assert torch.equal(stuff[1, :40, :40], samples[1].semantic.long())
    assert stuff[1, 40:].eq(255).all()
    assert stuff[2].eq(255).all()
    net = small(num_classes=4, stuff_classes=4).train()
    assert InstanceStep(net)(images, targets, stuff)["semantic"] > 0


def test_every_eighth_pixel_counts():
    """Two cells, one of them not known: half of log 2."""
    stuff = torch.full((1, 8, 16), 255)
    stuff[0, 0, 0] = 1
    assert pixel_loss(torch.zeros(1, 2, 1, 2), stuff, 8).item() == pytest.approx(0.6931 / 2, abs=1e-4)
