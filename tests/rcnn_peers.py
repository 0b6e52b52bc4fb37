"""torchvision's R-CNNs, narrow and with random weights of sane size, as peers for ours."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.misc import FrozenBatchNorm2d

WIDTH, HIDDEN, CLASSES = 16, 32, 3
SIZES = ((32,), (64,), (128,), (256,), (512,))
HEADS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {},
    "mask_rcnn": {
        "mask_head": lambda: MaskRCNNHeads(WIDTH, (WIDTH,) * 4, 1),
        "mask_predictor": lambda: MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
    },
    "keypoint_rcnn": {
        "keypoint_head": lambda: KeypointRCNNHeads(WIDTH, (WIDTH,) * 8),
        "keypoint_predictor": lambda: KeypointRCNNPredictor(WIDTH, 5),
    },
}
KINDS = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}


def torchvision_rcnn(name: str, short: int = 96, long: int = 160, everything: bool = False) -> Any:
    """Its model on ResNet-18 and 16 channels; with `everything`, training samples all anchors and proposals."""
    torch.manual_seed(0)
    trunk = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    layers = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    body = BackboneWithFPN(trunk, layers, [64, 128, 256, 512], WIDTH)
    counts = {"rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6} if everything else {}
    model = KINDS[name](
        body,
        None,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5),
        box_head=TwoMLPHead(WIDTH * 49, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, CLASSES + 1),
        box_score_thresh=0.0,
        box_detections_per_img=30,
        **counts,
        **{key: make() for key, make in HEADS[name].items()},
    )
    for module in model.modules():  # every layer keeps the size of what goes through it; the last ones are louder
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            fan = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else len(module.weight)
            nn.init.normal_(module.weight, std=fan**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.8, 1.4)
            module.bias.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def as_their_targets(targets: list[Any]) -> list[dict[str, Tensor]]:
    """Our objects as torchvision wants them: classes from 1."""
    out = []
    for target in targets:
        entry = {"boxes": target.boxes, "labels": target.labels + 1}
        if target.masks is not None:
            entry["masks"] = target.masks.dense().byte()
        if getattr(target, "keypoints", None) is not None:
            entry["keypoints"] = target.keypoints
        out.append(entry)
    return out
