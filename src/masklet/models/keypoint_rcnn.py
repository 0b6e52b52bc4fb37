"""Keypoint R-CNN on a feature pyramid: Faster R-CNN and, in every box, where its points are (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from masklet.models.base import ShorterSide, objects_of, predict_instances
from masklet.models.faster_rcnn import find, learn, trunk
from masklet.parts.box_heads import BoxBranch
from masklet.parts.frames import Multiple
from masklet.parts.keypoint_heads import KeypointBranch, KeypointHead
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN
from masklet.parts.pyramid import FPN
from masklet.structures import Classes, Instances


class KeypointRCNN(nn.Module):
    """Objects with points: a pyramid, proposals on it, a second look at every proposal, a map for every point."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: FPN,
        rpn: RPN,
        box: BoxBranch,
        keypoint: KeypointBranch,
        pixels: Pixels,
        resize: ShorterSide,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), Multiple(32), resize
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


def keypoint_rcnn(
    num_classes: int = 1,
    num_keypoints: int = 17,
    backbone: str = "resnet50",
    weights: str | None = None,
    style: str = "masklet",
    norm: str = "frozen",
    norm_eps: float = 1e-5,
    short_side: int = 800,
    long_side: int = 1333,
    anchor_sizes: Sequence[int | float] = (32, 64, 128, 256, 512),
    channels: int = 256,
    hidden: int = 1024,
    keypoint_channels: int = 512,
    threshold: float = 0.05,
    max_objects: int = 100,
) -> KeypointRCNN:
    """Keypoint R-CNN on FPN: `num_keypoints` points of every object, people's joints by default.

    In the `style` of "masklet", "torchvision" or "detectron2_keypoints"; `keypoint_channels` of the keypoint head. The
    rest is as in `faster_rcnn`.
    """
    common = trunk(
        num_classes,
        backbone,
        weights,
        style,
        norm,
        norm_eps,
        short_side,
        long_side,
        anchor_sizes,
        channels,
        hidden,
        threshold,
        max_objects,
    )
    keypoint = KeypointBranch(common.pooler(14), KeypointHead(channels, num_keypoints, keypoint_channels))
    return KeypointRCNN(common.backbone, common.fpn, common.rpn, common.box, keypoint, common.pixels, common.resize)
