"""FCN-ResNet against torchvision's own, with the same random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import masklet
from masklet.models import build


def randomise(model: nn.Module) -> nn.Module:
    """Statistics that matter: with those of a fresh batch norm, half of its mistakes would not show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Torchvision's model, and ours loaded from its file."""
    path = tmp_path_factory.mktemp("fcn") / "fcn_resnet50_coco.pth"
    theirs = randomise(torchvision.models.segmentation.fcn_resnet50(weights_backbone=None, aux_loss=True)).eval()
    torch.save(theirs.state_dict(), path)
    return theirs, masklet.load("fcn_resnet50", weights=path)


def test_parameters(pair):
    assert sum(p.numel() for p in pair[1].parameters()) == 35_322_218
    with torch.device("meta"):
        assert sum(p.numel() for p in build("fcn_resnet101").parameters()) == 54_314_346
        assert build("fcn_resnet50", aux_weight=0.0).aux_head is None


@pytest.mark.parametrize("size", [(65, 97), (33, 30)])
def test_logits_are_torchvisions(pair, size):
    theirs, ours = pair
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        want = theirs(ours.normalize(x))
        got = ours(x)
        aux = F.interpolate(ours.aux_head(ours.backbone(ours.normalize(x))["c4"]), size, mode="bilinear")
        # What must not pass: colours in another order, corners aligned.
        assert (ours(x.flip(1)) - want["out"]).abs().max() / want["out"].std() > 0.1
        ours.align_corners = True
        assert (ours(x) - want["out"]).abs().max() / want["out"].std() > 0.01
        ours.align_corners = False
    assert (got - want["out"]).abs().max() / want["out"].std() < 1e-5
    assert (aux - want["aux"]).abs().max() / want["aux"].std() < 1e-5


def test_loss_is_torchvisions(pair):
    theirs, ours = pair
    x, targets = torch.rand(1, 3, 49, 65), torch.randint(0, 21, (1, 49, 65))
    targets[:, :5] = 255
    with torch.inference_mode():
        out, losses = theirs(ours.normalize(x)), ours.loss(x, targets)
    assert losses["main"].item() == pytest.approx(F.cross_entropy(out["out"], targets, ignore_index=255).item())
    assert losses["aux"].item() == pytest.approx(0.5 * F.cross_entropy(out["aux"], targets, ignore_index=255).item())
