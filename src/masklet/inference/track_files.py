"""A tracked video as files: an overlay film, masks as DAVIS stores them, and run lengths as JSON; frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masklet.data.davis_writer import write_davis_png
from masklet.inference.tracking import TrackedFrame, VideoSession
from masklet.inference.video import describe, video_writer
from masklet.ops.rle import RLE, encode, to_coco
from masklet.structures import Masks
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.viz.overlay import as_picture, overlay

__all__ = ["FORMATS", "TrackedFiles", "write_tracks"]

FORMATS = ("overlay", "davis", "json")


@dataclass
class TrackedFiles:
    """What was written, and how many frames of each object show it."""

    files: list[Path] = field(default_factory=list)
    frames: int = 0
    seen: dict[int, int] = field(default_factory=dict)


def write_tracks(
    session: VideoSession,
    out: str | Path,
    *,
    source: Any = None,
    direction: str = "forward",
    stop: int | None = None,
    formats: tuple[str, ...] = FORMATS,
    progress: Callable[[int, int], None] | None = None,
) -> TrackedFiles:
    """Propagates what was prompted and writes `overlay.mp4`, `masks/00000.png` and `masklets.json` into `out`.

    Each frame is written when it is computed. The film shows the way forward. The JSON file is a list with an entry for
    each frame: its number, and of each object the mask (COCO's run lengths) and the score.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f"unknown format {unknown[0]!r}", hint=f"choose from {', '.join(FORMATS)}")
    folder, done = Path(out), TrackedFiles(seen=dict.fromkeys(session.objects, 0))
    folder.mkdir(parents=True, exist_ok=True)
    rate = _rate(source)
    with ExitStack() as stack:
        show = None
        if "overlay" in formats and direction != "backward":
            done.files.append(folder / "overlay.mp4")
            show = stack.enter_context(video_writer(done.files[-1], rate))
        tell = None
        if "json" in formats:
            done.files.append(folder / "masklets.json")
            tell = stack.enter_context(_listed(done.files[-1]))
        if "davis" in formats:
            done.files.append(folder / "masks")
        last = -1
        for frame in session.propagate(direction, stop=stop):
            size = (frame.image.shape[1], frame.image.shape[2])
            if "davis" in formats:
                (folder / "masks").mkdir(exist_ok=True)
                write_davis_png(folder / "masks" / f"{frame.index:05d}.png", frame.masks, size)
            if tell is not None:
                tell(_entry(frame))
            if show is not None and frame.index > last:
                show(overlay(as_picture(frame.image), _all_of_them(frame, session.objects)))
                last = frame.index
            for number, mask in frame.masks.items():
                done.seen[number] = done.seen.get(number, 0) + bool(mask.area)
            done.frames += 1
            if progress is not None:
                progress(done.frames, session.frames.length or 0)
    return done


def _rate(source: Any) -> Any:
    """That of a video file; 25 for anything else."""
    if isinstance(source, str | Path) and Path(source).is_file():
        return describe(source).rate
    return 25


def _all_of_them(frame: TrackedFrame, objects: tuple[int, ...]) -> Masks:
    """A mask for every object, so that each keeps its colour."""
    size = (frame.image.shape[1], frame.image.shape[2])
    empty: RLE = encode(frame.image[0] < 0)
    return Masks(*size, tuple(frame.masks.get(number, empty) for number in objects))


def _entry(frame: TrackedFrame) -> dict[str, Any]:
    objects = {
        str(number): {**to_coco(mask), "score": round(frame.scores[number], 4)} for number, mask in frame.masks.items()
    }
    return {"frame": frame.index, "objects": objects}


class _listed:
    """A JSON list that grows entry by entry in a file, which appears when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.unfinished, self.first = replacing(path), True

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self.file: Any = self.unfinished.__enter__().open("w", encoding="utf-8")
        return self.add

    def add(self, entry: dict[str, Any]) -> None:
        self.file.write("[\n" if self.first else ",\n")
        self.file.write(json.dumps(entry))
        self.first = False

    def __exit__(self, *error: Any) -> Any:
        self.file.write("[]\n" if self.first else "\n]\n")
        self.file.close()
        return self.unfinished.__exit__(*error)
