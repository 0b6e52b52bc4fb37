"""`masklet models`: the systems that can be built, and what each takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report

app = typer.Typer(**options())


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show the options of this system.")] = None,
    task: Annotated[str | None, typer.Option(help="Keep the systems that serve this task.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/systems/README.md.")] = False,
    json: Json = False,
) -> Report:
    """List the systems that can be built."""
    from masklet.models import MODELS, list_models
    from masklet.models import options as options_of

    if name is not None:
        taken = {key: p.default for key, p in options_of(name).items()}
        text = "\n".join([f"{name}: {MODELS[name].about}", *(f"  {key} = {value!r}" for key, value in taken.items())])
        return Report("models", model=name, more={"options": taken}, text=text)
    tasks = list_models(task)
    if markdown:
        return Report("models", text=_table(tasks))
    width = max(map(len, tasks), default=0) + 2
    about = {key: {"tasks": served, "about": MODELS[key].about} for key, served in tasks.items()}
    text = "\n".join(f"{key:<{width}}{', '.join(v['tasks'])}  {v['about']}" for key, v in about.items())
    return Report("models", more={"models": about}, text=text)


def _table(names: Iterable[str]) -> str:
    """The systems as rows of markdown: page, what it is, its options, and the weights that can be loaded by name."""
    from masklet.models import MODELS
    from masklet.models import options as options_of
    from masklet.weights import CATALOG, read_note

    weights: dict[str, list[str]] = {}
    for entry in CATALOG.values():
        note = read_note(entry.path) if entry.bundled and entry.path.exists() else None
        weights.setdefault((note or {}).get("model") or entry.model, []).append(entry.name)
    rows = ["| system | what it is | options | weights by name |", "|---|---|---|---|"]
    for name in names:
        page = MODELS[name].where.split(":")[0]
        taken = " ".join(f"`{key}`" for key in options_of(name) if key != "num_classes") or "none"
        known = ", ".join(weights.get(name, ())) or "none"
        rows.append(f"| [`{name}`]({page}.md) | {MODELS[name].about} | {taken} | {known} |")
    return "\n".join(rows)
