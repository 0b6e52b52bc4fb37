"""Recipes as plain values: from a JSON file, from `key=value` words, and what of them must not change on the way.

A recipe is a flat frozen dataclass whose fields are numbers, texts, tuples of numbers and mappings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from masklet.structures.errors import UserError

Recipe = TypeVar("Recipe")
# What may differ when a training goes on: how it is carried out, not what it computes.
SITTING = frozenset({"workers", "device", "time_budget_minutes", "save_every", "save_seconds", "tensorboard"})


def from_dict(kind: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """A recipe of this kind from plain values, as in a JSON file; a misspelt key is answered with the nearest name."""
    known = fields(kind)  # type: ignore[arg-type]
    names = [f.name for f in known]
    for key in values:
        if key not in names:
            near = get_close_matches(key, names, n=1, cutoff=0.0)[0]
            raise UserError(f"a recipe has no {key!r}", hint=f"did you mean {near!r}?")
    if "data" not in values:
        raise UserError("the recipe does not say which data to train on", hint="give data=kind:path")
    return kind(**{f.name: fitted(f.name, str(f.type), values[f.name]) for f in known if f.name in values})


def override(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """The recipe with `key=value` words applied; values are JSON, or plain text where they are not."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is not key=value")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    old = {f.name: getattr(recipe, f.name) for f in fields(recipe)}  # type: ignore[arg-type]
    return from_dict(type(recipe), {**old, **values})


def fitted(name: str, kind: str, value: Any) -> Any:
    """A value from JSON or a command line as a field annotated `kind` takes it, or an error that says what it takes."""
    kinds = re.sub(r"\[[^]]*\]", "", kind).split(" | ")
    if isinstance(value, list | tuple) and "tuple" in kinds and all(type(v) in (int, float) for v in value):
        return tuple(map(float, value)) if "tuple[float" in kind else tuple(value)
    if isinstance(value, Mapping) and kind == "Mapping[str, float]":
        return {key: fitted(f"{name}[{key!r}]", "float", factor) for key, factor in value.items()}
    if type(value) is int and "float" in kinds:
        return float(value)
    types = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None), "Mapping": Mapping}
    if not any(isinstance(value, types[k]) and (k == "bool") == isinstance(value, bool) for k in kinds if k in types):
        said = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "None": "null"}
        more = {"tuple": "a list such as [256,256]", "Mapping": 'an object such as {"key": 1}'}
        raise UserError(f"{name} is {value!r}", hint=f"give {' or '.join((said | more)[k] for k in kinds)}")
    return value


def check(
    recipe: Any, checks: Iterable[tuple[str, bool, str]], choices: Iterable[tuple[str, Iterable[str]]] = ()
) -> None:
    """Refuse values out of range: (field, whether it is good, what it must be), and (field, the names it may have)."""
    for name, good, wanted in checks:
        if not good:
            raise UserError(f"{name} is {getattr(recipe, name)!r}", hint=f"it must be {wanted}")
    for name, accepted in choices:
        if getattr(recipe, name) not in accepted:
            raise UserError(f"unknown {name} {getattr(recipe, name)!r}", hint=f"choose from {', '.join(accepted)}")


def loop_checks(recipe: Any) -> list[tuple[str, bool, str]]:
    """The ranges of what every recipe has."""
    return [
        ("epochs", recipe.epochs >= 1, "at least 1"),
        ("batch", recipe.batch >= 1, "at least 1"),
        ("accumulate", recipe.accumulate >= 1, "at least 1"),
        ("validate_every", recipe.validate_every >= 1, "at least 1"),
        ("workers", recipe.workers >= 0, "0 or more"),
        ("seed", recipe.seed >= 0, "0 or more"),
        ("lr", recipe.lr > 0, "above 0"),
        ("weight_decay", recipe.weight_decay >= 0, "0 or more"),
        ("clip", recipe.clip is None or recipe.clip > 0, "above 0, or None"),
        ("ema", 0 <= recipe.ema < 1, "in [0, 1), for example 0.999"),
        ("blur", 0 <= recipe.blur <= 1, "a probability in [0, 1]"),
        (
            "scale",
            len(recipe.scale) == 2 and 0 < recipe.scale[0] <= recipe.scale[1],
            "(low, high) with 0 < low <= high",
        ),
        ("crop", recipe.crop is None or is_size(recipe.crop), "(height, width) in pixels"),
    ]


def is_size(value: Sequence[int]) -> bool:
    """Whether this is a height and a width in pixels."""
    return len(value) == 2 and min(value) >= 1
