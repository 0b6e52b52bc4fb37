"""What every model in the table promises; a new model adds a line to the table, and here only if its default is big."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

import masklet
from masklet.models import MODELS, build, fcn
from masklet.models.base import channels
from masklet.models.prompting import Queries
from masklet.structures import Classes, Instances, Masks, Prompt, SemanticMap
from masklet.weights import save_checkpoint

SMALL: dict[str, dict[str, Any]] = {  # cheaper choices of the same code, where the default would take seconds
    "deeplabv3": {"backbone": "resnet18"},
    "deeplabv3plus": {"backbone": "resnet18", "multi_grid": (1, 2)},
    "fcn32s": {"backbone": "alexnet"},
    "fcn16s": {"backbone": "vgg11"},
    "fcn8s": {"backbone": "vgg11"},
    "fcn8s_at_once": {"backbone": "vgg11"},
    "fcn_resnet101": {"aux_weight": 0.0},
    "fcn_rgbd_early": {"backbone": "vgg11", "stride": 8},
    "fcn_rgbd_late": {"backbone": "alexnet"},
    "fcn_two_heads": {"backbone": "vgg11", "geometry_of": (0, 1, 2)},
    "point_rend_semantic": {"backbone": "resnet18", "channels": 32, "coarse_channels": 64, "point_channels": 16},
    "pspnet": {"backbone": "resnet18", "channels": 64},
    "deconvnet": {"side": 32, "hidden": 64},
    "keras_pyramid": {"blocks": 1, "pyramid_filters": 32, "filters": 32},
    "unet": {"base": 8},
    "upernet": {"channels": 32, "aux_channels": 16},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # options that make another graph
    "unet valid": ("unet", {"base": 4, "padding": "valid", "norm": None, "in_channels": 1}),
    "unet lite": ("unet", {"backbone": "efficientnet_lite0", "bins": (1, 2), "aux_weight": 0.4}),
    "deeplabv3plus lite": (
        "deeplabv3plus",
        {"backbone": "mobilenet_v3_small", "separable": True, "layout": "mmseg", "window": (64, 64), "aux_weight": 0.4},
    ),
    "upernet v2": (
        "upernet",
        {"backbone": "swin_v2_t", "channels": 32, "window": 4, "norms": False, "aux_weight": 0.0},
    ),
    "pspnet lite": ("pspnet", {"backbone": "efficientnet_lite0", "channels": 32, "layout": "plain"}),
}
TINY = {"backbone": "resnet18", "channels": 16, "hidden": 16, "short_side": 64, "threshold": 0.0}
DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "faster_rcnn": ("faster_rcnn", TINY),
    "keypoint_rcnn": ("keypoint_rcnn", TINY | {"num_keypoints": 2, "keypoint_channels": 8}),
    "cascade_rcnn": ("cascade_rcnn", TINY),
    "cascade_mask_rcnn": ("cascade_mask_rcnn", TINY | {"mask_channels": 8}),
    "htc": ("htc", TINY | {"mask_channels": 8, "stuff_classes": 4}),
    "integral_loss_rcnn": ("integral_loss_rcnn", TINY | {"overlaps": (0.5, 0.6)}),
    "iterative_bbox": ("iterative_bbox", TINY | {"times": 2}),
    "mask_rcnn": ("mask_rcnn", TINY | {"mask_channels": 8}),
    "fast_rcnn": (
        "fast_rcnn",
        {"backbone": "vgg11", "hidden": 16, "short_side": 64, "threshold": 0.0, "ranks": (8, 4)},
    ),
    "rcnn": (
        "rcnn",
        {"backbone": "mobilenet_v3_small", "side": 32, "context": 2, "cells": 1, "hidden": 8}
        | {"threshold": 0.0, "proposals": "windows"},
    ),
    "mask_rcnn c4": ("mask_rcnn", TINY | {"levels": "c4", "mask_channels": 8}),
    "faster_rcnn dc5": ("faster_rcnn", TINY | {"levels": "dc5", "pool": "pool"}),
    "rotated_mask_rcnn": (
        "rotated_mask_rcnn",
        TINY | {"ratios": (1.0,), "angles": (-45.0,), "mask_channels": 8},
    ),
    "rotated_mask_scoring_rcnn": (
        "rotated_mask_scoring_rcnn",
        TINY | {"ratios": (1.0,), "angles": (-45.0,), "mask_channels": 8, "iou_hidden": 8},
    ),
    "mask_rcnn torchvision": ("mask_rcnn", TINY | {"style": "torchvision", "norm": "batch", "mask_channels": 8}),
    "mask_rcnn detectron2": (
        "mask_rcnn",
        TINY | {"style": "detectron2", "backbone": "efficientnet_lite0", "class_agnostic": True, "mask_channels": 8},
    ),
    "mask_scoring_rcnn": ("mask_scoring_rcnn", TINY | {"mask_channels": 8, "iou_hidden": 8}),
    "panet": ("panet", TINY | {"channels": 64, "mask_channels": 8}),
    "point_rend": (
        "point_rend",
        TINY | {"coarse_hidden": 16, "point_channels": 8, "train_points": 20, "asked_points": 50, "steps": 3},
    ),
}
TINY_SAM = {
    **{"side": 64, "channels": 16, "decoder_heads": 4, "decoder_hidden": 16, "iou_hidden": 8, "mask_channels": 4},
    **{"width": 16, "depth": 2, "heads": 2, "window": 3, "whole": (1,)},
}
TINY_SAM2 = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}
REMEMBERS = (
    "attention.",
    "writer.",
    "bank.",
    "pointer.",
    "absence.",
    "shrink.",
    "no_memory_position",
    "decoder.object",
)
PROMPTABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "sam2": ("sam2", TINY_SAM2 | {"backbone": "resnet18"}),
    **{
        name: (name, TINY_SAM2 if name == "sam2_hiera_tiny" else TINY_SAM2 | {"decoder_depth": 1, "masks": 1})
        for name in ("sam2_hiera_tiny", "sam2_hiera_small", "sam2_hiera_base_plus", "sam2_hiera_large")
    },
    "sam_vit_b": ("sam_vit_b", TINY_SAM),
    "sam_vit_l": ("sam_vit_l", TINY_SAM | {"depth": 1, "decoder_depth": 1}),
    "sam_vit_h": ("sam_vit_h", TINY_SAM | {"depth": 1, "decoder_depth": 1, "whole": ()}),
    "sam resnet": ("sam_vit_b", TINY_SAM | {"backbone": "resnet18"}),
    "sam plain": ("sam_vit_b", TINY_SAM | {"relative": False, "masks": 1, "side": 32}),
}
SEMANTIC = sorted(name for name, system in MODELS.items() if "semantic" in system.tasks)
CASES = {name: (name, SMALL.get(name, {})) for name in SEMANTIC} | VARIANTS


@pytest.fixture(scope="module")
def narrow():
    """FCNs with 64 instead of 4096 units in what was fully connected: 120 million weights fewer, the same code."""
    bodies = {n: replace(b, channels=64) if b.channels == fcn.HIDDEN else b for n, b in fcn.BODIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcn, "BODIES", MappingProxyType(bodies))
        patch.setattr(fcn, "HIDDEN", 64)
        yield


@pytest.fixture(scope="module", params=CASES)
def net(request, narrow):
    """The model of a case, with three classes; pytest runs all tests of one case before it makes the next."""
    name, options = CASES[request.param]
    torch.manual_seed(0)
    made: Any = build(name, classes=Classes(("sky", "land", "sea")), **options)
    for module in made.modules():  # scores that start at zero would make everything below true of nothing
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.01)
    return made.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_any_size_comes_back(net):
    with torch.inference_mode():
        for size in ((1, 1), (33, 57), (64, 96)):
            logits = net(images(1, channels(net), *size))
            assert logits.shape == (1, 3, *size)
            assert logits.isfinite().all()


def test_images_of_a_batch_do_not_meet(net):
    batch = images(3, channels(net), 32, 48)
    with torch.inference_mode():
        together = net(batch)
        scale = together.std().clamp(min=1e-6)
        assert ((net(batch.flip(0)).flip(0) - together).abs().max() / scale) < 1e-4
        assert ((net(batch[1:2]) - together[1:2]).abs().max() / scale) < 1e-4


def test_loss_is_finite_and_reaches_every_parameter(net):
    net.train()
    targets = torch.randint(0, 3, (2, 33, 40))
    targets[:, :4] = net.classes.ignore
    try:
        losses = net.loss(images(2, channels(net), 33, 40), targets)
        assert all(value.isfinite() and value.ndim == 0 for value in losses.values())
        sum(losses.values()).backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        nothing = net.loss(images(2, channels(net), 33, 40), torch.full_like(targets, net.classes.ignore))
        assert all(value == 0 for value in nothing.values())
    finally:
        net.eval().zero_grad(set_to_none=True)


def test_predict_speaks_image_coordinates(net):
    photo: Any = images(37, 50, 3).mul(255).byte().numpy()
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    if channels(net) > 3:  # a depth map has no place in a picture of bytes
        pixels = images(1, channels(net), 37, 50)
        photo = pixels[0]
    result = net.predict(photo)
    assert isinstance(result, SemanticMap)
    assert result.size == (37, 50)
    assert result.classes == net.classes
    assert result.labels.dtype == torch.uint8
    both = net.predict([photo, photo[:9] if channels(net) == 3 else photo[:, :9]])
    assert [r.size for r in both] == [(37, 50), (9, 50)]
    with torch.inference_mode():
        logits = net(pixels)[0]
    best = logits.topk(2, 0).values
    clear = best[0] - best[1] > 1e-4 * logits.std()
    assert torch.equal(result.labels[clear].long(), logits.argmax(0)[clear])
    assert not net.training


@pytest.fixture
def unchecked():
    """Shapes are not checked while a graph is traced: it has symbols for numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_exports(net):
    x = images(1, channels(net), 40, 56)
    with torch.no_grad():
        program = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(program(x), net(x))


