"""Fine-tuning with few parameters: beside each chosen weight a product of two thin matrices (LoRA, Hu et al., 2022).

adapt(model, {r"encoder\\.": 8}, trained=r"decoder\\.")   # all else is frozen
...                                                     # train; checkpoints hold plain weights (`plain_state`)
merge(model)                                            # the same outputs, and the layers as they were
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from masklet.structures.errors import UserError

__all__ = ["LowRank", "adapt", "merge", "plain_state"]

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
INSIDE = re.compile(r"(?:(.*)\.)?parametrizations\.weight\.(original|0\..*)")


class LowRank(nn.Module):
    """A weight and what was learned beside it: W + U D, with U zero at the start. Kernels count as rows of a matrix.

    The paper's factor alpha / rank is 1: with Adam it is a learning rate in disguise (sec. 4.1).
    """

    def __init__(self, weight: Shaped[Tensor, "*shape"], rank: int) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        with torch.autocast(weight.device.type, enabled=False):  # what is merged later must be what was trained
            return weight + (self.up @ self.down).view(weight.shape)


def adapt(model: nn.Module, ranks: Mapping[str, int], trained: str | None = None) -> list[str]:
    """Freezes a model and puts trainable low-rank terms beside the weights of some layers, whose names it gives.

    `ranks` maps regular expressions to ranks: the first that matches the start of a layer's name wins, 0 leaves the
    layer alone. Layers are Linear and convolutions. Parameters whose names start with `trained` (a regular expression)
    are trained themselves: norms, new heads, whole parts. The model must have its weights already.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    unused, chosen = set(ranks), dict[str, int]()
    for name, layer in layers.items():
        pattern = next((p for p in ranks if re.match(p, name)), None)
        unused.discard(pattern or "")
        if pattern is not None and ranks[pattern]:
            if parametrize.is_parametrized(layer):
                raise UserError(f"{name} has a low-rank term already", hint="merge(model) first")
            chosen[name] = ranks[pattern]
    if unused:
        some = ", ".join([*layers][:3])
        raise UserError(f"no layer matches {sorted(unused)[0]!r}", hint=f"names look like {some}")
    if negative := sorted(p for p, rank in ranks.items() if rank < 0):
        raise UserError(f"the rank of {negative[0]!r} is {ranks[negative[0]]}", hint="give 1 or more, or 0 for none")
    if trained is not None and not any(re.match(trained, name) for name, _ in model.named_parameters()):
        some = ", ".join(name for name, _ in [*model.named_parameters()][:3])
        raise UserError(f"no parameter matches {trained!r}", hint=f"names look like {some}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is not None and re.match(trained, name) is not None)
    for name, rank in chosen.items():
        weight: Tensor = layers[name].weight
        parametrize.register_parametrization(layers[name], "weight", LowRank(weight, rank))
    return [*chosen]


def merge(model: nn.Module) -> nn.Module:
    """The model itself with its low-rank terms added to the weights, for export and for speed."""
    for _, layer in [*_adapted(model)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that a model has after `merge`; the model stays as it is."""
    weights = {name: layer.weight for name, layer in _adapted(model)}
    out: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        found = INSIDE.fullmatch(key)
        name = found[1] or "" if found else ""
        if found is None or name not in weights:
            out[key] = value
        elif found[2] == "original":
            out[f"{name}.weight" if name else "weight"] = weights[name].detach()
    return out


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        terms: Any = getattr(layer, "parametrizations", {})
        if "weight" in terms and isinstance(terms["weight"][0], LowRank):
            yield name, layer
