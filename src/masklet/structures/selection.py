"""One way to index everything that holds one entry per object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from masklet.structures.errors import UserError

_HINT = "choose objects with a number, a slice, a list of numbers, or a tensor of numbers or bools"
Keep = int | slice | Sequence[int] | Sequence[bool] | Tensor | np.ndarray


def positions(keep: Keep, n: int) -> list[int]:
    """The objects that `keep` (number, slice, list, or tensor of numbers or bools) chooses out of `n`."""
    if isinstance(keep, slice):
        return list(range(n))[keep]
    try:
        chosen = torch.as_tensor(keep)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"cannot choose objects with {keep!r}", hint=_HINT) from None
    if chosen.numel() == 0 and chosen.ndim == 1 and (chosen.dtype != torch.bool or n == 0):
        return []
    if chosen.dtype.is_floating_point or chosen.dtype.is_complex or chosen.ndim > 1:
        raise UserError(f"cannot choose objects with a {chosen.dtype} of shape {tuple(chosen.shape)}", hint=_HINT)
    if chosen.dtype == torch.bool:
        if chosen.shape != (n,):
            raise UserError(f"a bool choice of {chosen.numel()} does not fit {n} objects", hint="give one bool each")
        return torch.nonzero(chosen)[:, 0].tolist()
    out = chosen.reshape(-1).tolist()
    if bad := [i for i in out if not -n <= i < n]:
        raise IndexError(f"object {bad[0]} does not exist; there are {n}")
    return [i % n for i in out]
