"""How well a video was divided into things and stuff that keep their identity: VPQ, STQ, and with depth DVPQ, DSTQ.

A tube is one segment through time. Every score here starts from one small table per frame, how many pixels each true
segment shares with each predicted one (`ops.panoptic.overlaps`); tables of several frames add up. No pixels are kept.

    VPQ^k   PQ of tubes in every window of k frames, matched at IoU > 1/2; mean over classes (Kim et al., CVPR 2020)
    vpq     mean of VPQ^k over k, Cityscapes-VPS: 1, 2, 3, 4 annotated frames, that is every 0, 5, 10, 15 frames
    STQ     sqrt(AQ SQ), AQ how well tracks keep their identity, SQ the mean IoU of classes (Weber et al., STEP, 2021)
    DVPQ    VPQ after predicted pixels whose depth is off by more than lambda became void (Qiao et al., CVPR 2021)
    DSTQ    cube root of STQ² DQ, DQ the share of pixels with the right depth (deeplab2)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from masklet.metrics.depth import check_depths
from masklet.ops.panoptic import Overlaps, overlaps
from masklet.structures import Classes, Panoptic, UserError

__all__ = ["DSTQ", "DVPQ", "STQ", "VPQ"]

VOID, CROWD = -1, -1  # the label of pixels that belong to no segment; the track of things that nobody separated


class _Frame(NamedTuple):
    """What a window has to know of one frame."""

    pixels: Overlaps  # true id, predicted id; 0 is void
    truth: Mapping[int, tuple[int, bool]]  # id -> label, crowd; in the order of the truth's list
    pred: Mapping[int, int]  # id -> label


@dataclass
class VPQ:
    """Video panoptic quality (Kim et al., Video Panoptic Segmentation, CVPR 2020), the score of Cityscapes-VPS.

    Frames come one at a time, in order; a segment is the same object wherever it has the same id within a video. For
    each k in `windows`, every k frames in a row are scored as one picture with the rules of PQ (panopticapi): a true
    and a predicted tube match if their class agrees and their IoU, predicted pixels on void not counted, is above 1/2;
    a crowd is neither found nor missed, and a predicted tube mostly on void or on a crowd of its class is no mistake.
    Counts of all windows and videos are added per class, divided once, and averaged over classes, then over k.

    A tube has the class of its id in the first frame of the window. A video with fewer than k frames has no window.
    """

    classes: Classes
    windows: Sequence[int] = (1, 2, 3, 4)
    counts: Int64[np.ndarray, "windows 3 k"] = field(init=False, repr=False)  # true positives, false ones, missed
    ious: Float64[np.ndarray, "windows k"] = field(init=False, repr=False)  # summed over true positives
    frames: dict[str, int] = field(init=False, default_factory=dict)  # seen so far, by video

    def __post_init__(self) -> None:
        self.windows = tuple(self.windows)
        whole = all(isinstance(k, int) and k >= 1 for k in self.windows)
        if not self.windows or not whole or len(set(self.windows)) != len(self.windows):
            raise UserError(f"windows are {list(self.windows)}", hint="give different numbers of frames, from 1")
        self.counts = np.zeros((len(self.windows), 3, len(self.classes)), np.int64)
        self.ious = np.zeros((len(self.windows), len(self.classes)))
        self._recent: dict[str, tuple[_Frame, ...]] = {}

    def update(self, pred: Panoptic, truth: Panoptic, *, video: str = "") -> None:
        """Adds the next frame of a video. Ids of objects stay the same through the video, on each side."""
        check_frame(pred, truth, self.classes, video)
        self._add(overlaps(truth.ids.cpu().numpy(), pred.ids.cpu().numpy()), pred, truth, video)

    def merge(self, other: VPQ) -> None:
        """Adds the counts of other videos; the order does not matter. One video cannot be split."""
        refuse_other(self.classes, other.classes, windows=(self.windows, other.windows))
        refuse_shared(self.frames, other.frames)
        self.counts += other.counts
        self.ious += other.ious
        self.frames.update(other.frames)
        self._recent.update(other._recent)

    def compute(self) -> dict[str, float]:
        """`vpq`, `vpq_things`, `vpq_stuff`; `vpq@k`, `sq@k`, `rq@k` for every k; `vpq/<class>`. NaN where undefined."""
        pq, sq, rq = self._scores()
        things = np.array(self.classes.things)
        found = {
            "vpq": float(_mean(pq).mean()),
            "vpq_things": float(_mean(pq[:, things]).mean()),
            "vpq_stuff": float(_mean(pq[:, ~things]).mean()),
        }
        for name, scores in (("vpq", pq), ("sq", sq), ("rq", rq)):
            found |= {f"{name}@{k}": float(v) for k, v in zip(self.windows, _mean(scores), strict=True)}
        return found | {f"vpq/{n}": float(v) for n, v in zip(self.classes.names, _mean(pq.T), strict=True)}

    def summary(self) -> str:
        """A table of PQ, SQ and RQ in percent for every window as panopticapi prints it, then the three means."""
        lines, found = [], self.compute()
        things = np.array(self.classes.things)
        for k, *scores in zip(self.windows, *self._scores(), strict=True):
            lines += [f"VPQ, windows of {k}", f"{'':10s}| {'PQ':>5s}  {'SQ':>5s}  {'RQ':>5s} {'N':>5s}", "-" * 38]
            for name, part in (("All", np.ones_like(things)), ("Things", things), ("Stuff", ~things)):
                means = "  ".join(f"{100 * float(_mean(s[part])):5.1f}" for s in scores)
                lines.append(f"{name:10s}| {means} {int(np.isfinite(scores[0][part]).sum()):5d}")
            lines.append("")
        names = (("vpq_all", "vpq"), ("vpq_thing", "vpq_things"), ("vpq_stuff", "vpq_stuff"))
        return "\n".join([*lines, *(f"{name}:{100 * found[key]:.4f}" for name, key in names)])

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per class: its VPQ, that of every window, and the tubes found, invented and missed in all windows."""
        pq, _, _ = self._scores()
        rows: list[dict[str, float | int | str]] = []
        for i, (name, thing) in enumerate(zip(self.classes.names, self.classes.things, strict=True)):
            tp, fp, fn = (int(c) for c in self.counts[:, :, i].sum(0))
            each = {f"vpq@{k}": float(v) for k, v in zip(self.windows, pq[:, i], strict=True)}
            kind = "thing" if thing else "stuff"
            rows.append(
                {"class": name, "kind": kind, "vpq": float(_mean(pq[:, i])), **each, "tp": tp, "fp": fp, "fn": fn}
            )
        return rows

    def _add(self, pixels: Overlaps, pred: Panoptic, truth: Panoptic, video: str) -> None:
        there = set(pixels.second.tolist())  # a segment may have lost all its pixels to wrong depth
        frame = _Frame(
            pixels,
            {s.id: (s.label, s.crowd) for s in truth.segments},
            {s.id: s.label for s in pred.segments if s.id in there},
        )
        clip = (*self._recent.get(video, ()), frame)
        for i, k in enumerate(self.windows):
            if len(clip) >= k:
                counts, ious = _match(clip[-k:], len(self.classes))
                self.counts[i] += counts
                self.ious[i] += ious
        self._recent[video] = clip[len(clip) - max(self.windows) + 1 :] if len(clip) >= max(self.windows) else clip
        self.frames[video] = self.frames.get(video, 0) + 1

    def _scores(self) -> tuple[Float64[np.ndarray, "windows k"], ...]:
        """PQ, SQ and RQ of every window and class; NaN for a class that occurs on neither side or is not scored."""
        tp, fp, fn = self.counts.transpose(1, 0, 2)
        doubt = tp + (fp + fn) / 2
        with np.errstate(invalid="ignore"):
            pq, rq = self.ious / doubt, tp / doubt
            sq = np.where(tp > 0, self.ious / np.maximum(tp, 1), np.where(doubt > 0, 0.0, np.nan))
        for scores in (pq, sq, rq):
            scores[:, list(self.classes.unscored)] = np.nan
        return pq, sq, rq


