"""YouTube-VOS: palette PNG folders as in DAVIS, and a meta.json that says what the objects are and when they count.

    root/Annotations/<video>/00000.png, 00005.png, ...
    root/meta.json      {"videos": {video: {"objects": {"1": {"category": "penguin", "frames": ["00000", ...]}}}}}

Objects may appear late. A category is seen if the training set has it: whoever scores names the training set's
meta.json, or a list of categories.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from masklet.data.images import BadFile
from masklet.structures.errors import UserError

__all__ = ["VideoObject", "categories", "read_meta", "seen_objects"]


@dataclass(frozen=True)
class VideoObject:
    """What meta.json says of one object: its category, and the frames that show it (none: not said)."""

    category: str
    frames: tuple[int, ...] = ()


def read_meta(path: Path) -> dict[str, dict[int, VideoObject]]:
    """The objects of each video in a meta.json."""
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="name the meta.json of YouTube-VOS")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFile(path, "bad_json", f"this is not JSON ({error})", "copy it again") from None
    try:
        return {
            video: {
                int(number): VideoObject(str(one["category"]), tuple(int(frame) for frame in one.get("frames", ())))
                for number, one in entry["objects"].items()
            }
            for video, entry in content["videos"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        fault = "it does not list the categories and frames of videos' objects"
        raise BadFile(path, "bad_meta", fault, "expected the meta.json of YouTube-VOS") from None


def categories(path: Path) -> frozenset[str]:
    """The categories that a training set has: of its meta.json, or of a text file with one a line."""
    if path.suffix == ".json":
        return frozenset(one.category for objects in read_meta(path).values() for one in objects.values())
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="name the training set's meta.json, or a list of categories")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


def seen_objects(videos: Mapping[str, Mapping[int, VideoObject]], seen: frozenset[str]) -> dict[str, dict[int, bool]]:
    """For every object whether training saw its category."""
    return {video: {k: one.category in seen for k, one in objects.items()} for video, objects in videos.items()}
