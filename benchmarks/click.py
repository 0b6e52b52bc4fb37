"""The bundled model `click`: looking at a picture, a click after that, following objects, everything at 1080p.

python benchmarks/click.py [--threads N] [--rounds N] [--only TEXT]

Targets are wall-clock medians with two threads of a machine that does nothing else. Without the bundled weights the
same model is built with random ones, whose masks are mostly noise. "At worst" every click of the grid hits something
else, which no photograph has.
"""

from __future__ import annotations

from timing import alone, threads  # first: it sets how OpenMP waits

# isort: split
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from masklet.inference.click import look
from masklet.inference.everything import everything, usual
from masklet.inference.tracking import VideoSession
from masklet.models import build
from masklet.models.prompting import ask
from masklet.recipes.click import STAGES
from masklet.structures import Prompt
from masklet.weights import CATALOG, load

HEIGHT, WIDTH = 1080, 1920
FRAMES = 12  # more than are remembered


def model_of(side: int | None = None) -> Any:
    """The bundled model, or one as large, at the side of its input or another one."""
    options: dict[str, Any] = {} if side is None else {"side": side}
    if CATALOG["click"].path.exists():
        return load("click", **options)
    torch.manual_seed(0)
    return build("sam2", **{**STAGES["large"].options, **options}).eval()


def scene(height: int, width: int, moved: int = 0) -> Tensor:
    """Discs of several sizes and colours on a slope of grey."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = (60 + 60 * x / width + 40 * y / height).expand(3, -1, -1).clone()
    for _ in range(40):
        cy, cx, r = (torch.rand((), generator=generator).item() for _ in range(3))
        color = 255 * torch.rand(3, generator=generator)
        away = (y - cy * height) ** 2 + (x - moved - cx * width) ** 2
        image[:, away < ((0.02 + 0.08 * r) * height) ** 2] = color[:, None]
    return image.round().to(torch.uint8)


def tracking(model: Any, frames: list[Tensor], objects: int, together: int = 1) -> Callable[[], object]:
    """A call that computes the next frame of a clip, over and over; the first ones, with prompts, are over."""
    height, width = frames[0].shape[1:]

    def forever() -> Iterator[Any]:
        while True:
            session = VideoSession(model, frames, together=together)
            for k in range(objects):
                session.add_prompt(0, k + 1, points=[((k + 0.5) * width / objects, height / 2)])
            for frame in session.propagate():
                if frame.index >= FRAMES - 4:  # memory is full
                    yield frame

    return forever().__next__


def main() -> None:
    options = threads()
    model = model_of()
    side = model.spec["options"]["side"]
    photo, clip = scene(HEIGHT, WIDTH), [scene(480, 854, 8 * t) for t in range(FRAMES)]
    cases: dict[str, tuple[Callable[[], object], float | None]] = {}
    for input_side in sorted({side, 512}):
        own = model if input_side == side else model_of(input_side)
        cases[f"look at a picture, {input_side} input"] = lambda own=own: look(own, clip[0]), 250
    embedding, large = look(model, clip[0]), look(model, photo)
    click = Prompt(torch.tensor([[400.0, 200.0]]), torch.tensor([1]))
    cases["click, mask of 854x480"] = lambda: ask(model, embedding, click).dense(), 25
    cases["click, mask of 1920x1080"] = lambda: ask(model, large, click).dense(), None
    cases["follow 1 object, a frame"] = tracking(model, clip, 1), 333
    cases["follow 5 objects, a frame"] = tracking(model, clip, 5), 667
    cases["follow 5 objects together, a frame"] = tracking(model, clip, 5, together=5), 667
    found = usual(model)
    cases[f"everything, 1920x1080, {found.points}x{found.points} clicks"] = lambda: everything(model, photo), 8000
    anything = {"score": -9.0, "stability": 0.0, "overlap": 1.0, "smallest": 0}
    cases["everything, at worst"] = lambda: everything(model, photo, **anything), 8000
    for name, (call, most) in cases.items():
        if options.only in name:
            call()
            rounds = min(options.rounds, 3) if "everything" in name else options.rounds
            alone(name, call, rounds=rounds, most_ms=most, side=side)


if __name__ == "__main__":
    main()
