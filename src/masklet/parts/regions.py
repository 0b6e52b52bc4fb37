"""Regions that a detector may look at, found without learning: windows, segments, or boxes that somebody gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from masklet.parts.proposals import Proposals

Source = Callable[[Float[Tensor, "b 3 h w"]], Proposals]  # from RGB images in 0..1


@dataclass(frozen=True)
class Windows:
    """Boxes of a few sizes and shapes all over the image, each overlapping the next by a half.

    `shares` are the square root of their area over the shorter side of the image, `ratios` height / width.
    """

    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Proposals:
        height, width = images.shape[-2:]
        boxes = torch.cat([self._grid(height, width, s, r) for s in self.shares for r in self.ratios]).to(images)
        return Proposals(boxes.expand(len(images), -1, -1), boxes.new_zeros(len(images), len(boxes)))

    @staticmethod
    def _grid(height: int, width: int, share: float, ratio: float) -> Float[Tensor, "n 4"]:
        """Windows of one size, the outermost at the borders."""
        side = share * min(height, width)
        h, w = min(side * ratio**0.5, height), min(side / ratio**0.5, width)
        down, right = round(2 * height / h) - 1, round(2 * width / w) - 1
        y, x = torch.linspace(0, height - h, down), torch.linspace(0, width - w, right)
        y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
        return torch.stack([x, y, x + w, y + h], 1)


@dataclass(frozen=True)
class Segments:
    """Boxes around segments of one colour, and around what they grow into when the most alike join, round by round.

    In every round each segment joins the neighbour whose mean colour is nearest (after Borůvka), until one is left;
    every segment of every round is a proposal, larger ones first. Selective search joins one pair at a time and looks
    at texture too (Uijlings et al., 2013); the idea is the same. Images shrink to `side` pixels first.
    """

    side: int = 96
    least: float = 0.002  # share of the image that a proposal covers at least
    count: int = 2000

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Proposals:
        found = [self._boxes(image) for image in images]
        places = max(map(len, found))
        boxes = torch.stack([F.pad(box, (0, 0, 0, places - len(box))) for box in found]).to(images)
        used = torch.arange(places) < torch.tensor([[len(box)] for box in found])
        return Proposals(boxes, torch.zeros(used.shape).masked_fill(~used, -torch.inf).to(images))

    def _boxes(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "n 4"]:
        factor = min(1.0, self.side / max(image.shape[-2:]))
        size = [max(1, round(n * factor)) for n in image.shape[-2:]]
        small = F.interpolate(image[None].float().cpu(), size, mode="bilinear", antialias=True)[0]
        height, width = size
        color = small.flatten(1).T.double().numpy()
        number = np.arange(height * width).reshape(height, width)
        pairs = np.concatenate(
            [
                np.stack([number[:, :-1], number[:, 1:]], -1).reshape(-1, 2),
                np.stack([number[:-1], number[1:]], -1).reshape(-1, 2),
            ]
        )
        y, x = (axis.ravel() for axis in np.divmod(number, width))
        label, found = number.ravel(), []
        while True:
            area = np.bincount(label)
            means = np.stack([np.bincount(label, channel) for channel in color.T], 1) / area[:, None]
            found.append(_around(label, len(area), x, y)[area >= self.least * height * width])
            if len(area) == 1:
                break
            label = _joined(label, means, label[pairs])
        scale = np.array([image.shape[2] / width, image.shape[1] / height] * 2)
        boxes = np.concatenate(found[::-1])
        _, first = np.unique(boxes, axis=0, return_index=True)
        return torch.from_numpy(boxes[np.sort(first)][: self.count] * scale).float()


def _around(
    label: Int[np.ndarray, " p"], count: int, x: Int[np.ndarray, " p"], y: Int[np.ndarray, " p"]
) -> Float[np.ndarray, "s 4"]:
    """The box around each segment."""
    low, high = np.full((count, 2), len(label)), np.zeros((count, 2), int)
    for axis, values in enumerate((x, y)):
        np.minimum.at(low[:, axis], label, values)
        np.maximum.at(high[:, axis], label, values + 1)
    return np.concatenate([low, high], 1).astype(np.float64)


def _joined(
    label: Int[np.ndarray, " p"], means: Float[np.ndarray, "s c"], edges: Int[np.ndarray, "e 2"]
) -> Int[np.ndarray, " p"]:
    """The segments after each has joined the neighbour that it is most like."""
    edges = edges[edges[:, 0] != edges[:, 1]]
    apart = np.square(means[edges[:, 0]] - means[edges[:, 1]]).sum(1)
    both, twice = np.concatenate([edges, edges[:, ::-1]]), np.concatenate([apart, apart])
    order = np.lexsort((both[:, 1], twice, both[:, 0]))  # by segment, then by distance
    _, first = np.unique(both[order, 0], return_index=True)
    own, other = both[order[first]].T
    graph = sparse.coo_matrix((np.ones(len(own)), (own, other)), (len(means), len(means)))
    return sparse.csgraph.connected_components(graph, directed=False)[1][label]


@dataclass(frozen=True)
class Given:
    """The same boxes for every image, in pixels of one of `size` (height, width)."""

    boxes: Float[Tensor, "n 4"]
    size: tuple[int, int]

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Proposals:
        height, width = self.size
        scale = torch.tensor([images.shape[3] / width, images.shape[2] / height] * 2)
        boxes = (self.boxes * scale.to(self.boxes)).to(images)
        return Proposals(boxes.expand(len(images), -1, -1), boxes.new_zeros(len(images), len(boxes)))


SOURCES: Mapping[str, Callable[[], Source]] = MappingProxyType({"windows": Windows, "segments": Segments})


def as_given(boxes: Sequence[Float[Tensor, "_ 4"]], like: Tensor) -> Proposals:
    """Boxes of every image of a batch as proposals."""
    places = max(len(own) for own in boxes)
    padded = torch.stack([F.pad(own.to(like), (0, 0, 0, places - len(own))) for own in boxes])
    used = torch.arange(places, device=like.device) < torch.tensor([[len(own)] for own in boxes], device=like.device)
    return Proposals(padded, torch.zeros_like(padded[..., 0]).masked_fill(~used, -torch.inf))
