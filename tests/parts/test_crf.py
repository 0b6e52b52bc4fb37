"""The dense CRF against sums over all pairs of pixels, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from masklet.ops.permutohedral import lattice
from masklet.parts.crf import DenseCRF
from masklet.structures.errors import UserError


def gaussian(features: Tensor) -> Tensor:
    """exp(-d^2 / 2) of every pair."""
    return torch.exp(-torch.cdist(features, features).square() / 2)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_filter_is_gaussian(dimensions):
    """Against the full sum: the ratio to a filter of ones is right to some percent; a box filter is not."""
    points = torch.rand(600, dimensions, generator=torch.Generator().manual_seed(0)) * 4
    values = torch.rand(600, 3, generator=torch.Generator().manual_seed(1)) + points[:, :1]
    grid = lattice(points)
    torch.testing.assert_close(grid.weights.sum(1), torch.ones(600), rtol=0, atol=1e-4)
    assert grid.weights.min() > -1e-4
    kernel = gaussian(points)
    want = kernel @ values / kernel.sum(1, keepdim=True)
    got = grid.filter(values) / grid.filter(torch.ones(600, 1))
    spread = (want - values.mean(0)).std()
    assert (got - want).square().mean().sqrt() / spread < 0.12
    box = (torch.cdist(points, points) < 1).float()
    assert (values.mean(0) - want).square().mean().sqrt() / spread > 0.9
    assert (box @ values / box.sum(1, keepdim=True) - want).square().mean().sqrt() / spread > 0.12


def test_filter_is_symmetric():
    """<a, K b> = <K a, b> but for the order in which the axes are blurred."""
    points = torch.rand(300, 5) * 3
    grid, a, b = lattice(points), torch.rand(300, 1), torch.rand(300, 1)
    assert (a * grid.filter(b)).sum().item() == pytest.approx((b * grid.filter(a)).sum().item(), rel=0.01)


def by_pairs(crf: DenseCRF, image: Tensor, probs: Tensor) -> Tensor:
    """Mean field with the full matrices of both kernels."""
    height, width = probs.shape[1:]
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
    colour = image.flatten(1).T * 255
    smooth = gaussian(place / crf.smooth_pixels)
    alike = gaussian(torch.cat([place / crf.colour_pixels, colour / crf.colour_steps], 1))
    kernels = []
    for weight, kernel in ((crf.smooth_weight, smooth), (crf.colour_weight, alike)):
        root = kernel.sum(1).rsqrt()
        kernels.append(weight * root[:, None] * kernel * root)
    unary = probs.flatten(1).T.log()
    q = unary.softmax(1)
    for _ in range(crf.steps):
        q = (unary + sum(kernel @ q for kernel in kernels)).softmax(1)
    return q.T.view_as(probs)


def scene(side: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """A bright disc with a little noise, and a blurred, doubtful opinion of a net about it, some pixels aside."""
    g = torch.Generator().manual_seed(0)
    axis = torch.arange(side) + 0.5 - side / 2
    distance = torch.hypot(axis[:, None], axis[None])
    truth = (distance < side / 3).long()
    image = (0.3 + 0.4 * truth)[None].repeat(3, 1, 1) + 0.01 * torch.randn(3, side, side, generator=g)
    aside = torch.hypot(axis[:, None] - side / 10, axis[None])
    score = (side / 3 - aside) / 6 + 0.7 * torch.randn(side, side, generator=g)
    inside = score.sigmoid() * 0.9 + 0.05
    return image.clamp(0, 1), torch.stack([1 - inside, inside]), truth


@pytest.mark.parametrize("options", [{}, {"colour_weight": 0.0}, {"colour_pixels": 20.0, "smooth_weight": 1.0}])
@pytest.mark.parametrize("steps", [1, 10])
def test_mean_field_is_that_of_all_pairs(options, steps):
    image, probs, _ = scene()
    crf = DenseCRF(**options, steps=steps)
    got, want = crf(image[None], probs[None])[0], by_pairs(crf, image, probs)
    torch.testing.assert_close(got.sum(0), torch.ones(32, 32))
    off = (got - want).abs().mean()
    assert off < 0.01
    assert ((got > 0.5) == (want > 0.5)).float().mean() > 0.99
    # What must not pass: a field that says nothing, colours that do not count, twice the smoothing.
    assert (probs - want).abs().mean() > 10 * off
    if crf.colour_weight:
        crf.colour_steps = 500.0
        assert (crf(image[None], probs[None])[0] - want).abs().mean() > 3 * off
    else:
        crf.smooth_pixels *= 2
        assert (crf(image[None], probs[None])[0] - want).abs().mean() > 3 * off


def test_edges_come_back():
    image, probs, truth = scene(48)
    wrong = lambda p: ((p[1] > 0.5).long() != truth).float().mean().item()  # noqa: E731
    refined = DenseCRF()(image[None], probs[None])[0]
    assert wrong(probs) > 0.15
    assert wrong(refined) < 0.01
    assert torch.equal(DenseCRF(steps=0)(image[None], probs[None])[0] > 0.5, probs > 0.5)


def test_bad_input():
    with pytest.raises(UserError, match=r"the deviations are 3.0, 0.0 and 5.0, steps 10; deviations are above 0"):
        DenseCRF(colour_pixels=0.0)
    with pytest.raises(ValueError, match="are too many to number; use larger standard deviations"):
        lattice(torch.rand(10, 5) * 1e5)
