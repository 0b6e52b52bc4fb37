"""Weights of detectron2: R-CNNs on FPN, and DeepLab v3+ on the deep-stem ResNets of its DeepLab project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from masklet.weights.from_semseg import DEPTHS
from masklet.weights.remap import Layout, Origin, Rule


def resnet(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Their ResNet at the prefix `theirs` (a regular expression) as ours at `ours`: stages count from res2."""
    return (
        Rule(rf"{theirs}stem\.conv(\d)\.norm\.(.+)", rf"{ours}bn\1.\2"),
        Rule(rf"{theirs}stem\.conv(\d)\.weight", rf"{ours}conv\1.weight"),
        *(
            rule
            for i in range(1, 5)
            for rule in (
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.shortcut\.norm\.(.+)", rf"{ours}layer{i}.\1.downsample.1.\2"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.shortcut\.weight", rf"{ours}layer{i}.\1.downsample.0.weight"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.conv(\d)\.norm\.(.+)", rf"{ours}layer{i}.\1.bn\2.\3"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.conv(\d)\.weight", rf"{ours}layer{i}.\1.conv\2.weight"),
            )
        ),
    )


def resnet_depth(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """The backbone's name, from the number of its blocks."""
    blocks = sum(key.startswith(f"{prefix}res") and key.endswith(".conv3.weight") for key in tensors)
    return f"resnet{DEPTHS.get(blocks, 50)}"


def _conv_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One of their convolutions, whose norm is its child."""
    return Rule(rf"{theirs}\.norm\.(.+)", rf"{ours}.norm.\1"), Rule(rf"{theirs}\.(weight|bias)", rf"{ours}.conv.\1")


DECODER = r"sem_seg_head\.decoder"
DEEPLAB = (
    *resnet(r"backbone\.", "backbone."),
    *(rule for i in range(4) for rule in _conv_norm(rf"{DECODER}\.res5\.project_conv\.convs\.{i}", f"aspp.levels.{i}")),
    *_conv_norm(rf"{DECODER}\.res5\.project_conv\.convs\.4\.1", "aspp.average"),
    *_conv_norm(rf"{DECODER}\.res5\.project_conv\.project", "aspp.project"),
    *_conv_norm(rf"{DECODER}\.res2\.project_conv", "reduce"),
    *_conv_norm(rf"{DECODER}\.res2\.fuse_conv\.0", "head.fuse1"),
    *_conv_norm(rf"{DECODER}\.res2\.fuse_conv\.1", "head.fuse2"),
    Rule(r"sem_seg_head\.predictor\.(.+)", r"head.classifier.\1"),
    Rule(r"pixel_(mean|std)", None),
)


def _deeplab_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """As every config of the DeepLab project has them."""
    return {
        "num_classes": len(tensors["sem_seg_head.predictor.weight"]),
        "backbone": resnet_depth(tensors, "backbone."),
        "layout": "detectron2",
        "multi_grid": (1, 2, 4),
        "loss": "hard_pixels",
    }


FASTER_RCNN = (
    Rule(r"pixel_(mean|std)", None),
    Rule(r"proposal_generator\.anchor_generator\.cell_anchors\.\d", None),
    *resnet(r"backbone\.bottom_up\.", "backbone."),
    *(
        rule
        for i in range(4)
        for rule in (
            Rule(rf"backbone\.fpn_lateral{i + 2}\.(.+)", rf"fpn.laterals.{i}.\1"),
            Rule(rf"backbone\.fpn_output{i + 2}\.(.+)", rf"fpn.outputs.{i}.\1"),
        )
    ),
    Rule(r"proposal_generator\.rpn_head\.conv\.(.+)", r"rpn.head.conv.\1"),
    Rule(r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", r"rpn.head.logits.\1"),
    Rule(r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", r"rpn.head.deltas.\1"),
    Rule(r"roi_heads\.box_head\.fc([12])\.(.+)", r"box.head.fc\1.\2"),
    Rule(r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box.predictor.classes.\1"),
    Rule(r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box.predictor.deltas.\1"),
)
MASK_RCNN = (
    *FASTER_RCNN,
    *(Rule(rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.+)", rf"mask.head.convs.{i}.\1") for i in range(4)),
    Rule(r"roi_heads\.mask_head\.deconv\.(.+)", r"mask.head.up.\1"),
    Rule(r"roi_heads\.mask_head\.predictor\.(.+)", r"mask.head.predictor.\1"),
)
KEYPOINT_RCNN = (
    *FASTER_RCNN,
    *(Rule(rf"roi_heads\.keypoint_head\.conv_fcn{i + 1}\.(.+)", rf"keypoint.head.convs.{i}.\1") for i in range(8)),
    Rule(r"roi_heads\.keypoint_head\.score_lowres\.(.+)", r"keypoint.head.up.\1"),
)
CASCADE_RCNN = (
    Rule(r"roi_heads\.box_head\.(\d)\.fc([12])\.(.+)", r"box.stages.\1.head.fc\2.\3"),
    Rule(r"roi_heads\.box_predictor\.(\d)\.cls_score\.(.+)", r"box.stages.\1.predictor.classes.\2"),
    Rule(r"roi_heads\.box_predictor\.(\d)\.bbox_pred\.(.+)", r"box.stages.\1.predictor.deltas.\2"),
    *(replace(rule, to=rule.to and re.sub("^mask", "mask.branches.0", rule.to)) for rule in MASK_RCNN),
)
RCNN_MARKS = (
    r"backbone\.fpn_lateral2\.weight",
    r"proposal_generator\.rpn_head\.conv\.weight",
    r"roi_heads\.box_head\.fc2\.weight",
)


def _rcnn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    maps, classes = tensors.get("roi_heads.mask_head.predictor.bias"), len(tensors[CLASSES]) - 1
    return {
        "num_classes": classes,
        "backbone": resnet_depth(tensors, "backbone.bottom_up."),
        "style": "detectron2",
        **({"class_agnostic": True} if maps is not None and len(maps) == 1 < classes else {}),
    }


def _cascade_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return _rcnn_options({**tensors, CLASSES: tensors["roi_heads.box_predictor.0.cls_score.bias"]})


def _keypoint_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    points = tensors["roi_heads.keypoint_head.score_lowres.weight"].shape[1]
    return {**_rcnn_options(tensors), "style": "detectron2_keypoints", "num_keypoints": points}


CLASSES = "roi_heads.box_predictor.cls_score.bias"
ORIGIN = Origin(
    "detectron2",
    (
        Layout(("mask_rcnn",), (*RCNN_MARKS, r"roi_heads\.mask_head\.deconv\.weight"), MASK_RCNN, _rcnn_options),
        Layout(
            ("keypoint_rcnn",),
            (*RCNN_MARKS, r"roi_heads\.keypoint_head\.score_lowres\.weight"),
            KEYPOINT_RCNN,
            _keypoint_options,
        ),
        Layout(
            ("faster_rcnn",), RCNN_MARKS, FASTER_RCNN, _rcnn_options, without=(r"roi_heads\.(mask|keypoint)_head\..+",)
        ),
        *(
            Layout(
                (model,),
                (RCNN_MARKS[0], r"roi_heads\.box_head\.2\.fc2\.weight", *masks),
                CASCADE_RCNN,
                _cascade_options,
                without=() if masks else (r"roi_heads\.mask_head\..+",),
            )
            for model, *masks in (("cascade_mask_rcnn", r"roi_heads\.mask_head\.deconv\.weight"), ("cascade_rcnn",))
        ),
        Layout(
            ("deeplabv3plus",),
            (
                r"backbone\.stem\.conv3\.weight",
                r"sem_seg_head\.decoder\.res2\.fuse_conv\.1\.weight",
                r"sem_seg_head\.predictor\.weight",
            ),
            DEEPLAB,
            _deeplab_options,
        ),
    ),
)
