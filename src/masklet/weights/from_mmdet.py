"""Weights of OpenMMLab: the R-CNNs of mmdetection, and what else this publisher has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from masklet.weights import from_openmmlab
from masklet.weights.from_openmmlab import swin, swin_options
from masklet.weights.from_semseg import deformable, resnet_name
from masklet.weights.remap import Layout, Origin, Rule

RCNN_RESNET = (
    Rule(r".+\.num_batches_tracked", None),
    Rule(r"backbone\.(layer\d\.\d+\.conv2)\.conv_offset\.(.+)", r"backbone.\1.offset.\2"),
    Rule(r"backbone\.((?:conv|bn|layer).+)", r"backbone.\1"),
)
RCNN_SWIN = swin(r"backbone\.", "backbone.")
FPN_AND_RPN = (
    Rule(r"neck\.lateral_convs\.(\d)\.conv\.(.+)", r"fpn.laterals.\1.\2"),
    Rule(r"neck\.fpn_convs\.(\d)\.conv\.(.+)", r"fpn.outputs.\1.\2"),
    Rule(r"rpn_head\.rpn_conv\.(.+)", r"rpn.head.conv.\1"),
    Rule(r"rpn_head\.rpn_cls\.(.+)", r"rpn.head.logits.\1"),
    Rule(r"rpn_head\.rpn_reg\.(.+)", r"rpn.head.deltas.\1"),
)


def box_branch(theirs: str = r"roi_head\.bbox_head\.", ours: str = "box.") -> tuple[Rule, ...]:
    """Their head of two fully connected layers at the prefix `theirs` (a regular expression) as ours at `ours`."""
    return (
        Rule(rf"{theirs}shared_fcs\.0\.(.+)", rf"{ours}head.fc1.\1"),
        Rule(rf"{theirs}shared_fcs\.1\.(.+)", rf"{ours}head.fc2.\1"),
        Rule(rf"{theirs}fc_cls\.(.+)", rf"{ours}predictor.classes.\1"),
        Rule(rf"{theirs}fc_reg\.(.+)", rf"{ours}predictor.deltas.\1"),
    )


def mask_head(theirs: str = r"roi_head\.mask_head\.", ours: str = "mask.head.") -> tuple[Rule, ...]:
    """Their mask head at the prefix `theirs` (a regular expression) as ours at `ours`."""
    return (
        Rule(rf"{theirs}convs\.(\d)\.conv\.(.+)", rf"{ours}convs.\1.\2"),
        Rule(rf"{theirs}upsample\.(.+)", rf"{ours}up.\1"),
        Rule(rf"{theirs}conv_logits\.(.+)", rf"{ours}predictor.\1"),
    )


FASTER_RCNN = (*FPN_AND_RPN, *box_branch())
MASK_RCNN = (*FASTER_RCNN, *mask_head())
IOU_HEAD, POINT_HEAD = r"roi_head\.mask_iou_head", r"roi_head\.point_head"
MASK_SCORING_RCNN = (
    *MASK_RCNN,
    Rule(rf"{IOU_HEAD}\.convs\.(\d)\.(.+)", r"iou.convs.\1.\2"),
    Rule(rf"{IOU_HEAD}\.fcs\.0\.(.+)", r"iou.fc1.\1"),
    Rule(rf"{IOU_HEAD}\.fcs\.1\.(.+)", r"iou.fc2.\1"),
    Rule(rf"{IOU_HEAD}\.fc_mask_iou\.(.+)", r"iou.predictor.\1"),
)
POINT_REND = (
    *FASTER_RCNN,
    Rule(r"roi_head\.mask_head\.downsample_conv\.conv\.(.+)", r"mask.coarse.shrink.\1"),
    Rule(r"roi_head\.mask_head\.fcs\.0\.(.+)", r"mask.coarse.fc1.\1"),
    Rule(r"roi_head\.mask_head\.fcs\.1\.(.+)", r"mask.coarse.fc2.\1"),
    Rule(r"roi_head\.mask_head\.fc_logits\.(.+)", r"mask.coarse.predictor.\1"),
    Rule(rf"{POINT_HEAD}\.fcs\.(\d)\.conv\.(.+)", r"mask.points.layers.\1.\2"),
    Rule(rf"{POINT_HEAD}\.fc_logits\.(.+)", r"mask.points.predictor.\1"),
)
RCNN_MARKS = (
    r"neck\.lateral_convs\.3\.conv\.weight",
    r"rpn_head\.rpn_conv\.weight",
    r"roi_head\.bbox_head\.shared_fcs\.1\.weight",
)
CASCADE_BOXES = (
    *FPN_AND_RPN,
    *(rule for i in range(3) for rule in box_branch(rf"roi_head\.bbox_head\.{i}\.", f"box.stages.{i}.")),
)
CASCADE_RCNN = (
    *CASCADE_BOXES,
    *(rule for i in range(3) for rule in mask_head(rf"roi_head\.mask_head\.{i}\.", f"mask.branches.{i}.head.")),
)
SEMANTIC = r"roi_head\.semantic_head\."
HTC = (
    *CASCADE_BOXES,
    *(rule for i in range(3) for rule in mask_head(rf"roi_head\.mask_head\.{i}\.", f"mask.heads.{i}.")),
    *(Rule(rf"roi_head\.mask_head\.{i + 1}\.conv_res\.conv\.(.+)", rf"mask.gates.{i}.\1") for i in range(2)),
    Rule(rf"{SEMANTIC}lateral_convs\.(\d)\.conv\.(.+)", r"semantic.laterals.\1.\2"),
    Rule(rf"{SEMANTIC}convs\.(\d)\.conv\.(.+)", r"semantic.convs.\1.\2"),
    Rule(rf"{SEMANTIC}conv_embedding\.conv\.(.+)", r"semantic.embed.\1"),
    Rule(rf"{SEMANTIC}conv_logits\.(.+)", r"semantic.classes.\1"),
)
CASCADE_MARKS = (
    r"neck\.lateral_convs\.3\.conv\.weight",
    r"rpn_head\.rpn_conv\.weight",
    r"roi_head\.bbox_head\.2\.shared_fcs\.1\.weight",
)
RESNET, SWIN = r"backbone\.layer1\.0\.conv3\.weight", r"backbone\.stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight"


def rcnn_body(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Which backbone an R-CNN has. The style of "caffe" configs leaves no trace in the tensors."""
    if "backbone.conv1.weight" in tensors:
        blocks = sum(key.endswith(".conv3.weight") for key in tensors)
        moving = deformable(tensors, r"backbone\.layer([1-4])\.(\d+)\.conv2\.conv_offset\.bias", first=1)
        return {"backbone": resnet_name(blocks, tensors["backbone.layer1.0.conv2.weight"]), "style": "mmdet", **moving}
    table = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    found = swin_options(tensors, table, r"backbone\.stages\.2\.blocks\.(\d+)")
    window = found.pop("window")
    return {**found, "style": "mmdet", **({} if window == 7 else {"backbone_options": {"window": window}})}


