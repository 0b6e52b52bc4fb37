from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from masklet.inference.tta import Looks, View, look, views
from masklet.structures.errors import UserError
from semantic_toys import Toy

pytestmark = pytest.mark.usefixtures("single_thread")


def by_hand(model, images, seen):
    """Every view predicted in full, resized, mirrored back, and averaged."""
    size, total = images.shape[-2:], 0
    for view in seen:
        height, width = max(1, round(size[0] * view.scale)), max(1, round(size[1] * view.scale))
        changed = images
        if (height, width) != tuple(size):
            changed = F.interpolate(images, (height, width), mode="bilinear", antialias=view.scale < 1)
        logits = model(changed.flip(-1) if view.flip else changed)
        logits = F.interpolate(logits, tuple(size), mode="bilinear")
        total = total + (logits.flip(-1) if view.flip else logits).softmax(1)
    return total / len(seen)


@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("padded", [0, 32])
@pytest.mark.parametrize(
    ("scales", "flip"), [((1.0,), True), ((0.5, 1.0, 1.5), False), ((0.75, 1.25), True), ((0.4,), False)]
)
def test_mean_of_probabilities_equals_the_mean_made_by_hand(stride, padded, scales, flip):
    model, seen = Toy(stride=stride, padded=padded).eval(), views(scales, flip)
    images = torch.rand(2, 3, 37, 51)
    found, expected = look(model, images, seen), by_hand(model, images, seen)
    torch.testing.assert_close(found.chances(), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found.chances(5, 23), expected[:, :, 5:23], atol=2e-6, rtol=1e-5)
    margin = expected.topk(2, 1).values.diff(dim=1).abs()[:, 0]
    assert ((found.labels() == expected.argmax(1)) | (margin < 1e-5)).all()


@torch.inference_mode()
def test_stripes_do_not_change_the_labels(monkeypatch):
    model, seen = Toy(stride=4).eval(), views((0.7, 1.0), True)
    found = look(model, torch.rand(1, 3, 61, 40), seen)
    whole = found.labels()
    monkeypatch.setattr("masklet.inference.tta.STRIPE", 40 * 3 * 7)  # seven rows at a time
    assert torch.equal(found.labels(), whole)
    assert whole.dtype == torch.uint8


@torch.inference_mode()
def test_one_plain_view_is_the_argmax_of_forward():
    model, images = Toy(stride=8, padded=32).eval(), torch.rand(2, 3, 45, 70)
    logits = model(images)
    margin = logits.topk(2, 1).values.diff(dim=1).abs()[:, 0]
    labels = look(model, images, views()).labels()
    assert labels.shape == (2, 45, 70)
    assert ((labels == logits.argmax(1)) | (margin < 1e-5)).all()


@torch.inference_mode()
@pytest.mark.parametrize("seen", [views(), views((0.5, 1.0), True)])
def test_barred_classes_are_never_chosen(seen):
    model = Toy(stride=4).eval()
    model.body[2].bias[1] += 10  # by itself it would be everywhere
    images = torch.rand(1, 3, 33, 33)
    assert (look(model, images, seen).labels() == 1).all()
    found = look(model, images, seen, barred=(1,))
    assert not (found.labels() == 1).any()
    assert found.chances()[:, 1].max() == 0
    torch.testing.assert_close(found.chances().sum(1), torch.ones(1, 33, 33))


def test_views_come_once_each():
    assert views((1.0, 0.5, 1.0), True) == (View(1.0), View(1.0, True), View(0.5), View(0.5, True))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2)])
@torch.inference_mode()
def test_tiny_pictures_survive_shrinking(size):
    found = look(Toy().eval(), torch.rand(1, 3, *size), views((0.25, 1.0), True))
    assert isinstance(found, Looks)
    assert found.labels().shape == (1, *size)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (9.0,), (float("nan"),)])
def test_bad_scales(scales):
    with pytest.raises(UserError, match=r"give numbers from above 0 to 8, such as 0\.75,1,1\.25"):
        views(scales)
