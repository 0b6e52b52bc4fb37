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
from masklet.data.images import read_image
from masklet.data.sources import open_source
from masklet.inference.demo_clicks import ASKED, COINS, ROCKET, Clicks, look_and_click
from masklet.inference.evaluate_objects import COCO_LIMIT, ObjectScores
from masklet.inference.image import Predictor
from masklet.inference.writers import write_index
from masklet.metrics.semantic import SemanticScore
from masklet.structures import Classes, Instances, SemanticMap
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
    photographs: Mapping[str, str] | None = None  # of its own: title and file


# Inside the scikit-image wheel, in the public domain or CC0.
PHOTOGRAPHS = MappingProxyType(
    {
        "Chelsea the cat": "chelsea.png",
        "Eileen Collins, astronaut": "astronaut.png",
        "A cup of coffee": "coffee.png",
        "A rocket on its pad": "rocket.jpg",
    }
)
ROUND_THINGS = MappingProxyType(
    {
        "Coins from Pompeii": "coins.png",
        "Hubble's deep field": "hubble_deep_field.jpg",
        "Glands of a colon, immunostained": "ihc.png",
    }
)
SUBJECTS = MappingProxyType(  # in the order of the page
    {
        "pets": Subject("pets", "pets", "Sample photographs: one cat, three without a pet", photographs_first=True),
        "street": Subject("camvid", "camvid", "Sample photographs, from outside its world"),
        "flood": Subject("flood", "flood_area", "Sample photographs, from outside its world"),
        "nuclei": Subject(
            "nuclei", "nuclei", "Sample pictures: round things and a stain that it has never seen", False, ROUND_THINGS
        ),
    }
)
CLICK = "click"  # the bundled model that takes prompts; the page begins with it
ON_PAGE = 900  # pixels; longer sides are shrunk on the page, never in the PNG files
SURE = 0.5  # objects with a lower score count for average precision but are not drawn
SCORES = MappingProxyType({"miou": "mean IoU", "ap50": "AP at IoU .5"})  # the one number of a page


@dataclass(frozen=True)
class Shown:
    """One picture, what a model made of it, and the truth where it is known."""

    title: str
    photo: UInt8[np.ndarray, "h w 3"]
    answer: SemanticMap | Instances
    seconds: float
    truth: SemanticMap | Instances | None = None

    @property
    def result(self) -> SemanticMap | Instances:
        """What is drawn: all but unlikely objects."""
        answer = self.answer
        return answer[answer.scores >= SURE] if isinstance(answer, Instances) else answer


@dataclass(frozen=True)
class Demo:
    """What the demo wrote, and one score of each model on the validation pictures that it showed."""

    page: Path
    files: tuple[Path, ...]
    metrics: Mapping[str, float]


def sample_photographs(wanted: Mapping[str, str] = PHOTOGRAPHS) -> dict[str, Path]:
    """Title and file of the `wanted` pictures that scikit-image carries, without importing it."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample photographs come with scikit-image", hint="pip install 'masklet[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return {title: folder / name for title, name in wanted.items() if (folder / name).exists()}


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

    A model that takes prompts is clicked on instead, and follows an object.
    """
    out, started = Path(out), time.perf_counter()
    models = dict(_bundled() if models is None else models)
    told = {name: models.pop(name) for name in [*models] if hasattr(models[name], "answer")}
    sample_photographs(PHOTOGRAPHS)  # says what is missing before anything is computed
    sets = {name: _validation(name, Path(data), examples) for name in models}
    # A street model has nothing to say about a cat: it sees the photographs only where it has no streets to look at.
    apt = {name: sample_photographs(_own(name)) if _at_home(name) or not sets[name] else {} for name in models}
    asked = {title: name for title, name in (PHOTOGRAPHS | ROUND_THINGS).items() if title in {*ASKED, COINS, ROCKET}}
    total = sum(len(apt[name]) + len(sets[name]) for name in models) + len(told) * (len(asked) + examples)
    seen: dict[str, list[Shown]] = {}
    files: list[Path] = []
    clicked: dict[str, Clicks] = {}
    done = 0

    def tick() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress is not None:
            progress(done, total)

    for name, model in told.items():
        clicked[name] = look_and_click(model, sample_photographs(asked), Path(data), examples, out / name, _embed, tick)
        files += clicked[name].files
    for name, model in models.items():
        inputs = [(title, path.stem, read_image(path), None) for title, path in apt[name].items()]
        seen[name] = []
        for title, stem, image, truth in chain(inputs, sets[name]):
            shown = _look(model, title, as_picture(image), truth)
            files += _pictures(shown, out / name / stem)
            seen[name].append(shown)
            tick()
    sheets = [_sheet(out / f"{name}.jpg", name, found) for name, found in seen.items()]
    scores = {name: _score(found) for name, found in seen.items()}
    scores |= {name: found.metrics for name, found in clicked.items()}
    metrics = {f"{key}/{name}": value for name, score in scores.items() for key, value in score.items()}
    page = out / "index.html"
    with replacing(page) as unfinished:
        unfinished.write_text(_page(clicked, seen, time.perf_counter() - started), encoding="utf-8")
    return Demo(page, (page, *sheets, *files), metrics)


