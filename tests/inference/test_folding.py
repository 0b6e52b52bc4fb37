from __future__ import annotations

import pytest
import torch
from torch import nn

import masklet
from masklet.inference.folding import folded
from masklet.structures import Classes
from semantic_toys import Brightness


def shaken(model):
    """Norms that are not the identity, as after training."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.2, 0.2)
    return model.eval()


def norms(model):
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pspnet", {"backbone": "resnet18", "aux_weight": 0.0}),
        ("unet", {"backbone": "efficientnet_lite0"}),
        ("unet", {"base": 8, "depth": 2}),
        ("fcn32s", {"backbone": "alexnet"}),
    ],
)
def test_the_same_scores_without_norms(name, options):
    model = shaken(masklet.build(name, num_classes=4, **options))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fast, images = folded(model), torch.rand(2, 3, 70, 83)
    assert norms(fast) == 0
    assert (fast is model) == (norms(model) == 0)
    with torch.inference_mode():
        expected = model.scores(images)
        torch.testing.assert_close(fast.scores(images), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert fast.classes == model.classes


class Odd(nn.Module):
    """A model whose norm cannot go into its convolution: `how` says why."""

    def __init__(self, how):
        super().__init__()
        self.how, self.classes = how, Classes.default(3)
        self.conv, self.norm = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3, track_running_stats=how != "no statistics"),
        )

    def scores(self, images):
        made = self.conv(images)
        if self.how == "used twice":
            return self.norm(made) + made
        if self.how == "called twice":
            return self.norm(self.conv(self.norm(made)))
        return self.norm(made.relu() if self.how == "something between" else made)


@pytest.mark.parametrize("how", ["used twice", "called twice", "something between", "no statistics"])
def test_doubtful_norms_stay(how):
    model = shaken(Odd("plain"))
    assert norms(folded(model)) == 0
    model = Odd(how)
    if how != "no statistics":
        shaken(model)
    assert folded(model) is model


def test_training_mode_survives_and_other_models_pass():
    model = shaken(masklet.build("unet", num_classes=2, base=8, depth=2)).train()
    assert not folded(model).training
    assert model.training
    plain = nn.Conv2d(3, 3, 1)
    assert folded(plain) is plain
    assert folded(without := Brightness()) is without
