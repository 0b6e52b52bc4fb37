"""Weights of detectron2: R-CNNs, and DeepLab v3+ on the deep-stem ResNets of its DeepLab project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from masklet.weights.from_semseg import deformable, resnet_name
from masklet.weights.remap import Layout, Origin, Rule


def _stage(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The blocks of one stage."""
    return (
        Rule(rf"{theirs}\.(\d+)\.shortcut\.norm\.(.+)", rf"{ours}.\1.downsample.1.\2"),
        Rule(rf"{theirs}\.(\d+)\.shortcut\.weight", rf"{ours}.\1.downsample.0.weight"),
        Rule(rf"{theirs}\.(\d+)\.conv(\d)\.norm\.(.+)", rf"{ours}.\1.bn\2.\3"),
        Rule(rf"{theirs}\.(\d+)\.conv(\d)\.weight", rf"{ours}.\1.conv\2.weight"),
        Rule(rf"{theirs}\.(\d+)\.conv2_offset\.(.+)", rf"{ours}.\1.conv2.offset.\2"),
    )


def resnet(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Their ResNet at the prefix `theirs` (a regular expression) as ours at `ours`: stages count from res2."""
    return (
        Rule(rf"{theirs}stem\.conv(\d)\.norm\.(.+)", rf"{ours}bn\1.\2"),
        Rule(rf"{theirs}stem\.conv(\d)\.weight", rf"{ours}conv\1.weight"),
        *(rule for i in range(1, 5) for rule in _stage(rf"{theirs}res{i + 1}", f"{ours}layer{i}")),
    )


def resnet_depth(tensors: Mapping[str, Tensor]) -> str:
    """The backbone's name, from the number of its blocks, wherever they are, and the groups of the first of them."""
    blocks = [key for key in tensors if re.search(r"\bres[2-5]\.\d+\.conv3\.weight$", key)]
    return resnet_name(len(blocks), tensors[blocks[0].replace("conv3", "conv2")])


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
        "backbone": resnet_depth(tensors),
        "layout": "detectron2",
        "multi_grid": (1, 2, 4),
        "loss": "hard_pixels",
    }


