"""A line in a diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Curve:
    """What a metric has to show besides numbers: precision over recall, J over time, IoU over clicks.

    `x` and `y` are equally long; NaN in `y` leaves a gap. `group` gathers the lines of one diagram.
    """

    name: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " m"]  # as many
    x_label: str = ""
    y_label: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if self.x.ndim != 1 or self.x.shape != self.y.shape:
            raise UserError(
                f"curve {self.name!r} has x of shape {self.x.shape} and y of shape {self.y.shape}",
                hint="give two lists of the same length",
            )
