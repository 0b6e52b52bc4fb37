"""Videos frame by frame, however long: one frame in, one result out, nothing kept (extra `video`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from masklet.data.films import av_library, describe, read_frames
from masklet.inference.image import Predictor, Settings
from masklet.structures.errors import UserError
from masklet.structures.files import replacing

__all__ = ["Frame", "describe", "predict_video", "read_frames", "video_writer"]

EVEN = 2  # 4:2:0 video keeps one colour for 2 x 2 pixels


@dataclass(frozen=True)
class Frame:
    """One frame of a video and what the model made of it."""

    index: int
    seconds: float  # since the beginning
    image: UInt8[Tensor, "3 h w"]
    result: Any


def predict_video(
    model: Any, source: str | Path | Iterable[Any], *, every: int = 1, most: int | None = None, **settings: Any
) -> Iterator[Frame]:
    """Results of the frames of a video, each as soon as it is computed: memory does not grow with the video.

    `source` is a file, or any iterable of frames (HWC uint8 arrays or CHW tensors), such as a camera. `every` = 3
    takes every third frame, `most` stops after so many. `settings` are those of `predict`.
    """
    if every < 1:
        raise UserError(f"every is {every}", hint="give 1 for all frames, 2 for every second one, ...")
    predictor = model if isinstance(model, Predictor) else Predictor(model, Settings(**settings), many=True)
    frames = read_frames(source) if isinstance(source, str | Path) else _given(source)
    chosen = islice((frame for frame in frames if frame[0] % every == 0), most)
    return _predicted(predictor, chosen)


def _predicted(predictor: Predictor, frames: Iterator[tuple[int, float, Tensor]]) -> Iterator[Frame]:
    while group := list(islice(frames, predictor.settings.batch)):
        results = predictor([image for _, _, image in group])
        for (index, seconds, image), result in zip(group, results, strict=True):
            yield Frame(index, seconds, image, result)


@contextmanager
def video_writer(
    path: str | Path, rate: Fraction | float | int = 25
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """A function that appends RGB frames to an H.264 file, which appears when the block ends well.

    All frames have the size of the first; odd sides lose one row or column, as 4:2:0 video needs even ones.
    """
    av = av_library()
    with replacing(path) as unfinished:
        try:
            container = av.open(str(unfinished), "w")
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"cannot write a video to {path}", hint="end its name in .mp4 or .mkv") from error
        state: dict[str, Any] = {}

        def write(picture: UInt8[np.ndarray, "h w 3"]) -> None:
            height, width = (side // EVEN * EVEN for side in picture.shape[:2])
            if not state:
                if min(height, width) < EVEN:
                    raise UserError(f"a video of {picture.shape[1]}x{picture.shape[0]} pixels cannot be written")
                stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(90000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "20", "preset": "veryfast"}
                state.update(stream=stream, size=(height, width))
            if state["size"] != (height, width):
                raise UserError(f"a frame is {height}x{width} but the video is {'x'.join(map(str, state['size']))}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(state["stream"].encode(frame))

        try:
            yield write
            if not state:
                raise UserError(f"no frame was written to {path}")
            container.mux(state["stream"].encode())
        finally:
            container.close()


def _given(frames: Iterable[Any]) -> Iterator[tuple[int, float, Tensor]]:
    from masklet.data.images import read_image

    for index, frame in enumerate(frames):
        yield index, float(index), read_image(frame)
