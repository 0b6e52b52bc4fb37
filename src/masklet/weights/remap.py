"""Foreign names become ours: ordered rules, first match wins, dropping is also a rule, and nothing is left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from masklet.structures.errors import UserError

SHOWN = 3  # names in a message; the rest is counted


def _same(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Rule:
    """Keys that match `pattern` are called `to`, or dropped where `to` is None; `fix` changes the tensor.

    Rules with a `part` give one tensor together, theirs stacked along the first axis in the order of the parts.
    """

    pattern: str
    to: str | None
    fix: Callable[[Tensor], Tensor] = _same  # reshape a fully connected layer, flip BGR, fill up with zeros
    part: int | None = None  # queries, keys and values that we keep as one matrix, for instance


IDENTITY = (Rule(r"(.+)", r"\1"),)


@dataclass(frozen=True)
class Layout:
    """One published architecture: the keys it is known by, the systems it fits, and how its names become theirs.

    A file has this layout when each of `marks` (regular expressions) matches one of its keys and none of `without`
    does. `options` reads from the tensors what the system must be built with. Where a file has some parts of the system
    only, `partial` says (what it is, what to do): it loads if whoever loads it names the others with `fresh`.
    """

    models: tuple[str, ...]
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    options: Callable[[Mapping[str, Tensor]], dict[str, object]] = lambda tensors: {}
    without: tuple[str, ...] = ()
    partial: tuple[str, str] | None = None

    def matches(self, keys: Iterable[str]) -> bool:
        keys = tuple(keys)
        here = lambda mark: any(re.fullmatch(mark, key) for key in keys)  # noqa: E731
        return all(map(here, self.marks)) and not any(map(here, self.without))


@dataclass(frozen=True)
class Origin:
    """Where weights come from: a code base with its naming of layers."""

    name: str
    layouts: tuple[Layout, ...]

    def find(self, keys: Iterable[str], model: str | None = None) -> Layout | None:
        """The first layout with these keys, for `model` if any is."""
        found = [layout for layout in self.layouts if layout.matches(keys)]
        return next((layout for layout in found if model in layout.models), found[0] if found else None)


@dataclass(frozen=True)
class Report:
    """What became of every tensor: source name to ours, dropped on purpose, and left at its initial value."""

    loaded: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def rename(key: str, rules: Iterable[Rule]) -> tuple[str | None, Rule] | None:
    """The new name of `key` and the rule that gave it; None when no rule knows the key."""
    for rule in rules:
        if match := re.fullmatch(rule.pattern, key):
            return (None if rule.to is None else match.expand(rule.to)), rule
    return None


def remap(
    source: Mapping[str, Tensor], rules: Iterable[Rule], said: str = "the file"
) -> tuple[dict[str, Tensor], Report]:
    """Tensors under our names. Every source key must match a rule, and no two may get the same name."""
    rules, out, loaded = tuple(rules), {}, {}
    unknown, dropped = [], []
    parts: dict[str, dict[int, Tensor]] = {}
    for key, value in source.items():
        found = rename(key, rules)
        if found is None:
            unknown.append(key)
        elif found[0] is None:
            dropped.append(key)
        elif found[0] in out or found[1].part in parts.get(found[0], ()):
            raise UserError(f"two tensors of {said} became {found[0]!r}, the second is {key!r}")
        else:
            loaded[key] = found[0]
            if found[1].part is None:
                out[found[0]] = found[1].fix(value)
            else:
                parts.setdefault(found[0], {})[found[1].part] = found[1].fix(value)
    if unknown:
        raise UserError(
            f"{said} has {_count(unknown, 'tensor')} that its layout does not know: {_some(unknown)}",
            hint="name the origin it comes from with origin=",
        )
    out |= {name: torch.cat([pieces[i] for i in sorted(pieces)]) for name, pieces in parts.items()}
    return out, Report(loaded, tuple(dropped))


def fill(
    model: nn.Module,
    source: Mapping[str, Tensor],
    rules: Iterable[Rule] = IDENTITY,
    fresh: str | None = None,
    said: str = "the file",
    name: str | None = None,
) -> Report:
    """Copies every tensor of `source` into `model`; nothing may be missing, left over or of another shape.

    `fresh` is a regular expression: parameters of the model that match it keep their initial values, and what the
    source has for them is dropped. `said` and `name` are what messages call source and model.
    """
    name = type(model).__name__ if name is None else name
    tensors, report = remap(source, rules, said)
    target = model.state_dict()
    kept = _kept(target, fresh, name)
    extra = [key for key in tensors if key not in target and not (fresh and re.fullmatch(fresh, key))]
    missing = [key for key in target if key not in tensors and key not in kept and not _counter(key)]
    if 2 * len(missing) > len(target):
        raise UserError(f"{said} is not a {name}", hint=f"it has {_some(list(source))}; {name} wants {_some(missing)}")
    if missing:
        also = f" and has {_some(extra)} instead" if extra else ""
        raise UserError(
            f"{said} lacks {_count(missing, 'tensor')} of {name}: {_some(missing)}{also}", hint=_fresh(missing)
        )
    if extra:
        raise UserError(
            f"{said} has {_count(extra, 'tensor')} that {name} has no place for: {_some(extra)}",
            hint="build the model with the options it was trained with",
        )
    copied = {key: value for key, value in tensors.items() if key in target and key not in kept}
    for key, value in copied.items():
        if value.shape != target[key].shape:
            mine, theirs = _shape(target[key]), _shape(value)
            raise UserError(f"{key} is {theirs} in {said} but {mine} in {name}", hint=_fresh([key]))
        if value.is_floating_point() and not target[key].is_floating_point():
            raise UserError(f"{key} is {value.dtype} in {said} but {target[key].dtype} in {name}")
    with torch.no_grad():
        for key, value in copied.items():
            target[key].copy_(value)
    dropped = tuple(old for old, new in report.loaded.items() if new not in copied)
    loaded = {old: new for old, new in report.loaded.items() if new in copied}
    return Report(loaded, report.dropped + dropped, tuple(key for key in target if key in kept))


def _kept(target: Iterable[str], fresh: str | None, name: str) -> frozenset[str]:
    if fresh is None:
        return frozenset()
    try:
        kept = frozenset(key for key in target if re.fullmatch(fresh, key))
    except re.error as error:
        raise UserError(f"fresh={fresh!r} is not a regular expression ({error})") from error
    if not kept:
        raise UserError(f"fresh={fresh!r} matches no tensor of {name}", hint=f"they are called {_some(list(target))}")
    return kept


def _counter(key: str) -> bool:
    """Batch norm's step counter matters to nobody here, and older files lack it."""
    return key.endswith("num_batches_tracked")


def _fresh(keys: list[str]) -> str:
    stem = keys[0].split(".")[0]
    return f"if they may start untrained, say so with fresh=r'{stem}\\..*'"


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