def test_checkpoint_builds_it_again(net, tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", net)
    again = masklet.load(path)
    assert again.spec == net.spec
    assert again.classes == net.classes
    with torch.inference_mode():
        x = images(1, channels(net), 33, 40)
        assert torch.equal(again(x), net(x))


def test_every_model_has_a_case():
    assert {name for name, _ in (*CASES.values(), *DETECTORS.values(), *PROMPTABLE.values())} == set(MODELS)


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    name, options = DETECTORS[request.param]
    torch.manual_seed(0)
    return build(name, classes=Classes(("disc", "square", "star")), **options).eval()


def objects(height: int, width: int, count: int, classes: Classes) -> Instances:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    dense = torch.stack([(y >= 3 * i) & (y < 3 * i + 14) & (x >= 5 * i) & (x < 5 * i + 12) for i in range(count)])
    found = Instances.from_masks(Masks.from_dense(dense), torch.arange(count) % len(classes), classes)
    middle = found.boxes.view(-1, 2, 2).mean(1, keepdim=True).expand(-1, 2, -1)
    return replace(found, keypoints=torch.cat([middle, torch.ones(count, 2, 1)], -1))


def test_detections_of_any_size(detector):
    with torch.inference_mode():
        for b, height, width in ((1, 1, 1), (3, 33, 57)):
            found = detector(images(b, 3, height, width))
            assert found["boxes"].shape == (b, found["scores"].shape[1], 4)
            assert all(value.isfinite().all() and value.shape[:2] == found["labels"].shape for value in found.values())
            assert found["boxes"].amin() >= 0
            assert found["boxes"][..., 2].amax() <= width
            assert found["boxes"][..., 3].amax() <= height
            assert (found["scores"].diff(dim=1) <= 0).all()


def test_detections_of_a_batch_do_not_meet(detector):
    batch = images(3, 3, 32, 48)
    with torch.inference_mode():
        together, alone = detector(batch), detector(batch[1:2])
    for name, value in alone.items():
        if value.is_floating_point():
            torch.testing.assert_close(value[0, :5], together[name][1, :5], rtol=1e-3, atol=1e-3)


def test_losses_of_objects_and_of_none(detector):
    detector.train()
    classes = detector.classes
    try:
        batch, none = images(3, 3, 40, 50), Instances.empty((40, 50), classes)
        losses = detector.loss(batch, [objects(40, 50, 3, classes), none, objects(33, 47, 1, classes)])
        assert all(value.isfinite() and value.ndim == 0 for value in losses.values())
        sum(losses.values()).backward()
        wrong = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert wrong == []
        detector.zero_grad(set_to_none=True)
        empty = detector.loss(batch[:1], [none])
        assert empty.keys() == losses.keys()
        sum(empty.values()).backward()
        assert all(value.isfinite() for value in empty.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
        places = {name for name in empty if name.startswith(("rpn_box", "box", "mask", "keypoint", "point"))}
        assert all(float(empty[name].detach()) == 0 for name in places)
    finally:
        detector.eval().zero_grad(set_to_none=True)


def test_objects_come_in_image_coordinates(detector):
    photo = images(37, 50, 3).mul(255).byte().numpy()
    found = detector.predict(photo)
    assert isinstance(found, Instances)
    assert found.size == (37, 50)
    assert 0 < len(found) <= 100
    assert found.classes == detector.classes
    assert (found.masks is not None) == ("instance" in MODELS[detector.spec["model"]].tasks)
    assert (found.keypoints is not None) == ("keypoints" in MODELS[detector.spec["model"]].tasks)
    both = detector.predict([photo, photo[:9]])
    assert [one.size for one in both] == [(37, 50), (9, 50)]
    torch.testing.assert_close(both[0].boxes, found.boxes)
    assert not detector.training


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's nms
def test_detectors_export(detector):
    x, other = images(2, 3, 40, 56), images(2, 3, 40, 56).flip(0) / 2
    with torch.no_grad():
        program = torch.export.export(detector, (x,)).module()
        for batch in (x, other, torch.zeros_like(x)):
            want, found = detector(batch), program(batch)
            assert found.keys() == want.keys()
            for name, value in want.items():
                torch.testing.assert_close(found[name], value)


def test_checkpoint_builds_the_detector_again(detector, tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", detector)
    again = masklet.load(path)
    assert again.spec == detector.spec
    with torch.inference_mode():
        x = images(1, 3, 33, 40)
        want, found = detector(x), again(x)
        assert all(torch.equal(want[name], found[name]) for name in want)


@pytest.fixture(scope="module", params=PROMPTABLE)
def promptable(request):
    name, options = PROMPTABLE[request.param]
    torch.manual_seed(0)
    return build(name, **options).eval()


def clicks(count: int, height: int, width: int) -> Tensor:
    places = torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(2))
    return places * torch.tensor([width, height])


def test_clicks_on_any_size(promptable):
    with torch.inference_mode():
        for b, height, width in ((1, 1, 1), (3, 33, 57)):
            found = promptable(images(b, 3, height, width), clicks(b, height, width).expand(-1, 4, -1, -1))
            assert found["logits"].shape == (b, 4, found["ious"].shape[2], height, width)
            assert all(value.isfinite().all() for value in found.values())


def test_clicks_of_a_batch_do_not_meet(promptable):
    batch, points = images(3, 3, 32, 48), clicks(3, 32, 48)
    with torch.inference_mode():
        together, alone = promptable(batch, points), promptable(batch[1:2], points[1:2])
    for name, value in alone.items():
        torch.testing.assert_close(value[0], together[name][1], rtol=1e-3, atol=1e-3)


def test_an_embedding_answers_as_predict_does(promptable):
    photo = images(37, 50, 3).mul(255).byte().numpy()
    prompts = [Prompt(torch.tensor([[20.0, 10.0]])), Prompt(boxes=torch.tensor([[3.0, 4.0, 40.0, 30.0]]))]
    found = promptable.predict(photo, prompts)
    assert isinstance(found, Instances)
    assert (len(found), found.size, found.classes) == (2, (37, 50), promptable.classes)
    with torch.inference_mode():
        embedding = promptable.embed(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
        answers = promptable.prompt(embedding, prompts)
    assert (answers.dense() != found.masks.dense()).float().mean() < 1e-3
    torch.testing.assert_close(answers.score, found.scores)
    assert not promptable.training


def test_a_click_reaches_every_parameter(promptable):
    points, labels = clicks(2, 40, 40).expand(-1, -1, 2, -1), torch.tensor([[[1, 0]], [[2, 3]]])
    rough = torch.randn(2, 1, *promptable.embed(images(1, 3, 40, 40)).mask_size)
    try:
        promptable.train()
        embedding = promptable.embed(images(2, 3, 40, 40))
        scale = points.new_tensor(embedding.scale)
        total = torch.zeros(())
        for masks in (None, rough):
            queries = Queries(points[:, 0] * scale, labels[:, 0], masks)
            for asked in (queries, Queries(queries.points[:, :1], labels[:, 0, :1].clamp(max=1), masks)):
                decoded = promptable.answer(embedding, asked)
                total = total + promptable.masks(embedding, decoded).square().mean() + decoded.ious.square().mean()
        total.backward()
        wrong = [n for n, p in promptable.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert [name for name in wrong if not name.startswith(REMEMBERS)] == []  # those learn from videos
    finally:
        promptable.eval().zero_grad(set_to_none=True)


@pytest.mark.usefixtures("unchecked")
def test_promptables_export(promptable):
    x, points = images(2, 3, 40, 56), clicks(2, 40, 56)
    labels = torch.ones(2, 1, 1, dtype=torch.int64)
    with torch.no_grad():
        program = torch.export.export(promptable, (x, points, labels)).module()
        for where, what in ((points, labels), (points / 2, 0 * labels)):
            want, found = promptable(x, where, what), program(x, where, what)
            for name, value in want.items():
                torch.testing.assert_close(found[name], value)


def test_checkpoint_builds_the_promptable_again(promptable, tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", promptable)
    again = masklet.load(path)
    assert again.spec == promptable.spec
    with torch.inference_mode():
        x = images(1, 3, 33, 40)
        want, found = promptable(x), again(x)
        assert all(torch.equal(want[name], found[name]) for name in want)
