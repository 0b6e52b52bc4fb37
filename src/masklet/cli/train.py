"""`masklet train`: a recipe, its settings changed by words, and a folder for what comes out."""

from __future__ import annotations

import json as codec
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report, read_json
from masklet.cli.words import settings_of

app = typer.Typer(**options())


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of recipe and model as key=value: lr=3e-4 'crop=[256,256]' backbone=resnet18"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="What to train on, as kind:path; for promptable systems 'davis:DAVIS * 1.6 + pets:pets'."),
    ] = None,
    val_data: Annotated[str | None, typer.Option(help="What to validate on; its val split if left out.")] = None,
    model: Annotated[str | None, typer.Option(help="The system to train (see masklet models).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Start from the recipe.json of another training, or coco_1x or microscopy.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and curves.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out, bit for bit.")] = False,
    json: Json = False,
) -> Report | None:
    """Train a model on your data.

    Writes best.safetensors (for --model), last.safetensors (for --resume), history.csv and curves into --out. Settings
    and their defaults: masklet.recipes.semantic.SemanticRecipe; masklet.recipes.instances.InstanceRecipe for systems
    that find objects, masklet.recipes.promptable.PromptableRecipe for those that take prompts. Several processes:
    torchrun -m masklet.cli train ...
    """
    from masklet.models import options as options_of
    from masklet.recipes.promptable import PromptableRecipe, mixed
    from masklet.structures.errors import UserError

    words = settings or []
    kind, run, start = _way(recipe, resume, out, model, words)
    named = {"data": data, "val_data": val_data, "model": model, "epochs": epochs}
    given = {key: value for key, value in named.items() if value is not None}
    if not start.get("data") and data is None:
        raise UserError("train needs --data", hint="for example --data folder:photos; see masklet train --help")
    if kind is PromptableRecipe and data is not None and val_data is None:
        given["val_data"] = next(iter(mixed(data)))
    base = kind.from_dict({**start, **given})
    system = next((word.removeprefix("model=") for word in words if word.startswith("model=")), base.model)
    plan = base.override(gather(words, {f.name for f in fields(base)}, options_of(system), base.options))
    result = run(plan, out, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return None
    files = [
        result.best,
        *(p for p in sorted(out.iterdir()) if p != result.best and p.suffix in (".csv", ".png", ".json")),
    ]
    why = f" ({result.finished})" if result.finished else "; continue with --resume"
    return Report(
        "train",
        model=plan.model,
        data=plan.data if isinstance(plan.data, str) else " + ".join(plan.data),
        split=getattr(plan, "split", "train"),
        metrics=result.scores,
        files=files,
        more={"epochs": result.epochs, "finished": result.finished},
        text=f"{result.epochs} epochs in {result.seconds / 60:.1f} minutes{why}",
    )


def _way(
    recipe: str | None, resume: bool, out: Path, model: str | None, words: Sequence[str]
) -> tuple[Any, Any, dict[str, Any]]:
    """The kind of recipe and what carries it out, by the tasks of its model; and the values that it starts from."""
    from masklet.models import MODELS
    from masklet.recipes import instances, promptable, semantic

    if recipe is None and resume and (out / "recipe.json").exists():
        recipe = str(out / "recipe.json")
    if recipe is not None and recipe in instances.PRESETS and not Path(recipe).exists():
        return instances.InstanceRecipe, instances.run, asdict(instances.PRESETS[recipe])
    start = {} if recipe is None else read_json(Path(recipe))
    named = [word.removeprefix("model=") for word in words if word.startswith("model=")]
    system = MODELS.get(named[0] if named else str(model or start.get("model", "")))
    if system is not None and set(system.tasks) & set(instances.TASKS):
        return instances.InstanceRecipe, instances.run, start
    if system is not None and promptable.TASK in system.tasks:
        return promptable.PromptableRecipe, promptable.run, start
    return semantic.SemanticRecipe, semantic.run, start


def gather(
    words: Sequence[str], known: Container[str], accepted: Container[str], so_far: Mapping[str, Any]
) -> list[str]:
    """Words with the options of the model joined into one `options={...}`, which spares the shell its quotes.

    Those are `options.KEY=VALUE`, and `KEY=VALUE` where the recipe has no such field but the model such an option.
    """
    plain, inner = [], dict(so_far)
    for word in words:
        key = word.partition("=")[0]
        if key.startswith("options.") or (key not in known and key in accepted):
            inner |= settings_of([word.removeprefix("options.")], "")
        else:
            plain.append(word)
    return plain if inner == dict(so_far) else [*plain, f"options={codec.dumps(inner)}"]
