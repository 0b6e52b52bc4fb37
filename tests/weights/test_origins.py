"""Every recorded or live list of foreign keys fits our models: nothing left over, nothing missing, shapes equal.

All of it without memory: weights and models live on torch's meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import oracle
from conftest import shared
from masklet.models import build
from masklet.parts.backbones import build_backbone
from masklet.structures.errors import UserError
from masklet.weights import CATALOG, fill, load, recognise

KEYS = Path(__file__).parent / "keys"
RECORDED = {
    "pytorch_fcn32s": ("pytorch_fcn", "fcn32s", 21),
    "pytorch_fcn16s": ("pytorch_fcn", "fcn16s", 21),
    "pytorch_fcn8s": ("pytorch_fcn", "fcn8s", 21),
    "semseg_pspnet50": ("semseg", "pspnet", 21),
    "mmseg_pspnet_r50_d8": ("openmmlab", "pspnet", 19),
    "mmseg_unet_s5_d16": ("openmmlab", "unet", 2),
    "mmseg_deeplabv3_r50_d8": ("openmmlab", "deeplabv3", 19),
    "mmseg_deeplabv3plus_r50_d8": ("openmmlab", "deeplabv3plus", 19),
    "mmseg_upernet_r50": ("openmmlab", "upernet", 19),
    "mmseg_upernet_swin_t": ("openmmlab", "upernet", 150),
    "d2_deeplab_v3plus_r103": ("detectron2", "deeplabv3plus", 19),
    "mmdet_mask_rcnn_r50_fpn": ("openmmlab", "mask_rcnn", 80),
    "mmdet_mask_rcnn_swin_t_fpn": ("openmmlab", "mask_rcnn", 80),
    "d2_mask_rcnn_r50_c4": ("detectron2", "mask_rcnn", 80),
    "d2_mask_rcnn_r50_fpn": ("detectron2", "mask_rcnn", 80),
    "d2_pointrend_rcnn_r50_fpn": ("detectron2", "point_rend", 80),
    "mmdet_point_rend_r50_caffe_fpn": ("openmmlab", "point_rend", 80),
    "mmdet_ms_rcnn_r50_caffe_fpn": ("openmmlab", "mask_scoring_rcnn", 80),
    "d2_keypoint_rcnn_r50_fpn": ("detectron2", "keypoint_rcnn", 1),
    "d2_cascade_mask_rcnn_r50_fpn": ("detectron2", "cascade_mask_rcnn", 80),
    "mmdet_cascade_mask_rcnn_r50_fpn": ("openmmlab", "cascade_mask_rcnn", 80),
    "mmdet_htc_r50_fpn": ("openmmlab", "htc", 80),
}


@pytest.fixture(autouse=True)
def _shapes_only():
    with torch.device("meta"):
        yield


def ghosts(name: str) -> dict[str, Tensor]:
    """The tensors of an official file, from the list of its names: `keys/<name>.json`, {type: {name: shape}}."""
    path = KEYS / f"{name}.json"
    if path.exists():
        lists = [
            (key, shape, kind) for kind, keys in json.loads(path.read_text()).items() for key, shape in keys.items()
        ]
    else:
        lists = oracle.keys(oracle.find(name))
    return {key: torch.empty(shape, dtype=getattr(torch, kind)) for key, shape, kind in lists}


@pytest.mark.parametrize("name", sorted(path.stem for path in KEYS.glob("*.json")))
def test_lists_are_those_that_were_recorded(name):
    recorded = {key: (tuple(shape), kind) for key, shape, kind in oracle.keys(shared("oracles", name))}
    assert {key: (tuple(v.shape), str(v.dtype)[6:]) for key, v in ghosts(name).items()} == recorded


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_keys_load(name):
    weights = ghosts(name)
    origin, model, num_classes = RECORDED[name]
    assert recognise(weights)[0] == origin
    loaded = load(model, weights=weights)
    assert len(loaded.classes) == num_classes
    named = [f"kind {i}" for i in range(num_classes)]
    assert list(load(model, weights=weights, classes=named).classes.names) == named
    assert fill(loaded, weights, origin=origin).fresh == ()
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    assert load(model, weights={"state_dict": prefixed}, origin=origin).spec == loaded.spec


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_keys_are_wanted_to_the_last(name):
    weights = ghosts(name)
    _, model, num_classes = RECORDED[name]
    last = next(key for key in reversed(weights) if weights[key].is_floating_point())
    with pytest.raises((UserError, KeyError)):
        load(model, weights={key: value for key, value in weights.items() if key != last}, num_classes=num_classes)
    with pytest.raises(UserError, match=r"knows \d+ classes but 7 were asked for"):
        load(model, weights=weights, num_classes=7)
    with pytest.raises(UserError, match=r"holds weights of \w+ for [\w ]+, not for seed_fcn"):
        load("seed_fcn", weights=weights)
    with pytest.raises(
        UserError, match=r"the state dict does not say which model it is for; name it, for instance load"
    ):
        load("", weights=weights)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("d2_pointrend_rcnn_r50_fpn", "point_rend_resnet50_coco_3x"),
        ("mmdet_point_rend_r50_caffe_fpn", "point_rend_resnet50_coco_mmdet"),
        ("mmdet_ms_rcnn_r50_caffe_fpn", "mask_scoring_rcnn_resnet50_coco"),
        ("mmseg_pspnet_r50_d8", "pspnet_resnet50_cityscapes"),
        ("mmseg_unet_s5_d16", "unet_drive"),
        ("mmseg_deeplabv3plus_r50_d8", "deeplabv3plus_resnet50_cityscapes"),
        ("mmseg_upernet_swin_t", "upernet_swin_t_ade20k"),
        ("d2_deeplab_v3plus_r103", "deeplabv3plus_resnet103_cityscapes"),
        ("d2_mask_rcnn_r50_fpn", "mask_rcnn_resnet50_coco_3x"),
        ("d2_mask_rcnn_r50_c4", "mask_rcnn_resnet50_c4_coco_3x"),
        ("d2_keypoint_rcnn_r50_fpn", "keypoint_rcnn_resnet50_coco_3x"),
        ("mmdet_mask_rcnn_swin_t_fpn", "mask_rcnn_swin_t_coco"),
        ("d2_cascade_mask_rcnn_r50_fpn", "cascade_mask_rcnn_resnet50_coco_3x"),
        ("mmdet_cascade_mask_rcnn_r50_fpn", "cascade_mask_rcnn_resnet50_coco"),
        ("mmdet_htc_r50_fpn", "htc_resnet50_coco"),
    ],
)
def test_the_catalog_says_what_the_keys_say(name, entry):
    weights, entry = ghosts(name), CATALOG[entry]
    implied = recognise(weights, entry.model)[1].options(weights)
    implied.pop("loss", None)  # how it was trained
    assert {key: entry.options[key] for key in implied} == implied


@pytest.mark.parametrize(
    ("origin", "options", "style"),
    [
        ("detectron2", {"backbone": "resnext101_32x8d"}, "detectron2_x101"),
        ("detectron2", {"levels": "dc5"}, "detectron2"),
        ("detectron2", {"levels": "c4", "backbone": "resnet101", "class_agnostic": True}, "detectron2"),
        ("detectron2", {"backbone_options": {"deformable": 2, "deformable_stages": (3, 4, 5)}}, "detectron2"),
        ("openmmlab", {"backbone": "resnext101_64x4d"}, "mmdet"),
        (
            "openmmlab",
            {"backbone_options": {"deformable": 1, "deformable_stages": (4, 5), "deformable_interval": 3}},
            "mmdet",
        ),
    ],
)
def test_options_are_read_from_the_tensors(origin, options, style):
    """There are no files here; names go back and come again."""
    names = build("mask_rcnn", num_classes=5, style=style, **options).state_dict()
    theirs = {foreign(key, origin): value for key, value in names.items()}
    found = load("mask_rcnn", weights=theirs)
    assert found.spec["options"] == {"num_classes": 5, "backbone": "resnet50", "style": style} | options


def test_fast_rcnn_of_detectron2():
    names = build("fast_rcnn", num_classes=5, backbone="resnet50", levels="fpn", hidden=1024).state_dict()
    found = load("fast_rcnn", weights={foreign(key, "detectron2"): value for key, value in names.items()})
    assert found.spec["options"] == {
        **{"num_classes": 5, "backbone": "resnet50", "style": "detectron2"},
        **{"levels": "fpn", "pool": "align", "hidden": 1024},
    }


def foreign(key: str, origin: str) -> str:
    """One of our names in Mask R-CNN as the other code base has it."""
    swaps = {
        "detectron2": (
            (r"box\.head\.stage\.", "roi_heads.res5."),
            (r"backbone\.(conv|bn)1\.", r"backbone.stem.\g<1>1."),
            (r"layer(\d)", lambda match: f"res{int(match[1]) + 1}"),
            (r"downsample\.0", "shortcut"),
            (r"downsample\.1", "shortcut.norm"),
            (r"conv2\.offset", "conv2_offset"),
            (r"\bbn(\d)", r"conv\1.norm"),
            (r"fpn\.(lateral|output)s\.(\d)", lambda match: f"backbone.fpn_{match[1]}{int(match[2]) + 2}"),
            (r"rpn\.head\.logits", "proposal_generator.rpn_head.objectness_logits"),
            (r"rpn\.head\.deltas", "proposal_generator.rpn_head.anchor_deltas"),
            (r"rpn\.head\.", "proposal_generator.rpn_head."),
            (r"box\.head\.", "roi_heads.box_head."),
            (r"box\.predictor\.classes", "roi_heads.box_predictor.cls_score"),
            (r"box\.predictor\.deltas", "roi_heads.box_predictor.bbox_pred"),
            (r"mask\.head\.convs\.(\d)", lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}"),
            (r"mask\.head\.up", "roi_heads.mask_head.deconv"),
            (r"mask\.head\.", "roi_heads.mask_head."),
        ),
        "openmmlab": (
            (r"conv2\.offset", "conv2.conv_offset"),
            (r"fpn\.laterals\.(\d)", r"neck.lateral_convs.\1.conv"),
            (r"fpn\.outputs\.(\d)", r"neck.fpn_convs.\1.conv"),
            (r"rpn\.head\.conv", "rpn_head.rpn_conv"),
            (r"rpn\.head\.logits", "rpn_head.rpn_cls"),
            (r"rpn\.head\.deltas", "rpn_head.rpn_reg"),
            (r"box\.head\.fc(\d)", lambda match: f"roi_head.bbox_head.shared_fcs.{int(match[1]) - 1}"),
            (r"box\.predictor\.classes", "roi_head.bbox_head.fc_cls"),
            (r"box\.predictor\.deltas", "roi_head.bbox_head.fc_reg"),
            (r"mask\.head\.convs\.(\d)", r"roi_head.mask_head.convs.\1.conv"),
            (r"mask\.head\.up", "roi_head.mask_head.upsample"),
            (r"mask\.head\.predictor", "roi_head.mask_head.conv_logits"),
        ),
    }
    for pattern, to in swaps[origin]:
        key = re.sub(pattern, to, key)
    return key


def test_at_once_is_8s_with_other_numbers():
    weights = ghosts("pytorch_fcn8s")
    assert [skip.scale for skip in load("fcn8s_at_once", weights=weights).skips] == [0.01, 0.0001]
    assert [skip.scale for skip in load("fcn8s", weights=weights).skips] == [1, 1]
    with pytest.raises(
        UserError, match="the state dict holds weights of pytorch_fcn for fcn8s or fcn8s_at_once, not for fcn16s"
    ):
        load("fcn16s", weights=weights)


@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_resnet101"])
@pytest.mark.parametrize("aux", [True, False])
def test_torchvision_segmentation(name, aux):
    theirs = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=aux
    )
    loaded = load(name, weights=theirs.state_dict())
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(loaded) == count(theirs)
    assert len(loaded.classes) == 5
    other = "fcn_resnet101" if name == "fcn_resnet50" else "fcn_resnet50"
    with pytest.raises(UserError, match=f"the state dict holds weights of torchvision for {name}, not for {other}"):
        load(other, weights=theirs.state_dict())


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "mobilenet_v3_large"])
@pytest.mark.parametrize("aux", [True, False])
def test_torchvision_deeplab(backbone, aux):
    make = getattr(torchvision.models.segmentation, f"deeplabv3_{backbone}")
    theirs = make(weights=None, weights_backbone=None, num_classes=5, aux_loss=aux)
    loaded = load("deeplabv3", weights=theirs.state_dict())
    assert loaded.spec["options"]["backbone"] == backbone
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in theirs.parameters())
    with pytest.raises(UserError, match="the state dict holds weights of torchvision for deeplabv3, not for unet"):
        load("unet", weights=theirs.state_dict())


@pytest.mark.parametrize("name", ["faster_rcnn", "keypoint_rcnn", "mask_rcnn"])
def test_torchvision_detectors(name):
    make = getattr(torchvision.models.detection, f"{name.replace('_', '')}_resnet50_fpn")
    theirs = make(weights=None, weights_backbone=None, num_classes=6).state_dict()
    loaded = load(name, weights=theirs)
    assert len(loaded.classes) == 5
    assert loaded.spec["options"]["style"] == "torchvision"
    old = {}  # as files before torchvision 0.13 call them
    for key, value in theirs.items():
        key = re.sub(r"_blocks\.(\d)\.0\.", r"_blocks.\1.", key).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}", key)
        old[key] = value
    assert old.keys() != theirs.keys()
    assert load(name, weights=old).spec == loaded.spec
    with pytest.raises(UserError, match=f"holds weights of torchvision for {name}, not for unet"):
        load("unet", weights=theirs)


@pytest.mark.parametrize("name", ["swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"])
def test_torchvision_swin(name):
    theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    report = fill(build_backbone(name), theirs, fresh=r"norm[012]\..*")
    assert {key.rsplit(".", 1)[-1] for key in report.dropped} <= {
        "relative_position_index",
        "relative_coords_table",
        "weight",
        "bias",
    }
    assert len(report.loaded) + len(report.dropped) == len(theirs)


BACKBONES = ("resnet18", "resnet50", "vgg16", "vgg11_bn", "alexnet", "mobilenet_v2", "mobilenet_v3_large", "googlenet")


@pytest.mark.parametrize("name", BACKBONES)
def test_torchvision_backbones(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(weights=None, **options).state_dict()
    report = fill(build_backbone(name), theirs)
    assert all(key.startswith(("fc.", "classifier.", "aux")) for key in report.dropped)
    assert len(report.loaded) + len(report.dropped) == len(theirs)
    with pytest.raises(
        UserError, match=r"the state dict (is not a|lacks \d+ tensors? of|has \d+ tensors? that) ResNet"
    ):
        fill(build_backbone("resnet34"), theirs)


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19", "alexnet", "googlenet"])
def test_torchvision_classifiers_become_fcns(backbone):
    options = {"init_weights": False} if backbone == "googlenet" else {}
    theirs = getattr(torchvision.models, backbone)(weights=None, **options).state_dict()
    loaded = load("fcn32s", weights=theirs, num_classes=4, fresh="score.*|upscore.*")
    assert loaded.spec["options"]["backbone"] == backbone
    assert loaded.spec["options"]["pixels"] == ("tensorflow" if backbone == "googlenet" else "imagenet")
    with pytest.raises(
        UserError, match=r"the state dict lacks . tensors of fcn32s: score\.weight, score\.bias, upscore\.weight"
    ):
        load("fcn32s", weights=theirs)
    if backbone == "vgg16":
        assert isinstance(load("fcn8s", weights=theirs, fresh="(score|skips|upscore).*"), nn.Module)