def _rcnn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    maps, classes = (
        tensors.get("roi_head.mask_head.conv_logits.bias"),
        len(tensors["roi_head.bbox_head.fc_cls.bias"]) - 1,
    )
    agnostic = {"class_agnostic": True} if maps is not None and len(maps) == 1 < classes else {}
    return {"num_classes": classes, **rcnn_body(tensors), **agnostic}


def _cascade_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    classes = len(tensors["roi_head.bbox_head.0.fc_cls.bias"]) - 1
    return {"num_classes": classes, **rcnn_body(tensors), "style": "mmdet_cascade"}


def _htc_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    stuff = tensors.get("roi_head.semantic_head.conv_logits.bias")
    return {**_cascade_options(tensors), "stuff_classes": 0 if stuff is None else len(stuff)}


def _caffe_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Of systems whose ResNet configs are all, or nearly, in the style of Caffe."""
    body = rcnn_body(tensors)
    style = "mmdet_caffe" if str(body["backbone"]).startswith("resnet") else body["style"]
    return {"num_classes": len(tensors["roi_head.bbox_head.fc_cls.bias"]) - 1, **body, "style": style}


ORIGIN = Origin(
    "openmmlab",
    (
        Layout(
            ("mask_scoring_rcnn",),
            (*RCNN_MARKS, RESNET, rf"{IOU_HEAD}\.fc_mask_iou\.weight"),
            (*RCNN_RESNET, *MASK_SCORING_RCNN),
            _caffe_options,
        ),
        Layout(
            ("point_rend",),
            (*RCNN_MARKS, RESNET, rf"{POINT_HEAD}\.fc_logits\.weight"),
            (*RCNN_RESNET, *POINT_REND),
            _caffe_options,
        ),
        *(
            Layout(
                (model,),
                (*CASCADE_MARKS, body, *(rf"roi_head\.mask_head\.{key}\.weight" for key in marks)),
                (*(RCNN_RESNET if body == RESNET else RCNN_SWIN), *rules),
                options,
                without,
            )
            for body in (RESNET, SWIN)
            for model, rules, options, marks, without in (
                ("htc", HTC, _htc_options, ("1.conv_res.conv",), ()),
                ("cascade_mask_rcnn", CASCADE_RCNN, _cascade_options, ("2.conv_logits",), (r".+\.conv_res\..+",)),
                ("cascade_rcnn", CASCADE_RCNN, _cascade_options, (), (r"roi_head\.mask_head\..+",)),
            )
        ),
        *(
            Layout(
                (model,),
                (*RCNN_MARKS, body, *more),
                (*(RCNN_RESNET if body == RESNET else RCNN_SWIN), *rules),
                _rcnn_options,
                without=(r"roi_head\.mask_iou_head\..+",) if more else (r"roi_head\.mask_head\..+",),
            )
            for body in (RESNET, SWIN)
            for model, rules, more in (
                ("mask_rcnn", MASK_RCNN, (r"roi_head\.mask_head\.conv_logits\.weight",)),
                ("faster_rcnn", FASTER_RCNN, ()),
            )
        ),
        *from_openmmlab.ORIGIN.layouts,
    ),
)
