"""What is known about a sample, painted over its picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from masklet.structures import Instances, Sample, SemanticMap
from masklet.structures.classes import default_colors
from masklet.viz.overlay import Layer, as_picture, layer_of, overlay

COLORS = default_colors(20)  # of the keypoints of one object after another
LINES = ((230, 25, 75), (0, 158, 115), (255, 255, 255))  # of boxes, of crowds, around keypoints


def truth_overlay(sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with its label map, panoptic map or objects; crowds in one colour, keypoints as dots.

    Boxes are drawn where objects have no masks, rotated boxes where they have them.
    """
    picture = as_picture(sample.image)
    if sample.semantic is not None and sample.classes is not None:
        return overlay(picture, SemanticMap(sample.semantic, sample.classes))
    if sample.panoptic is not None:
        return overlay(picture, sample.panoptic, classes=sample.classes)
    return picture if sample.instances is None else _objects(picture, sample.instances)


def _objects(picture: UInt8[np.ndarray, "h w 3"], objects: Instances) -> UInt8[np.ndarray, "h w 3"]:
    if objects.masks is not None:
        picture = overlay(picture, _layer(objects))
    canvas = Image.fromarray(picture)
    pen, width = ImageDraw.Draw(canvas), max(1, max(objects.size) // 320)
    corners = objects.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2) if objects.masks is None else None
    if objects.rotated is not None:
        corners = _corners(objects.rotated)
    crowd = [False] * len(objects) if objects.crowd is None else objects.crowd.tolist()
    for ring, many in zip([] if corners is None else corners.tolist(), crowd, strict=False):
        pen.line([*map(tuple, ring), tuple(ring[0])], fill=LINES[many], width=width)
    for i, points in enumerate([] if objects.keypoints is None else objects.keypoints.tolist()):
        color = COLORS[i % len(COLORS)]
        for x, y, visible in points:
            if visible:
                pen.circle((x, y), 1.5 * width, fill=color if visible > 1 else None, outline=LINES[2])
    return np.asarray(canvas)


def _layer(objects: Instances) -> Layer:
    """Objects in different colours, crowds below them in one."""
    layer = layer_of(replace(objects, crowd=None))
    if objects.crowd is None or objects.masks is None or not objects.crowd.any():
        return layer
    codes, colors = layer.codes.copy(), layer.colors.copy()
    single = objects[~objects.crowd].masks
    covered = torch.zeros(objects.size, dtype=torch.bool) if single is None else single.union()
    many = objects[objects.crowd].masks
    codes[(torch.zeros_like(covered) if many is None else many.union() & ~covered).numpy()] = 255
    colors[255] = LINES[1]
    return Layer(codes, colors)


def _corners(rotated: Float[torch.Tensor, "n 5"]) -> Float[torch.Tensor, "n 4 2"]:
    """The four corners of rotated boxes."""
    cx, cy, w, h, degrees = rotated.unbind(1)
    cos, sin = torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)
    u, v = torch.stack([cos, -sin], 1) * w[:, None] / 2, torch.stack([sin, cos], 1) * h[:, None] / 2
    centre = torch.stack([cx, cy], 1)
    return torch.stack([centre - u - v, centre + u - v, centre + u + v, centre - u + v], 1)
