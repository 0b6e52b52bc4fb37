"""Panoptic JSON of videos: which image belongs to which video, where the PNGs are, and what a frame holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from masklet.data.coco_panoptic import write_coco_panoptic
from masklet.data.panoptic_videos import open_panoptic_videos
from masklet.data.vps import open_vps, vps_classes
from masklet.structures import Classes, Panoptic, Segment, UserError

CLASSES = Classes(("sky", "car"), things=(False, True), ids=(3, 7))


def frame(t: int) -> Panoptic:
    """Sky, and car 300 that moves to the right."""
    ids = torch.ones(2, 4, dtype=torch.int64)
    ids[:, t] = 300
    return Panoptic(ids, (Segment(1, 0, False), Segment(300, 1, True, crowd=t == 3)))


@pytest.fixture
def truth(tmp_path) -> Path:
    """Four images in one JSON that says nothing of videos."""
    return write_coco_panoptic(tmp_path / "truth.json", [(t, f"{t}.jpg", frame(t)) for t in range(4)], CLASSES, False)


def change(path: Path, edit) -> Path:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return path


def test_a_frame_is_what_was_written(truth):
    classes = vps_classes(truth)
    assert (classes.names, classes.things, classes.ids) == (CLASSES.names, CLASSES.things, CLASSES.ids)
    videos, read = open_vps(truth, classes, frames_per_video=2)
    assert videos == {"0": ("0", "1"), "1": ("2", "3")}
    for t in range(4):
        found = read(str(t // 2), str(t))
        assert torch.equal(found.ids, frame(t).ids)
        assert [(s.id, s.label, s.thing, s.crowd) for s in found.segments] == [
            (1, 0, False, False),
            (300, 1, True, t == 3),
        ]


def test_images_annotations_and_folders_name_videos(truth):
    def said_by_images(data):
        for image in data["images"]:
            image["video_id"] = image["id"] % 2

    videos, _ = open_vps(change(truth, said_by_images), CLASSES)
    assert videos == {"0": ("0", "2"), "1": ("1", "3")}

    def said_by_annotations(data):
        for entry in data["annotations"]:
            entry["video_id"] = "all"

    videos, _ = open_vps(change(truth, said_by_annotations), CLASSES)  # goes before what images say
    assert videos == {"all": ("0", "1", "2", "3")}


def test_predictions_follow_the_videos_of_the_truth(truth):
    true = open_panoptic_videos(truth, CLASSES, frames_per_video=2)
    fewer = change(truth, lambda data: data["annotations"].pop(0))
    pred = open_panoptic_videos(fewer, CLASSES, like=true)
    assert pred.frames == {"0": ("1",), "1": ("2", "3")}
    with pytest.raises(UserError) as caught:
        pred.paired(true)
    assert str(caught.value) == (f"{truth} has 1 of the 2 frames of video '0'; the first that is missing is '0'")
    assert true.paired(pred) == [("0", "1"), ("1", "2"), ("1", "3")]


def test_pngs_are_beside_the_json_or_in_the_official_folders(truth):
    for name in ("panoptic_video", "pan_pred"):
        next(p for p in truth.parent.iterdir() if p.is_dir()).rename(truth.parent / name)
        _, read = open_vps(truth, CLASSES, 4)
        assert read("0", "2").ids[0, 2] == 300


def test_a_folder_without_json_has_no_categories(tmp_path):
    assert vps_classes(tmp_path) is None


def test_an_image_annotated_twice_is_named(truth):
    twice = change(truth, lambda data: data["annotations"].append(data["annotations"][0]))
    with pytest.raises(UserError) as caught:
        open_vps(twice, CLASSES, 5)
    assert str(caught.value) == f"{truth}: image 0 is annotated twice; keep one of the annotations"
