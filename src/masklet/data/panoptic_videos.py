"""Videos of panoptic maps in files, whatever their layout: which frames there are, and how one is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masklet.data.step import list_step, read_step
from masklet.data.vps import open_vps
from masklet.structures import Classes, Panoptic, UserError
from masklet.structures.errors import missing_of

__all__ = ["PanopticVideos", "open_panoptic_videos"]


@dataclass(frozen=True)
class PanopticVideos:
    """The frames of each video in the order of time; `read(video, frame)` gives one, ids equal within a video."""

    root: Path
    classes: Classes
    frames: Mapping[str, Sequence[str]]
    read: Callable[[str, str], Panoptic]

    def paired(self, truth: PanopticVideos) -> list[tuple[str, str]]:
        """Video and frame of everything in the truth; none may be missing here. What the truth lacks is left alone."""
        if missing := [video for video in truth.frames if video not in self.frames]:
            more = missing_of(missing, truth.frames)
            there = ", ".join([*self.frames][:5])
            raise UserError(f"{self.root} has no video {missing[0]!r}{more}", hint=f"it has {there}")
        for video, frames in truth.frames.items():
            mine = set(self.frames[video])
            if lost := [frame for frame in frames if frame not in mine]:
                counts = f"{len(frames) - len(lost)} of the {len(frames)} frames of video {video!r}"
                raise UserError(f"{self.root} has {counts}", hint=f"the first that is missing is {lost[0]!r}")
        return [(video, frame) for video, frames in truth.frames.items() for frame in frames]


def open_panoptic_videos(
    path: Path, classes: Classes, frames_per_video: int = 0, like: PanopticVideos | None = None
) -> PanopticVideos:
    """A JSON file (or a folder of them) beside PNG files as in Cityscapes-VPS, or a folder of PNG files as in STEP.

    `classes` are those of the pixels of PNG files, or of the category ids in JSON files. `frames_per_video` cuts a JSON
    file whose images name no video into videos of that length (Cityscapes-VPS: 6). Predictions are cut like the truth.
    """
    if path.suffix == ".json" or (path.is_dir() and any(path.glob("*.json"))):
        return PanopticVideos(path, classes, *open_vps(path, classes, frames_per_video, like.frames if like else None))
    files = list_step(path)
    return PanopticVideos(
        path,
        classes,
        {video: tuple(frames) for video, frames in files.items()},
        lambda video, frame: read_step(files[video][frame], classes),
    )
