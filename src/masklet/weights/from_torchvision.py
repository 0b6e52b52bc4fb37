"""Weights of torchvision: FCN-ResNets, DeepLabs, R-CNNs, and ImageNet classifiers as backbones or body of an FCN."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from masklet.weights.from_semseg import resnet_depth
from masklet.weights.remap import Layout, Origin, Rule

HEADS = (
    Rule(r"backbone\.(.+)", r"backbone.\1"),
    Rule(r"classifier\.(.+)", r"head.\1"),
    Rule(r"aux_classifier\.(.+)", r"aux_head.\1"),
)
DEEPLAB = (
    *(
        Rule(rf"classifier\.0\.convs\.{i}\.{j}\.(.+)", rf"aspp.levels.{i}.{part}.\1")
        for i in range(4)
        for j, part in enumerate(("conv", "norm"))
    ),
    Rule(r"classifier\.0\.convs\.4\.1\.(.+)", r"aspp.average.conv.\1"),
    Rule(r"classifier\.0\.convs\.4\.2\.(.+)", r"aspp.average.norm.\1"),
    Rule(r"classifier\.0\.project\.0\.(.+)", r"aspp.project.conv.\1"),
    Rule(r"classifier\.0\.project\.1\.(.+)", r"aspp.project.norm.\1"),
    Rule(r"classifier\.1\.(.+)", r"head.0.\1"),
    Rule(r"classifier\.2\.(.+)", r"head.1.\1"),
    Rule(r"classifier\.4\.(.+)", r"head.4.\1"),
    Rule(r"aux_classifier\.(.+)", r"aux_head.\1"),
)
FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s_at_once")
WINDOW = {512 * 7 * 7: 7, 256 * 6 * 6: 6}  # inputs of the first fully connected layer: side of the map it covers


def _fcn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    aux = {} if any(key.startswith("aux_classifier") for key in tensors) else {"aux_weight": 0.0}
    return {"num_classes": len(tensors["classifier.4.weight"]), **aux}


def _deeplab(**backbone: object) -> Callable[[Mapping[str, Tensor]], dict[str, object]]:
    return lambda tensors: {**_fcn_options(tensors), "layout": "torchvision", **backbone}


def _as_convolution(weight: Tensor) -> Tensor:
    """A fully connected layer as the convolution that covers its whole input map."""
    side = WINDOW.get(weight.shape[1], 1)
    return weight.view(len(weight), -1, side, side)


def _fully_connected(first: int, second: int, last: int) -> tuple[Rule, ...]:
    """VGG and AlexNet number their fully connected layers differently; the last one says ImageNet's classes."""
    return (
        Rule(r"features\.(.+)", r"backbone.features.\1"),
        Rule(rf"classifier\.{first}\.bias", r"tail.fc6.bias"),
        Rule(rf"classifier\.{first}\.weight", r"tail.fc6.weight", _as_convolution),
        Rule(rf"classifier\.{second}\.bias", r"tail.fc7.bias"),
        Rule(rf"classifier\.{second}\.weight", r"tail.fc7.weight", _as_convolution),
        Rule(rf"classifier\.{last}\..+", None),
    )


def _body(backbone: str, pixels: str = "imagenet") -> Callable[[Mapping[str, Tensor]], dict[str, object]]:
    return lambda tensors: {"backbone": backbone, "pixels": pixels}


FCN_MARKS = (r"classifier\.0\.weight", r"classifier\.4\.weight", r"backbone\.layer3\.5\..+")
DEEPLAB_MARKS = (r"classifier\.0\.convs\.4\.1\.weight", r"classifier\.4\.weight")
VGG_MARKS = (r"features\.0\.weight", r"classifier\.0\.weight", r"classifier\.3\.weight", r"classifier\.6\.weight")
ALEXNET_MARKS = (r"features\.0\.weight", r"features\.10\.weight", r"classifier\.1\.weight", r"classifier\.4\.weight")
GOOGLENET_MARKS = (r"inception5b\.branch1\.conv\.weight", r"fc\.weight")
CLASSIFIER = Rule(r"(fc|classifier|aux[12])\..+", None)
BODY = (CLASSIFIER, Rule(r"(.+)", r"\1"))

