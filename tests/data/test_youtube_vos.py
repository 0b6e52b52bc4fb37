"""meta.json of YouTube-VOS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from masklet.data.youtube_vos import VideoObject, categories, read_meta, seen_objects
from masklet.structures import UserError


def meta(path: Path, **videos: dict[str, tuple[str, list[str]]]) -> Path:
    content = {
        video: {"objects": {k: {"category": name, "frames": frames} for k, (name, frames) in objects.items()}}
        for video, objects in videos.items()
    }
    path.write_text(json.dumps({"videos": content}))
    return path


def test_objects_and_categories(tmp_path: Path):
    train = meta(tmp_path / "train.json", a={"1": ("cat", ["00000"])}, b={"1": ("dog", []), "2": ("cat", [])})
    val = read_meta(meta(tmp_path / "meta.json", v={"1": ("dog", ["00000", "00005"]), "2": ("gecko", ["00005"])}))
    assert val == {"v": {1: VideoObject("dog", (0, 5)), 2: VideoObject("gecko", (5,))}}
    assert categories(train) == {"cat", "dog"}
    (tmp_path / "seen.txt").write_text("cat\ndog\n\n")
    assert categories(tmp_path / "seen.txt") == {"cat", "dog"}
    assert seen_objects(val, categories(train)) == {"v": {1: True, 2: False}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; name the meta.json of YouTube-VOS"),
        ("[", ": this is not JSON (Expecting value: line 1 column 2 (char 1)); copy it again"),
        (
            '{"videos": {"a": {"objects": {"1": {}}}}}',
            ": it does not list the categories and frames of videos' objects; expected the meta.json of YouTube-VOS",
        ),
    ],
)
def test_bad_input(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "meta.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_meta(path)
    assert str(error.value) == f"{path}{'' if message.startswith(':') else ' '}{message}"


def test_a_missing_list_of_categories(tmp_path: Path):
    with pytest.raises(UserError) as error:
        categories(tmp_path / "seen.txt")
    assert (
        str(error.value)
        == f"{tmp_path}/seen.txt does not exist; name the training set's meta.json, or a list of categories"
    )
