"""Parts of masks that hang together, and the small ones among them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from scipy import ndimage
from torch import Tensor

__all__ = ["components", "smoothed_over"]

EIGHT = np.ones((3, 3), bool)


def components(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "h w"], Int64[np.ndarray, " k"]]:
    """The number of the part that each pixel belongs to (0: none), and how many pixels each has.

    Pixels that touch at a corner are connected.
    """
    parts, count = ndimage.label(mask, EIGHT)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)


def smoothed_over(
    logits: Float[Tensor, "n h w"], fill_hole_area: int = 0, max_sprinkle_area: int = 0, by: float = 0.1
) -> Float[Tensor, "n h w"]:
    """Logits of masks whose holes of at most so many pixels are filled, and whose specks of at most so many are gone.

    What was a hole gets the logit 0.1, what was a speck -0.1, as in SAM 2's video predictor.
    """
    if not fill_hole_area and not max_sprinkle_area:
        return logits
    out = logits.clone()
    for one in out:
        for area, sign in ((fill_hole_area, 1), (max_sprinkle_area, -1)):
            if area:
                where = (one <= 0 if sign > 0 else one > 0).cpu().numpy()
                parts, sizes = components(where)
                small = sizes <= area
                small[0] = False
                if small.any():
                    one[torch.from_numpy(small[parts]).to(one.device)] = sign * by
    return out
