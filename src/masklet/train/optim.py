"""Optimizers with the parameter groups that segmentation papers use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from masklet.models import unknown
from masklet.structures.errors import UserError

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
)


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters sorted into groups of equal learning rate and weight decay.

    `factors` maps a regular expression to a factor on the learning rate (the first that matches the start of a
    parameter's name wins; 0 freezes). Vectors, that is norms and biases, are not decayed: pulling a scale towards
    zero regularises nothing (He et al. 2019, "Bag of tricks", sec. 3.1).
    """
    factors = dict(factors or {})
    unused = set(factors)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        pattern = next((p for p in factors if re.match(p, name)), None)
        unused.discard(pattern or "")
        factor = 1.0 if pattern is None else factors[pattern]
        if factor == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault(
            (factor, decay), {"params": [], "lr": lr * factor, "initial_lr": lr * factor, "weight_decay": decay}
        )
        group["params"].append(parameter)
    if unused:
        some = ", ".join(n for n, _ in list(model.named_parameters())[:3])
        raise UserError(f"no parameter matches the lr factor {sorted(unused)[0]!r}", hint=f"names look like {some}")
    if not groups:
        raise UserError("no parameter is left to train", hint="an lr factor of 0 freezes what it matches")
    return list(groups.values())


def build_optimizer(
    name: str,
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer called `name` over all trainable parameters; `momentum` is SGD's, Adam keeps its betas."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    extra = {"momentum": momentum} if name == "sgd" else {}
    return OPTIMIZERS[name](parameter_groups(model, lr, weight_decay, factors), lr=lr, fused=True, **extra)