TRUNK = (
    Rule(r"pixel_(mean|std)", None),
    Rule(r"proposal_generator\.anchor_generator\.cell_anchors\.\d", None),
    *resnet(r"backbone\.(?:bottom_up\.)?", "backbone."),  # below a pyramid or alone
    *_stage(r"roi_heads\.res5", "box.head.stage"),
    *(
        rule
        for i in range(4)
        for rule in (
            Rule(rf"backbone\.fpn_lateral{i + 2}\.(.+)", rf"fpn.laterals.{i}.\1"),
            Rule(rf"backbone\.fpn_output{i + 2}\.(.+)", rf"fpn.outputs.{i}.\1"),
        )
    ),
)
FASTER_RCNN = (
    *TRUNK,
    Rule(r"proposal_generator\.anchor_generator\.cell_anchors\.\d", None),
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
MASK_HEAD = r"roi_heads\.mask_head"


def point_head(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Their point head at the prefix `theirs` (a regular expression) as ours at `ours`."""
    layers = (Rule(rf"{theirs}\.fc{i + 1}\.(.+)", rf"{ours}.layers.{i}.\1") for i in range(3))
    return (*layers, Rule(rf"{theirs}\.predictor\.(.+)", rf"{ours}.predictor.\1"))


POINT_REND = (
    *FASTER_RCNN,
    Rule(rf"{MASK_HEAD}\.coarse_head\.reduce_spatial_dim_conv\.(.+)", r"mask.coarse.shrink.\1"),
    Rule(rf"{MASK_HEAD}\.coarse_head\.fc([12])\.(.+)", r"mask.coarse.fc\1.\2"),
    Rule(rf"{MASK_HEAD}\.coarse_head\.prediction\.(.+)", r"mask.coarse.predictor.\1"),
    *point_head(rf"{MASK_HEAD}\.point_head", "mask.points"),
)
COARSE = r"sem_seg_head\.coarse_sem_seg_head"
POINT_REND_SEMANTIC = (
    *TRUNK,
    *(
        Rule(rf"{COARSE}\.p{level + 2}\.{2 * i}\.{theirs}", rf"coarse.levels.{level}.{i}.{ours}")
        for level in range(4)
        for i in range(3)
        for theirs, ours in ((r"norm\.(.+)", r"norm.\1"), (r"(weight|bias)", r"conv.\1"))
    ),
    Rule(rf"{COARSE}\.predictor\.(.+)", r"coarse.predictor.\1"),
    *point_head(r"sem_seg_head\.point_head", "points"),
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
    r"backbone\.(fpn_lateral2|res4\.0\.conv3)\.weight",
    r"proposal_generator\.rpn_head\.conv\.weight",
    r"roi_heads\.(box_head\.fc2|res5\.0\.conv3)\.weight",
)


def _levels(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    if "backbone.fpn_lateral2.weight" in tensors:
        return {}
    return {"levels": "c4" if "roi_heads.res5.0.conv3.weight" in tensors else "dc5"}


def _rcnn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    maps, classes = tensors.get("roi_heads.mask_head.predictor.bias"), len(tensors[CLASSES]) - 1
    body = resnet_depth(tensors)
    return {
        "num_classes": classes,
        "backbone": body,
        "style": "detectron2_x101" if body == "resnext101_32x8d" else "detectron2",
        **_levels(tensors),
        **deformable(tensors, r".*\bres([2-5])\.(\d+)\.conv2_offset\.bias", first=0),
        **({"class_agnostic": True} if maps is not None and len(maps) == 1 < classes else {}),
    }


def _cascade_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return _rcnn_options({**tensors, CLASSES: tensors["roi_heads.box_predictor.0.cls_score.bias"]})


def _point_rend_semantic_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {
        "num_classes": len(tensors["sem_seg_head.point_head.predictor.bias"]),
        "backbone": resnet_depth(tensors),
        "style": "detectron2",
    }


def _keypoint_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    points = tensors["roi_heads.keypoint_head.score_lowres.weight"].shape[1]
    return {**_rcnn_options(tensors), "style": "detectron2_keypoints", "num_keypoints": points}


CLASSES = "roi_heads.box_predictor.cls_score.bias"
ORIGIN = Origin(
    "detectron2",
    (
        Layout(("mask_rcnn",), (*RCNN_MARKS, r"roi_heads\.mask_head\.deconv\.weight"), MASK_RCNN, _rcnn_options),
        Layout(
            ("point_rend",),
            (*RCNN_MARKS, rf"{MASK_HEAD}\.coarse_head\.prediction\.weight"),
            POINT_REND,
            _rcnn_options,
        ),
        Layout(
            ("point_rend_semantic",),
            (
                r"backbone\.fpn_lateral2\.weight",
                rf"{COARSE}\.predictor\.weight",
                r"sem_seg_head\.point_head\.fc1\.weight",
            ),
            POINT_REND_SEMANTIC,
            _point_rend_semantic_options,
        ),
        Layout(
            ("keypoint_rcnn",),
            (*RCNN_MARKS, r"roi_heads\.keypoint_head\.score_lowres\.weight"),
            KEYPOINT_RCNN,
            _keypoint_options,
        ),
        Layout(
            ("fast_rcnn",),
            (RCNN_MARKS[0], r"roi_heads\.box_head\.fc2\.weight"),
            FASTER_RCNN,
            lambda tensors: {"levels": "fpn", "pool": "align", "hidden": 1024, **_rcnn_options(tensors)},
            without=(r"proposal_generator\.rpn_head\..+", r"roi_heads\.(mask|keypoint)_head\..+"),
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
