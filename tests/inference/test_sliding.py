"""Patch by patch equals all at once, where nothing is padded inside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from masklet.inference.sliding import SlidingWindow
from masklet.parts.dense import convolutionize, receptive_field
from masklet.structures import Classes
from masklet.structures.errors import UserError


@pytest.fixture
def classifier() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 1), nn.Conv2d(8, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 3 * 3, 10), nn.ReLU(), nn.Linear(10, 4)),
    ).eval()


def test_equals_the_dense_net(classifier):
    dense = convolutionize(classifier, size=9)
    assert receptive_field(dense, size=32) == (9, 1)
    image = torch.rand(2, 3, 20, 17)
    with torch.no_grad():
        slid, at_once = SlidingWindow(classifier, patch=9, batch=50).answers(image), dense(image)
    assert slid.shape == at_once.shape == (2, 4, 12, 9)
    assert torch.allclose(slid, at_once, atol=1e-6)


def test_a_class_for_every_pixel(classifier):
    image = torch.rand(1, 3, 13, 11)
    with torch.no_grad():
        every = SlidingWindow(classifier, patch=9)(image)
        assert torch.allclose(every, convolutionize(classifier, 9)(F.pad(image, (4, 4, 4, 4), "reflect")), atol=1e-6)
        sparse = SlidingWindow(classifier, patch=9, stride=3)(image)
    assert every.shape == sparse.shape == (1, 4, 13, 11)
    assert torch.allclose(sparse[..., 3, 6], every[..., 3, 6], atol=1e-6)
    assert torch.equal(sparse[..., 3:6, 6:9], sparse[..., 3:4, 6:7].expand(-1, -1, 3, 3))


def test_shared_work_is_what_convolution_saves(classifier):
    """Multiplications counted: sliding does them again for every patch."""
    counted = {"sliding": 0, "dense": 0}

    def count(kind):
        def hook(layer, _, out):
            counted[kind] += out.numel() * layer.weight[0].numel() if hasattr(layer, "weight") else 0

        return hook

    for kind, net in (("sliding", classifier), ("dense", convolutionize(classifier, 9))):
        for layer in net:
            layer.register_forward_hook(count(kind))
        with torch.no_grad():
            (SlidingWindow(net, 9).answers if kind == "sliding" else net)(torch.rand(1, 3, 40, 40))
    assert counted["sliding"] > 10 * counted["dense"]


def test_predicts_like_a_model(classifier):
    model = SlidingWindow(classifier, patch=9, classes=Classes(("sky", "road", "car", "tree")))
    result = model.predict(torch.rand(3, 12, 14))
    assert result.size == (12, 14)
    assert len(model.predict([torch.rand(3, 9, 9), torch.rand(3, 2, 1)])) == 2


def test_refuses(classifier):
    with pytest.raises(UserError, match=r"image \(8, 20\) is smaller than the patch of 9"):
        SlidingWindow(classifier, 9).answers(torch.rand(1, 3, 8, 20))
    with pytest.raises(UserError, match="patch 0, stride 1, batch 256; all three must be at least 1"):
        SlidingWindow(classifier, 0)
    with pytest.raises(UserError, match="this classifier has no class names; pass classes= to SlidingWindow"):
        SlidingWindow(classifier, 9).predict(torch.rand(3, 9, 9))
