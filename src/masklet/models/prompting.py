"""What promptable models share: an image looked at once, prompts in its pixels, and masks back at its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.parts.prompts import BOTTOM_RIGHT, PADDING, TOP_LEFT
from masklet.structures import Prompt
from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder has made of b images of one size: enough to answer any number of prompts.

    `skips` are finer maps for the mask decoder, where it takes some, `positions` the vectors of the cells. The network saw the image resized to `covered`
    in the top left corner of an input of `input_size`; `size` is the image's own. All are height and width in pixels.
    """

    features: Float[Tensor, "b c h w"]
    skips: tuple[Tensor, ...]
    positions: Float[Tensor, "c h w"]
    size: tuple[int, int]
    covered: tuple[int, int]
    input_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: Tensor | slice) -> Embedding:
        """Some of the images; an index tensor may repeat them."""
        return replace(self, features=self.features[which], skips=tuple(skip[which] for skip in self.skips))

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input for one pixel of the image, along x and y."""
        return self.covered[1] / self.size[1], self.covered[0] / self.size[0]

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the grid that masks are predicted on, four times as fine as the features."""
        return 4 * self.features.shape[2], 4 * self.features.shape[3]


@dataclass(frozen=True, eq=False)
class Queries:
    """n prompts as numbers in pixels of the network's input: p points each, padded with the label -1.

    Corners of a box are points too (2 top left, 3 bottom right). `masks` are logits of rough masks on the grid that
    masks are predicted on.
    """

    points: Float[Tensor, "n p 2"]
    labels: Int64[Tensor, "n p"]
    masks: Float[Tensor, "n 1 h4 w4"] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def counts(self) -> Int64[Tensor, " n"]:
        """How many points each prompt has; a box has two."""
        return (self.labels != PADDING).sum(1)

    @classmethod
    def of(cls, prompts: Sequence[Prompt], embedding: Embedding) -> Queries:
        """Points and the first box of each prompt, the box before the points as the published models expect it."""
        parts = [_points(prompt) for prompt in prompts]
        most = max((len(labels) for _, labels in parts), default=0)
        points = torch.stack([F.pad(points, (0, 0, 0, most - len(points))) for points, _ in parts])
        labels = torch.stack([F.pad(labels, (0, most - len(labels)), value=PADDING) for _, labels in parts])
        device = embedding.features.device
        return cls(points.to(device) * points.new_tensor(embedding.scale).to(device), labels.to(device))

    @classmethod
    def nothing(cls, count: int, device: torch.device | str | None = None) -> Queries:
        """No prompt for `count` objects."""
        points = torch.zeros(count, 0, 2, device=device)
        return cls(points, torch.zeros(count, 0, dtype=torch.int64, device=device))


def _points(prompt: Prompt) -> tuple[Float[Tensor, "p 2"], Int64[Tensor, " p"]]:
    points, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    if prompt.points is not None and prompt.point_labels is not None:
        points, labels = prompt.points.float().cpu(), prompt.point_labels.cpu()
    if prompt.boxes is not None and len(prompt.boxes):
        if len(prompt.boxes) > 1:
            raise UserError(f"{len(prompt.boxes)} boxes in one prompt", hint="one box for an object, several prompts")
        corners = prompt.boxes[0].view(2, 2).float().cpu()
        points, labels = torch.cat([corners, points]), torch.cat([torch.tensor([TOP_LEFT, BOTTOM_RIGHT]), labels])
    return points, labels


def enlarged(logits: Float[Tensor, "n m h w"], embedding: Embedding) -> Float[Tensor, "n m hi wi"]:
    """Logits of masks at the size of the image."""
    if embedding.covered != embedding.input_size:  # padding goes first, at the resolution of the input
        logits = F.interpolate(logits, embedding.input_size, mode="bilinear")
        logits = logits[..., : embedding.covered[0], : embedding.covered[1]]
    return F.interpolate(logits, embedding.size, mode="bilinear")
