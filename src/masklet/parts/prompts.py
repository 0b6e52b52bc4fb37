"""What a person points at, as vectors: clicks and corners of boxes, and rough masks (SAM, Kirillov et al., 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.parts.norm import LayerNorm2d

WIDER = 3  # times as wide is the second spot of a click
PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # what a point is


class FourierPositions(nn.Module):
    """Sines and cosines of random frequencies (Tancik et al., 2020): a vector for any place in a picture.

    `scale` is the standard deviation of the frequencies; they are drawn once and never trained.
    """

    frequencies: Tensor

    def __init__(self, channels: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(2, channels // 2))

    def forward(self, places: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape c"]:
        """Vectors of places (x y), 0..1 over the picture."""
        x, y = (2 * places - 1).unsqueeze(-1).unbind(-2)
        angle = 2 * math.pi * (x * self.frequencies[0] + y * self.frequencies[1])  # no product of matrices: it might
        # run in bfloat16, which knows an angle to a few degrees
        return torch.cat([angle.sin(), angle.cos()], -1)

    def grid(self, height: int, width: int) -> Float[Tensor, "c h w"]:
        """Vectors of the centres of the cells of a map."""
        device = self.frequencies.device
        x, y = ((torch.arange(n, device=device, dtype=self.frequencies.dtype) + 0.5) / n for n in (width, height))
        places = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)
        return self(places).permute(2, 0, 1).contiguous()


class PromptEncoder(nn.Module):
    """Points become one vector each, rough masks a map that is added to the image.

    A vector says where the point is and what it is: not this (0), this (1), the top left (2) or the bottom right (3)
    corner of a box. Points with the label -1 are padding: they say that nothing is there, which the published models
    were trained to see.

    With `drawn` above 0 prompts are also drawn where they are, beside the rough mask: clicks on the object, clicks
    beside it (spots of `drawn` cells' radius) and the inside of the box. A convolution sees at once what is near, which
    attention has to learn (as the click maps of Xu et al., 2016; a small model that sees little data gains most).
    """

    def __init__(self, channels: int = 256, mask_channels: int = 16, scale: float = 1.0, drawn: float = 0.0) -> None:
        super().__init__()
        self.drawn = drawn
        self.positions = FourierPositions(channels, scale)
        self.kinds = nn.Parameter(torch.randn(4, channels))
        self.padding = nn.Parameter(torch.randn(1, channels))
        self.no_mask = nn.Parameter(torch.randn(1, channels))
        quarter = mask_channels // 4
        last = nn.Conv2d(mask_channels, channels, 1)
        self.masks = nn.Sequential(
            nn.Conv2d(6 if drawn else 1, quarter, 2, 2),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, mask_channels, 2, 2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            last,
        )
        if drawn:  # spots are small and must be heard beside the image
            nn.init.normal_(last.weight, std=(8 / mask_channels) ** 0.5)

    def forward(
        self, points: Float[Tensor, "n p 2"], labels: Int64[Tensor, "n p"], size: tuple[int, int]
    ) -> Float[Tensor, "n p c"]:
        """One vector per point of each prompt; x y are pixels of the network's input, which has this `size`.

        Half a pixel is added, as the published models do: 0 is the first pixel, and its centre is meant.
        """
        places = (points + 0.5) / points.new_tensor([size[1], size[0]])
        padding = (labels == PADDING)[..., None]
        where = self.positions(places.to(self.kinds.dtype)).masked_fill(padding, 0.0)
        return where + torch.where(padding, self.padding, self.kinds[labels.clamp(min=0)])

    def dense(
        self,
        masks: Float[Tensor, "n 1 h4 w4"] | None,
        size: tuple[int, int],
        points: Float[Tensor, "n p 2"] | None = None,
        labels: Int64[Tensor, "n p"] | None = None,
        extent: tuple[int, int] | None = None,
    ) -> Float[Tensor, "n c h w"] | Float[Tensor, "1 c 1 1"]:
        """What rough masks add to a feature map of this `size`: their logits on a grid four times as fine.

        Without masks it is one vector that is the same everywhere. Where prompts are drawn, `points` and `labels` are
        as in `forward`, on an input of `extent` pixels.
        """
        if masks is None and not self.drawn:
            return self.no_mask[..., None, None]
        fine = (4 * size[0], 4 * size[1])
        if masks is not None and tuple(masks.shape[-2:]) != fine:
            masks = F.interpolate(masks, fine, mode="bilinear", antialias=True)
        if not self.drawn:
            assert masks is not None
            return self.masks(masks)
        assert points is not None
        assert labels is not None
        assert extent is not None
        places = (points + 0.5) * points.new_tensor([fine[1] / extent[1], fine[0] / extent[0]])
        planes = drawings(places, labels, fine, self.drawn)
        rough = torch.zeros_like(planes[:, :1]) if masks is None else (masks / 4).tanh()
        out = self.masks(torch.cat([rough.to(planes), planes], 1))
        return out + self.no_mask[..., None, None] if masks is None else out


def drawings(
    places: Float[Tensor, "n p 2"], labels: Int64[Tensor, "n p"], size: tuple[int, int], radius: float
) -> Float[Tensor, "n 5 h w"]:
    """Prompts as pictures of `size` in 0..1: clicks on the object and beside it, sharp and wide, and inside of the box.

    `places` are x y in cells, their centres at one half. A click is a bell of standard deviation `radius`, and one
    three times as wide.
    """
    columns, rows = (torch.arange(n, device=places.device) + 0.5 for n in reversed(size))
    x, y = places.unsqueeze(-1).unbind(2)
    planes = []
    for spread in (radius, WIDER * radius):
        across, down = (torch.exp(-(distance**2) / (2 * spread**2)) for distance in (columns - x, rows - y))
        for kind in (POSITIVE, NEGATIVE):
            these = (labels == kind).to(across)[..., None]
            planes.append(((down * these).transpose(1, 2) @ across).clamp(max=1))  # sums of products of bells
    first, last = ((labels == kind)[..., None] for kind in (TOP_LEFT, BOTTOM_RIGHT))
    left, top = ((v * first).sum(1) for v in (x, y))
    right, bottom = ((v * last).sum(1) for v in (x, y))
    wide = ((columns - left + 0.5).clamp(0, 1)) * ((right - columns + 0.5).clamp(0, 1))
    high = ((rows - top + 0.5).clamp(0, 1)) * ((bottom - rows + 0.5).clamp(0, 1))
    return torch.stack([*planes, high[:, :, None] * wide[:, None]], 1)
