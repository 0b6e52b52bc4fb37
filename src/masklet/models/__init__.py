"""Every system by name, and `build`, which makes one.

The table is written by hand and its values are resolved only when asked for, so that listing the models
costs no import and building one imports no other.

>>> from masklet.models import list_models
>>> "fcn8s" in list_models("semantic")
True
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["MODELS", "TASKS", "System", "build", "builder", "list_models", "options", "unknown"]


@dataclass(frozen=True)
class System:
    """Where the builder of one system lives (`module:function` in this package), its tasks, and what it is."""

    where: str
    tasks: tuple[str, ...]
    about: str


MODELS: Mapping[str, System] = MappingProxyType(
    {
        "cascade_mask_rcnn": System(
            "cascade_rcnn:cascade_mask_rcnn", ("detection", "instance"), "Cascade R-CNN with a mask for each box"
        ),
        "cascade_rcnn": System(
            "cascade_rcnn:cascade_rcnn", ("detection",), "Boxes refined three times, ever more strictly (Cai, 2018)"
        ),
        "deconvnet": System(
            "deconvnet:deconvnet", ("semantic",), "VGG16 and its mirror image, with switches (Noh, 2015)"
        ),
        "deeplabv3": System("deeplab:deeplabv3", ("semantic",), "Dilated filters of several sizes (Chen et al., 2017)"),
        "deeplabv3plus": System(
            "deeplab:deeplabv3plus", ("semantic",), "DeepLab v3 joined with an early stage's detail"
        ),
        "fast_rcnn": System(
            "fast_rcnn:fast_rcnn", ("detection",), "Regions from outside, read off one map (Girshick, 2015)"
        ),
        "faster_rcnn": System(
            "faster_rcnn:faster_rcnn", ("detection",), "Boxes from proposals on a feature pyramid (Ren et al., 2015)"
        ),
        "fcn32s": System("fcn:fcn32s", ("semantic",), "FCN with one 32-fold upsampling (Long et al., 2015)"),
        "fcn16s": System("fcn:fcn16s", ("semantic",), "FCN with one skip from stride 16 (Long et al., 2015)"),
        "fcn8s": System("fcn:fcn8s", ("semantic",), "FCN with skips from strides 16 and 8 (Long et al., 2015)"),
        "fcn8s_at_once": System("fcn:fcn8s_at_once", ("semantic",), "FCN-8s trained in one go, with scaled skips"),
        "fcn_rgbd_early": System(
            "fcn_rgbd:fcn_rgbd_early", ("semantic",), "FCN whose first layer also reads depth (RGB-D, NYUDv2)"
        ),
        "fcn_rgbd_late": System(
            "fcn_rgbd:fcn_rgbd_late", ("semantic",), "Two FCNs, on colours and on HHA pictures of the depth, added"
        ),
        "fcn_two_heads": System(
            "fcn_two_heads:fcn_two_heads", ("semantic",), "FCN-16s that also says horizontal, vertical or sky"
        ),
        "fcn_resnet50": System("fcn_resnet:fcn_resnet50", ("semantic",), "FCN head on a dilated ResNet-50"),
        "fcn_resnet101": System("fcn_resnet:fcn_resnet101", ("semantic",), "FCN head on a dilated ResNet-101"),
        "htc": System(
            "htc:htc",
            ("detection", "instance"),
            "Boxes and masks refined in turns, and pixels beside them (Chen, 2019)",
        ),
        "integral_loss_rcnn": System(
            "cascade_rcnn:integral_loss_rcnn", ("detection",), "Faster R-CNN with judges of several strictnesses"
        ),
        "iterative_bbox": System(
            "cascade_rcnn:iterative_bbox", ("detection",), "Faster R-CNN that applies its second stage again and again"
        ),
        "keras_pyramid": System(
            "keras_pyramid:keras_pyramid", ("semantic",), "The lecture's tf.keras net: FCN on a feature pyramid"
        ),
        "keypoint_rcnn": System(
            "keypoint_rcnn:keypoint_rcnn", ("detection", "keypoints"), "Faster R-CNN and the points of each object"
        ),
        "mask_rcnn": System(
            "mask_rcnn:mask_rcnn", ("detection", "instance"), "Faster R-CNN and a mask for each box (He et al., 2017)"
        ),
        "mask_scoring_rcnn": System(
            "mask_scoring_rcnn:mask_scoring_rcnn",
            ("detection", "instance"),
            "Mask R-CNN that also scores the fit of its masks (Huang et al., 2019)",
        ),
        "panet": System("panet:panet", ("detection", "instance"), "Mask R-CNN with short ways through it (Liu, 2018)"),
        "point_rend": System(
            "point_rend:point_rend", ("detection", "instance"), "Mask R-CNN with boundaries drawn point by point"
        ),
        "point_rend_semantic": System(
            "point_rend:point_rend_semantic", ("semantic",), "PointRend for classes of pixels, on a feature pyramid"
        ),
        "rcnn": System("rcnn:rcnn", ("detection",), "Every region through a CNN of its own (Girshick et al., 2014)"),
        "pspnet": System("pspnet:pspnet", ("semantic",), "Pyramid pooling on a dilated backbone (Zhao et al., 2017)"),
        "sam_vit_b": System("sam:sam_vit_b", ("promptable",), "Masks for clicks, boxes and rough masks (SAM, 2023)"),
        "sam_vit_l": System("sam:sam_vit_l", ("promptable",), "SAM with an encoder three times as large"),
        "sam_vit_h": System("sam:sam_vit_h", ("promptable",), "SAM with its largest encoder"),
        "sam2": System("sam2:sam2", ("promptable", "video"), "Masks for prompts in images and videos, on any backbone"),
        "sam2_hiera_tiny": System(
            "sam2:sam2_hiera_tiny", ("promptable", "video"), "Prompts in images and videos (SAM 2, 2024)"
        ),
        "sam2_hiera_small": System("sam2:sam2_hiera_small", ("promptable", "video"), "SAM 2 with four blocks more"),
        "sam2_hiera_base_plus": System(
            "sam2:sam2_hiera_base_plus", ("promptable", "video"), "SAM 2 with an encoder twice as large"
        ),
        "sam2_hiera_large": System("sam2:sam2_hiera_large", ("promptable", "video"), "SAM 2 with its largest encoder"),
        "rotated_mask_rcnn": System(
            "rotated_mask_rcnn:rotated_mask_rcnn",
            ("detection", "instance"),
            "Mask R-CNN with boxes that turn with the objects",
        ),
        "rotated_mask_scoring_rcnn": System(
            "rotated_mask_scoring_rcnn:rotated_mask_scoring_rcnn",
            ("detection", "instance"),
            "Rotated Mask R-CNN that scores its masks",
        ),
        "seed_fcn": System("seed:seed_fcn", ("semantic",), "VGG-13 encoder, five learned upsamplings, additive skips"),
        "seed_fcns": System(
            "seed:seed_fcns", ("semantic",), "The same decoder on the VGG16 of the ImageNet classifier"
        ),
        "seed_unet": System("seed:seed_unet", ("semantic",), "The U-Net of the flood lecture"),
        "upernet": System("upernet:upernet", ("semantic",), "Pyramid pooling and a feature pyramid on Swin V1 or V2"),
        "unet": System("unet:unet", ("semantic",), "Encoder and decoder joined by skips (Ronneberger et al., 2015)"),
    }
)
TASKS = ("semantic", "detection", "instance", "keypoints", "promptable", "video")
START_ONLY = ("weights", "backbone_weights")  # options that say where training starts; a checkpoint has no use for them


def list_models(task: str | None = None) -> dict[str, tuple[str, ...]]:
    """Every system that `build` knows, with the tasks it serves; `task` keeps those that serve it."""
    if task is not None and task not in TASKS:
        raise unknown("task", task, TASKS)
    return {name: system.tasks for name, system in sorted(MODELS.items()) if task is None or task in system.tasks}


def builder(name: str) -> Callable[..., Any]:
    """The function that builds system `name`; its signature is the system's configuration."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    module, function = MODELS[name].where.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """What `build(name, ...)` takes besides `classes`, with defaults."""
    return inspect.signature(builder(name)).parameters