def _match(frames: Sequence[_Frame], num_classes: int) -> tuple[Int64[np.ndarray, "3 k"], Float64[np.ndarray, " k"]]:
    """True positives, false positives and misses of each class in one window, and the summed IoU of the first."""
    truth: dict[int, tuple[int, bool]] = {0: (VOID, False)}
    pred: dict[int, int] = {0: VOID}
    for frame in frames:  # what the first frame says of an id holds, and ids stay in the order in which they appear
        truth |= {i: what for i, what in frame.truth.items() if i not in truth}
        pred |= {i: label for i, label in frame.pred.items() if i not in pred}
    t_ids, t = np.unique(np.concatenate([f.pixels.first for f in frames]), return_inverse=True)
    p_ids, p = np.unique(np.concatenate([f.pixels.second for f in frames]), return_inverse=True)
    pixels = np.concatenate([f.pixels.pixels for f in frames])
    shared = np.bincount(t * len(p_ids) + p, pixels, len(t_ids) * len(p_ids)).reshape(len(t_ids), len(p_ids))
    t_label, crowd = (np.array(c) for c in zip(*(truth[i] for i in t_ids.tolist()), strict=True))
    p_label = np.array([pred[i] for i in p_ids.tolist()])
    t_area, p_area = shared.sum(1), shared.sum(0)
    on_void = shared[t_label == VOID].sum(0)

    union = t_area[:, None] + p_area - shared - on_void
    comparable = (t_label[:, None] == p_label) & (t_label != VOID)[:, None] & ~crowd[:, None]
    iou = np.where(comparable, shared, 0) / np.maximum(union, 1)
    found, finder = np.nonzero(iou > 0.5)  # at most one for each: no two segments cover half of a third
    missed = ~crowd & (t_label != VOID)
    missed[found] = False
    wrong = p_label != VOID
    wrong[finder] = False
    excused = on_void.copy()
    order = {i: n for n, i in enumerate(truth)}
    crowds: dict[int, int] = {}
    for row in sorted(np.flatnonzero(crowd).tolist(), key=lambda r: order[int(t_ids[r])]):
        crowds[int(t_label[row])] = row  # panopticapi: of several crowds of a class the last one counts
    for label, row in crowds.items():
        excused += np.where(p_label == label, shared[row], 0)
    wrong &= excused / np.maximum(p_area, 1) <= 0.5
    groups = (t_label[found], p_label[wrong], t_label[missed])
    counts = np.stack([np.bincount(g, minlength=num_classes) for g in groups])
    return counts, np.bincount(t_label[found], iou[found, finder], num_classes).astype(np.float64)  # int of nothing


