"""What a two-stage model does with one picture while it trains: its anchors, proposals, samples, boxes and masks.

For teaching and for finding out why a model does not learn; `viz.anchors` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.models.base import evaluating, objects_of
from masklet.parts.box_heads import BoxBranch
from masklet.parts.cascade import CascadeBoxes, IterativeBoxes, moved
from masklet.parts.pyramid import as_rois
from masklet.structures import Instances, Masks
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Inside:
    """Everything about one image, boxes as x0 y0 x1 y1 in its own pixels.

    `anchors` lists, level by level, those of the place in the middle. Of the anchors that a training step would look
    at, `positive` ones have been matched with an object (`objects` says which) and `refined` is where the model moves
    them; `negative` ones are background. `candidates` are the boxes that the model likes best, before and `proposals`
    after suppression. `sampled` are the proposals that the second stage would be trained on: `labels` is the class, or
    -1 for background. `steps` has the positive ones of these, which are `of` an object, as they are and after each time
    that the second stage has moved them. `true_masks` and `masks` are the grids in them, as they should be and as the
    model sees them, 0..1; None where it sees none.
    """

    size: tuple[int, int]
    truth: Float[Tensor, "g 4"]
    anchors: tuple[Float[Tensor, "_ 4"], ...]
    levels: tuple[str, ...]
    positive: Float[Tensor, "p 4"]
    objects: Int64[Tensor, " p"]
    refined: Float[Tensor, "p 4"]
    negative: Float[Tensor, "q 4"]
    candidates: Float[Tensor, "c 4"]
    proposals: Float[Tensor, "n 4"]
    sampled: Float[Tensor, "s 4"]
    labels: Int64[Tensor, " s"]
    of: Int64[Tensor, " m"]
    steps: tuple[Float[Tensor, "m 4"], ...]
    true_masks: Float[Tensor, "m t t"] | None
    masks: Float[Tensor, "m t t"] | None


def look_inside(model: Any, image: Float[Tensor, "3 h w"], truth: Instances, seed: int = 0, best: int = 100) -> Inside:
    """One step of training of a Faster, Mask or Cascade R-CNN on `image`, without learning; `best` boxes are listed.

    `image` is RGB, 0..1. The sample is drawn with `seed`.
    """
    if not all(hasattr(model, part) for part in ("rpn", "box", "resize", "features")):
        name = getattr(model, "spec", {}).get("model", type(model).__name__)
        raise UserError(f"{name} has no proposals to look at", hint="take a two-stage model, mask_rcnn for instance")
    with evaluating(model), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return _look(model, image, truth, best)


def _look(model: Any, image: Float[Tensor, "3 h w"], truth: Instances, best: int) -> Inside:
    height, width = size = image.shape[1], image.shape[2]
    (truth,) = objects_of(image[None], [truth])
    resized = model.resize(image[None].to(next(model.parameters()).device))
    frame = resized.shape[2], resized.shape[3]
    scale = resized.new_tensor([frame[1] / width, frame[0] / height]).repeat(2)
    boxes, labels = truth.boxes.to(resized) * scale, truth.labels.to(resized.device)

    pyramid = model.features(resized)
    found = model.rpn(pyramid, model.frame.covers(*frame))
    anchors, deltas = torch.cat(found.anchors), torch.cat(found.deltas, 1)[0]
    which, kind = model.rpn.matcher(anchors, boxes)
    positive, negative = model.rpn.sampler(kind)
    everywhere = model.rpn.geometry.coder.decode(anchors, deltas)
    likely = torch.cat(found.logits, 1)[0].topk(min(best, len(anchors))).indices
    proposals = model.rpn.propose(found, [frame]).each()[0]

    stages = _stages(model.box)
    sampled = stages[0].sample([proposals], [boxes], [labels])
    own = sampled.positives()
    steps = [own.rois[:, 1:]]
    for stage in stages:
        steps.append(moved(stage, steps[-1], stage.classify(pyramid, as_rois([steps[-1]]))[1], own.labels))
    masks = model.mask(pyramid, own.rois, own.labels).cpu() if hasattr(model, "mask") else None

    def back(found: Tensor) -> Tensor:
        return found.cpu() / scale.cpu()

    return Inside(
        size=size,
        truth=truth.boxes,
        anchors=tuple(back(_middle(level, frame)) for level in found.anchors),
        levels=tuple(model.rpn.strides),
        positive=back(anchors[positive]),
        objects=which[positive].cpu(),
        refined=back(everywhere[positive]),
        negative=back(anchors[negative]),
        candidates=back(everywhere[likely]),
        proposals=back(proposals[:best]),
        sampled=back(sampled.rois[:, 1:]),
        labels=sampled.labels.where(sampled.labels < sampled.num_classes, -1).cpu(),
        steps=tuple(map(back, steps)),
        of=own.objects.cpu(),
        true_masks=_true_masks(model, truth.masks, back(own.rois[:, 1:]), own.objects.cpu(), masks),
        masks=masks,
    )


def _stages(box: Any) -> list[BoxBranch]:
    """The second stages in the order in which they look."""
    if isinstance(box, CascadeBoxes):
        return list(box.stages)
    if isinstance(box, IterativeBoxes):
        return [box.stage] * box.times
    return [box if isinstance(box, BoxBranch) else box.stage]


def _middle(anchors: Float[Tensor, "n 4"], frame: tuple[int, int]) -> Float[Tensor, "a 4"]:
    """The anchors of the place nearest to the middle of the image."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    apart = (centre - centre.new_tensor([frame[1] / 2, frame[0] / 2])).norm(dim=1)
    here = (centre - centre[apart.argmin()]).abs().amax(1) < 1e-3
    return anchors[here]


def _true_masks(
    model: Any,
    truth: Masks | None,
    boxes: Float[Tensor, "m 4"],
    objects: Int64[Tensor, " m"],
    masks: Float[Tensor, "m t t"] | None,
) -> Float[Tensor, "m t t"] | None:
    if truth is None or masks is None:
        return None
    targets = next(part.targets for part in model.mask.modules() if hasattr(part, "targets"))
    rois = torch.cat([objects[:, None].to(boxes), boxes], 1)
    return targets(truth.dense(), rois, masks.shape[-1]).float()
