"""Rotated anchors and proposals: detectron2's recorded grid, and what stays as it was when nothing is turned."""

from __future__ import annotations

import torch

import oracle
from masklet.parts.anchors import RotatedAnchors


def test_anchors_recorded_from_detectron2():
    folder = oracle.find("ops_rotated")
    anchors = RotatedAnchors(((32, 64),), (0.5, 1, 2), (-90, -60, -30, 0, 30, 60))
    (found,) = anchors([torch.zeros(1, 1, 3, 4)], [16], (48, 64))
    assert anchors.count == 36
    oracle.check("anchors", found, folder)
    turned = RotatedAnchors(((32, 64),), (0.5, 1, 2), (60, 30, 0, -30, -60, -90))
    assert oracle.difference("anchors", turned([torch.zeros(1, 1, 3, 4)], [16], (48, 64))[0], folder) > 0.5
