"""FCN-ResNet against torchvision's own, with the same random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import masklet
from masklet.models import build
from masklet.parts.heads import JoinedFCNHead
from masklet.structures.errors import UserError
from masklet.weights import recognise
from masklet.weights.way_back import named_as


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


@pytest.mark.parametrize(
    ("name", "count", "tensors"), [("fcn_resnet50", 49_497_734, 358), ("fcn_resnet101", 68_489_862, 664)]
)
def test_mmsegmentations_layout(name, count, tensors):
    """Its published number of parameters and of tensors, its names, there and back."""
    with torch.device("meta"):
        model = build(name, num_classes=19, layout="mmseg", aux_weight=0.4)
        theirs = named_as(model, "openmmlab")
        assert len(theirs) == tensors
        assert sum(p.numel() for p in model.parameters()) == count
        assert {"backbone.stem.0.weight", "decode_head.conv_cat.bn.bias", "auxiliary_head.convs.0.conv.weight"} <= {
            *theirs
        }
        assert recognise(theirs)[0] == "openmmlab"
        again = masklet.load(name, weights=theirs)
        assert again.spec == model.spec
        other = "fcn_resnet101" if name == "fcn_resnet50" else "fcn_resnet50"
        with pytest.raises(UserError, match=f"the state dict holds weights of openmmlab for {name}, not for {other}"):
            masklet.load(other, weights=theirs)
        del theirs["decode_head.conv_cat.conv.weight"]
        with pytest.raises((UserError, KeyError)):
            masklet.load(name, weights=theirs, num_classes=19)


def test_the_head_joins_its_input_first():
    """cat([x, convs(x)]), as mmsegmentation's FCNHead; the other order is another head."""
    head = randomise(JoinedFCNHead(6, 4, 3)).eval()
    x = torch.rand(2, 6, 9, 11)
    layer = lambda part, x: F.relu(  # noqa: E731
        F.batch_norm(
            F.conv2d(x, part[0].weight, padding=1),
            *(getattr(part[1], n) for n in ("running_mean", "running_var", "weight", "bias")),
        )
    )
    with torch.inference_mode():
        found = layer(head.second, layer(head.first, x))
        want, wrong = (
            F.conv2d(layer(head.join, torch.cat(maps, 1)), head.classifier.weight, head.classifier.bias)
            for maps in ([x, found], [found, x])
        )
        torch.testing.assert_close(head(x), want)
        assert (wrong - want).abs().max() > 0.1 * want.std()


def test_unknown_layout():
    with pytest.raises(UserError, match="fcn_resnet50 has no layout 'mmsge'; choose from torchvision, mmseg"):
        build("fcn_resnet50", layout="mmsge")
