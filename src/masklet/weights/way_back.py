"""Our names become foreign ones again: a model trained here goes on in the code base that its weights came from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from masklet.models import options as options_of
from masklet.models import unknown
from masklet.structures.errors import UserError
from masklet.weights import ORIGINS
from masklet.weights.remap import Layout, Rule, remap

GROUP = re.compile(r"\(([^()?][^()]*)\)")
PLAIN = re.compile(r"(?:\w|\\\.)*")  # letters, digits, _ and escaped dots


def named_as(model: Any, origin: str) -> dict[str, Tensor]:
    """The state dict of a model of `masklet.build` under the names of `origin`, to be loaded there strictly.

    Not every origin has names for every model, and not every file can be made again: what was dropped on the way here,
    a classifier for instance, is gone.
    """
    if origin not in ORIGINS:
        raise unknown("origin", origin, ORIGINS)
    name = model.spec["model"]
    built = {key: p.default for key, p in options_of(name).items()} | model.spec["options"]
    reason = ""
    for layout in (found for found in ORIGINS[origin].layouts if name in found.models and reverse(found)):
        tensors = _renamed(model, layout)
        if tensors is None or not layout.matches(tensors):
            continue  # the names of another backbone
        other = {key: value for key, value in layout.options(tensors).items() if value != built[key]}
        other.pop("aux_weight", None)  # it weighs a loss and leaves no trace in the tensors
        if not other:
            return tensors
        key, theirs = next(iter(other.items()))
        reason = f": there it has {key}={theirs!r}, here {built[key]!r}"
    able = sorted({o.name for o in ORIGINS.values() for x in o.layouts if name in x.models and reverse(x)} - {origin})
    hint = f"there may be one to {', '.join(able)}" if able else "keep the checkpoint, which says what it is"
    raise UserError(f"there is no way back from this {name} to {origin}{reason}", hint=hint)


def _renamed(model: Any, layout: Layout) -> dict[str, Tensor] | None:
    try:
        return remap(model.state_dict(), reverse(layout) or ())[0]
    except UserError:
        return None


def reverse(layout: Layout) -> tuple[Rule, ...] | None:
    """The rules of `layout` the other way round; None where one of them drops or changes a tensor."""
    rules = [_reverse(rule) for rule in layout.rules]
    return None if None in rules else tuple(rule for rule in rules if rule is not None)


def _reverse(rule: Rule) -> Rule | None:
    if rule.to is None or rule.fix is not Rule.fix or getattr(rule, "part", None) is not None:
        return None
    *pieces, last = GROUP.split(rule.pattern)
    words, groups = [*pieces[::2], last], pieces[1::2]
    if not all(PLAIN.fullmatch(word) for word in words):
        return None
    order = [int(number) for number in re.findall(r"\\(\d)", rule.to)]
    if sorted(order) != list(range(1, len(groups) + 1)):
        return None
    pattern = "".join(
        re.escape(piece) if i % 2 == 0 else f"({groups[int(piece) - 1]})"
        for i, piece in enumerate(re.split(r"\\(\d)", rule.to))
    )
    return Rule(pattern, _joined(words, (rf"\{order.index(i) + 1}" for i in range(1, len(groups) + 1))))


def _joined(words: list[str], references: Iterable[str]) -> str:
    first, *rest = (word.replace(r"\.", ".") for word in words)
    return first + "".join(reference + word for reference, word in zip(references, rest, strict=True))
