"""`masklet models`: the systems that can be built, and what each takes."""

from __future__ import annotations

from typing import Annotated

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report

app = typer.Typer(**options())


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show the options of this system.")] = None,
    task: Annotated[str | None, typer.Option(help="Keep the systems that serve this task.")] = None,
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
    width = max(map(len, tasks), default=0) + 2
    about = {key: {"tasks": served, "about": MODELS[key].about} for key, served in tasks.items()}
    text = "\n".join(f"{key:<{width}}{', '.join(v['tasks'])}  {v['about']}" for key, v in about.items())
    return Report("models", more={"models": about}, text=text)
