"""Keypoint R-CNN against detectron2 (`../shared/oracles`), and points worked by hand."""

from __future__ import annotations

import pytest
import torch

import masklet
import oracle
from masklet.parts.keypoint_heads import cells_of, decode_points
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import as_rois
from masklet.parts.sampling import RandomSampler


def test_the_cell_of_a_point():
    """A box of 8x4 pixels, 4x4 cells: a point on its right edge is in the last cell, one beyond is in none."""
    boxes = torch.tensor([[10.0, 20, 18, 24]])
    points = torch.tensor([[[10.0, 20, 2], [13, 21.5, 1], [18, 24, 2], [18.1, 22, 2], [9.9, 22, 2], [12, 22, 0]]])
    cells, valid = cells_of(points, boxes, 4)
    assert valid.tolist() == [[True, True, True, False, False, False]]
    assert cells[valid].tolist() == [0, 1 * 4 + 1, 3 * 4 + 3]


def test_a_point_comes_back_from_its_cell():
    boxes = torch.tensor([[10.0, 20, 18, 24], [0, 0, 56, 56]])
    maps = torch.full((2, 1, 4, 4), -20.0)
    maps[0, 0, 1, 2] = maps[1, 0, 3, 0] = 20
    found = decode_points(maps, boxes)
    assert cells_of(found, boxes, 4)[0].tolist() == [[6], [12]]
    assert (found[..., 2] > 0).all()
    assert decode_points(maps[:0], boxes[:0]).shape == (0, 1, 3)


def test_detectron2s_points_and_loss():
    folder = oracle.find("d2_keypoint_rcnn_r50_fpn")
    net = masklet.load("keypoint_rcnn", weights=oracle.state_dict(folder), short_side=0, threshold=0.0, max_objects=20)
    read = lambda name: torch.from_numpy(oracle.recorded(name, folder))  # noqa: E731
    rois = read("in.rois").float()
    with torch.inference_mode():
        pyramid = net.features(oracle.image(folder))
        maps = net.keypoint(pyramid, as_rois([rois]))
        oracle.check("roi.keypoint_logits", maps, folder)
        want, found = read("roi.keypoints"), decode_points(maps, rois)
        torch.testing.assert_close(found[..., :2], want[..., :2], rtol=0, atol=0.02)
        torch.testing.assert_close(found[..., 2], want[..., 3], rtol=1e-3, atol=1e-6)
        proposals = Proposals(rois[None], torch.linspace(5, -5, len(rois))[None])
        boxes = net.box(pyramid, proposals, [(203, 299)]).trimmed()
        oracle.check("det.boxes", boxes.boxes[0, :16], folder)
        swapped = net.keypoint(net.features(oracle.image(folder).flip(1)), as_rois([rois]))
        assert oracle.difference("roi.keypoint_logits", swapped, folder) > 0.1
        end = net.predict(oracle.pixels(folder))
        apart = (end.keypoints - read("e2e.keypoints"))[..., :2].abs().amax(-1)
        assert (apart < 0.05).float().mean() > 0.97  # two cells may be as high but for the last digits

        truth, labels = read("in.gt_boxes").float(), read("in.gt_classes").long()
        net.box.sampler = RandomSampler(512, 0.25)
        sampled = net.box.sample([read("in.loss_rois").float()], [truth], [labels])
        losses = net.box.loss(pyramid, sampled)
        losses |= net.keypoint.loss(pyramid, sampled.positives(), [read("in.gt_keypoints").float()])
    for name, theirs in (("class", "loss_cls"), ("box", "loss_box_reg"), ("keypoint", "loss_keypoint")):
        assert losses[name].item() == pytest.approx(float(oracle.recorded(f"loss.{theirs}", folder)), rel=1e-4), name