@dataclass
class STQ:
    """Segmentation and tracking quality (Weber et al., STEP, 2021), as in deeplab2 and the KITTI-STEP benchmark.

    stq = sqrt(aq sq). With g a true tube, p a predicted one and |g ∩ p| their common pixels over the whole video,

        aq = mean over g of 1/|g| Σ_p |g ∩ p| IoU(g, p)        over the tubes of thing classes in all videos
        sq = mean over classes of IoU                          pixels added over all videos, void in the truth left out

    As in the official code: a tube is a pair (class, id), so an id whose class flips is two tubes, but tubes of
    different thing classes may meet; a true thing pixel of a crowd (in STEP files: instance 0) counts in no tube; void
    in the truth stays part of predicted tubes. Without any true tube aq is 0.

    Where a pixel with a true class is predicted as void, that class has missed it. predicted_void="class" (the official
    code): void then also is one more class, of IoU 0, in the mean. predicted_void="miss": it is not.
    """

    classes: Classes
    predicted_void: str = "class"
    pairs: dict[str, Counter[tuple[int, int, int, int]]] = field(init=False, repr=False, default_factory=dict)
    frames: dict[str, int] = field(init=False, default_factory=dict)  # seen so far, by video

    def __post_init__(self) -> None:
        if self.predicted_void not in ("class", "miss"):
            raise UserError(f"predicted_void is {self.predicted_void!r}", hint="choose 'class' or 'miss'")

    def update(self, pred: Panoptic, truth: Panoptic, *, video: str = "") -> None:
        """Adds a frame of a video. Ids of objects stay the same through the video, on each side."""
        check_frame(pred, truth, self.classes, video)
        table = overlaps(truth.ids.cpu().numpy(), pred.ids.cpu().numpy())
        true, called = self._tracks(truth), self._tracks(pred, crowds=False)
        pairs = self.pairs.setdefault(video, Counter())
        for first, second, pixels in zip(*(column.tolist() for column in table), strict=True):
            pairs[*true[first], *called[second]] += pixels
        self.frames[video] = self.frames.get(video, 0) + 1

    def merge(self, other: STQ) -> None:
        """Adds the counts of other videos, or of other frames of the same ones; the order does not matter."""
        refuse_other(self.classes, other.classes, predicted_void=(self.predicted_void, other.predicted_void))
        for video, pairs in other.pairs.items():
            self.pairs.setdefault(video, Counter()).update(pairs)
            self.frames[video] = self.frames.get(video, 0) + other.frames[video]

    def compute(self) -> dict[str, float]:
        """`stq`, `aq`, `sq`, and `iou/<class>`; NaN where nothing was there to score."""
        parts = [self._association(pairs) for pairs in self.pairs.values()]
        tracks, total = sum(n for n, _ in parts), math.fsum(s for _, s in parts)
        aq = total / tracks if tracks else (0.0 if self.pairs else math.nan)
        ious = self._ious(self.pairs.values())
        sq = float(_mean(ious))
        found = {"stq": math.sqrt(aq * sq), "aq": aq, "sq": sq}
        return found | {f"iou/{n}": float(v) for n, v in zip(self.classes.names, ious[:-1], strict=True)}

    def summary(self) -> str:
        """The lines that deeplab2 logs: STQ, AQ and IoU, of all sequences and of each."""
        found = self.compute()
        lines = [f"STQ: {found['stq']:.6f}", f"AQ: {found['aq']:.6f}", f"IoU: {found['sq']:.6f}"]
        for row in self.table():
            scores = f"STQ {row['stq']:.6f}  AQ {row['aq']:.6f}  IoU {row['sq']:.6f}"
            lines.append(f"{row['video']}: {scores}  ({row['frames']} frames)")
        return "\n".join(lines)

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per video: its scores and how many frames and true tubes it has."""
        rows: list[dict[str, float | int | str]] = []
        for video in sorted(self.pairs):
            tracks, total = self._association(self.pairs[video])
            aq, sq = total / tracks if tracks else 0.0, float(_mean(self._ious([self.pairs[video]])))
            counts = {"frames": self.frames[video], "tracks": tracks}
            rows.append({"video": video, "stq": math.sqrt(aq * sq), "aq": aq, "sq": sq, **counts})
        return rows

    def _tracks(self, frame: Panoptic, crowds: bool = True) -> dict[int, tuple[int, int]]:
        """Label and track of each id: the id itself for things, 0 for stuff."""
        tracks = {0: (VOID, 0)}
        for s in frame.segments:
            track = 0 if not self.classes.things[s.label] else CROWD if crowds and s.crowd else s.id
            tracks[s.id] = s.label, track
        return tracks

    def _association(self, pairs: Mapping[tuple[int, int, int, int], int]) -> tuple[int, float]:
        """How many true tubes there are, and the sum of their association qualities."""
        things = self.classes.things
        true: Counter[tuple[int, int]] = Counter()
        called: Counter[tuple[int, int]] = Counter()
        met: list[tuple[tuple[int, int], tuple[int, int], int]] = []
        for (label, track, p_label, p_track), pixels in pairs.items():
            is_tube = label != VOID and things[label]
            if is_tube and track == CROWD:
                continue
            calls_tube = p_label != VOID and things[p_label]
            if is_tube:
                true[label, track] += pixels
            if calls_tube:
                called[p_label, p_track] += pixels
            if is_tube and calls_tube:
                met.append(((label, track), (p_label, p_track), pixels))
        terms = (n * n / (true[g] + called[p] - n) / true[g] for g, p, n in met)
        return len(true), math.fsum(terms)

    def _ious(self, tables: Iterable[Mapping[tuple[int, int, int, int], int]]) -> Float64[np.ndarray, " n"]:
        """IoU of each class, and of void predicted for something; NaN where neither side has any."""
        n = len(self.classes)
        counts = np.zeros((n, n + 1))
        for pairs in tables:
            for (label, _, p_label, _), pixels in pairs.items():
                if label != VOID:
                    counts[label, n if p_label == VOID else p_label] += pixels
        hit = np.append(np.diagonal(counts), 0)
        union = np.append(counts.sum(1), 0) + counts.sum(0) - hit
        union[[*self.classes.unscored, *([n] if self.predicted_void == "miss" else [])]] = 0
        return np.divide(hit, union, out=np.full(n + 1, np.nan), where=union > 0)


@dataclass
class DVPQ:
    """Depth-aware video panoptic quality (Qiao et al., ViP-DeepLab, CVPR 2021).

    DVPQ^k_lambda is VPQ^k after every predicted pixel whose depth d is off, |d - d*| / d* > lambda, became void; pixels
    without a true depth (0) stay. `dvpq` is the mean over k in `windows` and lambda in `lambdas`.
    """

    classes: Classes
    windows: Sequence[int] = (1, 2, 3, 4)
    lambdas: Sequence[float] = (0.1, 0.25, 0.5)
    parts: tuple[VPQ, ...] = field(init=False, repr=False)  # one for each lambda, from the strictest

    def __post_init__(self) -> None:
        numbers = all(isinstance(v, int | float) and v > 0 for v in self.lambdas)
        if not self.lambdas or not numbers or len(set(self.lambdas)) != len(self.lambdas):
            raise UserError(f"lambdas are {list(self.lambdas)}", hint="give different numbers above 0")
        self.lambdas = tuple(sorted(float(v) for v in self.lambdas))
        self.parts = tuple(VPQ(self.classes, self.windows) for _ in self.lambdas)

    @property
    def frames(self) -> dict[str, int]:
        """How many frames were seen of each video."""
        return self.parts[0].frames

    def update(
        self, pred: Panoptic, truth: Panoptic, pred_depth: Tensor, truth_depth: Tensor, *, video: str = ""
    ) -> None:
        """Adds the next frame of a video: panoptic maps and depths (H, W) in one unit, 0 where the truth knows none."""
        check_frame(pred, truth, self.classes, video)
        called, true = check_depths(pred_depth, truth_depth, truth.size)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(called - true) / true
        wrong = np.zeros(true.shape, np.int64)  # for how many of the lambdas
        for limit in self.lambdas:
            wrong += ~(error <= limit)  # NaN is wrong
        wrong[true <= 0] = 0
        steps = len(self.lambdas) + 1
        table = overlaps(truth.ids.cpu().numpy(), pred.ids.cpu().numpy() * steps + wrong)
        ids, wrong_for = np.divmod(table.second, steps)
        for i, part in enumerate(self.parts):
            part._add(Overlaps(table.first, np.where(wrong_for > i, 0, ids), table.pixels), pred, truth, video)

    def merge(self, other: DVPQ) -> None:
        """Adds the counts of other videos; the order does not matter. One video cannot be split."""
        refuse_other(self.classes, other.classes, lambdas=(self.lambdas, other.lambdas))
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)

    def compute(self) -> dict[str, float]:
        """`dvpq`, `dvpq_things`, `dvpq_stuff`; `dvpq@k`, `dvpq@lambda0.1`, `dvpq@k,0.1`, `dvpq/<class>`."""
        each = [part.compute() for part in self.parts]

        def mean(key: str) -> float:
            return float(np.mean([found[key] for found in each]))

        found = {f"d{key}": mean(key) for key in ("vpq", "vpq_things", "vpq_stuff")}
        found |= {f"dvpq@{k}": mean(f"vpq@{k}") for k in self.windows}
        pairs = list(zip(self.lambdas, each, strict=True))
        found |= {f"dvpq@lambda{limit:g}": part["vpq"] for limit, part in pairs}
        found |= {f"dvpq@{k},{limit:g}": part[f"vpq@{k}"] for limit, part in pairs for k in self.windows}
        return found | {f"dvpq/{name}": mean(f"vpq/{name}") for name in self.classes.names}

    def summary(self) -> str:
        """DVPQ in percent for every k and lambda: all classes | things | stuff, as the paper's tables."""
        things = np.array(self.classes.things)
        lines = [f"{'lambda':>8s} " + " ".join(f"{f'k = {k}':>22s}" for k in self.windows)]
        for limit, part in zip(self.lambdas, self.parts, strict=True):
            pq = part._scores()[0]
            means = [[100 * float(v) for v in _mean(pq[:, m])] for m in (things | ~things, things, ~things)]
            cells = (" | ".join(f"{v:5.1f}" for v in cell) for cell in zip(*means, strict=True))
            lines.append(f"{limit:8g} " + " ".join(f"{cell:>22s}" for cell in cells))
        found = self.compute()
        return "\n".join([*lines, f"DVPQ: {100 * found['dvpq']:.1f}"])

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per class: its DVPQ, and its VPQ at each lambda."""
        rows: list[dict[str, float | int | str]] = []
        for each in zip(*(part.table() for part in self.parts), strict=True):
            scores = [float(row["vpq"]) for row in each]
            at = {f"vpq@lambda{limit:g}": score for limit, score in zip(self.lambdas, scores, strict=True)}
            rows.append({"class": each[0]["class"], "kind": each[0]["kind"], "dvpq": float(np.mean(scores)), **at})
        return rows


@dataclass
class DSTQ:
    """Depth-aware segmentation and tracking quality, numbers of deeplab2 (Qiao et al., 2021).

    dstq = (stq² dq)^(1/3). dq@t is the share of pixels with a true depth (> 0) where max(d/d*, d*/d) <= t; a predicted
    depth of 0 or less is wrong. dq is the geometric mean of dq@t over `thresholds`.
    """

    classes: Classes
    thresholds: Sequence[float] = (1.25, 1.1)
    predicted_void: str = "class"
    stq: STQ = field(init=False, repr=False)
    depths: dict[str, Int64[np.ndarray, " n"]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        numbers = all(isinstance(t, int | float) and t >= 1 for t in self.thresholds)
        if not self.thresholds or not numbers or len(set(self.thresholds)) != len(self.thresholds):
            raise UserError(f"thresholds are {list(self.thresholds)}", hint="give different ratios, from 1")
        self.thresholds = tuple(float(t) for t in self.thresholds)
        self.stq = STQ(self.classes, self.predicted_void)

    @property
    def frames(self) -> dict[str, int]:
        """How many frames were seen of each video."""
        return self.stq.frames

    def update(
        self, pred: Panoptic, truth: Panoptic, pred_depth: Tensor, truth_depth: Tensor, *, video: str = ""
    ) -> None:
        """Adds a frame of a video: panoptic maps and depths (H, W) in one unit, 0 where the truth knows none."""
        called, true = check_depths(pred_depth, truth_depth, truth.size)
        self.stq.update(pred, truth, video=video)
        both = (true > 0) & (called > 0)
        ratio = np.maximum(called[both] / true[both], true[both] / called[both])
        right = [int((ratio <= t).sum()) for t in self.thresholds]
        counts = np.array([*right, int((true > 0).sum())], np.int64)
        self.depths[video] = self.depths.get(video, np.zeros_like(counts)) + counts

    def merge(self, other: DSTQ) -> None:
        """Adds the counts of other videos, or of other frames of the same ones; the order does not matter."""
        refuse_other(self.classes, other.classes, thresholds=(self.thresholds, other.thresholds))
        self.stq.merge(other.stq)
        for video, counts in other.depths.items():
            self.depths[video] = self.depths.get(video, np.zeros_like(counts)) + counts

    def compute(self) -> dict[str, float]:
        """`dstq`, `dq`, `dstq@t` and `dq@t` of every threshold, and what STQ has. NaN before the first frame."""
        found = self.stq.compute()
        counts = sum(self.depths.values(), np.zeros(len(self.thresholds) + 1, np.int64))
        return self._combine(found["stq"], counts) | found

    def summary(self) -> str:
        """The lines that deeplab2 logs: DSTQ and DQ, at each threshold too, then those of STQ."""
        found = self.compute()
        keys = ["dstq", "dq", *(f"{name}@{t:g}" for t in self.thresholds for name in ("dstq", "dq"))]
        return "\n".join([*(f"{key.upper()}: {found[key]:.6f}" for key in keys), self.stq.summary()])

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per video."""
        rows = self.stq.table()
        return [{**row, **self._combine(float(row["stq"]), self.depths[str(row["video"])])} for row in rows]

    def _combine(self, stq: float, counts: Int64[np.ndarray, " n"]) -> dict[str, float]:
        shares = [int(n) / int(counts[-1]) if counts[-1] else 0.0 for n in counts[:-1]]
        dq = math.prod(shares) ** (1 / len(shares))
        found = {"dstq": (stq**2 * dq) ** (1 / 3), "dq": dq}
        for t, share in zip(self.thresholds, shares, strict=True):
            found |= {f"dstq@{t:g}": (stq**2 * share) ** (1 / 3), f"dq@{t:g}": share}
        return found


