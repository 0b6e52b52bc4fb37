"""Which frames of which objects of a video count, and how predictions find their objects: the published protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment

from masklet.metrics.region_contour import Frame
from masklet.structures import UserError

__all__ = [
    "KEYS",
    "PROTOCOLS",
    "SAV",
    "SemiSupervised",
    "Track",
    "Unsupervised",
    "VideoProtocol",
    "YouTubeVOS",
    "statistics",
]

VOID = 255
KEYS = ("jf", "j", "j_recall", "j_decay", "f", "f_recall", "f_decay")


@dataclass(frozen=True, eq=False)
class Track:
    """One object over the frames that count."""

    sequence: str
    object: int
    frames: Int64[np.ndarray, " n"]
    j: Float64[np.ndarray, " n"]
    f: Float64[np.ndarray, " n"]


@runtime_checkable
class VideoProtocol(Protocol):
    """Which frames of which objects count, and against what."""

    @property
    def matched(self) -> bool:
        """Whether predicted objects are matched to true ones; else they have the same ids."""
        ...

    @property
    def void(self) -> int | None:
        """The id in the truth that is no object."""
        ...

    @property
    def trimmed(self) -> bool:
        """Whether the first and the last frame do not count."""
        ...

    def tracks(self, sequence: str, frames: Mapping[int, Frame]) -> list[Track]:
        """The scored objects of a sequence."""
        ...

    def summary(self, scores: Mapping[str, float]) -> str:
        """The official tool's lines."""
        ...


@dataclass(frozen=True)
class SemiSupervised:
    """DAVIS with given first masks: objects 1 to the highest id of the first true frame; first and last do not count.

    Equal to `davis2017-evaluation --task semi-supervised`; void (255) is background. Decay of sequences over 256 frames
    differs on purpose: there the tool's bins overflow 8 bits.
    """

    matched: ClassVar[bool] = False
    void: ClassVar[int | None] = VOID
    trimmed: ClassVar[bool] = True

    def tracks(self, sequence: str, frames: Mapping[int, Frame]) -> list[Track]:
        """The objects of the first frame over all frames but the first and the last."""
        objects = _first_objects(sequence, frames)
        middle = _middle(sequence, frames)
        for number in middle:
            if len(strange := np.setdiff1d(frames[number].pred, objects)):
                raise UserError(
                    f"frame {number} of {sequence!r} predicts object {strange[0]}, but the first true frame has "
                    f"{_listed(objects)}",
                    hint="predicted ids are those of the first true frame",
                )
        return _same_ids(sequence, frames, {int(k): middle for k in objects})

    def summary(self, scores: Mapping[str, float]) -> str:
        """The table that davis2017-evaluation prints."""
        return _davis_summary(scores)


@dataclass(frozen=True)
class Unsupervised:
    """DAVIS without given masks: up to 20 proposals per sequence, matched to the true objects as a whole.

    The assignment that maximises (J + F) / 2, each averaged over all frames, counts (Hungarian method); a true object
    that gets none is compared with emptiness. All frames count; void (255) pixels count nowhere. Equal to
    `davis2017-evaluation --task unsupervised` (Caelles et al., 2019).
    """

    proposals: int = 20
    matched: ClassVar[bool] = True
    void: ClassVar[int | None] = VOID
    trimmed: ClassVar[bool] = False

    def tracks(self, sequence: str, frames: Mapping[int, Frame]) -> list[Track]:
        """The objects of the first frame, each with the proposal that was assigned to it."""
        objects, order = _first_objects(sequence, frames), sorted(frames)
        found = max((int(frame.pred[-1]) for frame in frames.values() if len(frame.pred)), default=0)
        if found > self.proposals:
            raise UserError(
                f"{sequence!r} has a proposal {found}, but {self.proposals} are allowed",
                hint=f"keep the best {self.proposals} and number them from 1",
            )
        rows = max(found, len(objects))
        scores = np.ones((2, rows, len(objects), len(order)))  # J and F of proposal, object, frame
        for at, number in enumerate(order):
            frame = frames[number]
            here = np.isin(objects, frame.truth)
            shown = np.isin(np.arange(1, rows + 1), frame.pred)
            scores[..., at] = ~(shown[:, None] | here)
            wanted = np.isin(frame.truth, objects)
            for k, values in enumerate((frame.j, frame.f)):
                scores[k, :, :, at][np.ix_(shown, here)] = values[:, wanted]
        proposal, partner = linear_sum_assignment(-scores.mean(axis=(0, 3)))
        chosen = dict(zip(partner.tolist(), proposal.tolist(), strict=True))
        where = np.array(order)
        return [
            Track(sequence, int(number), where, *(scores[k, chosen[i], i] for k in (0, 1)))
            for i, number in enumerate(objects)
        ]

    def summary(self, scores: Mapping[str, float]) -> str:
        """The table that davis2017-evaluation prints."""
        return _davis_summary(scores)


