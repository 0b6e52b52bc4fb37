"""Our two-stage systems against torchvision's, live, with the same random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import masklet
from masklet.ops.roi import roi_align
from masklet.parts.anchors import ratio_major
from masklet.parts.sampling import RandomSampler
from masklet.structures import Classes, Instances, Masks
from masklet.weights import ORIGINS
from masklet.weights.remap import remap
from rcnn_peers import CLASSES, as_their_targets, torchvision_rcnn

NAMES = ("faster_rcnn", "keypoint_rcnn", "mask_rcnn")
TV_LOSSES = {
    "rpn_class": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "keypoint": "loss_keypoint",
}


def photo(height: int = 70, width: int = 93, *, seed: int = 1) -> Tensor:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def truth(height: int, width: int, count: int, seed: int = 0) -> Instances:
    """Ellipses."""
    random = torch.Generator().manual_seed(seed)
    middle, radius = torch.rand(count, 2, generator=random), 0.12 + 0.3 * torch.rand(count, 2, generator=random)
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    grid = torch.stack([y, x], -1)
    dense = ((grid - middle[:, None, None]) / radius[:, None, None]).square().sum(-1) < 1
    labels = torch.randint(0, CLASSES, (count,), generator=random)
    found = Instances.from_masks(Masks.from_dense(dense), labels, Classes.default(CLASSES))
    low, high = found.boxes[:, None, :2], found.boxes[:, None, 2:]
    points = low + (high - low) * (1.4 * torch.rand(count, 5, 2, generator=random) - 0.2)  # some are outside
    visible = torch.randint(0, 3, (count, 5, 1), generator=random)
    return replace(found, keypoints=torch.cat([points, visible], -1))


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    theirs = torchvision_rcnn(request.param)
    ours = masklet.load(
        request.param, weights=theirs.state_dict(), short_side=96, long_side=160, threshold=0.0, max_objects=30
    )
    return request.param, ours, theirs


def compared(ours, theirs, image: Tensor, shown: Tensor | None = None) -> dict[str, float]:
    """Largest differences of the detections of one image, each compared with the one of ours that is most like it.

    Not in order: neighbours change places where their scores differ in the last digits. `masks` is the number of
    pixels that differ over the number of pixels of the masks.
    """
    with torch.inference_mode():
        want, found = theirs([image])[0], ours.predict(image if shown is None else shown)
    assert len(found) == len(want["scores"]) == 30
    apart = (found.boxes - want["boxes"][:, None]).abs().amax(-1)  # theirs, ours
    apart = apart + 1e6 * (found.labels != want["labels"][:, None] - 1)
    which = (apart + 1e3 * (found.scores - want["scores"][:, None]).abs()).argmin(1)
    out = {
        "boxes": float(apart[torch.arange(30), which].max()),
        "scores": float((found.scores[which] - want["scores"]).abs().max()),
        "twice": 30.0 - len(which.unique()),
    }
    if "masks" in want:
        true = want["masks"][:, 0] >= 0.5
        out["masks"] = float((found.masks[which].dense() != true).sum() / true.sum())
    if "keypoints" in want:
        out["keypoints"] = float((found.keypoints[which] - want["keypoints"])[..., :2].abs().amax(-1).median())
    return out


LIMITS = {"boxes": 0.02, "scores": 1e-4, "twice": 0.0, "masks": 0.001, "keypoints": 0.02}


def agrees(differences: dict[str, float]) -> bool:
    return all(value <= LIMITS[name] for name, value in differences.items())


@pytest.mark.parametrize("size", [(70, 93), (160, 61), (96, 128)])
def test_the_same_objects_are_found(pair, size):
    _, ours, theirs = pair
    differences = compared(ours, theirs, photo(*size))
    assert agrees(differences), differences


def test_another_convention_finds_others(pair, monkeypatch):
    name, ours, theirs = pair
    image = photo()
    for pool in (ours.box, *[getattr(ours, kind) for kind in ("mask", "keypoint") if name.startswith(kind)]):
        with monkeypatch.context() as patch:
            patch.setattr(pool, "pool", replace(pool.pool, pool=partial(roi_align, samples=2)))
            assert not agrees(compared(ours, theirs, image))
    with monkeypatch.context() as patch:
        patch.setattr(ours.rpn, "anchors", replace(ours.rpn.anchors, cells=ratio_major))
        assert not agrees(compared(ours, theirs, image))
    assert not agrees(compared(ours, theirs, image, image.flip(0)))  # BGR
    weight = ours.box.predictor.classes.weight
    with torch.no_grad():
        weight.copy_(weight.roll(1, 0))
        assert not agrees(compared(ours, theirs, image))
        weight.copy_(weight.roll(-1, 0))
    assert agrees(compared(ours, theirs, image))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_losses_and_gradients(name):
    """All anchors and proposals are sampled, so that chance has no part in it."""
    theirs = torchvision_rcnn(name, short=96, long=128, everything=True).train()
    ours = masklet.load(name, weights=theirs.state_dict()).train()
    ours.rpn.sampler, ours.box.sampler = RandomSampler(10**6, 0.5), RandomSampler(10**6, 0.25)
    images = torch.stack([photo(96, 128, seed=seed) for seed in (1, 2)])
    targets = [truth(96, 128, 4), truth(96, 128, 1, seed=3)]
    want = theirs(list(images), as_their_targets(targets))
    found = ours.loss(images, targets)
    assert {TV_LOSSES[key] for key in found} == want.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, want[TV_LOSSES[key]], rtol=1e-4, atol=1e-7)
    sum(found.values()).backward()
    sum(want.values()).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    layout = ORIGINS["torchvision"].find(gradients, name)
    expected, _ = remap(gradients, layout.rules)
    mine = {name: p.grad for name, p in ours.named_parameters()}
    assert mine.keys() == expected.keys()
    for key, value in mine.items():
        scale = expected[key].abs().max().clamp(min=1e-4)  # a bias before a softmax has none but rounding
        assert ((value - expected[key]).abs().max() / scale) < 1e-3, key
