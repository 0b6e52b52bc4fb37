"""Objects followed through a video: prompt, propagate, correct; each object on its own, in constant memory.

session = VideoSession(model, "clip.mp4")
session.add_prompt(0, 1, points=[(210, 150)])
for frame in session.propagate():
    frame.masks[1]  # run lengths; nothing of them is kept here
session.add_prompt(30, 1, points=[(220, 140)], labels=[0])  # a correction: the next pass begins here, for this object
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from masklet.inference.frames import KEPT, open_frames
from masklet.models.base import evaluating
from masklet.models.prompting import Embedding, Queries, check, enlarged
from masklet.ops.components import smoothed_over
from masklet.ops.rle import RLE, encode_many
from masklet.parts.precision import autocast
from masklet.structures import Prompt
from masklet.structures.errors import UserError

__all__ = ["Tidy", "TrackedFrame", "VideoSession", "propagate_together"]

LIMIT = 32.0  # of logits that are fed back with a correction
DIRECTIONS = ("forward", "backward", "both")
SPACING, SNAPSHOTS = 8, 6  # how far apart memories are put aside for corrections, and how many at most
UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Tidy:
    """What is done to masks before they are given out; the names are those of the authors' predictor, which fills 8.

    Holes of at most `fill_hole_area` cells are filled and specks of at most `max_sprinkle_area` removed, counted on the
    grid that masks are predicted on (256 x 256). With `non_overlap_masks` a pixel belongs to one object of a frame at
    most, the one that is surest of it.
    """

    fill_hole_area: int = 0
    max_sprinkle_area: int = 0
    non_overlap_masks: bool = False

    def __post_init__(self) -> None:
        for name in ("fill_hole_area", "max_sprinkle_area"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"{name} is {value}", hint="give a number of cells, 0 for none")


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """One frame and the objects that were looked for in it: masks as run lengths, scores 0..1.

    A score is the predicted IoU, and 0 where the object is taken to be out of sight.
    """

    index: int
    image: UInt8[Tensor, "3 h w"]
    masks: Mapping[int, RLE]
    scores: Mapping[int, float]


@dataclass(eq=False)
class _Track:
    """One object: what was prompted, what it remembers in each direction, and which frame comes next."""

    prompts: dict[int, Queries] = field(default_factory=dict)
    answers: dict[int, tuple[RLE, float]] = field(default_factory=dict)  # of prompted frames
    logits: dict[int, Tensor] = field(default_factory=dict)  # of prompted frames, on the coarse grid
    memory: dict[bool, Any] = field(default_factory=dict)  # by direction: is it backward?
    cursor: dict[bool, int] = field(default_factory=dict)
    snapshots: dict[bool, dict[int, Any]] = field(default_factory=lambda: {False: {}, True: {}})

    @property
    def nbytes(self) -> int:
        kept = {id(r): r.nbytes for memory in self._memories() for r in (*memory.prompted, *memory.recent)}
        return sum(kept.values()) + sum(logits.nbytes for logits in self.logits.values())

    def _memories(self) -> list[Any]:
        return [*self.memory.values(), *(m for kept in self.snapshots.values() for m in kept.values())]


class VideoSession:
    """A video, a model that has `step`, and the objects that are followed.

    Frames are read when they are needed. What is held does not grow with the video: the last `kept` frames, the
    embedding of one frame, and for each object the memory that the model asks for. `memory_budget` (bytes, or text as
    "2GiB") lets go of frames and of memories for corrections first. `together` objects are computed at a time; with 1
    the masks of an object do not depend, in any bit, on which others there are (unless `tidy` lets them compete).
    `dtype` is that of convolutions and products, see `masklet.parts.precision.automatic`.
    """

    def __init__(
        self,
        model: Any,
        source: Any,
        *,
        kept: int = KEPT,
        memory_budget: int | str | None = None,
        together: int = 1,
        dtype: torch.dtype = torch.float32,
        tidy: Tidy | None = None,
    ) -> None:
        if not hasattr(model, "step"):
            name = getattr(model, "spec", {"model": type(model).__name__})["model"]
            raise UserError(f"{name} follows no objects", hint="take sam2_hiera_tiny, or another of the task video")
        if together < 1:
            raise UserError(f"together is {together}", hint="give a number of objects")
        self.model, self.frames, self.together, self.dtype = model, open_frames(source, kept), together, dtype
        self.tidy = Tidy() if tidy is None else tidy
        self.budget = None if memory_budget is None else _bytes(memory_budget)
        self.device = next(model.parameters()).device
        self._tracks: dict[int, _Track] = {}
        self._seen: OrderedDict[int, Embedding] = OrderedDict()

    @property
    def objects(self) -> tuple[int, ...]:
        """The numbers of the objects, in the order in which they came."""
        return tuple(self._tracks)

    def add_prompt(
        self,
        frame: int,
        object: int,
        *,
        points: Sequence[Sequence[float | int]] | Float[Tensor, "p 2"] | None = None,
        labels: Sequence[int] | Tensor | None = None,
        box: Sequence[float | int] | Float[Tensor, " 4"] | None = None,
        mask: Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"] | None = None,
        clear: bool = False,
    ) -> tuple[RLE, float]:
        """Says where an object is in a frame; what is found there and its score come back at once.

        Points are x, y in pixels of the video, labels 1 (this, as where not given) or 0 (not this). Points add to
        those that the object has in the frame, unless `clear`; a box or mask starts anew. An object that was tracked
        is corrected: the next pass begins here for it, and for no other.
        """
        prompt = _prompt(points, labels, box, mask)
        try:
            image = self.frames[frame]
        except IndexError:
            raise UserError(f"there is no frame {frame}", hint=self._extent()) from None
        check(prompt, (image.shape[1], image.shape[2]))
        if prompt.masks is not None and (prompt.points is not None or prompt.boxes is not None):
            raise UserError("a mask together with points or a box", hint="give the mask, then correct it with points")
        track = self._tracks.setdefault(object, _Track())
        try:
            return self._prompted(track, frame, prompt, clear)
        except BaseException:
            if not track.prompts and not track.answers:
                del self._tracks[object]
            raise

    def remove_object(self, object: int) -> None:
        """Forgets an object; the others are as they were."""
        self._track(object)
        del self._tracks[object]

    def propagate(
        self,
        direction: str = "forward",
        *,
        start: int | None = None,
        stop: int | None = None,
        objects: Sequence[int] | None = None,
    ) -> Iterator[TrackedFrame]:
        """Follows objects from frame to frame; each frame is given as soon as it is computed.

        Every object goes on where its last pass in this direction ended, or where it was prompted or corrected since;
        `start` (a frame) begins anew there. `stop` is the first frame that is left out. "both" goes forward, then
        backward. `objects` chooses some.
        """
        if direction not in DIRECTIONS:
            raise UserError(f"direction is {direction!r}", hint=f"choose from {', '.join(DIRECTIONS)}")
        if not self._tracks:
            raise UserError("no object has been prompted", hint="session.add_prompt(0, 1, points=[(x, y)])")
        chosen = self.objects if objects is None else tuple(objects)
        for number in chosen:
            self._track(number)
        if direction == "both":
            yield from self._pass(False, start, stop, chosen)
            yield from self._pass(True, start, None, chosen)
        else:
            yield from self._pass(direction == "backward", start, stop, chosen)

    def memory_report(self) -> dict[str, Any]:
        """Bytes that are held: of each object, of frames and of embeddings; and how many prompted frames there are."""
        objects = {number: track.nbytes for number, track in self._tracks.items()}
        seen = sum(e.features.nbytes + sum(skip.nbytes for skip in e.skips) for e in self._seen.values())
        held = {"objects": objects, "frames": self.frames.nbytes, "embeddings": seen}
        prompted = {number: len(track.answers) for number, track in self._tracks.items()}
        return {**held, "prompted_frames": prompted, "total": sum(objects.values()) + self.frames.nbytes + seen}

    def _track(self, object: int) -> _Track:
        if object not in self._tracks:
            known = ", ".join(map(str, self._tracks)) or "none"
            raise UserError(f"there is no object {object}", hint=f"objects: {known}")
        return self._tracks[object]

    def _extent(self) -> str:
        return "frames count from 0" if self.frames.length is None else f"the video has {self.frames.length} frames"

    def _prompted(self, track: _Track, frame: int, prompt: Prompt, clear: bool) -> tuple[RLE, float]:
        model, memory = self.model, self._before(track, frame)
        with self._computing():
            seen = self._embedding(frame)
            if prompt.masks is not None:
                drawn = prompt.masks.to(self.device)
                found, _ = model.step(seen, memory, None, drawn, at=frame, write=False)
                track.prompts.pop(frame, None)
            else:
                queries = Queries.of([prompt], seen)
                earlier = None if clear or prompt.boxes is not None else track.prompts.get(frame)
                if earlier is not None:
                    queries = Queries(
                        torch.cat([earlier.points, queries.points], 1), torch.cat([earlier.labels, queries.labels], 1)
                    )
                track.prompts[frame] = queries
                if frame in track.logits and not clear and prompt.boxes is None:
                    queries = replace(queries, masks=track.logits[frame].clamp(-LIMIT, LIMIT)[:, None])
                tracked = frame in track.logits or frame < track.cursor.get(False, 0)
                drawn = None
                found, _ = model.step(seen, memory, queries, at=frame, afresh=not tracked, write=False)
            found = self._tidied(found)
            new = model.write(seen, memory, found, drawn, at=frame, prompted=True)
            entry = next(r for r in new.prompted if r.frame == frame)
            other = model.bank.write(track.memory.get(True, model.nothing_remembered()), entry, True, True)
            track.memory = {False: new, True: other}
            track.logits[frame] = found.logits
            track.answers[frame] = self._masks({0: found.logits}, seen)[0], _score(found, 0)
        for back in (False, True):
            track.cursor[back] = frame
            ahead = [at for at in track.snapshots[back] if (at <= frame if back else at >= frame)]
            for at in ahead:
                del track.snapshots[back][at]
        self._trim()
        return track.answers[frame]

    def _before(self, track: _Track, frame: int) -> Any:
        """The forward memory as it was before a frame: the prompted frames of now, the recent ones of then."""
        memory = track.memory.get(False)
        if memory is None:
            return self.model.nothing_remembered()  # of no known length, so that a stream is tracked as its file is
        past = [r for r in memory.recent if r.frame < frame]
        if len(past) < len(memory.recent):  # it went further: go back to what was put aside
            kept = [at for at in track.snapshots[False] if at < frame]
            past = list(track.snapshots[False][max(kept)].recent) if kept else past
        return replace(memory, recent=tuple(past)).forget(frame)

    def _pass(self, back: bool, start: int | None, stop: int | None, chosen: Sequence[int]) -> Iterator[TrackedFrame]:
        if start is not None:
            for number in chosen:
                self._restart(self._track(number), start, back)
        while True:
            alive = [number for number in chosen if number in self._tracks]
            at = self._first(alive, back)
            if at is None or at < 0 or (stop is not None and (at <= stop if back else at >= stop)):
                return
            try:
                frame = self._frame(at, [n for n in alive if self._tracks[n].cursor[back] == at], back)
            except IndexError:
                return
            yield frame

    def _first(self, chosen: Sequence[int], back: bool) -> int | None:
        cursors = [self._tracks[number].cursor[back] for number in chosen]
        return None if not cursors else (max(cursors) if back else min(cursors))

    def _restart(self, track: _Track, start: int, back: bool) -> None:
        """A pass from another frame on: with the memory of the prompted frames, and of the frames just before."""
        if not back:
            memory = self._before(track, start)
            kept = [r for r in track.memory[False].prompted if r.frame == start]
            prompted = tuple(sorted([*memory.prompted, *kept], key=lambda r: r.frame))
            track.memory[False] = replace(memory, prompted=prompted)
        else:
            track.memory[True] = replace(track.memory[True], recent=track.memory[False].recent)
        track.cursor[back] = start

    def _frame(self, at: int, here: Sequence[int], back: bool) -> TrackedFrame:
        image = self.frames[at]
        masks: dict[int, RLE] = {}
        scores: dict[int, float] = {}
        logits: dict[int, Tensor] = {}
        looked_for = []
        for number in here:
            track = self._tracks[number]
            if at not in track.answers:
                looked_for.append(number)
                continue
            masks[number], scores[number] = track.answers[at]
            logits[number] = track.logits[at]
        with self._computing():
            for group in self._alike(looked_for, back):
                seen, tracks = self._embedding(at), [self._tracks[number] for number in group]
                memory = type(tracks[0].memory[back]).join([track.memory[back] for track in tracks])
                found, memory = self.model.step(seen, memory, at=at, back=back)
                found = self._tidied(found)
                for i, (number, track) in enumerate(zip(group, tracks, strict=True)):
                    logits[number], scores[number] = found.logits[i : i + 1], _score(found, i)
                    track.memory[back] = memory[i : i + 1] if len(group) > 1 else memory
                    self._put_aside(track, at, back)
            if self.tidy.non_overlap_masks:
                masks = self._masks(logits, self._embedding(at))
            elif looked_for:
                masks |= self._masks({number: logits[number] for number in looked_for}, self._embedding(at))
        for number in here:
            self._tracks[number].cursor[back] = at + (-1 if back else 1)
        self._trim()
        return TrackedFrame(at, image, {n: masks[n] for n in here}, {n: scores[n] for n in here})

    def _alike(self, numbers: Sequence[int], back: bool) -> Iterator[list[int]]:
        """Objects that remember the same frames, a few at a time."""
        groups: dict[Any, list[int]] = {}
        for number in numbers:
            groups.setdefault(self._tracks[number].memory[back].frames, []).append(number)
        for group in groups.values():
            for i in range(0, len(group), self.together):
                yield group[i : i + self.together]

    def _put_aside(self, track: _Track, at: int, back: bool) -> None:
        """A memory every few frames; when there are too many, every second one goes, so that they reach as far back."""
        kept = track.snapshots[back]
        if at % SPACING == 0:
            kept[at] = track.memory[back]
        while len(kept) > SNAPSHOTS:
            for number in list(kept)[1::2]:
                del kept[number]

    def _tidied(self, found: Any) -> Any:
        tidy = self.tidy
        if not (tidy.fill_hole_area or tidy.max_sprinkle_area):
            return found
        return replace(found, logits=smoothed_over(found.logits, tidy.fill_hole_area, tidy.max_sprinkle_area))

    def _masks(self, logits: Mapping[int, Float[Tensor, "1 h4 w4"]], seen: Embedding) -> dict[int, RLE]:
        """Masks of objects at the size of the frame, one after the other: a map at a time, however many there are."""
        if not self.tidy.non_overlap_masks or len(logits) < 2:
            return {number: encode_many((_large(one, seen) > 0).cpu())[0] for number, one in logits.items()}
        best = torch.zeros(1, *seen.size, device=seen.features.device)
        owner = torch.full_like(best, -1, dtype=torch.int64)
        for i, one in enumerate(logits.values()):
            large = _large(one, seen)
            owner, best = torch.where(large > best, i, owner), torch.maximum(large, best)
        return {number: encode_many((owner == i).cpu())[0] for i, number in enumerate(logits)}

    def _embedding(self, at: int) -> Embedding:
        if at not in self._seen:
            self.look(at, self.model.embed(self.frames[at][None].to(self.device)))
        return self._seen[at]

    def look(self, at: int, embedding: Embedding) -> None:
        """Takes the embedding of a frame that was computed elsewhere, in a batch with other videos."""
        self._seen.clear()
        self._seen[at] = embedding

    def _computing(self) -> Any:
        return _Computing(self.model, self.device, self.dtype)

    def _trim(self) -> None:
        """Keeps to the budget: what only corrections need goes first, then frames."""
        if self.budget is None or self.memory_report()["total"] <= self.budget:
            return
        for track in self._tracks.values():
            track.snapshots = {False: {}, True: {}}
        spare = self.budget - self.memory_report()["total"] + self.frames.nbytes
        each = self.frames.nbytes // max(len(self.frames._held), 1)
        self.frames.trim(max(1, spare // max(each, 1)))
        if (total := self.memory_report()["total"]) > self.budget:
            message = f"the session needs {total / 2**20:.0f} MiB but has {self.budget / 2**20:.0f} MiB"
            raise UserError(message, hint="raise memory_budget, follow fewer objects, or prompt fewer frames")


def _large(logits: Float[Tensor, "1 h4 w4"], seen: Embedding) -> Float[Tensor, "1 h w"]:
    return enlarged(logits[:, None].float(), seen)[0]


def _score(found: Any, i: int) -> float:
    """The predicted IoU, 0 where the object is out of sight."""
    score = float(found.ious[i]) if float(found.object_logits[i]) > 0 else 0.0
    return min(max(score, 0.0), 1.0)


class _Computing:
    """Evaluation mode, no gradients, and the number format of the session, inside a block."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.parts = (evaluating(model), torch.inference_mode(), autocast(device, dtype))

    def __enter__(self) -> None:
        for part in self.parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self.parts):
            part.__exit__(*error)


