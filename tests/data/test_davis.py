"""Folders of mask PNGs, sequence lists and scribbles: made copies, and the real files where they lie beside us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import shared
from masklet.data.davis import Stroke, list_mask_videos, read_object_ids, read_scribbles, read_sequence_list
from masklet.data.images import BadFile
from masklet.structures import UserError


def palette_png(path: Path, ids: object = ((0, 1), (2, 255))) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(ids, np.uint8)).convert("P")
    image.putdata(np.array(ids, np.uint8).ravel().tolist())
    image.putpalette([128, 0, 0] * 256)
    image.save(path)
    return path


def test_real_sequences():
    videos = list_mask_videos(shared("data", "davis2016"))
    assert len(videos) == 12
    assert sum(len(video.files) for video in videos.values()) == 648
    assert videos["dog"].read(0).shape == (480, 854)
    assert set(np.unique(videos["dog"].read(59))) == {0, 255}
    osvos = list_mask_videos(shared("data", "davis2016_osvos_predictions", "osvos"), named=["libby", "dog"])
    assert [*osvos] == ["libby", "dog"]
    several = list_mask_videos(shared("data", "davis2017_first_frames"))
    assert len(several) == 30
    assert sorted(np.unique(next(iter(several.values())).read(0)))[0] == 0
    assert list_mask_videos(shared("data", "davis2017_bike_cutie", "masks"))["judo"].files.keys() == {0, 5, 8, 13}


def test_indices_survive_a_palette_without_colours(tmp_path: Path):
    assert read_object_ids(palette_png(tmp_path / "a.png")).tolist() == [[0, 1], [2, 255]]


def test_annotations_are_found_below_the_root(tmp_path: Path):
    palette_png(tmp_path / "Annotations" / "480p" / "dog" / "00000.png")
    palette_png(tmp_path / "Annotations_unsupervised" / "480p" / "dog" / "00007.png")
    (tmp_path / "JPEGImages").mkdir()
    assert list_mask_videos(tmp_path)["dog"].files.keys() == {0}
    assert list_mask_videos(tmp_path, unsupervised=True)["dog"].files.keys() == {7}


def test_frames_count_by_name_or_by_place(tmp_path: Path):
    for name in ("00010", "00005"):
        palette_png(tmp_path / "numbers" / f"{name}.png")
    for name in ("frame_10", "frame_9"):
        palette_png(tmp_path / "words" / f"{name}.png")
    videos = list_mask_videos(tmp_path)
    assert [*videos["numbers"].files] == [5, 10]
    assert [path.stem for path in videos["words"].files.values()] == ["frame_9", "frame_10"]
    assert [*videos["words"].files] == [0, 1]


def test_a_folder_for_each_object(tmp_path: Path):
    for name in ("000", "001"):
        palette_png(tmp_path / "sav_1" / name / "00004.png")
    videos = list_mask_videos(tmp_path)
    assert [*videos] == ["sav_1/000", "sav_1/001"]
    assert [*list_mask_videos(tmp_path, named=["sav_1/001"])] == ["sav_1/001"]


def test_sequence_lists(tmp_path: Path):
    (tmp_path / "val.txt").write_text("bear\n\nblackswan\n")
    (tmp_path / "2016.txt").write_text(
        "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n"
        "/JPEGImages/480p/bear/00001.jpg /Annotations/480p/bear/00001.png\n"
        "/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png\n"
    )
    assert read_sequence_list(tmp_path / "val.txt") == ("bear", "blackswan")
    assert read_sequence_list(tmp_path / "2016.txt") == ("bear", "dog")


def test_real_lists_and_scribbles():
    assert len(read_sequence_list(shared("data", "davis2017_first_frames", "ImageSets", "2017", "val.txt"))) == 30
    root = shared("data", "davis_scribbles")
    bear = read_scribbles(root / "Scribbles" / "bear" / "001.json")
    assert (bear.sequence, bear.annotated, bear.objects) == ("bear", (0,), (1,))
    assert bear.frames[0][0].end == 1712
    assert read_scribbles(root / "Scribbles" / "blackswan" / "001.json").annotated == (1,)
    masks = list_mask_videos(root)
    drawn = [
        (masks[video].read(frame), stroke)
        for video, number in (("bear", "001"), ("bear", "002"), ("tennis", "001"))
        for frame, strokes in enumerate(read_scribbles(root / "Scribbles" / video / f"{number}.json").frames)
        for stroke in strokes
    ]
    assert len(drawn) == 8
    hits, mirrored = (
        np.concatenate([ids[stroke.pixels(*ids.shape)[:, ::turn]] == stroke.object for ids, stroke in drawn])
        for turn in (1, -1)
    )
    assert hits.mean() > 0.9  # people draw on what they mean
    assert mirrored.mean() < 0.6


def test_a_stroke_has_no_gaps():
    drawn = Stroke(np.array([[0, 0], [1, 0.5], [1, 1]]), 2).pixels(5, 9)
    assert ["".join("#" if p else "." for p in row) for row in drawn] == [
        "###......",
        "...###...",
        "......###",
        "........#",
        "........#",
    ]
    assert np.argwhere(Stroke(np.array([[0.5, 0.5]]), 1).pixels(5, 9)).tolist() == [[2, 4]]


def coloured(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(path)
    return path


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one_frame(tmp_path: Path) -> Path:
    palette_png(tmp_path / "dog" / "00003.png")
    palette_png(tmp_path / "dog" / "00004.png")
    return tmp_path


def empty_sequence(tmp_path: Path) -> Path:
    (tmp_path / "cat").mkdir()
    return one_frame(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: list_mask_videos(t / "no"), "{t}/no does not exist; name the folder of the sequences"),
        (
            lambda t: list_mask_videos(palette_png(t / "a.png")),
            "{t}/a.png is not a folder; name the folder of the sequences",
        ),
        (list_mask_videos, "{t} holds no videos of masks; expected <sequence>/<frame>.png in it"),
        (
            lambda t: list_mask_videos(empty_sequence(t)),
            "{t}/cat holds no masks; it should hold a PNG file for each frame",
        ),
        (
            lambda t: list_mask_videos(one_frame(t), named=["dog", "bear", "cow"]),
            "{t} has no sequence 'bear' (2 of 3 are missing); it has dog",
        ),
        (
            lambda t: list_mask_videos(one_frame(t))["dog"].read(5),
            "{t}/dog has no mask of frame 5; it has 2 frames, 3 to 4",
        ),
        (
            lambda t: read_object_ids(coloured(t / "a.png")),
            "{t}/a.png: the mask is a colour picture (RGB), not an indexed PNG; "
            "save the object ids themselves, with a palette (mode P) or grey",
        ),
        (
            lambda t: read_sequence_list(t / "val.txt"),
            "{t}/val.txt does not exist; name a text file with one sequence a line",
        ),
        (
            lambda t: read_sequence_list(written(t / "val.txt", "\n")),
            "{t}/val.txt is empty; name a text file with one sequence a line",
        ),
        (
            lambda t: read_scribbles(t / "001.json"),
            "{t}/001.json does not exist; name a scribble file such as Scribbles/bear/001.json",
        ),
        (
            lambda t: read_scribbles(written(t / "a.json", "{")),
            "{t}/a.json: this is not JSON (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)); copy it again",
        ),
        (
            lambda t: read_scribbles(written(t / "a.json", {"frames": []})),
            "{t}/a.json: it has no list `scribbles`; expected the format of DAVIS interactive",
        ),
        (
            lambda t: read_scribbles(written(t / "a.json", {"scribbles": [[], [{"path": [[0, 0]]}]]})),
            "{t}/a.json: a scribble of frame 1 lacks a path or an object_id; expected the format of DAVIS interactive",
        ),
        (
            lambda t: read_scribbles(written(t / "a.json", {"scribbles": [[{"path": [[5, 0]], "object_id": 1}]]})),
            "{t}/a.json: a scribble of frame 0 has a path that is not a list of x, y in [0, 1]; "
            "divide x by the width and y by the height",
        ),
    ],
)
def test_bad_input(tmp_path: Path, call, message: str):
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert str(error.value) == message.replace("{t}", str(tmp_path))


def test_bad_files_say_which_kind_of_fault(tmp_path: Path):
    with pytest.raises(BadFile) as error:
        read_object_ids(coloured(tmp_path / "a.png"))
    assert error.value.code == "mask_in_colour"
