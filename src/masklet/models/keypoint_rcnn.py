"""Keypoint R-CNN: Faster R-CNN and, in every box, where its points are (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import find, learn, trunk
from masklet.parts.box_heads import BoxBranch
from masklet.parts.keypoint_heads import KeypointBranch, KeypointHead
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN
from masklet.parts.pyramid import Pyramid
from masklet.structures import Classes, Instances


class KeypointRCNN(nn.Module):
    """Objects with points: a pyramid, proposals on it, a second look at every proposal, a map for every point."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid,
        rpn: RPN,
        box: BoxBranch,
        keypoint: KeypointBranch,
        pixels: Pixels,
        resize: ShorterSide,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), fpn.frame, resize
        self.backbone, self.fpn, self.rpn, self.box, self.keypoint = backbone, fpn, rpn, box, keypoint

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects, and `heatmaps`, a grid of logits for each point.

        `fixed` leaves unused places, of score 0. `parts.keypoint_heads.decode_points` makes points of the grids.
        """
        pyramid, found = find(self, images, fixed)
        maps = self.keypoint(pyramid, found.rois()).unflatten(0, found.scores.shape)
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "heatmaps": maps}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        objects = objects_of(images, targets, "keypoints")
        pyramid, sampled, losses = learn(self, images, objects)
        none = images.new_zeros(0, 1, 3)  # of an image without objects
        points = [none if t.keypoints is None else t.keypoints for t in objects]
        return {**losses, **self.keypoint.loss(pyramid, sampled.positives(), points)}

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


@extends(trunk)
def keypoint_rcnn(
    num_classes: int = 1, num_keypoints: int = 17, keypoint_channels: int = 512, **common: Any
) -> KeypointRCNN:
    """Keypoint R-CNN: `num_keypoints` points of every object, people's joints by default.

    Style "detectron2_keypoints" is that of detectron2's people; `keypoint_channels` of the keypoint head. The rest is
    as in `faster_rcnn.trunk`.
    """
    base = trunk(num_classes, **common)
    keypoint = KeypointBranch(base.reader(), KeypointHead(base.read_channels, num_keypoints, keypoint_channels))
    return KeypointRCNN(base.backbone, base.fpn, base.rpn, base.box, keypoint, base.pixels, base.resize)
