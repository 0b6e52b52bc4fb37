"""How good a promptable model is on what it has never seen: `python -m masklet.recipes.click_scores --data-root DIR`.

Five data sets (the held-out sequences of DAVIS, pets, nuclei, floods, streets): mean IoU after 1, 3 and 5 simulated
clicks and in true boxes, how well the predicted IoU goes with the true one, J&F of the sequences, and GrabCut, which
needs no weights, beside it. Prints Markdown; `--out` writes everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats

from masklet.data.davis import list_mask_videos
from masklet.data.framing import evenly
from masklet.data.sources import open_source
from masklet.data.videos import Videos
from masklet.inference.asked import GRABCUT
from masklet.inference.cutting import Cutter
from masklet.inference.evaluate_clicks import Outcome, outcomes
from masklet.inference.evaluate_vos import measure_vos
from masklet.metrics.vos import JF
from masklet.structures.errors import UserError
from masklet.weights import load

__all__ = ["SETS", "Scores", "measure", "outcomes_of", "recorded", "table"]

CLICKS = 5
SHOWN = (1, 3, 5)
SETS: Mapping[str, tuple[str, int]] = MappingProxyType(  # data, and every how many pictures of it
    {
        "davis": ("davis:davis2016", 5),  # neighbouring frames are alike
        "pets": ("pets:pets", 1),
        "nuclei": ("nuclei:nuclei", 1),
        "flood": ("flood:flood_area", 1),
        "camvid": ("camvid:camvid", 1),
    }
)
RECORDED = "davis2016_osvos_predictions/osvos"  # masks of a network that is fine-tuned on every first frame

Progress = Callable[[str, int, int], None]
Rows = Mapping[str, Mapping[str, float]]


@dataclass
class Scores:
    """What came of the objects of each data set by clicks and by boxes, and of the videos by way of prompting."""

    clicks: dict[str, list[Outcome]] = field(default_factory=dict)
    boxes: dict[str, list[Outcome]] = field(default_factory=dict)
    videos: dict[str, float] = field(default_factory=dict)

    def row(self, names: Sequence[str]) -> dict[str, float]:
        """Of some data sets taken together: iou@1 to iou@5, box, and correlations of predicted with true IoU."""
        clicked, boxed = ([o for name in names for o in found[name]] for found in (self.clicks, self.boxes))
        out = {"objects": float(len(clicked))}
        out |= {f"iou@{k}": _mean([_after(o, k) for o in clicked]) for k in range(1, CLICKS + 1)}
        out["box"] = _mean([o.ious[0] for o in boxed])
        for title, first in (("all", CLICKS), ("first", 1)):
            pairs = [pair for o in clicked for pair in zip(o.predicted[:first], o.ious[:first], strict=False)]
            out[f"pearson_{title}"], out[f"spearman_{title}"] = correlations(pairs)
        return out

    def rows(self) -> dict[str, dict[str, float]]:
        """Each data set, `overall`, which is the mean over them, and `objects`, where all objects count the same."""
        each = {name: self.row([name]) for name in self.clicks}
        overall = {key: _mean([row[key] for row in each.values()]) for key in next(iter(each.values()))}
        overall["objects"] = float(sum(row["objects"] for row in each.values()))
        return {**each, "overall": overall, "objects": self.row([*self.clicks])}

    def flat(self) -> dict[str, float]:
        """What a checkpoint notes: iou@1, iou@3, iou@5, box, pearson (and of each data set), jf, jf_3_clicks."""
        keys = {**{f"iou@{k}": f"iou@{k}" for k in SHOWN}, "box": "box", "pearson": "pearson_all"}
        rows = self.rows()
        out = {key: rows["overall"][of] for key, of in keys.items()}
        out |= {f"{key}/{name}": rows[name][of] for name in self.clicks for key, of in keys.items()}
        ways = {"jf": "mask/jf", "jf_3_clicks": "3 clicks/jf"}
        out |= {key: self.videos[of] for key, of in ways.items() if of in self.videos}
        return {key: value for key, value in out.items() if not np.isnan(value)}


def measure(
    model: Any,
    root: Path,
    names: Sequence[str] | None = None,
    pictures: int | None = None,
    of_each: int | None = 10,
    videos: bool = True,
    progress: Progress | None = None,
) -> Scores:
    """The scores of `model` on data in the folder `root`: at most so many `pictures` of a set, `of_each` objects each.

    With `videos` the sequences of DAVIS are followed, once from the mask of the first frame and once from 3 clicks.
    """
    scores, names = Scores(), [*SETS] if names is None else names
    for name in names:
        scores.clicks[name], scores.boxes[name] = outcomes_of(model, root, name, pictures, of_each, progress)
    if videos and "davis" in names:
        source = open_source(_source(root, "davis"), split="val")
        for title, clicks in (("mask", None), ("3 clicks", 3)):
            told = None if progress is None else _told(progress, f"davis by {title}")
            found = measure_vos(model, source, clicks=clicks, progress=told).compute()
            scores.videos |= {f"{title}/{key}": value for key, value in found.items() if key.startswith("jf")}
    return scores


def outcomes_of(
    model: Any,
    root: Path,
    name: str,
    pictures: int | None = None,
    of_each: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Outcome], list[Outcome]]:
    """What comes of the objects of one data set by clicks, and by boxes."""
    data: Any = open_source(_source(root, name), split="val")
    count = -(-len(data) // SETS[name][1])
    chosen = evenly(data, count if pictures is None else min(count, pictures))
    found = []
    for protocol in ("clicks", "box"):
        told = None if progress is None else _told(progress, f"{name} by {protocol}")
        found.append([*outcomes(model, chosen, protocol, clicks=CLICKS, of_each=of_each, progress=told)])
    return found[0], found[1]


def recorded(root: Path) -> dict[str, float]:
    """J&F of the masks of OSVOS (Caelles et al., 2017) for the same sequences; nothing where they are not there."""
    if not (root / RECORDED).is_dir():
        return {}
    truth: Any = open_source(_source(root, "davis"), split="val")
    assert isinstance(truth, Videos)
    theirs = list_mask_videos(root / RECORDED, named=[video.name for video in truth.videos])
    score = JF()
    for video in truth.videos:
        for frame in video.annotated:
            found, true = theirs[video.name].read(frame) > 0, video.objects(frame)
            ids = sum(k * mask.numpy().astype(np.int64) for k, mask in true.items())
            ids = np.zeros(found.shape, np.int64) if isinstance(ids, int) else ids
            score.update(found.astype(np.int64), ids, video.name, frame)
    return {f"osvos/{key}": value for key, value in score.compute().items() if key.startswith("jf")}


def table(scores: Scores, beside: Rows | None = None) -> str:
    """Everything in Markdown; `beside` are the rows of GrabCut on some of the same objects."""
    heads = [*(f"{k} click{'s'[: k - 1]}" for k in SHOWN), "box"]
    keys = [*(f"iou@{k}" for k in SHOWN), "box"]
    top = ["data set", "objects", *heads, "Pearson", "Spearman"]
    if beside:
        top += ["GrabCut on", *heads]
    lines = [top, ["---", *("--:" for _ in top[1:])]]
    for name, row in scores.rows().items():
        cells = [f"{row['objects']:.0f}", *(_short(row[key]) for key in (*keys, "pearson_all", "spearman_all"))]
        if beside:
            cells += [f"{beside[name]['objects']:.0f}", *(_short(beside[name][key]) for key in keys)]
        lines.append([{"overall": "**mean of the data sets**", "objects": "all objects"}.get(name, name), *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text + ("\n\n" + _videos(scores.videos) if scores.videos else "")


def correlations(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Pearson's and Spearman's; NaN where one side is always the same."""
    if min((len({*side}) for side in zip(*pairs, strict=True)), default=0) < 2:
        return float("nan"), float("nan")
    sides = [*zip(*pairs, strict=True)]
    return float(stats.pearsonr(*sides)[0]), float(stats.spearmanr(*sides)[0])


