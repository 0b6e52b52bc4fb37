"""What promptable models share: an image looked at once, prompts in its pixels, and masks back at its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.data.images import as_batch
from masklet.models.base import evaluating
from masklet.parts.mask_decoder import Decoded, steady
from masklet.parts.prompts import BOTTOM_RIGHT, PADDING, TOP_LEFT
from masklet.structures import Classes, Instances, Masks, Prompt
from masklet.structures.errors import UserError

TOGETHER = 16  # prompts that are decoded at a time: 4 MB a map and prompt in SAM
SURE = 10.0  # the logit that a pixel of a mask gets that a person drew


class PromptableModel(Protocol):
    """An image is looked at once (`embed`); then any number of prompts are answered from what was seen.

    `answer` makes tokens and scores of n prompts, n / b for each of the b images, and `masks` their masks from these:
    whoever needs only the best masks can choose first. `fallback` (offset, share) says from which stability on the mask
    for clear prompts is trusted; None: always.
    """

    classes: Classes
    spec: dict[str, Any]
    fallback: tuple[float, float] | None

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Embedding: ...
    def answer(self, embedding: Embedding, queries: Queries) -> Decoded: ...
    def masks(
        self, embedding: Embedding, decoded: Decoded, which: slice = slice(None)
    ) -> Float[Tensor, "n m h4 w4"]: ...
    def prompt(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Answers: ...
    def predict(self, images: Any, prompts: Sequence[Prompt]) -> Instances: ...


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder has made of b images of one size: enough to answer any number of prompts.

    `skips` are finer maps for the mask decoder, where it takes some; `positions` are the vectors of the cells, which
    cost as much as a click and are the same for all prompts. The network saw the image resized to `covered` in the top
    left corner of an input of `input_size`; `size` is the image's own. All are height and width in pixels.

    The image may be a window of a `picture`, whose top left pixel is at `corner` (x, y): prompts and masks are those of
    the picture then, and outside of the window is nothing.
    """

    features: Float[Tensor, "b c h w"]
    skips: tuple[Tensor, ...]
    positions: Float[Tensor, "c h w"]
    size: tuple[int, int]
    covered: tuple[int, int]
    input_size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    whole: tuple[int, int] | None = None  # height and width of the picture, where this is a window of it

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: Tensor | slice) -> Embedding:
        """Some of the images; an index tensor may repeat them."""
        return replace(self, features=self.features[which], skips=tuple(skip[which] for skip in self.skips))

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of what prompts and masks belong to."""
        return self.size if self.whole is None else self.whole

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
        points = points - points.new_tensor(embedding.corner)
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
    """Logits of masks at the size of the image, or of the picture that it is a window of."""
    if embedding.covered != embedding.input_size:  # padding goes first, at the resolution of the input
        logits = F.interpolate(logits, embedding.input_size, mode="bilinear")
        logits = logits[..., : embedding.covered[0], : embedding.covered[1]]
    logits = F.interpolate(logits, embedding.size, mode="bilinear")
    if embedding.whole is None:
        return logits
    ((height, width), (x, y), (h, w)) = embedding.whole, embedding.corner, embedding.size
    return F.pad(logits, (x, width - x - w, y, height - y - h), value=-SURE)


@dataclass(frozen=True, eq=False)
class Answers:
    """Masks for n prompts on one image: `logits` and predicted IoUs of all that the decoder makes, one of them chosen.

    The first is meant for clear prompts, the others are what an ambiguous one may mean. `logits` are coarse and cover
    the input of the network; what is chosen comes at the size of the image.
    """

    logits: Float[Tensor, "n m h4 w4"]
    scores: Float[Tensor, "n m"]
    chosen: Int64[Tensor, " n"]
    embedding: Embedding

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, which: slice) -> Answers:
        return Answers(self.logits[which], self.scores[which], self.chosen[which], self.embedding)

    @property
    def best(self) -> Float[Tensor, "n h4 w4"]:
        """The coarse logits of what was chosen; as `previous` they refine the next answer."""
        return self.logits[torch.arange(len(self), device=self.chosen.device), self.chosen]

    @property
    def score(self) -> Float[Tensor, " n"]:
        """The predicted IoU of what was chosen."""
        return self.scores.gather(1, self.chosen[:, None])[:, 0]

    def dense(self) -> Bool[Tensor, "n h w"]:
        """What was chosen, as pixels of the image."""
        parts = [enlarged(part[:, None], self.embedding)[:, 0] > 0 for part in self.best.split(4)]
        return torch.cat(parts) if parts else torch.zeros(0, *self.embedding.picture, dtype=torch.bool)

    def meanings(self, i: int) -> tuple[Bool[Tensor, "k h w"], Float[Tensor, " k"]]:
        """All that prompt `i` may mean (whole, part, part of a part), best first, and the predicted IoUs."""
        order = self.scores[i, 1:].argsort(descending=True)
        masks = enlarged(self.logits[i : i + 1, 1:][:, order], self.embedding)[0] > 0
        return masks, self.scores[i, 1:][order]

    def instances(self, classes: Classes) -> Instances:
        """What was chosen as objects of the first class, scored by the predicted IoU; masks as run lengths."""
        size, items = self.embedding.picture, list[Any]()
        for part in self.best.split(4):
            items += Masks.from_dense((enlarged(part[:, None], self.embedding)[:, 0] > 0).cpu()).items
        labels = torch.zeros(len(self), dtype=torch.int64)
        return Instances.from_masks(Masks(*size, tuple(items)), labels, classes, self.score.float().cpu())


def clicked(
    model: Any,
    images: Float[Tensor, "b 3 h w"],
    points: Float[Tensor, "b n p 2"] | None,
    labels: Int64[Tensor, "b n p"] | None,
    answer: Callable[[Embedding, Queries], Decoded],
) -> dict[str, Tensor]:
    """`forward` of promptable models: `logits` (b, n, m, h, w) and `ious` (b, n, m) of n clicked objects an image."""
    if points is None:
        middle = images.new_tensor([images.shape[3] / 2, images.shape[2] / 2])
        points = middle.expand(len(images), 1, 1, 2)
    if labels is None:
        labels = torch.ones(points.shape[:-1], dtype=torch.int64, device=points.device)
    embedding = model.embed(images)
    queries = Queries(points.flatten(0, 1) * points.new_tensor(embedding.scale), labels.flatten(0, 1))
    decoded = answer(embedding, queries)
    logits, count = enlarged(model.masks(embedding, decoded), embedding), (len(images), -1)
    return {"logits": logits.unflatten(0, count), "ious": decoded.ious.unflatten(0, count)}


def ask(
    model: Any,
    embedding: Embedding,
    prompts: Prompt | Sequence[Prompt],
    previous: Float[Tensor, "n h4 w4"] | None = None,
    several: bool | None = None,
) -> Answers:
    """Answers to any number of prompts on one image, one object each.

    A single click may mean several things: of the masks for ambiguous prompts the one with the best predicted IoU is
    chosen. Where there is more to go by it is the mask for clear prompts, unless that is unstable and the model has a
    `fallback`. `several` chooses among the first (True) or takes the second (False) whatever the prompt is. `previous`
    are coarse logits of earlier answers (`Answers.best`), which the new ones start from.
    """
    prompts = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    if len(embedding) != 1:
        raise UserError(f"the embedding holds {len(embedding)} images", hint="ask about one: embedding[i : i + 1]")
    if not prompts:
        raise UserError("there are no prompts", hint="give a Prompt, or a list with one for each object")
    for prompt in prompts:
        check(prompt, embedding.picture)
    logits: list[Tensor] = []
    scores: list[Tensor] = []
    chosen: list[Tensor] = []
    order: list[int] = []
    with evaluating(model), torch.inference_mode():
        for group in _alike(prompts):
            own = [prompts[i] for i in group]
            rough = None if previous is None else previous[group]
            queries = Queries.of(own, embedding)
            if rough is not None or own[0].masks is not None:
                drawn = [prompt.masks for prompt in own if prompt.masks is not None]
                given = coarse(torch.cat(drawn), embedding) if rough is None else rough[:, None]
                queries = replace(queries, masks=given.to(queries.points))
            decoded = model.answer(embedding, queries)
            made = model.masks(embedding, decoded)
            unclear = _unclear(own[0]) and rough is None if several is None else several
            logits.append(made)
            scores.append(decoded.ious)
            chosen.append(choose(made, decoded.ious, unclear, model.fallback))
            order += group
    back = torch.tensor(order).argsort()
    return Answers(torch.cat(logits)[back], torch.cat(scores)[back], torch.cat(chosen)[back], embedding)


def choose(
    logits: Float[Tensor, "n m h w"],
    ious: Float[Tensor, "n m"],
    several: bool,
    fallback: tuple[float, float] | None,
) -> Int64[Tensor, " n"]:
    """The mask to take: the best of those for ambiguous prompts, or the first where it can be trusted."""
    if several:
        return ious[:, 1:].argmax(1) + 1
    if fallback is None:
        return torch.zeros(len(ious), dtype=torch.int64, device=ious.device)
    return steady(logits, ious, *fallback)


def predict_prompts(model: Any, image: Any, prompts: Prompt | Sequence[Prompt] | None) -> Instances:
    """The objects that prompts on one image mean, one for each; an image is a path, PIL image, array or tensor."""
    if prompts is None:
        hint = "give a Prompt, or a list of them; masklet.inference.everything finds objects without"
        raise UserError(f"{model.spec['model']} needs to be told what is meant", hint=hint)
    with evaluating(model), torch.inference_mode():
        pixels = as_batch(image)
        if len(pixels) != 1:
            raise UserError(f"{len(pixels)} images", hint="prompts belong to one image")
        embedding = model.embed(pixels[0][None].to(next(model.parameters()).device))
    return ask(model, embedding, prompts).instances(model.classes)


def coarse(masks: Bool[Tensor, "n h w"], embedding: Embedding) -> Float[Tensor, "n 1 h4 w4"]:
    """Masks that a person drew, as logits on the grid that masks are predicted on; padding is sure to be outside."""
    return on_grid(torch.where(masks, SURE, -SURE), embedding)


def on_grid(logits: Float[Tensor, "n h w"], embedding: Embedding) -> Float[Tensor, "n 1 h4 w4"]:
    """Logits of the pixels of a picture, on the grid that masks are predicted on."""
    (height, width), (rows, columns) = embedding.mask_size, embedding.input_size
    if embedding.whole is not None:
        (x, y), (h, w) = embedding.corner, embedding.size
        logits = logits[:, y : y + h, x : x + w]
    inside = [
        round(n * side / whole)
        for n, side, whole in zip(embedding.covered, (height, width), (rows, columns), strict=True)
    ]
    small = F.interpolate(logits[:, None], [max(1, n) for n in inside], mode="bilinear", antialias=True)
    return F.pad(small, (0, width - small.shape[3], 0, height - small.shape[2]), value=-SURE)


def check(prompt: Prompt, size: tuple[int, int]) -> None:
    """Refuses what does not lie on an image of this size, and several boxes or masks for one object."""
    height, width = size
    if prompt.points is not None:
        for x, y in prompt.points.tolist():
            if not (0 <= x <= width and 0 <= y <= height):
                message = f"the point {x:g},{y:g} lies outside the image, which is {width} wide and {height} high"
                raise UserError(message, hint="points are x,y in pixels from the top left corner")
    for name, part in (("boxes", prompt.boxes), ("masks", prompt.masks)):
        if part is not None and len(part) != 1:
            raise UserError(
                f"{len(part)} {name} in one prompt", hint="a prompt means one object; give a list of prompts"
            )
    if prompt.boxes is not None:
        x0, y0, x1, y1 = prompt.boxes[0].tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height or x0 == x1 or y0 == y1:
            box = f"{x0:g},{y0:g},{x1:g},{y1:g}"
            message = f"the box {box} covers nothing of the image, which is {width} wide and {height} high"
            raise UserError(message, hint="boxes are x0,y0,x1,y1 in pixels from the top left corner")
    if prompt.masks is not None and tuple(prompt.masks.shape[1:]) != size:
        (h, w) = prompt.masks.shape[1:]
        raise UserError(f"the mask is {h}x{w} but the image is {height}x{width}", hint="resize it to the image")


def _alike(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Prompts with as many points, a box or none, a mask or none: they are decoded together, a few at a time."""
    groups: dict[Any, list[int]] = {}
    for i, prompt in enumerate(prompts):
        kind = (_count(prompt), prompt.boxes is None, prompt.masks is None)
        groups.setdefault(kind, []).append(i)
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


def _count(prompt: Prompt) -> int:
    return 0 if prompt.points is None else len(prompt.points)


def _unclear(prompt: Prompt) -> bool:
    """One click and nothing else."""
    return _count(prompt) == 1 and prompt.boxes is None and prompt.masks is None
