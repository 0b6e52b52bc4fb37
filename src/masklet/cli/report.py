"""The result of a command, as one JSON object for programs or as text for people."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Json", "Report", "as_json", "as_text", "progress_bar", "read_json"]

SHOWN = 8  # files that a person is told about; the JSON object names them all

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


@dataclass
class Report:
    """What a command found or made. `more` are further keys of the JSON object; `text` is for people."""

    command: str
    model: str | None = None
    data: str | None = None
    split: str | None = None
    metrics: dict[str, float | int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    shown: bool = True  # the metrics to a person, below the text
    exit_code: int = 0
    seconds: float = 0.0


def as_json(value: Report | dict[str, Any]) -> str:
    """One line of strict JSON: what is not a number becomes null, a path a string."""
    if isinstance(value, Report):
        keys = ("command", "model", "data", "split", "metrics", "files", "seconds")
        value = {key: getattr(value, key) for key in keys} | value.more
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False)


def as_text(report: Report) -> str:
    """The text of the report, its metrics as a table, and the files that were written."""
    parts = [
        report.text,
        _table(report.metrics) if report.shown else "",
        "\n".join(f"wrote {path}" for path in report.files[:SHOWN]),
    ]
    if len(report.files) > SHOWN:
        parts.append(f"and {len(report.files) - SHOWN} more files")
    return "\n".join(part for part in parts if part)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while it is a terminal; the block calls `progress(done, total)`."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; it must hold one object, {{...}}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _table(metrics: dict[str, float | int]) -> str:
    """Scores of the whole first, then one row per class with its columns (`iou/road` is column iou, row road)."""
    whole = {key: value for key, value in metrics.items() if "/" not in key}
    columns = list(dict.fromkeys(key.partition("/")[0] for key in metrics if "/" in key))
    rows = list(dict.fromkeys(key.partition("/")[2] for key in metrics if "/" in key))
    width = max(map(len, (*whole, *rows)), default=0) + 2
    lines = [f"{key:<{width}}{_number(value)}" for key, value in whole.items()]
    if rows:
        lines += ["", " " * width + "".join(f"{column:>10}" for column in columns)]
        lines += [
            f"{row:<{width}}" + "".join(f"{_number(metrics.get(f'{column}/{row}')):>10}" for column in columns)
            for row in rows
        ]
    return "\n".join(lines)


def _number(value: float | int | None) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
