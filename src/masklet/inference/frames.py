"""Frames of a video by number, whatever it comes from, in constant memory (video files need the extra `video`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from masklet.data.films import av_library, read_frames
from masklet.data.images import SUFFIXES, natural_key, read_image
from masklet.structures.errors import UserError

KEPT = 32  # frames of a stream that can be asked for again
DROPS = ("block", "latest")
Image = UInt8[Tensor, "3 h w"]


class Frames:
    """Frames in the order of time, read when they are asked for; the last `kept` ones stay at hand.

    `again` begins anew, for sources that can be read twice; without it what is no longer at hand is gone. `length` is
    None until the end is seen.
    """

    def __init__(
        self,
        first: Callable[[], Iterator[Image]],
        again: bool,
        kept: int = KEPT,
        at: Callable[[int], Image] | None = None,
        length: int | None = None,
    ) -> None:
        self._first, self._again, self._at = first, again, at
        self.kept, self.length = kept, length
        self._reader: Iterator[Image] | None = None
        self._next = 0  # the number of the frame that the reader gives next
        self._held: OrderedDict[int, Image] = OrderedDict()

    def __getitem__(self, number: int) -> Image:
        """Frame `number`; IndexError after the end."""
        if number < 0 or (self.length is not None and number >= self.length):
            raise IndexError(number)
        if self._at is not None and number not in self._held:
            self._hold(number, self._at(number))
        if number not in self._held:
            self._read_to(number)
        return self._held[number]

    @property
    def nbytes(self) -> int:
        return sum(frame.nbytes for frame in self._held.values())

    def trim(self, kept: int) -> None:
        """Holds no more than so many frames from now on."""
        self.kept = max(1, kept)
        while len(self._held) > self.kept:
            self._held.popitem(last=False)

    def _hold(self, number: int, frame: Image) -> None:
        self._held[number] = frame
        while len(self._held) > self.kept:
            self._held.popitem(last=False)

    def _read_to(self, number: int) -> None:
        if number < self._next and not self._again:
            message = f"frame {number} of the stream is gone: the last {len(self._held)} frames are kept"
            raise UserError(message, hint="prompt newer frames, keep more frames, or record the stream to a file")
        if self._reader is None or number < self._next:
            self._reader, self._next = self._first(), 0
        while self._next <= number:
            try:
                frame = next(self._reader)
            except StopIteration:
                self.length = self._next
                raise IndexError(number) from None
            self._hold(self._next, frame)
            self._next += 1


def open_frames(source: Any, kept: int = KEPT) -> Frames:
    """The frames of anything that has some.

    A video file, a folder or glob of pictures, a list of frames, a camera (its number), an address (rtsp://...), or any
    iterator of frames (HWC uint8 arrays or CHW tensors). Of the last three, the last `kept` can be asked for again.
    """
    if isinstance(source, Frames):
        return source
    if isinstance(source, bool):
        raise UserError(f"{source} is not a video", hint="give a file, a folder, a camera's number or an iterator")
    if isinstance(source, int):
        return Frames(lambda: _live(f"/dev/video{source}", format="v4l2"), again=False, kept=kept)
    if isinstance(source, str | Path):
        return _named(str(source), kept)
    if isinstance(source, list | tuple | Tensor | np.ndarray):
        if len(source) == 0:
            raise UserError("the video has no frames")
        return Frames(lambda: iter(()), True, kept, lambda i: read_image(source[i]), len(source))
    if isinstance(source, Iterable):
        iterator = iter(source)
        return Frames(lambda: map(read_image, iterator), again=False, kept=kept)
    came = type(source).__name__
    raise UserError(f"a {came} is not a video", hint="give a file, a folder, a camera's number or an iterator")


def _named(name: str, kept: int) -> Frames:
    if "://" in name:
        return Frames(lambda: _live(name), again=False, kept=kept)
    path = Path(name).expanduser()
    files = sorted(path.iterdir() if path.is_dir() else map(Path, glob(str(path))), key=natural_key)
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    if pictures:
        return Frames(lambda: iter(()), True, kept, lambda i: read_image(read_image(pictures[i])), len(pictures))
    if path.is_dir():
        raise UserError(f"{path} has no pictures in it", hint="give the folder of the frames, or a video file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the spelling and the folder")
    return Frames(lambda: (image for _, _, image in read_frames(path)), again=True, kept=kept)


def _live(address: str, **options: Any) -> Iterator[Image]:
    """Frames of a camera or a stream."""
    av = av_library()
    try:
        container = av.open(address, **options)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise UserError(f"{address} cannot be opened", hint="check the address, or the number of the camera") from error
    with container:
        for frame in container.decode(video=0):
            pixels = np.ascontiguousarray(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
            yield torch.from_numpy(pixels)


class Live:
    """Frames of something that does not wait: a thread reads; `drop` says what happens to those that come too fast.

    "latest" gives the newest frame and drops those before it; "block" drops nothing and lets the source wait, one frame
    ahead. `every` takes every n-th frame only.
    """

    def __init__(self, source: Iterable[Any], drop: str = "latest", every: int = 1) -> None:
        if drop not in DROPS:
            raise UserError(f"drop is {drop!r}", hint=f"choose {' or '.join(DROPS)}")
        if every < 1:
            raise UserError(f"every is {every}", hint="give 1 for all frames, 2 for every second one, ...")
        self.source, self.drop, self.every, self.dropped = source, drop, every, 0

    def __iter__(self) -> Iterator[Any]:
        changed = threading.Condition()
        slot: list[Any] = []
        state: dict[str, Any] = {"over": False, "error": None}

        def read() -> None:
            try:
                for i, frame in enumerate(self.source):
                    if i % self.every:
                        continue
                    with changed:
                        if self.drop == "block":
                            changed.wait_for(lambda: not slot or state["over"])
                        elif slot:
                            slot.clear()
                            self.dropped += 1
                        if state["over"]:
                            return
                        slot.append(frame)
                        changed.notify_all()
            except BaseException as error:  # it belongs to whoever waits for frames
                state["error"] = error
            finally:
                with changed:
                    state["over"] = True
                    changed.notify_all()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while True:
                with changed:
                    changed.wait_for(lambda: slot or state["over"])
                    if not slot:
                        break
                    frame = slot.pop()
                    changed.notify_all()
                yield frame
        finally:
            with changed:
                state["over"] = True
                changed.notify_all()
        if state["error"] is not None:
            raise state["error"]
