"""What flows between floors: results, labels and samples as frozen dataclasses that check themselves at the door.

Conventions, said once:

- Images: RGB, float32 in [0, 1] or uint8, (3, H, W); batches are (B, 3, H, W). Models normalise themselves.
- Boxes: x0 y0 x1 y1, float pixels, continuous coordinates, ends exclusive. Points: x y.
- Masks: bool (N, H, W) when dense; kept as run lengths (`Masks`), compatible with COCO.
- Labels: class indices from 0 to len(classes) - 1; 255 (`Classes.ignore`) belongs to no class. The numbers a data set
  has on disk are `Classes.ids` and end inside `data/`.
- Panoptic: int64 id map (H, W) plus segments; id 0 is void.
- Video: a clip is a run of frames (T, 3, H, W) with masks (K, T, H, W) of K objects; a masklet is one object's masks
  over time, frame number -> run lengths.
- Alpha: float32 in [0, 1], (1, H, W).
- Sizes are (height, width). Every result is in the coordinates of the image that came in.
"""

from __future__ import annotations

from masklet.structures.classes import Classes
from masklet.structures.clip import Clip
from masklet.structures.curve import Curve
from masklet.structures.errors import UserError
from masklet.structures.instances import Instances
from masklet.structures.masklets import Masklets
from masklet.structures.masks import Masks
from masklet.structures.matte import Matte
from masklet.structures.objects import Objects
from masklet.structures.panoptic import Panoptic, Segment
from masklet.structures.prompt import Prompt
from masklet.structures.sample import Sample
from masklet.structures.semantic import SemanticMap

__all__ = [
    "Classes",
    "Clip",
    "Curve",
    "Instances",
    "Masklets",
    "Masks",
    "Matte",
    "Objects",
    "Panoptic",
    "Prompt",
    "Sample",
    "Segment",
    "SemanticMap",
    "UserError",
]