def check_frame(pred: Panoptic, truth: Panoptic, classes: Classes, video: str) -> None:
    """Refuses a pair of frames of different sizes, or with a segment of a class that does not exist."""
    of = f" of video {video!r}" if video else ""
    if pred.size != truth.size:
        sizes = "prediction{} is {}x{} but truth is {}x{}".format(of, *pred.size, *truth.size)
        raise UserError(sizes, hint="resize the prediction to the truth (nearest)")
    for side, frame in (("the prediction", pred), ("the truth", truth)):
        if unknown := sorted({s.label for s in frame.segments if not 0 <= s.label < len(classes)}):
            hint = f"classes are 0..{len(classes) - 1}"
            raise UserError(f"{side}{of} has a segment of class {unknown[0]}", hint=hint)


def refuse_other(mine: Classes, theirs: Classes, **settings: tuple[object, object]) -> None:
    """Scores add up only where they count the same: equal classes and equal settings, given in pairs by name."""
    pairs = {key: (getattr(mine, key), getattr(theirs, key)) for key in ("names", "things", "unscored")} | settings
    for what, (one, other) in pairs.items():
        if one != other:
            raise UserError(f"cannot merge scores of different {what}: {one} and {other}")


def refuse_shared(mine: Iterable[str], theirs: Iterable[str]) -> None:
    """A window looks back in time, so the frames of one video have to come to one place, in order."""
    if twice := sorted(set(mine) & set(theirs)):
        raise UserError(f"video {twice[0]!r} is in both scores", hint="give all frames of a video to one of them")


def _mean(scores: Float64[np.ndarray, "*n k"]) -> Float64[np.ndarray, "*n"]:
    """The mean over classes that have a score; NaN where none has."""
    known = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, scores, 0.0).sum(-1) / known.sum(-1))
