"""How well objects are followed through a video: J, F and J&F over objects and sequences, and what is made of them.

`region_contour` scores the objects of one frame; a protocol (`video_protocols`) chooses which frames of which objects
count. Over the frames of an object:

    mean    of J or F; J&F is the mean of both
    recall  the share of frames above 0.5
    decay   mean over the first quarter of the frames minus mean over the last: what is lost over time

A score is the mean over all objects of all sequences. `JF()` equals davis2017-evaluation, `JF(SAV())` the evaluator of
SA-V, to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from masklet.metrics.region_contour import Frame, ObjectMaps, compare
from masklet.metrics.video_protocols import KEYS, SemiSupervised, Track, VideoProtocol, YouTubeVOS, statistics
from masklet.structures import Curve, UserError

__all__ = ["JF", "InteractiveJF", "YouTubeVOSScore"]


@dataclass
class JF:
    """J, F and J&F of videos, frame by frame; `protocol` says which frames of which objects count.

    State is J and F of the objects of each frame, so the masks may come in any order and from any process.
    """

    protocol: VideoProtocol = field(default_factory=SemiSupervised)
    bound: int | float = 0.008  # of the diagonal: how far outlines may be apart (DAVIS); 1 and above are pixels
    sequences: dict[str, dict[int, Frame]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.bound < 0:
            raise UserError(f"bound is {self.bound}", hint="give a share of the image diagonal, 0.008 for DAVIS")

    def update(self, pred: ObjectMaps, truth: ObjectMaps, sequence: str = "video", frame: int | None = None) -> None:
        """Adds one frame: (H, W) maps of object ids (0 is background), or `Masks`, whose i-th is object i + 1.

        Without a number a frame follows the last one of its sequence.
        """
        frames = self.sequences.setdefault(sequence, {})
        number = max(frames, default=-1) + 1 if frame is None else frame
        if number in frames:
            raise UserError(f"frame {number} of {sequence!r} came twice", hint="score every frame once")
        frames[number] = compare(
            pred, truth, self.bound, matched=self.protocol.matched, void=self.protocol.void, where=(sequence, number)
        )

    def merge(self, other: JF) -> None:
        """Adds the frames of another part of the data; the order does not matter."""
        mine, theirs = (self.protocol, self.bound), (other.protocol, other.bound)
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        for sequence, frames in other.sequences.items():
            known = self.sequences.get(sequence, {})
            if twice := sorted(frames.keys() & known.keys()):
                raise UserError(f"frame {twice[0]} of {sequence!r} came twice", hint="score every frame once")
        for sequence, frames in other.sequences.items():
            self.sequences.setdefault(sequence, {}).update(frames)

    def tracks(self) -> list[Track]:
        """The objects that count, sequence by sequence in the order of their names."""
        return [t for name in sorted(self.sequences) for t in self.protocol.tracks(name, self.sequences[name])]

    def compute(self) -> dict[str, float]:
        """jf, j, j_recall, j_decay, f, f_recall, f_decay, and jf/<sequence>; NaN where there are no frames."""
        rows = self.table()
        out = {key: _mean([row[key] for row in rows]) for key in KEYS}
        out["jf"] = (out["j"] + out["f"]) / 2
        for name in sorted(self.sequences):
            out[f"jf/{name}"] = _mean([row["jf"] for row in rows if row["sequence"] == name])
        return out

    def summary(self) -> str:
        """What the protocol's official tool prints."""
        return self.protocol.summary(self.compute())

    def table(self) -> list[dict[str, float | int | str]]:
        """A row for each object."""
        return [_row(track) for track in self.tracks()]

    def curves(self) -> list[Curve]:
        """J and F over time, a diagram for each sequence: means over the objects that count in a frame."""
        out, tracks = [], self.tracks()
        for name in sorted(self.sequences):
            mine = [track for track in tracks if track.sequence == name]
            frames = np.unique(np.concatenate([track.frames for track in mine]))
            counts = sum(np.isin(frames, track.frames) for track in mine)
            for label, values in (("J", [t.j for t in mine]), ("F", [t.f for t in mine])):
                total = np.zeros(len(frames))
                for track, value in zip(mine, values, strict=True):
                    total[np.searchsorted(frames, track.frames)] += value
                out.append(Curve(label, frames.astype(np.float64), total / counts, "frame", "score", name))
        return out


@dataclass
class YouTubeVOSScore:
    """G of YouTube-VOS: the mean of J and F over objects of seen and of unseen categories, four numbers.

    `seen[sequence][object]` says whether training saw the object's category. Seen and unseen weigh the same however
    many objects they have, which is what G is for (Xu et al., 2018, sec. 5.1). Without objects of a kind its scores
    and G are NaN.
    """

    seen: Mapping[str, Mapping[int, bool]]
    protocol: YouTubeVOS = field(default_factory=YouTubeVOS)
    bound: int | float = 0.008
    scores: JF = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.scores = JF(self.protocol, self.bound)

    def update(self, pred: ObjectMaps, truth: ObjectMaps, sequence: str, frame: int | None = None) -> None:
        """Adds one frame, like `JF.update`."""
        if sequence not in self.seen:
            raise UserError(f"nobody said which objects of {sequence!r} are seen", hint="check meta.json")
        self.scores.update(pred, truth, sequence, frame)

    def merge(self, other: YouTubeVOSScore) -> None:
        """Adds the frames of another part of the data; the order does not matter."""
        if self.seen != other.seen:
            raise UserError("cannot merge scores of different seen categories", hint="use one meta.json for all parts")
        self.scores.merge(other.scores)

    def compute(self) -> dict[str, float]:
        """g, j_seen, f_seen, j_unseen, f_unseen, and j, f, jf over all objects alike."""
        rows = self.table()
        out = {
            f"{key}_{kind}": _mean([row[key] for row in rows if row["category"] == kind])
            for kind in ("seen", "unseen")
            for key in ("j", "f")
        }
        everything = {key: _mean([row[key] for row in rows]) for key in ("jf", "j", "f")}
        return {"g": float(np.mean(list(out.values()))), **out, **everything}

    def summary(self) -> str:
        """The numbers of the leaderboard."""
        scores = self.compute()
        keys = ("j_seen", "j_unseen", "f_seen", "f_unseen")
        return "  ".join([f"Overall: {scores['g']:.3f}", *(f"{key}: {scores[key]:.3f}" for key in keys)])

    def table(self) -> list[dict[str, float | int | str]]:
        """A row for each object, with its kind of category."""
        rows = []
        for track in self.scores.tracks():
            known = self.seen[track.sequence]
            if track.object not in known:
                raise UserError(
                    f"nobody said whether object {track.object} of {track.sequence!r} is seen", hint="check meta.json"
                )
            kind = "seen" if known[track.object] else "unseen"
            row = _row(track)
            rows.append({"sequence": row.pop("sequence"), "object": row.pop("object"), "category": kind, **row})
        return rows

    def curves(self) -> list[Curve]:
        """J and F over time for each sequence."""
        return self.scores.curves()


