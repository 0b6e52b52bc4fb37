"""Values that a shell can say in one word, and what they mean: `360x480`, `0.5,1,2`, `overlay,index`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from masklet.cli.group import Mistake

__all__ = ["choices", "numbers", "one_of", "pair", "settings_of"]


def pair(word: str, option: str) -> tuple[int, int]:
    """(height, width) from `HEIGHTxWIDTH`, or from one number for a square."""
    parts = word.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise Mistake(f"{option} is {word!r}", f"write HEIGHTxWIDTH in pixels, for example {option} 360x480")
    return int(parts[0]), int(parts[-1])


def settings_of(words: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Names and values from key=value words; values are JSON, or plain text where they are not."""
    found: dict[str, Any] = {}
    for word in words or ():
        key, equals, text = word.partition("=")
        if not equals:
            raise Mistake(f"{option}{word!r} is not key=value", "write for example mask_suffix=_mask or depth=3")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def numbers(word: str, option: str) -> tuple[float, ...]:
    """Positive numbers from a list with commas."""
    try:
        found = tuple(float(part) for part in word.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value < float("inf") for value in found):
        raise Mistake(f"{option} is {word!r}", f"write positive numbers with commas, for example {option} 0.75,1,1.25")
    return found


def choices(word: str, option: str, accepted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names from a list with commas, each one of the `accepted` ones where those are given."""
    found = tuple(part.strip() for part in word.split(",") if part.strip())
    if not found:
        raise Mistake(
            f"{option} is empty", f"choose from {', '.join(accepted)}" if accepted else "write names with commas"
        )
    return tuple(one_of(name, option, accepted) for name in found) if accepted else found


def one_of(name: str, option: str, accepted: Sequence[str]) -> str:
    """`name`, which must be one of the accepted ones."""
    if name not in accepted:
        near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        raise Mistake(f"{option} has no {name!r}", f"{guess}choose from {', '.join(accepted)}")
    return name