SWIN = (
    Rule(r"features\.0\.0\.(.+)", r"patch_embed.proj.\1"),
    Rule(r"features\.0\.2\.(.+)", r"patch_embed.norm.\1"),
    Rule(r".+\.attn\.relative_(position_index|coords_table)", None),
    *(
        rule
        for i in range(4)
        for rule in (
            Rule(rf"features\.{2 * i + 1}\.(\d+)\.mlp\.0\.(.+)", rf"layers.{i}.blocks.\1.mlp.fc1.\2"),
            Rule(rf"features\.{2 * i + 1}\.(\d+)\.mlp\.3\.(.+)", rf"layers.{i}.blocks.\1.mlp.fc2.\2"),
            Rule(rf"features\.{2 * i + 1}\.(\d+)\.(.+)", rf"layers.{i}.blocks.\1.\2"),
            Rule(rf"features\.{2 * i + 2}\.(.+)", rf"layers.{i}.downsample.\1"),
        )
    ),
    Rule(r"norm\.(.+)", r"norm3.\1"),
    Rule(r"head\..+", None),
)


def _background_last(weight: Tensor) -> Tensor:
    """They put background in front of the classes."""
    return weight.roll(-1, 0)


def _no_background(weight: Tensor) -> Tensor:
    """They have a mask of background, which nothing looks at."""
    return weight[1:]


def _no_background_box(weight: Tensor) -> Tensor:
    """They have four deltas of background, which nothing looks at."""
    return weight[4:]


