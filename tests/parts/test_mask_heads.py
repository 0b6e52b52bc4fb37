"""The switches of Mask R-CNN's table 2: classes that compete for cells, fully connected masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from masklet.models import build
from masklet.parts.box_heads import Sampled
from masklet.parts.mask_heads import MaskBranch, MLPMaskHead, SoftmaxMaskBranch
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError


class Fixed(nn.Module):
    """A head that always gives the same maps."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.Parameter(maps)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps[: len(x)]


def reader(pyramid: dict[str, Tensor], rois: Tensor) -> Tensor:
    return torch.zeros(len(rois), 1, 2, 2)


def boxes(*labels: int, num_classes: int = 2) -> Sampled:
    rois = torch.tensor([[0.0, 0, 0, 4, 4]]).expand(len(labels), -1)
    first, kinds = torch.zeros(len(labels), dtype=torch.int64), torch.tensor(labels, dtype=torch.int64)
    return Sampled(rois, kinds, rois[:, 1:], first, num_classes)


LEFT = Masks.from_dense(torch.arange(4).expand(1, 4, 4) < 2)  # the left half of the box


def test_cells_are_of_the_class_of_the_box_or_of_background():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, :, 0] = 2.0  # class 1 on the left
    logits[0, 2, 0, 1] = 3.0  # background at the top right
    branch = SoftmaxMaskBranch(reader, Fixed(logits))
    total = lambda *x: math.log(sum(map(math.exp, x)))  # noqa: E731
    left, top, low = total(0, 2, 0) - 2, total(0, 0, 3) - 3, total(0, 0, 0)
    loss = branch.loss({}, boxes(1), [LEFT])["mask"]
    assert loss.item() == pytest.approx((2 * left + top + low) / 4)
    loss.backward()
    assert (branch.head.maps.grad[0, 0] > 0).all()  # the other class is pushed down too
    probs = branch({}, boxes(1).rois, torch.tensor([1])).detach()
    torch.testing.assert_close(probs[0, :, 0], torch.full((2,), math.exp(2) / (math.exp(2) + 2)))
    assert probs[0, 0, 1] < 0.5
    nothing = branch.loss({}, boxes(), [LEFT])["mask"]
    assert nothing.item() == 0


def test_without_competition_only_the_map_of_the_class_learns():
    branch = MaskBranch(reader, Fixed(torch.zeros(2, 2, 2, 2)))
    branch.loss({}, boxes(1, 0), [LEFT])["mask"].backward()
    learned = branch.head.maps.grad.abs().flatten(2).sum(2)
    assert learned[0, 0] == learned[1, 1] == 0
    assert learned[0, 1] > 0
    assert learned[1, 0] > 0


def test_masks_without_classes_can_compete_with_background():
    branch = SoftmaxMaskBranch(reader, Fixed(torch.zeros(2, 2, 2, 2)))
    assert branch.loss({}, boxes(1, 0), [LEFT])["mask"].item() == pytest.approx(math.log(2))
    assert branch({}, boxes(1, 0).rois, torch.tensor([1, 0])).shape == (2, 2, 2)


@pytest.mark.parametrize("depth", [2, 3])
def test_fully_connected_masks_have_the_papers_size(depth):
    """1024-1024-80x28² and 1024-1024-1024-80x28²."""
    with torch.device("meta"):
        head = MLPMaskHead(256, 80, depth=depth)
    want = (256 * 14**2 + 1) * 1024 + (depth - 1) * 1025 * 1024 + 1025 * 80 * 28**2
    assert sum(p.numel() for p in head.parameters()) == want
    small = MLPMaskHead(3, 2, size=4, hidden=8, depth=depth)
    assert small(torch.rand(5, 3, 4, 4)).shape == (5, 2, 8, 8)
    assert small(torch.rand(0, 3, 4, 4)).shape == (0, 2, 8, 8)


@pytest.mark.parametrize(
    "options",
    [
        {"competing": True, "levels": "c4", "mask_head": "mlp2"},
        {"competing": True, "class_agnostic": True, "mask_head": "mlp3"},
    ],
)
def test_every_switch_trains_and_predicts(options):
    torch.manual_seed(0)
    classes = Classes(("a", "b"))
    net = build(
        "mask_rcnn", backbone="resnet18", classes=classes, channels=8, hidden=8, short_side=0, threshold=0.0, **options
    )
    target = Instances.from_masks(Masks.from_dense(torch.ones(1, 40, 30).bool()), torch.tensor([1]), classes)
    losses = net.train().loss(torch.rand(2, 3, 40, 48), [target, Instances.empty((40, 48), classes)])
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.predict(torch.rand(3, 20, 24)).masks.size == (20, 24)


def test_a_head_that_is_not_there():
    with pytest.raises(UserError) as caught:
        build("mask_rcnn", mask_head="mlp")
    assert str(caught.value) == "unknown mask_head 'mlp'; did you mean 'mlp3'? mask_heads: fcn, mlp2, mlp3"
