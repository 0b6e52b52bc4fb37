"""How promptable video models learn: a simulated person prompts and corrects, the model follows (SAM 2, appendix D).

A clip is prompted on one or two frames, by clicks, a box or the true mask; some frames are then corrected, click after
click, each somewhere on what is wrong. Every answer on the way is compared with the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from masklet.models.prompting import Embedding, Queries
from masklet.ops.prompts import central_clicks, random_boxes, random_clicks
from masklet.parts.losses import mask_dice, mask_focal
from masklet.parts.prompts import BOTTOM_RIGHT, TOP_LEFT
from masklet.structures.errors import UserError

FOCAL, LIMIT = 20.0, 32.0  # weight of the focal loss; largest logit that is fed back


@dataclass(frozen=True)
class Prompting:
    """How a person is simulated; the values are those of the paper.

    `points` is the probability that a clip is prompted by points and not by true masks (images always are), `boxes`
    that of a box instead of a click. At most `prompted` frames get a first prompt and `corrected` are corrected, in
    `rounds` of one click. With the probability `anywhere` such a click falls anywhere on the object, and with the
    probability `central` clicks fall where they are made in evaluations, in the middle of an object or mistake.
    """

    points: float = 0.5
    boxes: float = 0.5
    prompted: int = 2
    corrected: int = 2
    rounds: int = 7
    anywhere: float = 0.1
    central: float = 0.0
    noise: float = 0.1
    most: float = 20.0


class _Chance:
    """Decisions that the whole batch shares."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def below(self, probability: float) -> bool:
        return bool(torch.rand((), generator=self.generator) < probability)

    def between(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def some(self, numbers: Sequence[int], count: int) -> list[int]:
        order = torch.randperm(len(numbers), generator=self.generator).tolist()
        return [numbers[i] for i in order[:count]]


class _Sum:
    """Losses of all answers, added up."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.answers = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        self.answers += 1
        for name, value in losses.items():
            self.total[name] = self.total[name] + value if name in self.total else value

    def mean(self) -> dict[str, Tensor]:
        return {name: value / self.answers for name, value in self.total.items()}


def prompted_losses(
    model: Any,
    frames: Float[Tensor, "b t 3 h w"],
    targets: Sequence[Bool[Tensor, "_k t h w"]],
    how: Prompting | None = None,
    known: Bool[Tensor, "b t"] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`focal`, `dice`, `iou` and `object` loss of a batch of clips (an image is a clip of one frame), as weighted.

    `targets` are the masks of each clip's objects. The losses are means over objects and over all answers that were
    asked for: 20 focal + dice of the mask with the lowest sum of both, L1 of the predicted IoU of all masks against the
    IoU that they have, and the cross entropy of "is in sight". Frames that are not `known` are only tracked through.
    """
    how, chance, total = Prompting() if how is None else how, _Chance(generator), _Sum()
    if len(frames) != len(targets):
        raise UserError(f"{len(frames)} clips but {len(targets)} targets", hint="give the masks of each clip's objects")
    t = frames.shape[1]
    owner = torch.cat([torch.full((len(masks),), i) for i, masks in enumerate(targets)]).to(frames.device)
    seen = model.embed(frames.flatten(0, 1))
    if not len(owner):
        nothing = 0.0 * seen.features.sum()
        return dict.fromkeys(("focal", "dice", "iou", "object"), nothing)
    truth = fitted(torch.cat([masks.to(frames.device) for masks in targets]), seen.input_size)
    weight = torch.ones(len(owner), t, device=frames.device) if known is None else known[owner].float()
    by_points = t == 1 or chance.below(how.points)
    first, corrected = _plan(t, by_points, how, chance)
    memory = model.nothing_remembered()
    for at in [*first, *(i for i in range(t) if i not in first)]:
        frame = seen[owner * t + at]
        drawn, queries = None, None
        if at in first and by_points:
            queries = _first(truth[:, at], how, chance, generator)
        elif at in first:
            drawn = truth[:, at]
        found, _ = model.step(frame, memory, queries, drawn, at=at, afresh=at in first, write=False)
        if drawn is None:
            total.add(losses_of(found, truth[:, at], weight[:, at]))
        if at in corrected:
            pixels = model.conditioned(frame, memory, at=at, afresh=at in first)
            for _ in range(how.rounds):
                queries = _corrected(queries, found, truth[:, at], how, chance, generator)
                found = model.answered(pixels, frame, queries)
                total.add(losses_of(found, truth[:, at], weight[:, at]))
        if t > 1:
            prompted = at in first or at in corrected
            memory = model.write(frame, memory, found, drawn, at=at, prompted=prompted)
    return total.mean()


@dataclass(frozen=True, eq=False)
class _Guess:
    """An answer of a model without memory: all masks that it made, and the logits of the one to correct."""

    logits: Float[Tensor, "n h4 w4"]
    candidates: Float[Tensor, "n m h4 w4"]
    candidate_ious: Float[Tensor, "n m"]
    object_logits: None = None


def image_losses(
    model: Any,
    images: Float[Tensor, "b 3 h w"],
    targets: Sequence[Bool[Tensor, "_k h w"]],
    how: Prompting | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`focal`, `dice` and `iou` loss of models that answer prompts on images and do not follow (SAM), as weighted.

    As an image in `prompted_losses`: a click or a box, then clicks on what is wrong, each with the answer so far as a
    rough mask. A single click is answered by the masks for ambiguous prompts, all else by the one for clear prompts.
    """
    how, chance, total = Prompting() if how is None else how, _Chance(generator), _Sum()
    if len(images) != len(targets):
        raise UserError(f"{len(images)} images but {len(targets)} targets", hint="give the masks of each image")
    seen = model.embed(images)
    owner = torch.cat([torch.full((len(masks),), i) for i, masks in enumerate(targets)]).to(images.device)
    if not len(owner):
        return dict.fromkeys(("focal", "dice", "iou"), 0.0 * seen.features.sum())
    truth, frame = _placed(torch.cat([masks.to(images.device) for masks in targets]), seen), seen[owner]
    queries = _first(truth, how, chance, generator)
    for rounds_left in reversed(range(how.rounds + 1)):
        decoded = model.answer(frame, queries)
        which = slice(1, None) if bool((queries.counts <= 1).all()) else slice(0, 1)
        masks, ious = model.masks(frame, decoded, which), decoded.ious[:, which]
        best = masks[torch.arange(len(masks), device=masks.device), ious.argmax(1)]
        found = _Guess(best, masks, ious)
        total.add(losses_of(found, truth))
        if rounds_left:
            queries = _corrected(queries, found, truth, how, chance, generator)
    return total.mean()


def _placed(masks: Bool[Tensor, "k h w"], seen: Embedding) -> Bool[Tensor, "k hi wi"]:
    """Masks where the network's input shows them; what is padding is no object."""
    inside = fitted(masks[:, None], seen.covered)[:, 0]
    (height, width), (rows, columns) = seen.covered, seen.input_size
    return F.pad(inside, (0, columns - width, 0, rows - height))


def _plan(t: int, by_points: bool, how: Prompting, chance: _Chance) -> tuple[list[int], list[int]]:
    """The frames that are prompted first, and those that are corrected, these among them."""
    count = chance.between(1, max(1, min(how.prompted, t if by_points else t - 1)))  # a given mask teaches nothing
    first = [0, *sorted(chance.some(range(1, t), count - 1))]
    if not by_points or how.rounds < 1:
        return first, []
    more = chance.between(count, max(min(how.corrected, t), count)) - count
    later = [i for i in range(t) if i not in first]
    return first, [*first, *chance.some(later, more)] if how.corrected else []


def _clicks(how: Prompting, chance: _Chance) -> Any:
    return central_clicks if how.central and chance.below(how.central) else random_clicks


def _first(truth: Bool[Tensor, "n h w"], how: Prompting, chance: _Chance, generator: Any) -> Queries:
    """A box around each object, or a click on it."""
    if not chance.below(how.boxes):
        return Queries(*_clicks(how, chance)(truth, None, generator))
    boxes = random_boxes(truth, how.noise, how.most, generator)
    labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=truth.device).expand(len(truth), 2)
    return Queries(boxes.view(-1, 2, 2), labels)


def _corrected(
    queries: Queries | None, found: Any, truth: Bool[Tensor, "n h w"], how: Prompting, chance: _Chance, generator: Any
) -> Queries:
    """One more click for each object, and the answer so far as a rough mask."""
    with torch.no_grad():
        large = F.interpolate(found.logits.detach()[:, None].float(), truth.shape[1:], mode="bilinear")[:, 0] > 0
        points, labels = _clicks(how, chance)(truth, None if chance.below(how.anywhere) else large, generator)
        rough = found.logits.detach().clamp(-LIMIT, LIMIT)[:, None]
    if queries is None:
        return Queries(points, labels, rough)
    return Queries(torch.cat([queries.points, points], 1), torch.cat([queries.labels, labels], 1), rough)


def losses_of(found: Any, truth: Bool[Tensor, "n h w"], weight: Float[Tensor, " n"] | None = None) -> dict[str, Tensor]:
    """Losses of one answer for each of n objects; their masks cost nothing where the truth is empty."""
    n, m = found.candidate_ious.shape
    large = F.interpolate(found.candidates.float(), truth.shape[1:], mode="bilinear")
    target = truth.float()
    weight = target.new_ones(n) if weight is None else weight
    there = truth.flatten(1).any(1) * weight
    flat, repeated = large.flatten(0, 1), target.repeat_interleave(m, 0)
    focal = FOCAL * mask_focal(flat, repeated).view(n, m)
    dice = mask_dice(flat, repeated, squared=False, smooth=1.0).view(n, m)
    best = (focal + dice).argmin(1, keepdim=True)
    with torch.no_grad():
        covered = large > 0
        both = (covered & truth[:, None]).flatten(2).sum(2)
        actual = both / (covered | truth[:, None]).flatten(2).sum(2).clamp(min=1)
    wrong = (found.candidate_ious.float() - actual).abs().mean(1)
    losses = {
        "focal": (focal.gather(1, best)[:, 0] * there).sum() / n,
        "dice": (dice.gather(1, best)[:, 0] * there).sum() / n,
        "iou": (wrong * there).sum() / n,
    }
    if found.object_logits is not None:
        here = truth.flatten(1).any(1).float()
        visible = F.binary_cross_entropy_with_logits(found.object_logits.float(), here, reduction="none")
        losses["object"] = (visible * weight).sum() / n
    return losses


def fitted(masks: Bool[Tensor, "k t h w"], size: tuple[int, int]) -> Bool[Tensor, "k t hi wi"]:
    """Masks at the size of the network's input."""
    if tuple(masks.shape[2:]) == size:
        return masks
    return F.interpolate(masks.float(), size, mode="bilinear", antialias=True) >= 0.5
