"""What somebody said of an object, drawn on the photograph: clicks on it and beside it, and a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from masklet.viz.overlay import as_picture

__all__ = ["with_prompts"]

ON, OFF, BOX, RIM = (0, 158, 115), (213, 94, 0), (240, 228, 66), (255, 255, 255)


def with_prompts(
    image: Any,
    points: Sequence[tuple[int | float, int | float]] = (),
    labels: Sequence[int] = (),
    box: Sequence[int | float] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the picture with a green dot for each click on the object, a red one for "not this", a yellow box.

    `points` are x, y in pixels; `labels` are 1 or 0, all 1 where they are left out.
    """
    picture = Image.fromarray(as_picture(image).copy())
    draw = ImageDraw.Draw(picture)
    radius = max(2, round(min(picture.size) / 55))
    if box is not None:
        draw.rectangle([box[0], box[1], box[2] - 1, box[3] - 1], outline=BOX, width=max(1, radius // 2))
    for i, (x, y) in enumerate(points):
        color = OFF if labels and not labels[i] else ON
        draw.ellipse([x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1], fill=RIM)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
    return np.array(picture)
