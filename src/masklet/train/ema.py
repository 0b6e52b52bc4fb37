"""A running average of a model's weights: it validates better than the last step, at the price of a copy."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Ema:
    """Exponential moving average of all floating parameters and buffers (the running statistics of norms too).

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that the first epochs do not remember the random
    start (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.decay, self.model = decay, deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards `model`; `step` counts optimizer steps from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([average[n] for n in floats], [current[n] for n in floats], 1 - decay)
        for name in average.keys() - set(floats):
            average[name].copy_(current[name])
