"""Two of Mask R-CNN's ablations (He et al., 2017, table 2) on drawn shapes: masks that compete, boxes that are rounded.

    python -m masklet.recipes.instance_ablations --out DIR [--seeds 0 1 2] [--minutes 30]

Each pair of variants differs in one part and sees the same pictures from the same start, once for each seed:

    sigmoid, softmax   a mask for each class on its own, or classes that compete in every cell (2b)
    align, pool        features interpolated, or rounded to whole cells, on one map of stride 32 (2c, 2d)

Run it again to continue: what is done is in DIR/instance_ablations.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from masklet.ops.roi import roi_align, roi_pool
from masklet.parts.anchors import Anchors
from masklet.parts.mask_heads import FCNMaskHead, SoftmaxMaskBranch
from masklet.parts.proposals import RPN, RPNHead
from masklet.parts.pyramid import FPN, Pool, PyramidPooler
from masklet.recipes.drawn import DrawnRecipe, scores, taught
from masklet.recipes.running import save_picture
from masklet.structures.files import replacing
from masklet.viz.curves import paired_points

SHOWN = ("box/ap", "box/ap75", "mask/ap", "mask/ap50", "mask/ap75")


def softmax_masks(model: Any) -> None:
    """Exchanges the masks of a Mask R-CNN for ones whose classes compete."""
    last = model.mask.head.predictor
    head = FCNMaskHead(model.fpn.channels, last.out_channels + 1, last.in_channels)
    model.mask = SoftmaxMaskBranch(model.mask.pool, head, model.mask.targets)


def one_level(model: Any, pool: Pool, sizes: Sequence[int] = (40, 64, 96)) -> None:
    """Leaves a Mask R-CNN its last map only, of stride 32, and reads boxes off it with `pool`."""
    last = model.fpn.levels[-1]
    model.fpn = FPN({last: model.fpn.laterals[-1].in_channels}, model.backbone.strides, model.fpn.channels)
    level = {name: stride for name, stride in model.fpn.strides.items() if name != model.fpn.top}
    anchors, old = Anchors((tuple(sizes),)), model.rpn
    head = RPNHead(model.fpn.channels, anchors.count)
    model.rpn = RPN(head, anchors, level, old.budgets[True], old.budgets[False], old.beta, old.divisor, old.enough)
    model.box.pool, model.mask.pool = PyramidPooler(level, 7, pool), PyramidPooler(level, 14, pool)


@dataclass(frozen=True)
class Variant:
    """A recipe, and what is exchanged in its model."""

    recipe: DrawnRecipe
    change: Callable[[Any], None] = lambda model: None


QUICK = DrawnRecipe(steps=100)
COARSE = DrawnRecipe(side=224, steps=230, lr=2e-3, frozen=r"backbone\.(stem|blocks\.[0-4])\..*")  # up to stride 8
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "sigmoid": Variant(QUICK),
        "softmax": Variant(QUICK, softmax_masks),
        "align": Variant(COARSE, partial(one_level, pool=partial(roi_align, samples=2))),
        "pool": Variant(COARSE, partial(one_level, pool=roi_pool)),
    }
)
PAIRS = (("sigmoid", "softmax", "mask/ap"), ("align", "pool", "mask/ap75"))  # better, worse, by what

Run = dict[str, Any]


def study(
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    minutes: float | None = None,
    variants: Mapping[str, Variant] = VARIANTS,
) -> list[Run]:
    """Trains what is missing, pair by pair, and writes what there is so far into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state, begin = out / "instance_ablations.json", time.monotonic()
    runs: list[Run] = json.loads(state.read_text())["runs"] if state.exists() else []
    done = {(run["variant"], run["seed"]) for run in runs}
    for seed in seeds:
        for name, variant in variants.items():
            if (name, seed) in done or (minutes is not None and time.monotonic() - begin > 60 * minutes):
                continue
            runs.append(one(name, replace(variant, recipe=replace(variant.recipe, seed=seed))))
            print(f"{name} seed {seed}: {runs[-1]['scores']}", file=sys.stderr, flush=True)
            write(runs, out)
    write(runs, out)
    return runs


def one(name: str, variant: Variant) -> Run:
    """A variant, trained and scored."""
    begin = time.process_time()
    model = taught(variant.recipe, variant.change)
    trained = time.process_time() - begin
    found = {
        f"{kind}/{key}": round(value, 4)
        for kind, every in scores(model, variant.recipe).items()
        for key, value in every.items()
        if f"{kind}/{key}" in SHOWN
    }
    plain = {**asdict(variant.recipe), "options": dict(variant.recipe.options)}
    return {"variant": name, "seed": variant.recipe.seed, "scores": found, "cpu_s": round(trained), "recipe": plain}


def write(runs: Sequence[Run], out: Path) -> None:
    """The results so far: numbers, a table and a picture."""
    with replacing(out / "instance_ablations.json") as path:
        path.write_text(json.dumps({"runs": list(runs)}, indent=1) + "\n")
    (out / "instance_ablations.md").write_text(table(runs))
    if find_spec("matplotlib") is not None and (rows := compared(runs)):
        save_picture(paired_points(rows), out / "instance-ablations.png")


def compared(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """Of each pair the deciding score, variant by variant, of the seeds that both have."""
    by_name = {(run["variant"], run["seed"]): run["scores"] for run in runs}
    rows = {}
    for better, worse, score in PAIRS:
        seeds = sorted({s for name, s in by_name if name == better} & {s for name, s in by_name if name == worse})
        if seeds:
            rows[score.replace("/", " ")] = {name: [by_name[name, s][score] for s in seeds] for name in (better, worse)}
    return rows


def table(runs: Sequence[Run]) -> str:
    """All results in markdown, each run in a row."""
    lines = [
        f"| variant | seed | {' | '.join(SHOWN)} | CPU seconds of training |",
        f"|---|--:|{'--:|' * (len(SHOWN) + 1)}",
    ]
    order = {name: i for i, name in enumerate(VARIANTS)}
    for run in sorted(runs, key=lambda r: (order.get(r["variant"], len(order)), r["seed"])):
        values = " | ".join(f"{run['scores'][key]:.3f}" for key in SHOWN)
        lines.append(f"| {run['variant']} | {run['seed']} | {values} | {run['cpu_s']} |")
    return "\n".join([*lines, ""])


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m masklet.recipes.instance_ablations", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; run again to continue it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="start no training after so long")
    given = parser.parse_args(words)
    try:
        study(given.out, given.seeds, given.minutes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((given.out / "instance_ablations.md").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
