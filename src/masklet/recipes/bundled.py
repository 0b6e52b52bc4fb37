"""The trainings behind the bundled checkpoints: `python -m masklet.recipes.bundled street --data-root DIR --out DIR`.

What they share is written once in `BASE`; a recipe says only how it differs. Running one again continues it, and when
it is finished exports `NAME.safetensors` in half precision, with a model card beside it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from masklet.data.sources import open_source
from masklet.inference.evaluate import evaluate
from masklet.models import unknown
from masklet.recipes import click, click_scores, instances, plans, semantic
from masklet.recipes.instances import InstanceRecipe
from masklet.recipes.promptable import PromptableRecipe
from masklet.recipes.running import DETAIL, Result
from masklet.recipes.semantic import SemanticRecipe
from masklet.weights import load, read_note, save_checkpoint
from masklet.weights.catalog import BUNDLED

LITE = {
    "backbone": "efficientnet_lite0",  # the only ImageNet weights that pip can install
    "weights": "imagenet",
    "bins": [1, 2, 3, 6],
    "aux_weight": 0.4,
}
BASE = SemanticRecipe(
    data="",
    model="unet",
    batch=4,  # hundreds of images: many small steps teach more than few large ones
    rotate=10.0,
    blur=0.0,
    jitter=0.4,
    lr=2e-3,
    lr_factors={r"encoder\.": 0.1},  # new layers at ten times the rate of pretrained ones (PSPNet's released code)
    weight_decay=0.02,
    save_seconds=180.0,
)
NUCLEI = InstanceRecipe(
    data="nuclei:nuclei",
    options={
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "norm": "batch",
        "anchor_sizes": [12, 24, 48, 96, 192],  # most nuclei are 10 to 60 pixels wide once they are enlarged
        "channels": 96,
        "hidden": 384,
        "mask_channels": 96,
        "max_objects": 400,
        "short_side": 512,
        "tile": 256,
    },
    epochs=18,
    framing="window",
    crop=(352, 352),
    scale=(1.0, 2.4),  # half of the pictures are 256 x 256 with nuclei of 13 pixels
    aim=0.8,  # most of many pictures is black
    turns=True,
    jitter=0.5,
    saturation=0.9,  # stains, and what they look like in grey, which few training pictures are
    hue=0.08,
    spread=256,
    rois=256,
    lr=6e-4,
    lr_factors={r"backbone\.": 0.25},
    ema=0.998,
    validate_every=3,
    val_limit=35,
)
# Photographs of whole scenes and whole animals are seen at the size that ImageNet's weights know: a network that sees
# them at full size takes fur for ground.
RECIPES: Mapping[str, SemanticRecipe | InstanceRecipe | PromptableRecipe] = MappingProxyType(
    {
        "street": replace(
            BASE,
            data="camvid:camvid",
            options={**LITE, "widths": [128, 96, 64, 32], "head_stride": 2},  # poles are two pixels wide
            epochs=30,
            crop=(320, 416),
            scale=(0.6, 1.8),
            rotate=0.0,
            jitter=0.3,
            lr_factors={r"encoder\.": 0.5},
            ema=0.998,
            validate_every=5,
            # the share of the pixels to the power -1/4: poles and cyclists count more, the sky not much less
            class_weights=(0.63, 0.58, 1.27, 0.53, 0.87, 0.72, 1.22, 1.23, 0.81, 1.42, 1.72),
        ),
        "flood": replace(
            BASE,
            data="flood:flood_area",
            options={**LITE, "widths": [128, 96, 64], "head_stride": 4, "long_side": 512},
            epochs=30,
            crop=(352, 352),
            scale=(0.5, 1.2),
            lr=1.5e-3,
            ema=0.99,
            monitor="iou/flooded",
            validate_every=5,
        ),
        "pets": replace(
            BASE,
            data="pets:pets",
            options={**LITE, "widths": [128, 96, 64, 32], "head_stride": 2, "long_side": 288},
            epochs=30,
            crop=(288, 288),
            scale=(0.4, 0.9),
            loss="cross_entropy+dice",
            ema=0.995,
            monitor="iou/pet",
            validate_every=5,
        ),
        "nuclei": NUCLEI,
        "click": click.STAGES["last"],
    }
)
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "street": "CamVid (Brostow et al. 2008), 367 training and 101 validation images at 480x360 as distributed with "
        "the SegNet tutorial; research use",
        "flood": "Flood Area Segmentation (Kaggle, faizalkarim), 216 of the 290 pairs, CC0; a file whose number is a "
        "multiple of five is validation",
        "pets": "Oxford-IIIT Pets (Parkhi et al. 2012), a sample of three breeds, 166 training and 40 validation "
        "images; CC BY-SA 4.0",
        "nuclei": "Data Science Bowl 2018, stage 1 (BBBC038v1), with the community's mask fixes (lopuhin/"
        "kaggle-dsbowl-2018-dataset-fixes), 330 training and 70 validation images; CC0",
        "click": "DAVIS 2016 without its sequences `dog`, `libby` and `car-shadow` (Perazzi et al. 2016; BSD), "
        "first frames of DAVIS 2017 without these, the training parts of the four data sets of the other models, 98 "
        "pictures of COCO 2017, 16 of labelme's examples; photographs are made to move, objects of one are laid over "
        "another",
    }
)


def train(name: str, data_root: Path, out: Path, words: Sequence[str] = (), progress: bool = True) -> Result:
    """Trains (or continues) bundled model `name` in `out`; `words` are `key=value` changes to its recipe."""
    if name not in RECIPES:
        raise unknown("bundled model", name, RECIPES)
    if name == "click":  # in stages, each with a recipe of its own
        return click.train(data_root, out, words, progress)
    known: Any = RECIPES[name]
    kind, _, folder = known.data.partition(":")
    recipe = plans.override(replace(known, data=f"{kind}:{data_root / folder}"), words)
    resume = (out / "last.safetensors").exists()
    if isinstance(recipe, InstanceRecipe):
        return instances.run(recipe, out, resume=resume, progress=progress)
    return semantic.run(recipe, out, resume=resume, progress=progress)


def export(name: str, result: Result, command: str, data_root: Path) -> tuple[Path, Path]:
    """Writes the best weights in half precision, scored again as a user will load them, and their model card."""
    note = read_note(result.best) or {}
    recipe: Any = plans.from_dict(type(RECIPES[name]), note["recipe"])
    path, card = result.out / f"{name}.safetensors", result.out / f"{name}.md"
    ours = ("data", "val_data", "start")  # no folder of this machine in the file
    plain = note["recipe"] | {key: getattr(RECIPES[name], key) for key in ours}
    extra = {"recipe": plain, "epoch": note["epoch"]}
    save_checkpoint(path, load(result.best), extra, half=True)
    scores, tables = _scored(path, recipe, data_root)
    save_checkpoint(path, load(result.best), {**extra, "scores": scores}, half=True)
    card.write_text(model_card(name, recipe, result, tables, command, path.stat().st_size))
    return path, card


def _scored(path: Path, recipe: Any, data_root: Path) -> tuple[Mapping[str, float], str]:
    """The scores of a file on data that its training has not seen, and their tables in markdown."""
    if isinstance(recipe, PromptableRecipe):
        reached = click_scores.measure(load(path), data_root)
        reached.videos |= click_scores.recorded(data_root)
        return reached.flat(), click_scores.table(reached)
    data = open_source(recipe.val_data or recipe.data, split=recipe.val_split)
    scores = evaluate(load(path), data)
    main = {k: v for k, v in scores.items() if not DETAIL.search(k) and not math.isnan(v)}
    kind = {"iou": "IoU", "ap": "AP"}
    each = [(k.partition("/"), v) for k, v in scores.items() if "/" in k and k.partition("/")[0] in kind]
    lines = [
        "| " + " | ".join(main) + " |",
        "|" + "--:|" * len(main),
        "| " + " | ".join(f"{v:.4f}" for v in main.values()) + " |",
        "",
        f"| class | {kind[each[0][0][0]]} |",
        "|---|--:|",
        *(f"| {k[2]} | {v:.4f} |" for k, v in each),
    ]
    return scores, "\n".join(lines)


def model_card(name: str, recipe: Any, result: Result, tables: str, command: str, size: int) -> str:
    """What a user needs to know about a checkpoint, in markdown."""
    default = type(recipe)(data=recipe.data)
    changed = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in ("data", "val_data", "start")}
    changed = {k: v for k, v in changed.items() if v != getattr(default, k)}
    how = "simulated clicks and true boxes" if isinstance(recipe, PromptableRecipe) else "no test-time augmentation"
    last = result.history[-5:]
    trend = ", ".join(f"{r[recipe.monitor]:.4f}" for r in last if recipe.monitor in r)
    return "\n".join(
        [
            f"# {name}",
            "",
            f"`masklet.load({name!r})`: {recipe.model} {dict(recipe.options)}, {size / 1e6:.1f} MB in half precision.",
            "",
            f"- Data: {SOURCES[name]}",
            f"- Trained with `{command}`, seed {recipe.seed}, {result.epochs} of {recipe.epochs} epochs in "
            f"{timedelta(seconds=round(result.seconds))}",
            f"- Hardware: {hardware()}",
            f"- Best epoch {result.best_epoch} by {recipe.monitor}; the last validations gave {trend}",
            f"- Scores: `masklet evaluate` of this file: automatic precision, {how}",
            "",
            tables,
            "",
            f"Recipe, where it differs from the defaults of `{type(recipe).__name__}`:",
            "",
            *(f"- {k}: {v}" for k, v in changed.items()),
            "",
        ]
    )


def hardware() -> str:
    """The machine, in words."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor()
    )
    extra = "" if accelerator is None else f" and {accelerator.type}"
    return f"{torch.get_num_threads()} threads of {cpu or platform.machine()} ({os.cpu_count()} cores){extra}"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m masklet.recipes.bundled", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=tuple(RECIPES))
    parser.add_argument(
        "--data-root",
        type=Path,
        required=True,
        help="folder that holds camvid, flood_area, pets, nuclei, davis2016, ...",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this training; run again to continue it")
    parser.add_argument("--install", action="store_true", help="copy the result into masklet's own bundled weights")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe, e.g. epochs=10")
    given = parser.parse_intermixed_args(words)
    try:
        result = train(given.name, given.data_root, given.out, given.changes)
        if not result.finished:
            print(f"stopped after {result.epochs} epochs; run the same command to go on", file=sys.stderr)
            return 0
        command = " ".join(["python -m masklet.recipes.bundled", given.name, *given.changes])
        files = export(given.name, result, command, given.data_root)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.install:
        for file in files:
            (BUNDLED / file.name).write_bytes(file.read_bytes())
    print("\n".join(map(str, files)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
