"""Videos as COCO panoptic JSON and PNG: Cityscapes-VPS and VIPER (Kim et al., 2020). An id is one object in all frames.

    truth.json   truth/*.png                     one JSON for all videos; the PNGs also in panoptic_video/ or pan_pred/
    root/<video>.json   root/<video>/*.png       or one for each

Which video an image of a common JSON belongs to says, in this order: `video_id` of the annotation or the image, the
folder in its `file_name`, or the length of the videos (Cityscapes-VPS annotates 6 frames of each).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masklet.data.coco_panoptic import Annotation, read_panoptic_json
from masklet.data.images import BadFile, natural_key
from masklet.structures import Classes, Panoptic, UserError

__all__ = ["open_vps", "vps_classes"]

FOLDERS = ("pan_pred", "panoptic_video")  # of a submission to Cityscapes-VPS, and of its truth

Frames = Mapping[str, Sequence[str]]  # the images of each video, in order


def vps_classes(path: Path) -> Classes | None:
    """The categories of a JSON file, or of the first one in a folder; None for a folder without any."""
    files = _files(path)
    return read_panoptic_json(files[0])[0] if files else None


def open_vps(
    path: Path, classes: Classes, frames_per_video: int = 0, like: Frames | None = None
) -> tuple[Frames, Callable[[str, str], Panoptic]]:
    """The images of each video by their ids, and how one is read.

    Predictions need not say what belongs to which video: for them `like` does, the videos of the truth.
    """
    found: dict[str, dict[str, Annotation]] = {}
    if path.is_dir():
        for file in _files(path):
            found[file.stem] = {str(a.image_id): a for a in read_panoptic_json(file, None, classes)[1]}
    else:
        folder = next((path.parent / name for name in FOLDERS if (path.parent / name).is_dir()), None)
        own = path.with_suffix("")
        annotations = read_panoptic_json(path, own if own.is_dir() else folder, classes)[1]
        images = {str(a.image_id): a for a in annotations}
        for video, frames in (like or _videos(path, images, frames_per_video)).items():
            if there := {frame: images[frame] for frame in frames if frame in images}:
                found[video] = there
    if not found:
        raise UserError(f"{path} annotates no image", hint="it lists the frames of all videos under annotations")
    frames_of = {video: tuple(annotations) for video, annotations in found.items()}
    return frames_of, lambda video, frame: found[video][frame].panoptic()


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.json"), key=natural_key) if path.is_dir() else [path] if path.suffix == ".json" else []


def _videos(path: Path, images: Mapping[str, Annotation], frames_per_video: int) -> Frames:
    """Which images are one video."""
    names = [*images]
    if frames_per_video:
        if len(names) % frames_per_video:
            fault = f"its {len(names)} images cannot be cut into videos of {frames_per_video}"
            raise BadFile(path, "bad_table", fault, "are frames missing?")
        starts = range(0, len(names), frames_per_video)
        return {str(n): names[start : start + frames_per_video] for n, start in enumerate(starts)}
    data: Mapping[str, Any] = json.loads(path.read_bytes())
    said = {str(i["id"]): i for i in data.get("images", ()) if "id" in i}
    videos: dict[str, list[str]] = {}
    for entry in data["annotations"]:
        name = str(entry["image_id"])
        folder = Path(entry["file_name"]).parent.as_posix()
        video = entry.get("video_id", said.get(name, {}).get("video_id", folder if folder != "." else None))
        if video is None:
            fault = f"nothing says which video image {name} belongs to"
            raise BadFile(path, "bad_table", fault, "add video_id to the images, or pass frames_per_video=6")
        videos.setdefault(str(video), []).append(name)
    return videos
