"""DeconvNet: a classifier run backwards; what its pools forgot, the switches remember; applied to object proposals."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from masklet.data.images import as_batch
from masklet.models.base import evaluating, narrow, pixel_losses, predict_semantic, upsample
from masklet.ops.resize import max_pool, put_back, resize
from masklet.parts.backbones.vgg import D, vgg
from masklet.parts.conv import ConvNormAct
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, BatchNorm2d, Normalize
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

STRIDE = 32  # of the deepest map
STAGES = (
    (512, 512, 512, 512),
    (512, 512, 512, 256),
    (256, 256, 256, 128),
    (128, 128, 64),
    (64, 64, 64),
)  # deepest first
AT_ONCE = 8  # proposals through the net together


class Switched(nn.Module):
    """The convolutions of VGG16; gives the deepest map, and of every pool where its maxima were and the size before."""

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features

    def forward(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c h5 w5"], list[tuple[Int64[Tensor, "b _ _ _"], tuple[int, int]]]]:
        switches = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                size = x.shape[2], x.shape[3]
                x, where = max_pool(x, 2)
                switches.append((where, size))
            else:
                x = layer(x)
        return x, switches


class DeconvNormAct(nn.Sequential):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 3, padding: int = 1) -> None:
        conv = nn.ConvTranspose2d(in_channels, channels, kernel, padding=padding)
        nn.init.normal_(conv.weight, std=0.01)
        act = nn.ReLU(inplace=True)
        super().__init__(OrderedDict(conv=conv, norm=BatchNorm2d(channels), act=act))


class DeconvNet(nn.Module):
    """Per-pixel classes of an image, or of every object proposal in it, through one narrow point (Noh et al., 2015)."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        encoder: Switched,
        fc: nn.Module,
        unfc: nn.Module,
        decoder: Sequence[nn.Module],
        classifier: nn.Module,
        side: int,
    ):
        super().__init__()
        self.criterion, self.normalize = cross_entropy, Normalize(*IMAGENET)
        self.encoder, self.fc, self.unfc = encoder, fc, unfc
        self.decoder, self.classifier, self.side = nn.ModuleList(decoder), classifier, side

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k s s"]:
        """The whole image as one proposal: stretched to the square that the net takes."""
        x, switches = self.encoder(resize(self.normalize(images), (self.side, self.side)))  # stride 32
        x = self.unfc(self.fc(x))  # one vector, and back to a map
        for deconvolutions, (where, size) in zip(self.decoder, reversed(switches), strict=True):
            x = deconvolutions(put_back(x, where, size))  # sparse, then dense again
        return self.classifier(x)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return pixel_losses(self, targets, self.scores(images))

    def aggregate(self, image: Float[Tensor, "1 3 h w"], proposals: Float[Tensor, "n 4"]) -> Float[Tensor, "1 k h w"]:
        """The highest score of any proposal at every pixel; a proposal says 0 outside its box (sec. 5.1, eq. 1)."""
        height, width = image.shape[2], image.shape[3]
        best = image.new_full((1, len(self.classes), height, width), -torch.inf)
        covering = torch.zeros(height, width, dtype=torch.int64, device=image.device)
        boxes = whole_pixels(proposals, height, width)
        for start in range(0, len(boxes), AT_ONCE):
            group = boxes[start : start + AT_ONCE]
            crops = [resize(image[:, :, y0:y1, x0:x1], (self.side, self.side)) for x0, y0, x1, y1 in group]
            for (x0, y0, x1, y1), scores in zip(group, self.scores(torch.cat(crops)), strict=True):
                here = best[:, :, y0:y1, x0:x1]
                here.copy_(torch.maximum(here, resize(scores[None], (y1 - y0, x1 - x0))))
                covering[y0:y1, x0:x1] += 1
        return torch.where(covering == len(boxes), best, best.clamp(min=0)) if boxes else best.zero_()

    def predict(
        self, images: Any, proposals: Float[Tensor, "n 4"] | Sequence[Float[Tensor, "_ 4"]] | None = None
    ) -> SemanticMap | list[SemanticMap]:
        """The class of every pixel: of whole images, or with `proposals` the highest score over these boxes.

        Boxes are x0 y0 x1 y1 in pixels, for several images a list of them; the paper takes 50 of an objectness method,
        none with a side under 112 pixels. Where no box is, the first class (the background) wins.
        """
        if proposals is None:
            return predict_semantic(self, images)
        one = isinstance(proposals, Tensor)
        batch = list(as_batch(images))
        each: list[Tensor] = [proposals] if isinstance(proposals, Tensor) else list(proposals)
        if len(each) != len(batch):
            raise UserError(f"{len(each)} sets of proposals for {len(batch)} images", hint="give one set for each")
        with evaluating(self), torch.inference_mode():
            maps = [self._predict_one(image, boxes) for image, boxes in zip(batch, each, strict=True)]
        return maps[0] if one else maps

    def _predict_one(self, image: Float[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> SemanticMap:
        scores = self.aggregate(image[None].to(next(self.parameters()).device), boxes)
        return SemanticMap(narrow(scores[0].argmax(0), len(self.classes)), self.classes)


def whole_pixels(boxes: Float[Tensor, "n 4"], height: int, width: int) -> list[list[int]]:
    """Boxes grown to whole pixels inside the image; those that miss it are left out."""
    low, high = boxes[:, :2].floor(), boxes[:, 2:].ceil()
    limit = boxes.new_tensor([width, height])
    grown = torch.cat([low.clamp(min=0), torch.minimum(high, limit)], 1)
    return [[int(v) for v in box] for box in grown.tolist() if box[2] > box[0] and box[3] > box[1]]


def largest_proposals(boxes: Float[Tensor, "n 4"], least: float = 112.0, most: int = 50) -> Float[Tensor, "m 4"]:
    """The first `most` boxes (best first, as objectness methods give them) with both sides at least `least`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[(sides >= least).all(1)][:most]


def deconvnet(num_classes: int = 21, side: int = 224, hidden: int = 4096) -> DeconvNet:
    """DeconvNet on VGG16 with batch norm: 251,805,653 parameters with 21 classes.

    `side` of the square that an image or proposal is stretched to, a multiple of 32; `hidden` units in the narrow
    middle.
    """
    if side < STRIDE or side % STRIDE:
        raise UserError(f"side is {side}", hint=f"give a multiple of {STRIDE}, as 224")
    kernel = side // STRIDE
    fc6 = ConvNormAct(512, hidden, kernel, padding=0, bias=True)
    fc = nn.Sequential(OrderedDict[str, nn.Module](fc6=fc6, fc7=ConvNormAct(hidden, hidden, 1, bias=True)))
    decoder = [nn.Sequential(*_stage(widths)) for widths in STAGES]
    classifier = nn.Conv2d(STAGES[-1][-1], num_classes, 1)
    for part in (*fc.modules(), classifier):
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
    encoder = Switched(vgg(D, batch_norm=True).features)
    unfc = DeconvNormAct(hidden, 512, kernel, padding=0)
    return DeconvNet(encoder, fc, unfc, decoder, classifier, side)


def _stage(widths: Sequence[int]) -> Iterator[nn.Module]:
    return (DeconvNormAct(a, b) for a, b in pairwise(widths))
