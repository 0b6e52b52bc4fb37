"""The bundled models on sample photographs, and a page of what they see that needs nothing but a browser."""

from __future__ import annotations

import base64
import html
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from masklet import __version__
from masklet.data.formats import write_index_png
from masklet.data.images import read_image
from masklet.data.sources import open_source
from masklet.inference.image import Predictor
from masklet.metrics.semantic import SemanticScore
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.viz.contact import contact_sheet
from masklet.viz.overlay import as_picture, overlay
from masklet.viz.palettes import bare, hexadecimal
from masklet.viz.words import percent
from masklet.weights import CATALOG, load, read_note

__all__ = ["Demo", "run_demo", "sample_photographs"]


@dataclass(frozen=True)
class Subject:
    """What a bundled model is about: its kind of data, that data's folder, and how the page introduces photographs."""

    kind: str
    folder: str
    heading: str
    photographs_first: bool = False


PHOTOGRAPHS = MappingProxyType(  # inside the scikit-image wheel, in the public domain or CC0
    {
        "Chelsea the cat": "chelsea.png",
        "Eileen Collins, astronaut": "astronaut.png",
        "A cup of coffee": "coffee.png",
        "A rocket on its pad": "rocket.jpg",
    }
)
SUBJECTS = MappingProxyType(  # in the order of the page
    {
        "pets": Subject("pets", "pets", "Sample photographs: one cat, three without a pet", photographs_first=True),
        "street": Subject("camvid", "camvid", "Sample photographs, from outside its world"),
        "flood": Subject("flood", "flood_area", "Sample photographs, from outside its world"),
    }
)
ON_PAGE = 900  # pixels; longer sides are shrunk on the page, never in the PNG files


@dataclass(frozen=True)
class Shown:
    """One picture, what a model made of it, and the truth where it is known."""

    title: str
    photo: UInt8[np.ndarray, "h w 3"]
    result: SemanticMap
    seconds: float
    truth: SemanticMap | None = None
    score: SemanticScore | None = None


@dataclass(frozen=True)
class Demo:
    """What the demo wrote, and the mean IoU of each model on the validation pictures that it showed."""

    page: Path
    files: tuple[Path, ...]
    metrics: Mapping[str, float]


