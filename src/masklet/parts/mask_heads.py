"""The mask of every detected object, class by class and without competition (He et al., Mask R-CNN, 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from masklet.ops import mask_targets
from masklet.parts.box_heads import Sampled
from masklet.parts.pyramid import Reader
from masklet.parts.winograd import Conv3x3
from masklet.structures import Masks

Targets = Callable[[Tensor, Tensor, int], Tensor]  # as `ops.mask_targets.BitmapTargets`


class FCNMaskHead(nn.Module):
    """3x3 convolutions, twice the resolution, then one map of logits for every class."""

    def __init__(self, channels: int, num_classes: int, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.channels, self.width = channels, width if depth else channels
        self.convs = nn.ModuleList(Conv3x3(width if i else channels, width) for i in range(depth))
        self.up = nn.ConvTranspose2d(width if depth else channels, width, 2, 2)
        self.predictor = nn.Conv2d(width, num_classes, 1)
        for layer in (*self.convs, self.up):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)
        if self.predictor.bias is not None:
            nn.init.zeros_(self.predictor.bias)

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m k t t"]:
        return self.maps(self.features(x))

    def features(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m d s s"]:
        for conv in self.convs:
            x = conv(x).relu_()
        return x

    def maps(self, x: Float[Tensor, "m d s s"]) -> Float[Tensor, "m k t t"]:
        return self.predictor(self.up(x).relu_())

    def of(self, x: Float[Tensor, "m c s s"], labels: Int64[Tensor, " m"]) -> Float[Tensor, "m t t"]:
        """The map of one class for each box, as `map_of` has it, without making those of the others.

        A transposed convolution of stride 2 gives each cell its own four: it is a product, as the last layer is, and
        only what comes of both need be put in its place.
        """
        x = self.features(x)
        m, _, side, _ = x.shape
        four = torch.matmul(self.up.weight.flatten(1).T, x.flatten(2))
        four = four.view(m, self.up.out_channels, 4 * side * side)  # rows and columns of two, cells
        if self.up.bias is not None:
            four = four.add_(self.up.bias[:, None])
        which = labels.clamp(max=self.predictor.out_channels - 1)
        maps = torch.matmul(self.predictor.weight[which, :, 0, 0][:, None], four.relu_())
        if self.predictor.bias is not None:
            maps = maps + self.predictor.bias[which, None, None]
        return maps.view(m, 2, 2, side, side).permute(0, 3, 1, 4, 2).reshape(m, 2 * side, 2 * side)


class MLPMaskHead(nn.Module):
    """Fully connected layers of `hidden` units over all cells, then all maps at once (Mask R-CNN, table 2e).

    What comes out has twice the resolution of the `size` x `size` cells; `depth` layers come before the last.
    """

    def __init__(self, channels: int, num_classes: int, size: int = 14, hidden: int = 1024, depth: int = 2) -> None:
        super().__init__()
        widths = [channels * size**2, *[hidden] * depth]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.predictor = nn.Linear(hidden, num_classes * (2 * size) ** 2)
        self.shape = num_classes, 2 * size, 2 * size
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m k t t"]:
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.predictor(x).unflatten(1, self.shape)


def map_of(labels: Int64[Tensor, " m"], maps: Float[Tensor, "m k ..."]) -> Float[Tensor, "m ..."]:
    """The map of the class of each box, or the only one where a head knows no classes."""
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps.gather(1, labels.view(-1, *[1] * (maps.ndim - 1)).expand(-1, 1, *maps.shape[2:]))[:, 0]


class MaskBranch(nn.Module):
    """Masks of boxes, as probabilities on a small grid over each box; `targets` makes the grid of a true mask."""

    def __init__(self, pool: Reader, head: nn.Module, targets: Targets = mask_targets.DETECTRON2) -> None:
        super().__init__()
        self.pool, self.head, self.targets = pool, head, targets

    def logits(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m r1"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        """The map of the class of each box; a head with one map knows no classes."""
        x = self.pool(pyramid, rois)
        return self.head.of(x, labels) if isinstance(self.head, FCNMaskHead) else map_of(labels, self.head(x))

    def forward(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m r1"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        return self.logits(pyramid, rois, labels).sigmoid()

    def loss(self, pyramid: Mapping[str, Tensor], positives: Sampled, masks: Sequence[Masks]) -> dict[str, Tensor]:
        """Binary cross entropy of the map of the right class, averaged over the cells of all boxes of objects."""
        logits = self.logits(pyramid, positives.rois, positives.labels)
        return {"mask": mean_bce(logits, self.aims(positives, masks, logits.shape[-1]))}

    def aims(self, positives: Sampled, masks: Sequence[Masks], size: int) -> Float[Tensor, "m size size"]:
        """The true mask of the object of each box, seen through the box."""
        return through_boxes(positives, masks, lambda dense, rois, here: self.targets(dense, rois, size))


class SoftmaxMaskBranch(nn.Module):
    """Masks as FCN has them: in every cell all classes compete, and background, the last map of `head`, with them.

    What the class of the box is the mask then decides a second time (He et al., Mask R-CNN, 2017, table 2b, "softmax").
    """

    def __init__(self, pool: Reader, head: nn.Module, targets: Targets = mask_targets.DETECTRON2) -> None:
        super().__init__()
        self.pool, self.head, self.targets = pool, head, targets

    def forward(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m r1"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        return map_of(labels, self.head(self.pool(pyramid, rois)).softmax(1)[:, :-1])

    def loss(self, pyramid: Mapping[str, Tensor], positives: Sampled, masks: Sequence[Masks]) -> dict[str, Tensor]:
        """Cross entropy of the class of each cell, averaged over the cells of all boxes of objects."""
        maps = self.head(self.pool(pyramid, positives.rois))
        background, size = maps.shape[1] - 1, maps.shape[-1]
        inside = through_boxes(positives, masks, lambda dense, rois, here: self.targets(dense, rois, size))
        own = positives.labels.clamp(max=background - 1)[:, None, None]  # one class where masks know none
        kinds = torch.where(inside >= 0.5, own, background)
        return {"mask": F.cross_entropy(maps, kinds, reduction="sum") / max(kinds.numel(), 1)}


def mean_bce(logits: Float[Tensor, "m ..."], targets: Float[Tensor, "m ..."]) -> Float[Tensor, ""]:
    """Binary cross entropy, averaged over the cells of all boxes; 0 where there are none."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(logits.numel(), 1)


Look = Callable[[Bool[Tensor, "g h w"], Float[Tensor, "_ r1"], Bool[Tensor, " m"]], Tensor]


@torch.no_grad()
def through_boxes(positives: Sampled, masks: Sequence[Masks], look: Look) -> Float[Tensor, "m ..."]:
    """What `look` sees of the true mask of the object of each box, image by image.

    It gets bitmaps of an image, a row for each box (number of its bitmap, box), and which of all boxes these are.
    """
    out = []
    for i, own in enumerate(masks):
        here = positives.rois[:, 0] == i
        objects, index = positives.objects[here].unique(return_inverse=True)
        dense = own[objects.cpu()].dense().to(positives.rois.device)  # only objects that a box is for
        rois = torch.cat([index[:, None].to(positives.rois), positives.rois[here, 1:]], 1)
        out.append(look(dense, rois, here))
    return torch.cat(out)
