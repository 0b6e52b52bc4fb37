"""Losses against hand values, torch's own, and recorded references; all-ignored targets stay finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

import oracle
from conftest import shared
from masklet.parts.losses import border_weights, cross_entropy, dice, focal, mask_dice, ohem_cross_entropy
from masklet.structures.errors import UserError

PIXEL_LOSSES = (cross_entropy, dice, focal, ohem_cross_entropy)


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Five classes over a small batch, a fifth of the pixels ignored, class 4 absent."""
    logits, target = torch.randn(2, 5, 6, 7), torch.randint(0, 4, (2, 6, 7))
    target[torch.rand(target.shape) < 0.2] = 255
    return logits, target


def two_pixels(p: float, q: float) -> Tensor:
    """Logits of two classes on a 1x2 image whose class 0 has probabilities p and q."""
    return torch.tensor([[p, q], [1 - p, 1 - q]]).log().view(1, 2, 1, 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(case: tuple[Tensor, Tensor], smoothing: float, weighted: bool) -> None:
    logits, target = case
    weight = torch.rand(5) + 0.5 if weighted else None
    want = F.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, target, weight=weight, smoothing=smoothing), want)
    torch.testing.assert_close(cross_entropy(logits, target.to(torch.uint8), weight=weight, smoothing=smoothing), want)
    total = F.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=smoothing, reduction="sum")
    got = cross_entropy(logits, target, weight=weight, smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(got, total)


def test_cross_entropy_by_hand() -> None:
    target = torch.tensor([[[0, 1]]])
    assert cross_entropy(two_pixels(0.5, 0.75), target).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    doubled = cross_entropy(two_pixels(0.5, 0.75), target, pixel_weight=torch.tensor([[[1.0, 3.0]]]))
    assert doubled.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 2)
    with pytest.raises(UserError, match="reduction is 'none'; choose mean or sum"):
        cross_entropy(two_pixels(0.5, 0.5), target, reduction="none")


def test_recorded_cross_entropy() -> None:
    folder = shared("oracles", "ops_losses")
    recorded = np.load(folder / "outputs.npz")
    logits, labels = (torch.from_numpy(recorded[f"ce.{name}"]) for name in ("logits", "labels"))
    oracle.check("ce.mean", cross_entropy(logits, labels), folder)


def test_focal_by_hand_and_without_modulation(case: tuple[Tensor, Tensor]) -> None:
    got = focal(two_pixels(0.5, 0.75), torch.tensor([[[0, 1]]]), gamma=2.0)
    assert got.item() == pytest.approx((0.25 * math.log(2) + 0.5625 * math.log(4)) / 2)
    weight = torch.rand(5) + 0.5
    torch.testing.assert_close(focal(*case, gamma=0.0, weight=weight), cross_entropy(*case, weight=weight))
    certain = torch.tensor([[[100.0]], [[-100.0]]]).view(1, 2, 1, 1).requires_grad_()
    focal(certain, torch.zeros(1, 1, 1, dtype=torch.long), gamma=0.5).backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_dice_by_hand() -> None:
    # class 0: overlap .5, areas .5 + .75 and 1; class 1: overlap .25, areas .5 + .25 and 1
    got = dice(two_pixels(0.5, 0.75), torch.tensor([[[0, 1]]]), smooth=0.0)
    assert got.item() == pytest.approx(1 - (2 * 0.5 / 2.25 + 2 * 0.25 / 1.75) / 2)
    # An ignored pixel counts nowhere, and a class that the truth lacks is left out.
    got = dice(two_pixels(0.5, 0.75), torch.tensor([[[0, 255]]]), smooth=0.0)
    assert got.item() == pytest.approx(1 - 2 * 0.5 / 1.5)
    sure = torch.full((1, 3, 2, 2), -50.0)
    sure[:, 1] = 50.0
    assert dice(sure, torch.ones(1, 2, 2, dtype=torch.long)).item() == pytest.approx(0, abs=1e-6)


