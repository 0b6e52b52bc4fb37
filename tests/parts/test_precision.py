"""How pictures lie in memory before a model sees them."""

import torch
from torch import nn

from masklet.parts.precision import MANY_WEIGHTS, arranged, channels_last

LAST = torch.channels_last


def test_pictures_lie_as_pays():
    images = torch.rand(2, 3, 20, 30)
    small = nn.Conv2d(3, 8, 3)
    assert arranged(images, small).is_contiguous(memory_format=LAST)
    side = 1 + int((MANY_WEIGHTS * images[:, 0].numel() / 9) ** 0.5)
    large = nn.Conv2d(side, side, 3)
    assert arranged(images, large).is_contiguous()
    assert arranged(images.to(memory_format=LAST), large).is_contiguous()
    assert arranged(images.repeat(2, 1, 1, 1), large).is_contiguous(memory_format=LAST)
    assert arranged(images, channels_last(large)).is_contiguous(memory_format=LAST)
    assert torch.equal(arranged(images, small), images)


def test_models_without_convolutions():
    assert torch.equal(arranged(images := torch.rand(1, 3, 4, 5), nn.Linear(3, 3)), images)
    assert arranged(images, nn.Identity()).shape == images.shape