def _videos(found: Mapping[str, float]) -> str:
    """J&F of each sequence, a row for each way of prompting."""
    ways = list(dict.fromkeys(key.split("/", 1)[0] for key in found))
    names = list(dict.fromkeys(key.rpartition("/")[2] for key in found if key.count("/") == 2))
    lines = [["J&F from", *names, "mean"], ["---", *("--:" for _ in (*names, ""))]]
    lines += [[way, *(_short(found[f"{way}/jf/{n}"]) for n in names), _short(found[f"{way}/jf"])] for way in ways]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _source(root: Path, name: str) -> str:
    if name not in SETS:
        raise UserError(f"there is no data set {name!r}", hint=f"choose from {', '.join(SETS)}")
    kind, _, folder = SETS[name][0].partition(":")
    return f"{kind}:{root / folder}"


def _after(outcome: Outcome, clicks: int) -> float:
    """The IoU after so many clicks; where nothing was wrong any more it stays."""
    return outcome.ious[min(clicks, len(outcome.ious)) - 1]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"


def _told(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _plain(rows: Rows) -> dict[str, dict[str, float | None]]:
    """As JSON has it, without NaN."""
    return {name: {key: None if np.isnan(v) else v for key, v in row.items()} for name, row in rows.items()}


def _read(path: Path, names: Sequence[str]) -> Rows:
    """The rows of a file that this command wrote; it must know the same data sets."""
    rows = json.loads(path.read_text(encoding="utf-8"))["scores"]
    if missing := [name for name in names if name not in rows]:
        raise UserError(f"{path} has no {missing[0]!r}", hint=f"measure it with --sets {','.join(names)}")
    return {n: {k: float("nan") if v is None else v for k, v in row.items()} for n, row in rows.items()}


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m masklet.recipes.click_scores", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default="click", help="bundled name or checkpoint of a promptable model, or grabcut")
    parser.add_argument("--data-root", type=Path, required=True, help=f"folder of {', '.join(SETS)}")
    parser.add_argument("--sets", default=",".join(SETS), help="some of these, with commas")
    parser.add_argument("--pictures", type=int, help="at most so many pictures of a data set")
    parser.add_argument("--each", type=int, default=10, help="at most so many objects of a picture; 0: all")
    parser.add_argument("--beside", type=Path, help="file that --model grabcut --out FILE wrote, for comparison")
    parser.add_argument("--no-videos", action="store_true", help="follow nothing through the sequences")
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    given = parser.parse_args(words)
    names = [name for name in given.sets.split(",") if name]

    def progress(what: str, done: int, total: int) -> None:
        if sys.stderr.isatty() or done == total:
            print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    try:
        model = Cutter() if given.model == GRABCUT else load(given.model)
        of_each, videos = given.each or None, not given.no_videos and given.model != GRABCUT
        beside = None if given.beside is None else _read(given.beside, names)
        scores = measure(model, given.data_root, names, given.pictures, of_each, videos, progress)
        if scores.videos:
            scores.videos |= recorded(given.data_root)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(scores, beside))
    if given.out is not None:
        plain = {"model": given.model, "scores": _plain(scores.rows()), "videos": scores.videos}
        given.out.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