@dataclass(frozen=True)
class SAV:
    """SA-V: the first and the last frame do not count, and objects may appear late.

    An object counts from the first remaining frame where either side shows it, if the truth ever does. Equal to
    `sav_evaluator.py` (Ravi et al., 2024), which prints these scores times 100. 255 is an id like any other.
    """

    matched: ClassVar[bool] = False
    void: ClassVar[int | None] = None
    trimmed: ClassVar[bool] = True

    def tracks(self, sequence: str, frames: Mapping[int, Frame]) -> list[Track]:
        """Every true object from its first frame, without the first and the last frame of the video."""
        middle = _middle(sequence, frames)
        objects = sorted({int(k) for number in middle for k in frames[number].truth})
        if not objects:
            raise UserError(f"{sequence!r} has no true object in any frame that counts", hint="leave it out")
        since = {k: next(i for i, number in enumerate(middle) if k in frames[number].ids) for k in objects}
        return _same_ids(sequence, frames, {k: middle[since[k] :] for k in objects})

    def summary(self, scores: Mapping[str, float]) -> str:
        """The last line of the official evaluator."""
        j, f, jf = (100 * scores[key] for key in ("j", "f", "jf"))
        return f"Global score: J&F: {jf:.1f} J: {j:.1f} F: {f:.1f}"


@dataclass(frozen=True)
class YouTubeVOS:
    """YouTube-VOS: every object from the first true frame that shows it (Xu et al., 2018).

    `frames` may say for a sequence and an object which frames count, as a meta.json does. The server's own program is
    not published; `skip_given` leaves out the frame whose mask is given.
    """

    frames: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)
    skip_given: bool = False
    matched: ClassVar[bool] = False
    void: ClassVar[int | None] = VOID
    trimmed: ClassVar[bool] = False

    def tracks(self, sequence: str, frames: Mapping[int, Frame]) -> list[Track]:
        """Every true object from its first frame on."""
        order, known = sorted(frames), self.frames.get(sequence)
        true = sorted({int(k) for frame in frames.values() for k in frame.truth})
        objects = true if known is None else sorted(known)
        if not objects:
            raise UserError(f"{sequence!r} has no true object in any frame", hint="leave it out")
        out = {}
        for k in objects:
            listed = order if known is None else [number for number in order if number in set(known[k])]
            start = next((i for i, number in enumerate(listed) if k in frames[number].truth), None)
            if start is None:
                raise UserError(f"{sequence!r} never shows object {k} in a true frame", hint="check meta.json")
            if len(counted := listed[start + self.skip_given :]):
                out[k] = counted
        for number in order:
            if len(strange := np.setdiff1d(frames[number].pred, objects)):
                raise UserError(
                    f"frame {number} of {sequence!r} predicts object {strange[0]}, but the truth has "
                    f"{_listed(np.array(objects))}",
                    hint="predicted ids are those of the truth",
                )
        return _same_ids(sequence, frames, out)

    def summary(self, scores: Mapping[str, float]) -> str:
        """J&F, J and F in one line."""
        return f"J&F: {scores['jf']:.3f} J: {scores['j']:.3f} F: {scores['f']:.3f}"


PROTOCOLS: Mapping[str, VideoProtocol] = MappingProxyType(
    {"semisupervised": SemiSupervised(), "unsupervised": Unsupervised(), "sav": SAV(), "youtube_vos": YouTubeVOS()}
)


def statistics(values: Float64[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay of J or F over the frames of an object; NaN without frames.

    Decay compares the first and the last of four bins whose edges are frames, rounded to the nearest and part of both
    neighbours (`db_statistics`).
    """
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[: edges[1] + 1], values[edges[3] :]
    return float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())


def _same_ids(sequence: str, frames: Mapping[int, Frame], counted: Mapping[int, Sequence[int]]) -> list[Track]:
    """The tracks of objects that have the same id on both sides, over the frames that count for each."""
    out = []
    for number, where in counted.items():
        scores = np.ones((2, len(where)))
        for at, key in enumerate(where):
            frame = frames[key]
            if len(place := np.flatnonzero(frame.ids == number)):
                scores[:, at] = frame.j[place[0]], frame.f[place[0]]
        out.append(Track(sequence, number, np.array(where, np.int64), *scores))
    return out


def _first_objects(sequence: str, frames: Mapping[int, Frame]) -> Int64[np.ndarray, " n"]:
    """1 to the highest id of the first true frame, as DAVIS counts objects."""
    first = min(frames)
    if not len(frames[first].truth):
        raise UserError(
            f"the first true frame of {sequence!r} shows no object",
            hint="its ids count from 1, and 255 is void; black and white masks (DAVIS 2016) need joined=true",
        )
    return np.arange(1, int(frames[first].truth[-1]) + 1)


def _middle(sequence: str, frames: Mapping[int, Frame]) -> list[int]:
    if len(frames) < 3:
        raise UserError(
            f"{sequence!r} has {len(frames)} frames, and the first and the last do not count", hint="give at least 3"
        )
    return sorted(frames)[1:-1]


def _davis_summary(scores: Mapping[str, float]) -> str:
    names = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    title = " Global results ".center(75, "-")
    values = [f"{scores[key]:.3f}" for key in KEYS]
    return "\n".join([title, " ".join(f"{n:>9}" for n in names), " ".join(f"{v:>9}" for v in values)])


def _listed(objects: Int64[np.ndarray, " n"]) -> str:
    numbers = objects.tolist()
    if len(numbers) == 1:
        return f"only object {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"objects {numbers[0]} to {numbers[-1]}"
    return f"objects {', '.join(map(str, numbers))}"