def sample_photographs() -> dict[str, Path]:
    """Title and file of the photographs that scikit-image carries, without importing it."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample photographs come with scikit-image", hint="pip install 'masklet[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return {title: folder / name for title, name in PHOTOGRAPHS.items() if (folder / name).exists()}


def run_demo(
    out: str | os.PathLike[str],
    *,
    models: Mapping[str, nn.Module] | None = None,
    data: str | os.PathLike[str] = "../shared/data",
    examples: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Demo:
    """Runs the bundled models (or `models`) on sample photographs that suit them, and on `examples` validation pictures
    of each data set found in the folder `data`; writes index.html, contact sheets, an overlay and an index PNG each.
    """
    out, started = Path(out), time.perf_counter()
    models = _bundled() if models is None else models
    photographs = sample_photographs()
    sets = {name: _validation(name, Path(data), examples) for name in models}
    # A street model has nothing to say about a cat: it sees the photographs only where it has no streets to look at.
    apt = {name: photographs if _at_home(name) or not sets[name] else {} for name in models}
    total = sum(len(apt[name]) + len(sets[name]) for name in models)
    seen: dict[str, list[Shown]] = {}
    files: list[Path] = []
    for name, model in models.items():
        inputs = [(title, path.stem, read_image(path), None) for title, path in apt[name].items()]
        seen[name] = []
        for title, stem, image, truth in chain(inputs, sets[name]):
            shown = _look(model, title, as_picture(image), truth)
            files += _pictures(shown, out / name / stem)
            seen[name].append(shown)
            if progress is not None:
                progress(sum(map(len, seen.values())), total)
    sheets = [_sheet(out / f"{name}.jpg", name, found) for name, found in seen.items()]
    metrics = {f"miou/{name}": _mean(found) for name, found in seen.items() if any(s.truth for s in found)}
    page = out / "index.html"
    with replacing(page) as unfinished:
        unfinished.write_text(_page(seen, time.perf_counter() - started), encoding="utf-8")
    return Demo(page, (page, *sheets, *files), metrics)


def _bundled() -> dict[str, nn.Module]:
    """The models that this copy has weights for."""
    found = {name: load(name) for name in SUBJECTS if CATALOG[name].path.exists()}
    if not found:
        raise UserError("this copy of masklet has no bundled weights", hint="run: make train-bundled")
    return found


def _at_home(name: str) -> bool:
    """Whether the sample photographs are what a model is about."""
    return name not in SUBJECTS or SUBJECTS[name].photographs_first


def _validation(name: str, data: Path, count: int) -> list[tuple[str, str, Any, SemanticMap]]:
    """Title, file name, image and truth of some validation pictures, evenly spread; none without the data."""
    subject = SUBJECTS.get(name)
    if subject is None or not (data / subject.folder).is_dir():
        return []
    source = open_source(f"{subject.kind}:{data / subject.folder}", split="val")
    picked = [source[(2 * i + 1) * len(source) // (2 * count)] for i in range(min(count, len(source)))]
    return [
        (s.name, Path(s.name).name, s.image, SemanticMap(s.semantic, source.classes))
        for s in picked
        if s.semantic is not None
    ]


def _look(model: nn.Module, title: str, photo: UInt8[np.ndarray, "h w 3"], truth: SemanticMap | None) -> Shown:
    """What `model` sees; beside truth it may not choose the classes that a benchmark leaves out."""
    look = Predictor(model, barred=() if truth is None else truth.classes.unscored)
    start = time.perf_counter()
    (result,) = look([read_image(photo)])
    seconds = time.perf_counter() - start
    if truth is None:
        return Shown(title, photo, result, seconds)
    score = SemanticScore(truth.classes)
    score.update(result.labels, truth.labels)
    return Shown(title, photo, result, seconds, truth, score)


def _mean(found: Sequence[Shown]) -> float:
    """Mean IoU over the pictures with truth, taken together."""
    whole: SemanticScore | None = None
    for shown in found:
        if shown.score is not None:
            whole = whole or SemanticScore(shown.score.classes)
            whole.merge(shown.score)
    return whole.compute()["miou"] if whole else float("nan")


def _pictures(shown: Shown, stem: Path) -> tuple[Path, Path]:
    """The overlay and the index picture of one result."""
    painted, index = stem.with_name(f"{stem.name}_overlay.png"), stem.with_name(f"{stem.name}_index.png")
    with replacing(painted) as unfinished:
        Image.fromarray(overlay(shown.photo, shown.result)).save(unfinished)
    write_index_png(index, shown.result.labels, shown.result.classes)
    return painted, index


def _sheet(path: Path, name: str, found: Sequence[Shown]) -> Path:
    """A contact sheet of everything that one model was shown."""
    rows = [[s.photo, overlay(s.photo, s.truth) if s.truth else None, overlay(s.photo, s.result)] for s in found]
    captions = [[s.title, "", _caption(s)] for s in found]
    picture = contact_sheet(rows, ("photograph", "truth", name), captions, key=found[0].result.classes, width=1280)
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=88)
    return path


def _caption(shown: Shown) -> str:
    if shown.score is None:
        return ", ".join(f"{name} {percent(share)}" for name, share in _shares(shown.result)[:3])
    scores = shown.score.compute()
    best = [f"{n} {scores[f'iou/{n}']:.2f}" for n, _ in _shares(shown.truth) if scores.get(f"iou/{n}", -1) >= 0]
    return f"mean IoU {scores['miou']:.2f}" + (f" ({', '.join(best[:4])})" if len(best) > 1 else "")


def _shares(result: SemanticMap | None) -> list[tuple[str, float]]:
    """Classes in a map and the part of the picture that they cover, largest first."""
    areas = {} if result is None else result.area()
    return sorted(((name, share) for name, share in areas.items() if share > 0), key=lambda pair: -pair[1])


def _page(seen: Mapping[str, Sequence[Shown]], seconds: float) -> str:
    """The whole page; every picture is inside it."""
    count = sum(map(len, seen.values()))
    subtitle = (
        f"{', '.join(seen)}: {count} pictures in {seconds:.0f} seconds on {_threads()}, without a network. "
        "Drag across a sample photograph to lift the mask off it."
    )
    footer = (
        f"masklet {__version__}, torch {torch.__version__}. The photographs come with scikit-image; pictures with "
        "truth are validation images that the models were not trained on."
    )
    sections = "\n".join(_section(name, found) for name, found in seen.items())
    return Template(_template()).substitute(subtitle=subtitle, sections=sections, footer=html.escape(footer))


def _threads() -> str:
    count = torch.get_num_threads()
    return "one thread" if count == 1 else f"{count} threads"


def _template() -> str:
    return resources("masklet.inference").joinpath("demo.html").read_text(encoding="utf-8")


def _section(name: str, found: Sequence[Shown]) -> str:
    """One model: what it is, its colours, photographs under a slider, validation pictures beside their truth."""
    entry, classes = CATALOG.get(name), found[0].result.classes
    note = (read_note(entry.path) or {}) if entry is not None and entry.path.exists() else {}
    facts = [
        f"<span>{len(classes)} classes</span>",
        f"<span>{_median([s.seconds for s in found]):.2f} s per picture</span>",
    ]
    if entry is not None and "miou" in note.get("scores", {}):
        facts.append(
            f"<span>mean IoU on all of {html.escape(entry.data)} val <b>{note['scores']['miou']:.3f}</b></span>"
        )
    checked = [s for s in found if s.truth is not None]
    if checked:
        facts.append(f"<span>on the {len(checked)} below <b>{_mean(checked):.3f}</b></span>")
    parts = [
        f"<section><h2>{html.escape(name)}</h2>",
        f"<p>{html.escape(entry.about if entry is not None else '')}</p>",
        f'<div class="facts">{"".join(facts)}</div>',
        _legend(classes),
    ]
    subject = SUBJECTS.get(name)
    heading = subject.heading if subject is not None else "Sample photographs"
    free = [f'<h3>{heading}</h3><div class="grid">', *(_slider(s) for s in found if s.truth is None), "</div>"]
    truth = ["<h3>Validation pictures: photograph, truth, model</h3>", *(_trio(s) for s in checked)] if checked else []
    parts += free + truth if subject is not None and subject.photographs_first else truth + free
    return "\n".join([*parts, "</section>"])


def _legend(classes: Classes) -> str:
    chips = [
        f'<li><i style="background:{hexadecimal(color)}"></i>{html.escape(name)}</li>'
        for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
        if i not in bare(classes)
    ]
    return f'<ul class="legend">{"".join(chips)}</ul>'


def _slider(shown: Shown) -> str:
    title, caption = html.escape(shown.title), html.escape(_caption(shown))
    return (
        f'<figure><div class="compare"><img src="{_embed(shown.photo)}" alt="{title}">'
        f'<img class="over" src="{_embed(overlay(shown.photo, shown.result))}" alt="{title}: {caption}">'
        f'<input type="range" min="0" max="100" value="50" aria-label="compare {title}"></div>'
        f"<figcaption>{title}: <b>{caption}</b></figcaption></figure>"
    )


def _trio(shown: Shown) -> str:
    pictures = (shown.photo, overlay(shown.photo, shown.truth), overlay(shown.photo, shown.result))
    words = (html.escape(shown.title), "truth", f"model: <b>{html.escape(_caption(shown))}</b>")
    figures = "".join(
        f'<figure><img src="{_embed(picture)}" alt=""><figcaption>{text}</figcaption></figure>'
        for picture, text in zip(pictures, words, strict=True)
    )
    return f'<div class="trio">{figures}</div>'


def _embed(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """The picture as a data address."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((ON_PAGE, ON_PAGE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
