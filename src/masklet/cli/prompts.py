"""Prompts in words: `--point X,Y`, `--point X,Y,0`, `--box X0,Y0,X1,Y1`, each with `:NAME` where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masklet.cli.group import Mistake

__all__ = ["DEFAULT", "is_promptable", "system_named", "things_of"]

DEFAULT = "click"  # the bundled model that is asked where none is named


def things_of(
    points: Sequence[str], boxes: Sequence[str], masks: Sequence[str], scribbles: Sequence[str]
) -> tuple[Any, ...]:
    """What was said, thing by thing. Without names clicks and one box, mask or scribble mean the same thing.

    Several boxes or masks without names are a thing each.
    """
    from masklet.inference.asked import Thing

    areas: list[tuple[str, str, Any]] = [("box", *_box(word)) for word in boxes]
    areas += [("mask", *_file(word, "--mask")) for word in masks]
    areas += [("scribble", *_file(word, "--scribble")) for word in scribbles]
    unnamed = [area for area in areas if not area[1]]
    things: dict[str, Thing] = {}
    several: list[Thing] = []
    for kind, name, value in areas:
        if not name and len(unnamed) > 1:
            several.append(Thing(**{kind: value}))
            continue
        thing = things.setdefault(name, Thing(name))
        if getattr(thing, kind) is not None:
            raise Mistake(f"{name!r} has two of --{kind}", "a thing has one; give another name to the other")
        setattr(thing, kind, value)
    for word in points:
        name, x, y, label = _point(word)
        if not name and several:
            hint = "name them: --box 0,0,9,9:cat --point 3,4:cat"
            raise Mistake(f"--point {word} belongs to which of {len(several)} things?", hint)
        thing = things.setdefault(name, Thing(name))
        thing.points.append((x, y))
        thing.labels.append(label)
    return (*several, *things.values())


def system_named(model: str, weights: Path | None) -> None:
    """Refuses a weight file without a word on whose it is."""
    if model == DEFAULT and weights is not None:
        raise Mistake("--weights is the file of a system", "name it, for example --model sam2_hiera_tiny")


def is_promptable(model: str) -> bool:
    """Whether a system, a catalog name or a checkpoint answers prompts; what is none of these says so later."""
    from masklet.models import MODELS
    from masklet.weights import CATALOG, read_note

    name = model
    if model in CATALOG:
        entry = CATALOG[model]
        name = entry.model or str((read_note(entry.path) or {}).get("model"))
    elif model not in MODELS and Path(model).is_file():
        name = str((read_note(model) or {}).get("model"))
    return name in MODELS and "promptable" in MODELS[name].tasks


def _named(word: str) -> tuple[str, str]:
    value, _, name = word.partition(":")
    return value, name


def _numbers(word: str, option: str, counts: tuple[int, ...], form: str) -> tuple[str, list[float]]:
    value, name = _named(word)
    try:
        found = [float(part) for part in value.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts or not all(abs(number) < float("inf") for number in found):
        raise Mistake(f"{option} is {word!r}", f"write {form}, in pixels from the top left corner")
    return name, found


def _point(word: str) -> tuple[str, float, float, int]:
    name, found = _numbers(word, "--point", (2, 3), "X,Y for this, or X,Y,0 for not this")
    label = found[2] if len(found) == 3 else 1
    if label not in (0, 1):
        raise Mistake(f"--point is {word!r}", "the third number is 1 (this) or 0 (not this)")
    return name, found[0], found[1], int(label)


def _box(word: str) -> tuple[str, tuple[float, ...]]:
    name, (x0, y0, x1, y1) = _numbers(word, "--box", (4,), "X0,Y0,X1,Y1")
    if x1 <= x0 or y1 <= y0:
        raise Mistake(f"--box {word} ends before it begins", "write X0,Y0,X1,Y1, not X,Y,WIDTH,HEIGHT")
    return name, (x0, y0, x1, y1)


def _file(word: str, option: str) -> tuple[str, Path]:
    value, name = (word, "") if Path(word).exists() else _named(word)  # a colon may be part of a path
    if not Path(value).is_file():
        raise Mistake(f"{option} {value} does not exist", "name an image file of the size of the picture")
    return name, Path(value)
