"""What the demo page shows of a model that takes prompts: clicks, boxes, everything, and a coin that it follows."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from masklet.data.framing import evenly
from masklet.data.images import read_image
from masklet.data.objects import known_pixels, objects_in
from masklet.data.sources import open_source
from masklet.inference.click import ClickSession
from masklet.inference.everything import everything
from masklet.inference.tracking import VideoSession
from masklet.ops.clicks import Click, next_click
from masklet.ops.rle import decode
from masklet.structures import Clip, Curve, Masks, Sample
from masklet.structures.files import replacing
from masklet.viz.overlay import as_picture, overlay
from masklet.viz.prompts import with_prompts
from masklet.viz.scores import chart

__all__ = ["ASKED", "COINS", "ROCKET", "Clicks", "look_and_click", "rolling_coin"]


@dataclass(frozen=True)
class Ask:
    """What is said of an object in a photograph, as shares of its width and height, and what the page says about it."""

    what: str
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    meanings: bool = False


CAT, CUP, ASTRONAUT, COINS = "Chelsea the cat", "A cup of coffee", "Eileen Collins, astronaut", "Coins from Pompeii"
ROCKET = "A rocket on its pad"
ASKED: Mapping[str, tuple[Ask, ...]] = MappingProxyType(
    {
        CAT: (
            Ask("one click", ((0.52, 0.43),), (1,)),
            Ask("and one on the cheek, one beside", ((0.52, 0.43), (0.2, 0.7), (0.93, 0.25)), (1, 1, 0)),
        ),
        CUP: (Ask("one click, which may mean three things", ((0.47, 0.36),), (1,), meanings=True),),
        ASTRONAUT: (
            Ask("a box", box=(0.02, 0.02, 0.73, 1.0)),
            Ask("a click on the suit", ((0.37, 0.7),), (1,)),
            Ask("a click on the helmet", ((0.83, 0.82),), (1,)),
        ),
    }
)
COIN = (347.0, 186.5, 31.0)  # x, y and radius of the largest of the coins, in pixels of its photograph
FRAMES = 24
STRIP = (0, 8, 16, 23)  # frames of the clip that the page shows
CLICKS = 3
SETS = MappingProxyType({"davis2016": "davis:", "pets": "pets:", "nuclei": "nuclei:"})  # folder: kind of data


@dataclass
class Clicks:
    """What came of it: HTML, files, scores where the truth is known, and how much was looked at."""

    parts: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    pictures: int = 0
    looking: list[float] = field(default_factory=list)  # seconds to embed a picture
    answering: list[float] = field(default_factory=list)  # seconds of a click after that


def look_and_click(
    model: Any,
    photographs: Mapping[str, Path],
    data: Path,
    examples: int,
    out: Path,
    embed: Callable[[UInt8[np.ndarray, "h w 3"]], str],
    tick: Callable[[], None] = lambda: None,
) -> Clicks:
    """Clicks on the `photographs` that it knows, follows a coin, and clicks on `examples` objects of data with truth.

    Writes an overlay of each into `out`; `embed` makes the address of a picture in a page, `tick` counts pictures.
    """
    done = Clicks()
    for title, asked in ASKED.items():
        if title in photographs:
            _photograph(done, model, title, photographs[title], asked, out, embed)
            tick()
    if COINS in photographs:
        _everything(done, model, photographs[COINS], out, embed)
        tick()
    if COINS in photographs and ROCKET in photographs:
        _clip(done, model, rolling_coin(photographs[COINS], photographs[ROCKET]), out, embed)
        tick()
    objects = _objects(data, examples)
    if objects:
        done.parts.append("<h3>Objects of validation pictures: clicks, truth, model</h3>")
    reached = [_object(done, model, sample, truth, out, embed) for sample, truth in objects]
    if reached:
        done.metrics |= {f"iou@{k}": float(np.mean([ious[k - 1] for ious in reached])) for k in (1, CLICKS)}
    for _ in objects:
        tick()
    return done


def rolling_coin(coins: Path, ground: Path, frames: int = FRAMES) -> Clip:
    """A coin, cut out as the disc that it is, rolls over a photograph and comes nearer: a clip with exact truth."""
    x, y, radius = COIN
    with Image.open(coins) as opened:
        grey = opened.convert("RGB")
        coin = grey.crop((round(x - radius), round(y - radius), round(x + radius), round(y + radius)))
    with Image.open(ground) as opened:
        back = opened.convert("RGB").resize((480, 320), Image.Resampling.LANCZOS)
    rows, columns = np.mgrid[: back.height, : back.width] + 0.5
    images, masks = [], []
    for t in np.linspace(0, 1, frames):
        size = radius * (1.2 + 0.5 * t)
        middle = back.width * (0.15 + 0.65 * t), back.height * (0.65 - 0.3 * np.sin(np.pi * t))
        turned = coin.rotate(-360 * t, Image.Resampling.BICUBIC).resize((round(2 * size), round(2 * size)))
        laid = back.copy()
        laid.paste(turned, (round(middle[0] - size), round(middle[1] - size)))
        away = np.hypot(columns - middle[0], rows - middle[1])
        share = np.clip(size - 0.5 - away, 0, 1)[..., None]  # of the coin in a pixel of its rim
        images.append((np.array(back) * (1 - share) + np.array(laid) * share).round().astype(np.uint8))
        masks.append(away < size - 1)
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Clip(stack, torch.from_numpy(np.stack(masks))[None], "coin")


def _photograph(
    done: Clicks, model: Any, title: str, path: Path, asked: Sequence[Ask], out: Path, embed: Callable[..., str]
) -> None:
    photo = read_image(path)
    session = _look(done, model, photo)
    figures = []
    for i, ask in enumerate(asked):
        width, height = session.size[1], session.size[0]
        points = [(x * width, y * height) for x, y in ask.points]
        box = None if ask.box is None else [v * n for v, n in zip(ask.box, (width, height) * 2, strict=True)]
        if box is not None:
            _timed(done, session.box, *box, i)
        for point, label in zip(points, ask.labels, strict=True):
            _timed(done, session.click, *point, bool(label), i)
        masks, scores = session.mask(i)[None], [session.score(i)]
        if ask.meanings:
            masks, found = session.meanings(i)
            scores = found.tolist()
        for k, (mask, score) in enumerate(zip(masks, scores, strict=True)):
            painted = _painted(photo, mask, points, ask.labels, box)
            done.files.append(_save(out / f"{path.stem}_{i + 1}{'abc'[k] if len(scores) > 1 else ''}.png", painted))
            what = f"meaning {k + 1}" if len(scores) > 1 else ask.what
            figures.append(_figure(painted, what, f"predicted IoU {score:.2f}", embed))
    words = asked[0].what if any(ask.meanings for ask in asked) else ""
    heading = html.escape(title) + (f": {html.escape(words)}" if words else "")
    done.parts.append(f'<h3>{heading}</h3><div class="grid">{"".join(figures)}</div>')


def _everything(done: Clicks, model: Any, path: Path, out: Path, embed: Callable[..., str]) -> None:
    photo, start = read_image(path), time.perf_counter()
    found = everything(model, photo)
    seconds = time.perf_counter() - start
    assert not isinstance(found, list)
    painted = overlay(as_picture(photo), found.instances)
    done.files.append(_save(out / f"{path.stem}_everything.png", painted))
    done.pictures += 1
    figures = _figure(as_picture(photo), "nothing is said", "", embed)
    figures += _figure(painted, "everything", f"{len(found)} objects in {seconds:.1f} s", embed)
    done.parts.append(f'<h3>{html.escape(COINS)}: without a prompt</h3><div class="grid">{figures}</div>')


def _clip(done: Clicks, model: Any, clip: Clip, out: Path, embed: Callable[..., str]) -> None:
    first = next_click(torch.zeros_like(clip.masks[0, 0]), clip.masks[0, 0])
    assert first is not None
    session, start = VideoSession(model, [*clip.frames]), time.perf_counter()
    session.add_prompt(0, 1, points=[(first.x, first.y)])
    ious, predicted, figures = [], [], []
    for frame in session.propagate():
        mask = torch.from_numpy(decode(frame.masks[1]))
        ious.append(_iou(mask, clip.masks[0, frame.index]))
        predicted.append(float(frame.scores[1]))
        if frame.index in STRIP:
            points = [(float(first.x), float(first.y))] if frame.index == 0 else []
            painted = _painted(frame.image, mask, points, [1] * len(points), None)
            done.files.append(_save(out / f"coin_{frame.index:02d}.png", painted))
            what = "one click on frame 0" if points else f"frame {frame.index}"
            figures.append(_figure(painted, what, f"true IoU {ious[-1]:.2f}, predicted {predicted[-1]:.2f}", embed))
    rate = len(ious) / (time.perf_counter() - start)
    done.pictures += len(ious)
    done.metrics["tracked_iou"] = float(np.mean(ious))
    number = np.arange(len(ious), dtype=np.float64)
    lines = [
        Curve(name, number, np.array(values, np.float64), "frame", "IoU", group="IoU over the frames")
        for name, values in (("true", ious), ("predicted", predicted))
    ]
    done.parts.append(
        f"<h3>A coin rolls over a photograph; it is followed from one click, {rate:.1f} frames a second, "
        f'mean IoU {np.mean(ious):.3f}</h3><div class="grid">{"".join(figures)}</div>'
        f'<div class="charts">{chart("IoU over the frames: true and predicted", lines)}</div>'
    )


def _object(
    done: Clicks, model: Any, sample: Sample, truth: Bool[Tensor, "h w"], out: Path, embed: Callable[..., str]
) -> list[float]:
    """Clicks on one object as a careful annotator would; gives the true IoU after each click."""
    session, known = _look(done, model, sample.image), known_pixels(sample)
    mask, ious = torch.zeros_like(truth), list[float]()
    made: list[Click] = []
    for _ in range(CLICKS):
        click = next_click(mask, truth, made, valid=known)
        if click is None:
            break
        made.append(click)
        mask = _timed(done, session.click, click.x, click.y, click.positive).cpu()
        ious.append(_iou(mask if known is None else mask & known, truth))
    points, labels = [(float(c.x), float(c.y)) for c in made], [int(c.positive) for c in made]
    photo = as_picture(sample.image if sample.image.dtype == torch.uint8 else (sample.image * 255).round().byte())
    painted = overlay(photo, mask[None])
    done.files.append(_save(out / f"{sample.name.replace('/', '_')}.png", painted))
    clicks = f"{len(made)} click{'s'[: len(made) - 1]}"
    scores = f"true IoU {ious[-1]:.2f}, predicted {session.score():.2f} ({ious[0]:.2f} after one click)"
    trio = (
        _figure(with_prompts(photo, points, labels), f"{sample.name}: {clicks}", "", embed),
        _figure(overlay(photo, truth[None]), "truth", "", embed),
        _figure(painted, "model", scores, embed),
    )
    done.parts.append(f'<div class="trio">{"".join(trio)}</div>')
    return ious + ious[-1:] * (CLICKS - len(ious))


def _objects(data: Path, examples: int) -> list[tuple[Sample, Bool[Tensor, "h w"]]]:
    """The largest object of some validation pictures, the data sets that there are taking turns."""
    there = {folder: kind for folder, kind in SETS.items() if (data / folder).is_dir()}
    sets: list[Any] = [open_source(f"{kind}{data / folder}", split="val") for folder, kind in there.items()]
    found = []
    for i, source in enumerate(sets):
        count = len(range(i, examples, len(sets)))
        for k in range(min(count, len(source))):
            sample = evenly(source, 2 * count + 1)[min(2 * k + 1, len(source) - 1)]
            masks = objects_in(sample)
            if len(masks):
                found.append((sample, masks[[int(masks.areas().argmax())]].dense()[0]))
    return found


def _look(done: Clicks, model: Any, image: Tensor) -> ClickSession:
    start = time.perf_counter()
    session = ClickSession(model, image)
    done.looking.append(time.perf_counter() - start)
    done.pictures += 1
    return session


def _timed(done: Clicks, answer: Callable[..., Tensor], *said: Any) -> Tensor:
    start = time.perf_counter()
    mask = answer(*said)
    done.answering.append(time.perf_counter() - start)
    return mask


def _painted(
    photo: Any,
    mask: Bool[Tensor, "h w"],
    points: Sequence[tuple[float, float]],
    labels: Sequence[int],
    box: Sequence[int | float] | None,
) -> UInt8[np.ndarray, "h w 3"]:
    return with_prompts(overlay(as_picture(photo), Masks.from_dense(mask[None].cpu())), points, labels, box)


def _iou(mask: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"]) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def _save(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished)
    return path


def _figure(picture: UInt8[np.ndarray, "h w 3"], what: str, score: str, embed: Callable[..., str]) -> str:
    words = html.escape(what) + (f": <b>{html.escape(score)}</b>" if score else "")
    return f'<figure><img src="{embed(picture)}" alt="{html.escape(what)}"><figcaption>{words}</figcaption></figure>'
