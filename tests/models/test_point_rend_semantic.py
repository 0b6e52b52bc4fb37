"""PointRend for classes of pixels: its coarse head against detectron2, its points by hand."""

from __future__ import annotations

import pytest
import torch

import masklet
import oracle
from masklet.models import build
from masklet.parts.points import closest_classes, labels_at
from masklet.parts.semantic_fpn import SemanticFPNHead

SMALL = {"backbone": "resnet18", "channels": 32, "coarse_channels": 64, "point_channels": 16, "num_classes": 3}


@pytest.mark.slow
@torch.inference_mode()
def test_the_coarse_head_is_detectron2s():
    folder = oracle.find("d2_panoptic_fpn_r50")
    weights = oracle.state_dict(folder)
    detector = {key: value for key, value in weights.items() if not key.startswith("sem_seg_head.")}
    net = masklet.load("mask_rcnn", weights=detector)
    head = SemanticFPNHead({"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 256, 54)
    own = {}
    for key, value in weights.items():
        if key.startswith("sem_seg_head.p") and not key.startswith("sem_seg_head.predictor"):
            _, level, place, *rest = key.split(".")
            rest = rest if rest[0] == "norm" else ["conv", *rest]
            own[".".join(["levels", str(int(level[1]) - 2), str(int(place) // 2), *rest])] = value
    own |= {f"predictor.{name}": weights[f"sem_seg_head.predictor.{name}"] for name in ("weight", "bias")}
    head.load_state_dict(own)
    pyramid = net.features(oracle.image(folder))
    oracle.check("sem.logits_stride4", head(pyramid), folder)
    pyramid["p3"], pyramid["p4"] = pyramid["p3"].flip(1), pyramid["p4"].flip(1)
    assert oracle.difference("sem.logits_stride4", head(pyramid), folder) > 0.1


def test_detectron2s_names_load():
    """Made from our own names, as no file can be fetched: p5 has convolutions 0, 2 and 4, with norms and no bias."""
    torch.manual_seed(0)
    net = build("point_rend_semantic", **SMALL | {"backbone": "resnet50"}, style="detectron2")
    theirs = {}
    for key, value in net.state_dict().items():
        part, *rest = key.split(".")
        if part == "coarse" and rest[0] == "levels":
            level, place, name, last = rest[1:]
            middle = "" if name == "conv" else ".norm"
            theirs[f"sem_seg_head.coarse_sem_seg_head.p{int(level) + 2}.{2 * int(place)}{middle}.{last}"] = value
        elif part == "coarse":
            theirs[f"sem_seg_head.coarse_sem_seg_head.{'.'.join(rest)}"] = value
        elif part == "points":
            name = f"fc{int(rest[1]) + 1}" if rest[0] == "layers" else rest[0]
            theirs[f"sem_seg_head.point_head.{name}.{rest[-1]}"] = value
        elif part == "fpn":
            kind = {"laterals": "lateral", "outputs": "output"}[rest[0]]
            theirs[f"backbone.fpn_{kind}{int(rest[1]) + 2}.{rest[2]}"] = value
        elif rest[0] in ("conv1", "bn1"):
            theirs[f"backbone.bottom_up.stem.conv1{'.norm' if rest[0] == 'bn1' else ''}.{rest[1]}"] = value
        else:
            stage, block, name, *last = rest
            if name == "downsample":
                name, last = ("shortcut.norm" if last[0] == "1" else "shortcut"), last[1:]
            elif name.startswith("bn"):
                name = f"conv{name[2]}.norm"
            theirs[f"backbone.bottom_up.res{int(stage[5]) + 1}.{block}.{name}.{last[0]}"] = value
    narrow = {key: SMALL[key] for key in ("channels", "coarse_channels", "point_channels")}
    again = masklet.load("point_rend_semantic", weights=theirs, **narrow)
    assert again.spec["options"]["style"] == "detectron2"
    assert len(again.classes) == 3
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_unsure_pixels_are_asked_again():
    torch.manual_seed(0)
    net = build("point_rend_semantic", **SMALL, asked_points=50, steps=2).eval()
    image = torch.rand(1, 3, 32, 64)
    with torch.inference_mode():
        pyramid = net.features(image)
        coarse = net.coarse(pyramid)
        fine = net.scores(image)
        assert coarse.shape[2:] == (8, 16)
        assert fine.shape[2:] == (32, 64)
        half = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        where = closest_classes(half).flatten(1).topk(50, 1).indices
        x, y = (where % 32 + 0.5) / 32, (where // 32 + 0.5) / 16
        asked = net.at(pyramid, coarse, torch.stack([x, y], -1))
        half = half.flatten(2).scatter(2, where[:, None].expand(-1, 3, -1), asked).view(1, 3, 16, 32)
        plain = torch.nn.functional.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
        changed = ((fine - plain).abs().amax(1) > 1e-6).sum().item()
    assert 40 <= changed <= 50


def test_labels_of_points_are_those_of_their_pixel():
    labels = torch.tensor([[[0, 1, 2, 3], [4, 5, 6, 255]]])
    points = torch.tensor([[[0.0, 0.0], [0.24, 0.49], [0.26, 0.51], [0.99, 0.99], [1.0, 1.0]]])
    assert labels_at(labels, points).tolist() == [[0, 0, 5, 255, 255]]