def propagate_together(
    sessions: Sequence[VideoSession], *, stop: int | None = None
) -> Iterator[tuple[int, TrackedFrame]]:
    """Several videos forward in step: frames that have the same size are looked at in one batch.

    Gives the number of the session and its frame, as each session would give it alone.
    """
    passes = {i: session.propagate(stop=stop) for i, session in enumerate(sessions)}
    while passes:
        ready: dict[Any, list[tuple[int, int]]] = {}
        for i in passes:
            session = sessions[i]
            at = session._first(session.objects, False) if session.objects else None
            if at is not None and (stop is None or at < stop):
                try:
                    ready.setdefault(session.frames[at].shape, []).append((i, at))
                except IndexError:
                    continue
        for group in ready.values():
            images = torch.stack([sessions[i].frames[at] for i, at in group])
            first = sessions[group[0][0]]
            with first._computing():
                seen = first.model.embed(images.to(first.device))
            for k, (i, at) in enumerate(group):
                sessions[i].look(at, seen[k : k + 1])
        for i in list(passes):
            try:
                yield i, next(passes[i])
            except StopIteration:
                del passes[i]


def _prompt(points: Any, labels: Any, box: Any, mask: Any) -> Prompt:
    given = None if points is None else torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
    kinds = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
    boxes = None if box is None else torch.as_tensor(box, dtype=torch.float32).reshape(1, -1)
    masks = None if mask is None else torch.as_tensor(mask)[None]
    return Prompt(given, kinds, boxes, masks)


def _bytes(text: int | str) -> int:
    if isinstance(text, int):
        return text
    number = text.strip().rstrip("BKMGibkmg")
    unit = text.strip()[len(number) :].lower()
    try:
        return int(float(number) * UNITS[unit or "b"])
    except (ValueError, KeyError):
        raise UserError(f"memory_budget is {text!r}", hint='give bytes, or text such as "2GiB"') from None