# Files before torchvision 0.13 lack the numbers in the middle of the names.
FASTER_RCNN = (
    Rule(r"backbone\.body\..+\.num_batches_tracked", None),
    Rule(r"backbone\.body\.(.+)", r"backbone.\1"),
    Rule(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"fpn.laterals.\1.\2"),
    Rule(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"fpn.outputs.\1.\2"),
    Rule(r"rpn\.head\.conv(?:\.0\.0)?\.(weight|bias)", r"rpn.head.conv.\1"),
    Rule(r"rpn\.head\.cls_logits\.(.+)", r"rpn.head.logits.\1"),
    Rule(r"rpn\.head\.bbox_pred\.(.+)", r"rpn.head.deltas.\1"),
    Rule(r"roi_heads\.box_head\.fc6\.(.+)", r"box.head.fc1.\1"),
    Rule(r"roi_heads\.box_head\.fc7\.(.+)", r"box.head.fc2.\1"),
    Rule(r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box.predictor.classes.\1", _background_last),
    Rule(r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box.predictor.deltas.\1", _no_background_box),
)
MASK_RCNN = (
    *FASTER_RCNN,
    Rule(r"roi_heads\.mask_head\.(\d)\.0\.(.+)", r"mask.head.convs.\1.\2"),
    *(Rule(rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.+)", rf"mask.head.convs.{i}.\1") for i in range(4)),
    Rule(r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask.head.up.\1"),
    Rule(r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask.head.predictor.\1", _no_background),
)
KEYPOINT_RCNN = (
    *FASTER_RCNN,
    *(Rule(rf"roi_heads\.keypoint_head\.{2 * i}\.(.+)", rf"keypoint.head.convs.{i}.\1") for i in range(8)),
    Rule(r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.+)", r"keypoint.head.up.\1"),
)
RCNN_MARKS = (r"backbone\.fpn\.inner_blocks\.0\.(0\.)?weight", r"roi_heads\.box_head\.fc6\.weight")


def _rcnn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    basic = "backbone.body.layer1.0.conv3.weight" not in tensors
    small = "resnet34" if "backbone.body.layer1.2.conv1.weight" in tensors else "resnet18"
    mask = tensors.get("roi_heads.mask_predictor.conv5_mask.bias")
    points = tensors.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")
    return {
        "num_classes": len(tensors["roi_heads.box_predictor.cls_score.bias"]) - 1,
        "backbone": small if basic else resnet_depth(tensors, "backbone.body."),
        "style": "torchvision",
        "channels": len(tensors["rpn.head.cls_logits.weight"][0]),
        "hidden": len(tensors["roi_heads.box_head.fc6.bias"]),
        **({} if mask is None else {"mask_channels": len(mask)}),
        **({} if points is None else {"num_keypoints": points.shape[1], "keypoint_channels": points.shape[0]}),
    }


ORIGIN = Origin(
    "torchvision",
    (
        Layout(("mask_rcnn",), (*RCNN_MARKS, r"roi_heads\.mask_predictor\.conv5_mask\.bias"), MASK_RCNN, _rcnn_options),
        Layout(
            ("keypoint_rcnn",),
            (*RCNN_MARKS, r"roi_heads\.keypoint_predictor\.kps_score_lowres\.weight"),
            KEYPOINT_RCNN,
            _rcnn_options,
        ),
        Layout(
            ("faster_rcnn",), RCNN_MARKS, FASTER_RCNN, _rcnn_options, without=(r"roi_heads\.(mask|keypoint)_head\..+",)
        ),
        Layout(("fcn_resnet101",), (*FCN_MARKS, r"backbone\.layer3\.22\..+"), HEADS, _fcn_options),
        Layout(("fcn_resnet50",), FCN_MARKS, HEADS, _fcn_options, without=(r"backbone\.layer3\.6\..+",)),
        *(
            Layout(
                ("deeplabv3",),
                (*DEEPLAB_MARKS, rf"backbone\.layer3\.{last}\.conv1\.weight"),
                (Rule(r"backbone\.(.+)", r"backbone.\1"), *DEEPLAB),
                _deeplab(backbone=name),
                without=(rf"backbone\.layer3\.{last + 1}\.conv1\.weight",),
            )
            for name, last in (("resnet50", 5), ("resnet101", 22))
        ),
        Layout(
            ("deeplabv3",),
            (*DEEPLAB_MARKS, r"backbone\.16\.0\.weight"),
            (Rule(r"backbone\.(.+)", r"backbone.features.\1"), *DEEPLAB),
            # Its rates are those of stride 8, although this backbone is at 16.
            _deeplab(backbone="mobilenet_v3_large", output_stride=16, rates=(12, 24, 36)),
        ),
        *(
            Layout(FCNS, (*VGG_MARKS, rf"features\.{last}\.weight"), _fully_connected(0, 3, 6), _body(name))
            for name, last in (("vgg19", 34), ("vgg16", 28), ("vgg13", 22), ("vgg11", 18))
        ),
        Layout(
            ("deconvnet",),
            (*VGG_MARKS, r"features\.41\.running_mean"),
            (
                Rule(r"features\.(.+)", r"encoder.features.\1"),
                Rule(r"classifier\.0\.weight", r"fc.fc6.conv.weight", _as_convolution),
                Rule(r"classifier\.3\.weight", r"fc.fc7.conv.weight", _as_convolution),
                Rule(r"classifier\.0\.bias", r"fc.fc6.conv.bias"),
                Rule(r"classifier\.3\.bias", r"fc.fc7.conv.bias"),
                Rule(r"classifier\.6\..+", None),
            ),
            without=(r"features\.44\..+",),
        ),
        Layout(("fcn32s",), ALEXNET_MARKS, _fully_connected(1, 4, 6), _body("alexnet")),
        Layout(
            ("fcn32s",),
            GOOGLENET_MARKS,
            (CLASSIFIER, Rule(r"(.+)", r"backbone.backbone.\1")),
            _body("googlenet", "tensorflow"),
        ),
        Layout(("backbone",), (r"layer1\.0\.conv1\.weight", r"fc\.weight"), BODY),  # ResNet, ResNeXt
        Layout(("backbone",), (r"features\.0\.(0\.)?weight", r"classifier\..+"), BODY),  # VGG, AlexNet, MobileNet
        Layout(("backbone",), GOOGLENET_MARKS, BODY),
        Layout(("backbone",), (r"features\.1\.0\.attn\.qkv\.weight", r"head\.weight"), SWIN),
    ),
)
