"""Colour and depth: drawn, written, read, moved together, and what is wrong with them said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.data import transforms as tf
from masklet.data.check import check
from masklet.data.collate import collate_semantic
from masklet.data.formats import convert
from masklet.data.rgbd import picture_of, read_camera, read_depth, read_rgbd, seen_as, with_depth
from masklet.data.sources import open_source
from masklet.data.synthetic import synthetic
from masklet.ops.hha import Camera, hha, kinect
from masklet.structures import Sample
from masklet.structures.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return convert(synthetic("rooms", size=(48, 64), count=10), tmp_path_factory.mktemp("rgbd") / "rooms", to="rgbd")


def test_drawn_rooms_have_depth():
    data = synthetic("rooms", size=(48, 64), count=3)
    for sample, picture, plain in zip(data, data.seeing("hha"), data.seeing(None), strict=True):
        depth = sample.depth
        assert depth is not None
        assert picture.depth is not None
        assert plain.depth is None
        assert torch.equal(plain.image, sample.image)
        known = depth > 0
        assert known.float().mean() > 0.9
        assert depth[known].min() > 0.3
        want = hha(depth[0].numpy(), kinect(48, 64))
        assert torch.equal((picture.depth * 255).round().byte(), torch.from_numpy(want))
        angle = want[2][(sample.semantic == 0).numpy() & (want[2] > 0)]
        assert np.median(angle) < 60  # the floor is level
        assert picture_of(sample).shape == (4, 48, 64)
        assert picture_of(picture).shape == (6, 48, 64)
        assert torch.equal(picture_of(plain), sample.image)


def test_what_was_written_is_read(folder):
    drawn = synthetic("rooms", size=(48, 64), count=10)
    assert check(f"rgbd:{folder}", split="all") == []
    data = open_source(f"rgbd:{folder}", "all")
    assert data.classes.names == drawn.classes.names
    assert [p.parent.name for p in data.paths(0)] == ["images", "labels", "depth"]
    assert (len(data), len(open_source(f"rgbd:{folder}", "val"))) == (10, 2)
    for sample, want in zip(data, drawn, strict=True):
        assert torch.equal(sample.image, want.image)
        assert torch.equal(sample.semantic, want.semantic)
        torch.testing.assert_close(sample.depth, want.depth, rtol=0, atol=0.00051)
    before = seen_as(data, "hha")
    kept = [sample.depth for sample in before]
    for file in (folder / "hha").iterdir():
        file.rename(file.with_suffix(".gone"))
    try:
        made = [sample.depth for sample in seen_as(open_source(f"rgbd:{folder}", "all"), "hha")]
    finally:
        for file in (folder / "hha").iterdir():
            file.rename(file.with_suffix(".png"))
    for a, b, want in zip(kept, made, seen_as(drawn, "hha"), strict=True):
        assert torch.equal(a, want.depth)
        assert (b - want.depth).abs().mean() < 0.01  # of millimetres instead of metres
    assert seen_as(data, None)[0].depth is None
    assert len(data[2:5]) == 3
    assert torch.equal(data[2:5][0].depth, data[2].depth)


def test_files_of_splits(tmp_path):
    """`images/train`, `depth/train` and `labels/train`, two files of one name, and a camera."""
    for split in ("train", "val"):
        for kind, values in (
            ("images", np.full((8, 9, 3), 7, np.uint8)),
            ("labels", np.array([[0, 1, 1]] * 8, np.uint8).repeat(3, 1)),
            ("depth", np.full((8, 9), 1500 if split == "train" else 2500, np.uint16)),
        ):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / kind / split / "a.png")
    (tmp_path / "camera.json").write_text(json.dumps({"fx": 10, "fy": 11, "cx": 4, "cy": 3.5}))
    assert open_source(f"rgbd:{tmp_path}", "train")[0].depth.unique().tolist() == [1.5]
    both = open_source(f"rgbd:{tmp_path}", "all")
    assert [sample.depth[0, 0, 0].item() for sample in both] == [1.5, 2.5]
    assert both.camera == Camera(10, 11, 4, 3.5)
    want = hha(np.full((8, 9), 1.5, np.float32), Camera(10, 11, 4, 3.5))
    assert torch.equal((seen_as(both, "hha")[0].depth * 255).round().byte(), torch.from_numpy(want))


def test_depth_moves_with_its_picture():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.uniform(1, 4, (1, 20, 30)).astype(np.float32))
    levels = (values[0] > 2).to(torch.uint8)
    sample = Sample(torch.zeros(3, 20, 30, dtype=torch.uint8), semantic=levels, depth=values)
    moves = tf.Compose(
        [tf.RandomScale((0.5, 2.0)), tf.RandomRotate(20.0, p=1.0), tf.RandomCrop((25, 25)), tf.RandomFlip()]
    )
    for seed in range(8):
        moved = moves(sample, torch.Generator().manual_seed(seed))
        assert moved.depth is not None
        filled = moved.semantic == 255
        assert (moved.depth[0][filled] == 0).all()
        assert torch.equal((moved.depth[0] > 2)[~filled], (moved.semantic == 1)[~filled])
        assert set(moved.depth.unique().tolist()) <= {0.0, *values.unique().tolist()}  # nothing is mixed
    images, _ = collate_semantic([sample, moves(sample, torch.Generator().manual_seed(0))])
    assert images.shape == (2, 4, 25, 30)
    assert torch.equal(images[0, 3:, :20], values)
    assert (images[0, :, 20:] == 0).all()


def test_depth_files(tmp_path):
    metres = np.array([[0, 1.25], [3.5, 2.0]], np.float32)
    Image.fromarray((metres * 1000).astype(np.uint16)).save(tmp_path / "mm.png")
    Image.fromarray(metres).save(tmp_path / "m.tif")
    for file in ("mm.png", "m.tif"):
        assert torch.equal(read_depth(tmp_path / file), torch.from_numpy(metres)[None])
    assert torch.equal(read_depth(metres), torch.from_numpy(metres)[None])
    photo = np.zeros((2, 2, 3), np.uint8)
    assert read_rgbd(photo, metres, "metres").shape == (4, 2, 2)
    assert read_rgbd(photo, metres, "hha").shape == (6, 2, 2)


def message(error: str, hint: str) -> str:
    return f"^{error}; {hint}$".replace("(", r"\(").replace(")", r"\)").replace("{", r"\{").replace("}", r"\}")


def test_bad_depth(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    hint = "save depth as a 16-bit PNG of millimetres, or as a float TIFF of metres"
    with pytest.raises(UserError, match=message(f"{tmp_path}/a.png: the depth image has pixels of mode L", hint)):
        read_depth(tmp_path / "a.png")
    hint = "files hold 16-bit millimetres or float metres, arrays metres; 0 where nothing was measured"
    with pytest.raises(UserError, match=message("depth goes from 0 to 2500 metres", hint)):
        read_depth(np.array([[0, 2500.0]]))
    with pytest.raises(UserError, match=message("depth goes from nan to nan metres", hint)):
        read_depth(np.array([[np.nan, 1.0]]))
    with pytest.raises(UserError, match=message("depth has shape (2, 2, 2)", "give metres as (height, width)")):
        read_depth(np.zeros((2, 2, 2)))
    hint = "resize one of them, or check that the files belong together"
    with pytest.raises(UserError, match=message("depth is 2x3 but its image is 3x3 (height x width)", hint)):
        read_rgbd(np.zeros((3, 3, 3), np.uint8), np.ones((2, 3)), "metres")


def test_bad_sets(tmp_path, folder):
    plain = convert(synthetic("flood", size=16, count=2), tmp_path / "plain")
    hint = "put 16-bit PNGs of millimetres in `depth`"
    with pytest.raises(UserError, match=message(f"{plain}: no folder for depth in it", hint)):
        open_source(f"rgbd:{plain}")
    (plain / "depth").mkdir()
    with pytest.raises(UserError, match="no depth image is called 'flood_train_0000'; add it"):
        open_source(f"rgbd:{plain}", "all")
    with pytest.raises(UserError, match="depth is wanted, and folder has none; give data of the kind rgbd:"):
        seen_as(open_source(f"folder:{plain}", "all"), "metres")
    with pytest.raises(UserError, match="depth is wanted, and synthetic:flood has none; choose from rooms"):
        seen_as(synthetic("flood"), "hha")
    with pytest.raises(UserError, match="depth is wanted, and synthetic:flood has none; choose from rooms"):
        convert(synthetic("flood", size=16, count=2), tmp_path / "x", to="rgbd")
    camera = tmp_path / "camera.json"
    for text in ("[]", "{", '{"fx": 1}', '{"fx": "a", "fy": 1, "cx": 1, "cy": 1}'):
        camera.write_text(text)
        with pytest.raises(UserError, match=r"camera.json: this is not a camera; write \{\"fx\": 518.9"):
            read_camera(camera)
    camera.write_text('{"fx": 0, "fy": 1, "cx": 1, "cy": 1}')
    with pytest.raises(UserError, match=r"its focal lengths are 0\.0 and 1\.0; give pixels above 0"):
        read_camera(camera)


def test_pictures_and_their_depth_by_name(tmp_path, folder):
    pictures = sorted((folder / "images").iterdir())[:3]
    found = with_depth(pictures, folder / "depth")
    assert [photo.depth.name for photo in found] == [path.name for path in pictures]
    with pytest.raises(UserError, match="one depth image for 3 pictures; give a folder of depth images"):
        with_depth(pictures, folder / "depth" / pictures[0].name)
    with pytest.raises(UserError, match=r"no depth image in .* is called 'x'; give both files one name"):
        with_depth([Path("x.jpg")], folder / "depth")
    with pytest.raises(UserError, match=r"nowhere does not exist; give a depth image, or a folder of them"):
        with_depth(pictures, "nowhere")