def test_mask_dice_by_hand_and_recorded() -> None:
    logits, target = torch.tensor([[2.0, -2.0, 0.5, -1.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert 3 * mask_dice(logits, target).item() == pytest.approx(0.2263, abs=5e-5)
    folder = shared("oracles", "ops_losses")
    recorded = np.load(folder / "outputs.npz")
    logits, target = (torch.from_numpy(recorded[f"dice.{name}"]).float() for name in ("logits", "targets"))
    oracle.check("mmdet.dice", 3 * mask_dice(logits, target), folder)
    oracle.check("mmdet.dice_naive", mask_dice(logits, target, squared=False), folder)


def test_ohem_keeps_what_is_hard(case: tuple[Tensor, Tensor]) -> None:
    target = torch.tensor([[[0, 0]]])
    logits = two_pixels(0.5, 0.9)
    assert ohem_cross_entropy(logits, target, 0.7, 0).item() == pytest.approx(math.log(2))
    assert ohem_cross_entropy(logits, target, 0.7, 2).item() == pytest.approx((math.log(2) - math.log(0.9)) / 2)
    assert ohem_cross_entropy(logits, target, 0.4, 1).item() == pytest.approx(math.log(2))
    assert ohem_cross_entropy(logits, target, 0.4, 0).item() == 0
    # Against a full sort.
    logits, target = case
    each = F.cross_entropy(logits, target, ignore_index=255, reduction="none")[target != 255].sort(descending=True)[0]
    for kept in (3, 10, 10_000):
        many = max(min(2 * kept, len(each)), int((each > -math.log(0.1)).sum()))
        torch.testing.assert_close(ohem_cross_entropy(logits, target, 0.1, kept), each[:many].mean())
    logits.requires_grad_()
    ohem_cross_entropy(logits, target, 0.1, 3).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).sum() == max(6, int((each > -math.log(0.1)).sum()))


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=lambda f: f.__name__)
def test_all_ignored_is_zero_with_a_gradient(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), 255))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=lambda f: f.__name__)
def test_ignored_pixels_do_not_matter(loss: Callable[..., Tensor], case: tuple[Tensor, Tensor]) -> None:
    logits, target = case
    other = logits + 10 * torch.randn_like(logits) * (target == 255)[:, None]
    torch.testing.assert_close(loss(other, target), loss(logits, target))
    assert not torch.allclose(loss(logits.flip(1), target), loss(logits, target)), "the labelled ones must matter"


def test_only_unweighted_classes_give_zero() -> None:
    logits = torch.randn(1, 2, 2, 2)
    assert cross_entropy(logits, torch.zeros(1, 2, 2, dtype=torch.long), weight=torch.tensor([0.0, 1.0])) == 0


def test_border_weights_by_hand() -> None:
    ids = torch.zeros(1, 7, dtype=torch.long)
    ids[0, 0], ids[0, 4] = 7, 3
    got = border_weights(ids, w0=10.0, sigma=2.0)[0]
    between, after = 1 + 10 * math.exp(-(4**2) / 8), [1 + 10 * math.exp(-((2 * i + 4) ** 2) / 8) for i in (1, 2)]
    torch.testing.assert_close(got, torch.tensor([1, between, between, between, 1, *after]))


@pytest.mark.parametrize("background", [True, False])
def test_border_weights_against_whole_distance_maps(background: bool) -> None:
    seeds = np.zeros((60, 80))
    rows, columns = np.random.default_rng(0).integers(0, (60, 80), (9, 2)).T
    seeds[rows, columns] = 1
    distance, nearest = ndimage.distance_transform_edt(1 - seeds, return_indices=True)
    ids = nearest[0] * 80 + nearest[1] + 1
    if background:
        ids[distance > 6] = 0
    far = np.sort([ndimage.distance_transform_edt(ids != i) for i in np.unique(ids) if i], axis=0)
    want = np.where(ids == 0, 1 + 10 * np.exp(-((far[0] + far[1]) ** 2) / 50), 1)
    np.testing.assert_allclose(border_weights(torch.from_numpy(ids)), want, atol=1e-5)
    assert (want.max() > 2) == background


@pytest.mark.parametrize("objects", [0, 1])
def test_border_weights_need_two_objects(objects: int) -> None:
    ids = torch.zeros(5, 6, dtype=torch.uint8)
    ids[1:3, 1:3] = objects
    assert (border_weights(ids) == 1).all()
