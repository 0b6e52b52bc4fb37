"""Video files, decoded when they are needed (extra `video`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from masklet.structures.errors import UserError

__all__ = ["Stream", "av_library", "describe", "frames_at", "opened", "read_frames"]

TURNS = {90: 1, 180: 2, 270: 3}


@dataclass(frozen=True)
class Stream:
    """What a video file says about itself; `frames` is an estimate, 0 where the file does not tell."""

    width: int
    height: int
    rate: Fraction
    frames: int


def describe(path: str | Path) -> Stream:
    """Size, frame rate and length of a video file, from its header."""
    with opened(path) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        frames = stream.frames or round(float(container.duration or 0) / 1e6 * rate)
        return Stream(stream.width, stream.height, rate, int(frames))


def read_frames(path: str | Path) -> Iterator[tuple[int, float, UInt8[Tensor, "3 h w"]]]:
    """Number, time in seconds and RGB pixels of every frame, turned upright as the file says."""
    with opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        for index, frame in enumerate(container.decode(stream)):
            yield index, index / rate if frame.time is None else float(frame.time), _upright(frame)


def _upright(frame: Any) -> UInt8[Tensor, "3 h w"]:
    pixels = frame.to_ndarray(format="rgb24")
    turns = TURNS.get(round(getattr(frame, "rotation", 0) or 0) % 360, 0)
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns).transpose(2, 0, 1)))


def frames_at(path: str | Path, numbers: Collection[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
    """The frames with these numbers, from 0: decoded from the key frame before the first one on, if the file tells.

    That is so where every frame comes one interval after the last; otherwise frames are counted from the beginning.
    """
    wanted = set(numbers)
    with opened(path) as container:
        stream = container.streams.video[0]
        rate, base = stream.average_rate, stream.time_base
        start = stream.start_time or 0
        if wanted and rate and base and rate == stream.base_rate:
            container.seek(start + round(min(wanted) / rate / base), stream=stream)
            found = _matching(_timed(container, stream, rate, start), wanted)
            if found.keys() == wanted:
                return found
    found = _matching(((index, image) for index, _, image in read_frames(path)), wanted)
    if lost := sorted(wanted - found.keys()):
        raise UserError(f"{path} has no frame {lost[0]}", hint="is the file whole?")
    return found


def _timed(container: Any, stream: Any, rate: Fraction, start: int) -> Iterator[tuple[int, Any]]:
    for frame in container.decode(stream):
        if frame.pts is not None:
            yield round((frame.pts - start) * stream.time_base * rate), frame


def _matching(frames: Iterator[tuple[int, Any]], wanted: Collection[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
    """Those that are asked for; what comes after the last one is not decoded."""
    out: dict[int, Tensor] = {}
    last = max(wanted, default=-1)
    for number, frame in frames:
        if number in wanted:
            out[number] = frame if isinstance(frame, Tensor) else _upright(frame)
        if number >= last:
            break
    return out


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """The container of a video file, which has a picture track."""
    av, path = av_library(), Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the spelling and the folder")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is not a video that can be read", hint="convert it to MP4 (H.264)") from error
    with container:
        if not container.streams.video:
            raise UserError(f"{path} has no picture track", hint="is it a sound file?")
        yield container


def av_library() -> Any:
    """PyAV, or one sentence that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV, which is not installed", hint="pip install 'masklet[video]'") from error
    return av