def _bundled() -> dict[str, nn.Module]:
    """The models that this copy has weights for."""
    found = {name: load(name) for name in (CLICK, *SUBJECTS) if CATALOG[name].path.exists()}
    if not found:
        raise UserError("this copy of masklet has no bundled weights", hint="run: make train-bundled")
    return found


def _at_home(name: str) -> bool:
    """Whether the sample photographs are what a model is about, or at least chosen for it."""
    subject = SUBJECTS.get(name)
    return subject is None or subject.photographs_first or subject.photographs is not None


def _own(name: str) -> Mapping[str, str]:
    """The pictures that suit a model."""
    subject = SUBJECTS.get(name)
    return PHOTOGRAPHS if subject is None or subject.photographs is None else subject.photographs


def _validation(name: str, data: Path, count: int) -> list[tuple[str, str, Any, SemanticMap | Instances]]:
    """Title, file name, image and truth of some validation pictures, evenly spread; none without the data."""
    subject = SUBJECTS.get(name)
    if subject is None or not (data / subject.folder).is_dir():
        return []
    source = open_source(f"{subject.kind}:{data / subject.folder}", split="val")
    picked = [source[(2 * i + 1) * len(source) // (2 * count)] for i in range(min(count, len(source)))]
    truths = [s.instances if s.semantic is None else SemanticMap(s.semantic, source.classes) for s in picked]
    return [
        (s.name, Path(s.name).name, s.image, truth)
        for s, truth in zip(picked, truths, strict=True)
        if truth is not None
    ]


def _look(
    model: nn.Module, title: str, photo: UInt8[np.ndarray, "h w 3"], truth: SemanticMap | Instances | None
) -> Shown:
    """What `model` sees; beside truth it may not choose the classes that a benchmark leaves out."""
    look = Predictor(model, barred=() if truth is None else truth.classes.unscored)
    start = time.perf_counter()
    (answer,) = look([read_image(photo)])
    return Shown(title, photo, answer, time.perf_counter() - start, truth)


def _score(found: Sequence[Shown]) -> dict[str, float]:
    """Mean IoU, or AP at IoU .5, over the pictures with truth, taken together; nothing where there is no truth."""
    if regions := _regions(found):
        return {"miou": regions["miou"]}
    pairs = [(s.answer, s.truth) for s in found]
    objects = [(a, t) for a, t in pairs if isinstance(a, Instances) and isinstance(t, Instances)]
    if not objects:
        return {}
    score = ObjectScores(objects[0][1].classes, max(COCO_LIMIT, *(len(answer) for answer, _ in objects)))
    for i, (answer, truth) in enumerate(objects):
        score.update(answer, truth, str(i))
    return {"ap50": score.compute()["ap50"]}


def _regions(found: Sequence[Shown]) -> dict[str, float]:
    """The scores of label maps that have truth, taken together; nothing where there are none."""
    pairs = [(s.answer, s.truth) for s in found]
    maps = [(a, t) for a, t in pairs if isinstance(a, SemanticMap) and isinstance(t, SemanticMap)]
    if not maps:
        return {}
    score = SemanticScore(maps[0][1].classes)
    for answer, truth in maps:
        score.update(answer.labels, truth.labels)
    return score.compute()


def _pictures(shown: Shown, stem: Path) -> list[Path]:
    """The overlay and the index picture of one result."""
    painted = stem.with_name(f"{stem.name}_overlay.png")
    with replacing(painted) as unfinished:
        Image.fromarray(overlay(shown.photo, shown.result)).save(unfinished)
    index = stem.with_name(f"{stem.name}_index.png")
    write_index(index, shown.result)
    return [painted, index]


def _sheet(path: Path, name: str, found: Sequence[Shown]) -> Path:
    """A contact sheet of everything that one model was shown."""
    rows = [
        [s.photo, None if s.truth is None else overlay(s.photo, s.truth), overlay(s.photo, s.result)] for s in found
    ]
    captions = [[s.title, "", _caption(s)] for s in found]
    key = None if isinstance(found[0].result, Instances) else found[0].result.classes  # each object has its own colour
    picture = contact_sheet(rows, ("photograph", "truth", name), captions, key=key, width=1280)
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=88)
    return path


def _caption(shown: Shown) -> str:
    if isinstance(shown.result, Instances):
        count, (name, *_) = len(shown.result), shown.result.classes.names
        known = f", {len(shown.truth)} there" if isinstance(shown.truth, Instances) else ""
        score = "".join(f", {SCORES[key]} {value:.2f}" for key, value in _score([shown]).items())
        return f"{name}: {count} found{known}{score}"
    scores = _regions([shown])
    if not scores:
        return ", ".join(f"{name} {percent(share)}" for name, share in _shares(shown.result)[:3])
    best = [f"{n} {scores[f'iou/{n}']:.2f}" for n, _ in _shares(shown.truth) if scores.get(f"iou/{n}", -1) >= 0]
    return f"mean IoU {scores['miou']:.2f}" + (f" ({', '.join(best[:4])})" if len(best) > 1 else "")


def _shares(result: SemanticMap | Instances | None) -> list[tuple[str, float]]:
    """Classes in a map and the part of the picture that they cover, largest first."""
    areas = result.area() if isinstance(result, SemanticMap) else {}
    return sorted(((name, share) for name, share in areas.items() if share > 0), key=lambda pair: -pair[1])


def _page(clicked: Mapping[str, Clicks], seen: Mapping[str, Sequence[Shown]], seconds: float) -> str:
    """The whole page; every picture is inside it."""
    count = sum(map(len, seen.values())) + sum(found.pictures for found in clicked.values())
    subtitle = (
        f"{', '.join([*clicked, *seen])}: {count} pictures in {seconds:.0f} seconds on {_threads()}, "
        "without a network. Drag across a sample photograph to lift the mask off it."
    )
    footer = (
        f"masklet {__version__}, torch {torch.__version__}. The photographs come with scikit-image; pictures with "
        "truth are validation images that the models were not trained on."
    )
    told = [_told_section(name, found) for name, found in clicked.items()]
    sections = "\n".join([*told, *(_section(name, found) for name, found in seen.items())])
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
    for key, words in SCORES.items():
        if entry is not None and key in note.get("scores", {}):
            facts.append(
                f"<span>{words} on all of {html.escape(entry.data)} val <b>{note['scores'][key]:.3f}</b></span>"
            )
    checked = [s for s in found if s.truth is not None]
    facts += [f"<span>on the {len(checked)} below <b>{value:.3f}</b></span>" for value in _score(found).values()]
    parts = [
        f"<section><h2>{html.escape(name)}</h2>",
        f"<p>{html.escape(entry.about if entry is not None else '')}</p>",
        f'<div class="facts">{"".join(facts)}</div>',
        "" if isinstance(found[0].result, Instances) else _legend(classes),
    ]
    subject = SUBJECTS.get(name)
    heading = subject.heading if subject is not None else "Sample photographs"
    free = [f'<h3>{heading}</h3><div class="grid">', *(_slider(s) for s in found if s.truth is None), "</div>"]
    truth = ["<h3>Validation pictures: photograph, truth, model</h3>", *(_trio(s) for s in checked)] if checked else []
    parts += free + truth if subject is not None and subject.photographs_first else truth + free
    return "\n".join([*parts, "</section>"])


def _told_section(name: str, found: Clicks) -> str:
    """A model that takes prompts: what it is, how fast it answers, and what came of the prompts."""
    entry = CATALOG.get(name)
    note = (read_note(entry.path) or {}) if entry is not None and entry.path.exists() else {}
    facts = []
    if found.looking and found.answering:
        facts.append(f"<span>{_median(found.looking):.2f} s to look at a picture</span>")
        facts.append(f"<span>{1000 * _median(found.answering):.0f} ms for each click after that</span>")
    known = {"iou@1": "1 click", "iou@3": "3 clicks", "iou@5": "5 clicks", "box": "a box"}
    reached = {words: note.get("scores", {})[key] for key, words in known.items() if key in note.get("scores", {})}
    facts += [f"<span>mean IoU after {words} <b>{value:.3f}</b></span>" for words, value in reached.items()]
    about = "" if entry is None else html.escape(entry.about)
    green = "Green dots are clicks on the object, red ones say: not this. The predicted IoU is the model's own guess."
    return "\n".join(
        [
            f"<section><h2>{html.escape(name)}</h2>",
            f"<p>{about}. {green}</p>" if about else f"<p>{green}</p>",
            f'<div class="facts">{"".join(facts)}</div>',
            *found.parts,
            "</section>",
        ]
    )


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