@dataclass
class InteractiveJF:
    """J&F against the time that a user and a model spend: the interactive protocol of DAVIS (Caelles et al., 2018).

    A sample is one start (sequence and scribble). After each interaction of a sample its seconds since the start and
    its J&F are known. The curve goes from (0, 0) through the means over the samples, interaction by interaction; a
    sample that has stopped stays where it was. `auc` is the area under it divided by its length, `jf@60` its value at
    60 seconds, by straight lines between the points and level after the last.
    """

    threshold: int | float = 60
    samples: dict[str, dict[int, tuple[float, float]]] = field(init=False, default_factory=dict, repr=False)

    def update(self, sample: str, interaction: int, seconds: int | float, jf: int | float) -> None:
        """Adds what sample `sample` reached with interaction 1, 2, ..., `seconds` after its start."""
        if interaction < 1 or not seconds >= 0 or not 0 <= jf <= 1:
            raise UserError(
                f"interaction {interaction} of {sample!r} took {seconds} seconds and scored {jf}",
                hint="interactions count from 1, seconds from 0, and J&F lies in [0, 1]",
            )
        points = self.samples.setdefault(sample, {})
        if interaction in points:
            raise UserError(f"interaction {interaction} of {sample!r} came twice", hint="add every interaction once")
        points[interaction] = (float(seconds), float(jf))

    def merge(self, other: InteractiveJF) -> None:
        """Adds other samples, or other interactions of the same; the order does not matter."""
        if self.threshold != other.threshold:
            raise UserError(f"cannot merge values at {self.threshold} and {other.threshold} seconds")
        for sample, points in other.samples.items():
            if twice := sorted(points.keys() & self.samples.get(sample, {}).keys()):
                raise UserError(f"interaction {twice[0]} of {sample!r} came twice", hint="add every interaction once")
        for sample, points in other.samples.items():
            self.samples.setdefault(sample, {}).update(points)

    def compute(self) -> dict[str, float]:
        """auc, and jf@60 (or at the chosen threshold); NaN without samples."""
        x, y = self._curve()
        key = f"jf@{self.threshold:g}"
        if len(x) < 2:
            return {"auc": float("nan"), key: float("nan")}
        area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        return {"auc": area / float(x[-1]) if x[-1] > 0 else float(y[-1]), key: float(np.interp(self.threshold, x, y))}

    def summary(self) -> str:
        """Both numbers in one line."""
        scores = self.compute()
        key = f"jf@{self.threshold:g}"
        return f"AUC: {scores['auc']:.3f}  J&F@{self.threshold:g}s: {scores[key]:.3f}"

    def table(self) -> list[dict[str, float | int | str]]:
        """A row for each interaction of each sample."""
        return [
            {"sample": sample, "interaction": i, "seconds": points[i][0], "jf": points[i][1]}
            for sample, points in sorted(self.samples.items())
            for i in sorted(points)
        ]

    def curves(self) -> list[Curve]:
        """J&F over seconds."""
        return [Curve("mean of all samples", *self._curve(), "seconds", "J&F", "interactive")]

    def _curve(self) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        steps = max((max(points) for points in self.samples.values()), default=0)
        filled = np.zeros((len(self.samples), steps + 1, 2))
        for row, (sample, points) in zip(filled, sorted(self.samples.items()), strict=True):
            if (missing := next((i for i in range(1, max(points)) if i not in points), None)) is not None:
                raise UserError(f"{sample!r} lacks interaction {missing}", hint="number interactions 1, 2, 3, ...")
            for i in range(1, steps + 1):
                row[i] = points.get(i, row[i - 1])
            if (np.diff(row[:, 0]) < 0).any():
                raise UserError(f"the seconds of {sample!r} run backwards", hint="give seconds since the start")
        x, y = filled.mean(axis=0).T if len(filled) else np.zeros((2, 0))
        return x, y


def _row(track: Track) -> dict[str, float | int | str]:
    j, f = statistics(track.j), statistics(track.f)
    values = ((j[0] + f[0]) / 2, *j, *f)
    head: dict[str, float | int | str] = {
        "sequence": track.sequence,
        "object": track.object,
        "frames": len(track.frames),
    }
    return head | dict(zip(KEYS, values, strict=True))


def _mean(values: Sequence[float | int | str]) -> float:
    return float(np.mean(np.array(values, np.float64))) if values else float("nan")