def build(name: str, **choices: Any) -> Any:
    """A model with fresh weights: `build("pspnet", backbone="resnet50", num_classes=21)`.

    Every system also takes `classes`, a `Classes` or a list of names, which decides `num_classes`. The model carries
    `.classes` and `.spec`, the name and the choices that build it again.
    """
    from masklet.structures import Classes

    make, accepted = builder(name), options(name)
    classes = choices.pop("classes", None)
    for choice in choices:
        if choice not in accepted:
            raise unknown(f"option of {name}", choice, ("classes", *accepted), "options")
    if classes is not None and not isinstance(classes, Classes):
        classes = Classes(tuple(classes))
    choices = {key: _plain(name, key, value) for key, value in choices.items()}
    count = _count(name, choices, classes, accepted)
    model = make(**choices, **({} if "num_classes" in choices else {"num_classes": count}))
    model.classes = Classes.default(count) if classes is None else classes
    kept = {key: value for key, value in choices.items() if key not in START_ONLY}
    model.spec = {"model": name, "options": {**kept, "num_classes": count}}
    return model


def unknown(what: str, given: str, accepted: Iterable[str], plural: str | None = None) -> Exception:
    """The error for a name that is in no table: it suggests the nearest and lists them all."""
    from masklet.structures.errors import UserError

    names = sorted(accepted)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {what} {given!r}", hint=f"{guess}{plural or what + 's'}: {', '.join(names)}")


def _count(name: str, choices: Mapping[str, Any], classes: Any, accepted: Mapping[str, inspect.Parameter]) -> int:
    from masklet.structures.errors import UserError

    count = choices.get("num_classes", accepted["num_classes"].default if classes is None else len(classes))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"num_classes of {name} is {count!r}", hint="give a whole number from 1 up")
    if classes is not None and count != len(classes):
        raise UserError(f"num_classes is {count} but {len(classes)} classes are named", hint="leave num_classes out")
    return count


def _plain(name: str, key: str, value: Any) -> Any:
    """Lists become tuples (JSON knows no tuples); what JSON cannot hold could not be saved with the weights."""
    if isinstance(value, list | tuple):
        return tuple(_plain(name, key, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(name, key, item) for k, item in value.items()}
    raise TypeError(f"option {key!r} of {name} is a {type(value).__name__}; give a number, a string or a list of them")
