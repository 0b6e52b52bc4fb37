"""Panoptic PNG files of STEP and DVPS, and depth maps: what they hold, how they are listed, what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masklet.data.images import BadFile
from masklet.data.step import STEP_CLASSES, list_depths, list_step, read_depth, read_step
from masklet.structures import UserError

KITTI, DVPS = STEP_CLASSES["kitti_step"], STEP_CLASSES["cityscapes_dvps"]


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_classes_are_those_of_the_benchmarks():
    assert [n for n, thing in zip(KITTI.names, KITTI.things, strict=True) if thing] == ["person", "car"]
    assert (len(KITTI), KITTI.index("person"), KITTI.index("car")) == (19, 11, 13)
    mot = STEP_CLASSES["motchallenge_step"]
    assert mot.names == ("sidewalk", "building", "vegetation", "sky", "person", "rider", "bicycle")
    assert [n for n, thing in zip(mot.names, mot.things, strict=True) if thing] == ["person"]
    assert DVPS.things == (False,) * 11 + (True,) * 8


def test_red_is_the_class_and_green_and_blue_the_object(tmp_path):
    colors = np.array([[[13, 1, 2], [13, 0, 0], [0, 0, 7]], [[255, 0, 0], [12, 0, 3], [13, 1, 2]]], np.uint8)
    found = read_step(write(tmp_path / "0.png", colors), KITTI)
    car = 14 << 16
    assert found.ids.tolist() == [[car + 258, car, 1 << 16], [0, 13 << 16, car + 258]]
    assert {(s.id, s.label, s.thing, s.crowd) for s in found.segments} == {
        (car + 258, 13, True, False),
        (car, 13, True, True),  # a thing without a number
        (1 << 16, 0, False, False),  # stuff has no number
        (13 << 16, 12, False, False),  # riders are not tracked here
    }


def test_grey_files_hold_a_thousand_times_the_class(tmp_path):
    values = np.array([[13002, 13000, 7], [32000, 12003, 255]], np.uint16)
    found = read_step(write(tmp_path / "0.png", values), DVPS)
    assert found.ids.tolist() == [[(14 << 16) + 2, 14 << 16, 1 << 16], [0, (13 << 16) + 3, 1 << 16]]
    wide = read_step(write(tmp_path / "1.tif", values.astype(np.int32)), DVPS)
    assert wide.ids.tolist() == found.ids.tolist()


def test_files_are_listed_by_video_in_the_order_of_time(tmp_path):
    pixel = np.zeros((1, 1, 3), np.uint8)
    for name in ("0002/000010.png", "0002/000009.png", "0006/000001.png", "0002/.hidden.png"):
        write(tmp_path / "panoptic_maps" / name, pixel)
    (tmp_path / "panoptic_maps" / "readme.txt").touch()
    found = list_step(tmp_path)
    assert {video: [*frames] for video, frames in found.items()} == {"0002": ["000009", "000010"], "0006": ["000001"]}
    assert list_step(tmp_path / "panoptic_maps") == found
    one = list_step(tmp_path / "panoptic_maps" / "0006")
    assert {video: [*frames] for video, frames in one.items()} == {"0006": ["000001"]}


def test_flat_files_name_their_video_and_frame(tmp_path):
    for frame in ("000000", "000001"):
        for part in ("gtFine_instanceTrainIds", "depth", "leftImg8bit"):
            write(tmp_path / f"000003_{frame}_munster_{part}.png", np.zeros((1, 1), np.uint16))
    assert {video: [*frames] for video, frames in list_step(tmp_path).items()} == {"000003": ["000000", "000001"]}
    depths = list_depths(tmp_path)
    assert depths["000003"]["000001"].name == "000003_000001_munster_depth.png"


def test_depth_in_metres(tmp_path):
    png = write(tmp_path / "depth" / "a" / "1.png", np.array([[0, 256, 384]], np.uint16))
    assert read_depth(png).tolist() == [[0, 1, 1.5]]
    assert read_depth(png, scale=1000.0)[0, 1] == 0.256
    np.save(tmp_path / "depth" / "a" / "2.npy", np.array([[0, 2.5]], np.float32))
    assert read_depth(tmp_path / "depth" / "a" / "2.npy").tolist() == [[0, 2.5]]
    assert {video: [*frames] for video, frames in list_depths(tmp_path).items()} == {"a": ["1", "2"]}


def _file(folder: Path, name: str, pixels: np.ndarray) -> Path:
    return write(folder / name, pixels)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.full((1, 1, 3), 19, np.uint8),
            "the map holds class 19, but there are 19 classes; classes are 0..18, and 255 for void",
        ),
        (
            np.full((1, 1), 40000, np.uint16),
            "the map holds class 40, but there are 19 classes; classes are 0..18, and 255 for void",
        ),
        (
            np.zeros((1, 1), np.uint8),
            "a panoptic map is a colour PNG or a grey one of 16 bits, this one has mode L; "
            "write R = class, G and B = number of the object, without a palette",
        ),
    ],
)
def test_broken_maps_are_named(tmp_path, pixels, message):
    path = write(tmp_path / "0.png", pixels)
    with pytest.raises(BadFile) as caught:
        read_step(path, KITTI)
    assert str(caught.value) == f"{path}: {message}"


def test_a_class_beyond_256_in_a_wide_file_is_named(tmp_path):
    path = write(tmp_path / "0.tif", np.full((1, 1), 400_000, np.int32))
    with pytest.raises(BadFile) as caught:
        read_step(path, KITTI)
    assert "the map holds class 400, but there are 19 classes" in str(caught.value)


def test_broken_depth_is_named(tmp_path):
    png = write(tmp_path / "0.png", np.zeros((1, 1), np.uint8))
    with pytest.raises(BadFile) as caught:
        read_depth(png)
    assert str(caught.value) == (
        f"{png}: depth is a grey PNG of 16 bits, this one has mode L; save metres times 256 as uint16, 0 where unknown"
    )
    np.save(tmp_path / "1.npy", np.zeros((2, 2, 1)))
    with pytest.raises(BadFile) as caught:
        read_depth(tmp_path / "1.npy")
    assert str(caught.value) == (
        f"{tmp_path / '1.npy'}: depth is an array (H, W) of numbers, this one is float64 of shape (2, 2, 1); "
        "save one map in metres"
    )
    (tmp_path / "2.npy").write_bytes(b"no array")
    with pytest.raises(BadFile, match="the depth cannot be read"):
        read_depth(tmp_path / "2.npy")


def test_broken_folders_are_named(tmp_path):
    pixel = np.zeros((1, 1, 3), np.uint8)
    cases = [
        (lambda: list_step(tmp_path / "no"), f"{tmp_path / 'no'} does not exist; name the folder of the videos"),
        (
            lambda: list_step(write(tmp_path / "a.png", pixel)),
            f"{tmp_path / 'a.png'} is not a folder; name the folder of the videos",
        ),
    ]
    (tmp_path / "empty").mkdir()
    cases += [
        (
            lambda: list_step(tmp_path / "empty"),
            f"{tmp_path / 'empty'} holds no panoptic PNG; expected <video>/<frame>.png in it",
        ),
        (
            lambda: list_depths(tmp_path / "empty"),
            f"{tmp_path / 'empty'} holds no depth map (.png or .npy); expected <video>/<frame>.png in it",
        ),
    ]
    write(tmp_path / "flat" / "000001_000002_x_gtFine_instanceTrainIds.png", pixel)
    write(tmp_path / "flat" / "000001_000002_y_gtFine_instanceTrainIds.png", pixel)
    cases.append(
        (
            lambda: list_step(tmp_path / "flat"),
            "frame '000002' of video '000001' is there twice: 000001_000002_x_gtFine_instanceTrainIds.png and "
            "000001_000002_y_gtFine_instanceTrainIds.png; remove one of them",
        )
    )
    write(tmp_path / "two" / "v" / "1.png", np.zeros((1, 1), np.uint16))
    np.save(tmp_path / "two" / "v" / "1.npy", np.zeros((1, 1)))
    cases.append(
        (
            lambda: list_depths(tmp_path / "two"),
            "frame '1' of video 'v' is there twice: 1.npy and 1.png; remove one of them",
        )
    )
    name = tmp_path / "odd" / "x_gtFineinstance_depth.png"
    write(name, np.zeros((1, 1), np.uint16))
    write(tmp_path / "odd2" / "noframe_depth.png", np.zeros((1, 1), np.uint16))
    cases.append(
        (
            lambda: list_depths(tmp_path / "odd2"),
            f"{tmp_path / 'odd2' / 'noframe_depth.png'}: the name has no frame; expected <video>_<frame>_*.png",
        )
    )
    for call, message in cases:
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == message
