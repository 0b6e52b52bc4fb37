"""Pictures and label maps from every kind of file and array, and a sentence for everything else."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import shared
from masklet.data.images import (
    BadFile,
    as_batch,
    list_images,
    natural_key,
    open_image,
    read_image,
    read_labels,
    to_float,
)
from masklet.structures import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def test_natural_order():
    names = ["frame_10.png", "frame_2.png", "Frame_1.png", "a", "10", "9", "frame_2b"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "Frame_1.png", "frame_2.png", "frame_2b", "frame_10.png"]
    assert natural_key(Path("x/10")) > natural_key(Path("x/9"))


def test_listing(tmp_path: Path):
    for name in ("b10.png", "b9.JPG", ".hidden.png", "note.txt", "deep/a.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["b9.JPG", "b10.png"]
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["b9.JPG", "b10.png", "a.webp"]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_files_keep_their_pixels(suffix: str, tmp_path: Path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(read_image(path), chw(RGB))
    assert torch.equal(read_image(str(path)), chw(RGB))


def test_all_doors_agree():
    expected = chw(RGB)
    for source in (
        Image.fromarray(RGB),
        RGB,
        expected,
        RGB.astype(np.int64),
        RGB / 255,
        expected / 255,
        RGB[..., ::-1][..., ::-1],
    ):
        assert torch.equal(read_image(source), expected)
    grey = RGB[..., 0]
    for source in (Image.fromarray(grey), grey, grey[..., None], torch.from_numpy(grey), grey.astype(">u2") * 257):
        assert torch.equal(read_image(source), torch.from_numpy(grey).expand(3, -1, -1))
    readonly = RGB.copy()
    readonly.flags.writeable = False
    assert torch.equal(read_image(readonly), expected)
    assert read_image(grey > 100).unique().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", (255, 255, 255)),
        ("L", (200, 200, 200)),
        ("P", (204, 0, 51)),
        ("RGB", (200, 10, 30)),
        ("CMYK", (200, 10, 30)),
        ("YCbCr", (200, 10, 30)),
    ],
)
def test_modes(mode: str, expected: tuple[int, int, int]):
    image = Image.new("L", (3, 2), 200) if mode in ("1", "L") else Image.new("RGB", (3, 2), (200, 10, 30))
    came = read_image(image.convert(mode))[:, 0, 0].tolist()
    assert came == pytest.approx(list(expected), abs=2)


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    assert read_image(image)[:, 0].T.tolist() == [[10, 20, 30], [127, 127, 127]]
    assert read_image(np.array(image))[:, 0].T.tolist() == [[10, 20, 30], [127, 127, 127]]
    assert read_image(image.convert("LA")).shape == (3, 1, 2)
    palette = Image.new("P", (2, 2), 0)
    palette.info["transparency"] = 0
    assert read_image(palette).min() == 255
    keyed = Image.new("RGB", (2, 2), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    assert read_image(keyed).min() == 255


def test_sixteen_bits_become_eight(tmp_path: Path):
    values = np.array([[0, 257, 65535, 128, 129]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name)[0].tolist() == [[0, 1, 255, 0, 1]]
    assert read_image(Image.fromarray(values.astype(np.int32)))[0].tolist() == [[0, 1, 255, 0, 1]]
    with pytest.raises(UserError, match=r"image has 32-bit values from -1 to 3; save it with 8 or 16 bits"):
        read_image(Image.fromarray(np.array([[-1, 3]], np.int32)))
    assert read_image(Image.fromarray(np.full((2, 2), 0.5, np.float32))).unique().tolist() == [128]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "cannot read an image from int; pass a path, a PIL image, an array or a tensor"),
        (
            np.zeros(4),
            UserError,
            "image array has shape (4,); pass one image as (height, width, channels)",
        ),
        (
            np.zeros((3, 4, 5)),
            UserError,
            "image has shape (3, 4, 5); expected (height, width) or (height, width, channels) with 1, 3 or 4 channels"
            "; of 5 bands choose the three to see: image[..., [2, 1, 0]]",
        ),
        (
            torch.zeros(4, 5, 3),
            None,
            "",
        ),
        (
            torch.zeros(6, 5, 3),
            UserError,
            "image has shape (6, 5, 3); expected (height, width) or (channels, height, width) with 1, 3 or 4 channels"
            "; of 6 bands choose the three to see: image[[2, 1, 0]]",
        ),
        (
            np.full((2, 2), 200.0),
            UserError,
            "floating point image has values from 200 to 200; scale it to [0, 1] or pass uint8",
        ),
        (
            torch.full((3, 2, 2), float("nan")),
            UserError,
            "floating point image has values from nan to nan; scale it to [0, 1] or pass uint8",
        ),
        (
            np.full((2, 2), 300),
            UserError,
            "torch.int64 image has values from 300 to 300; pass uint8, uint16 or float in [0, 1]",
        ),
        (np.array([["a"]]), UserError, "image array holds <U1; pass uint8, uint16 or float in [0, 1]"),
        (np.zeros((0, 4, 3), np.uint8), UserError, "image is empty: its shape is (3, 0, 4); pass at least one pixel"),
        (torch.zeros(3, 0, 4), UserError, "image is empty: its shape is (3, 0, 4); pass at least one pixel"),
    ],
)
def test_wrong_images(source: object, error: type | None, message: str):
    if error is None:
        assert read_image(source).shape == (3, 5, 3)  # four channels: RGBA
        return
    with pytest.raises(error) as caught:
        read_image(source)
    assert str(caught.value) == message
    with pytest.raises(error):
        as_batch([source])


def test_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match=r"a\.png: the file does not exist; check the spelling and the folder"):
        read_image(path)
    with pytest.raises(UserError, match="this is a folder, not an image; name the files inside it"):
        read_image(tmp_path)
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    for share in (0.5, 0.8):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BadFile, match="the file is damaged or cut short") as caught:
            open_image(path)
        assert caught.value.code == "truncated"
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    path.write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadFile, match="more pixels than Pillow's safety limit"):
        read_image(path)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BadFile, match="may not be read; check its permissions"):
        read_image(path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_is_applied_once(turn: int, tmp_path: Path):
    upright = np.arange(15, dtype=np.uint8).reshape(3, 5) * 10
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright) if turn == 1 else Image.fromarray(upright).transpose(Image.Transpose(undo[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    for suffix in ("png", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        stored.convert("RGB").save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        assert torch.equal(read_image(path)[0], torch.from_numpy(upright))
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(read_image(image)[0], torch.from_numpy(upright))
    assert torch.equal(read_labels(tmp_path / "a.png"), torch.from_numpy(upright))


def test_strange_exif_says_nothing(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), chw(RGB))

    class Damaged(Image.Image):
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    image = Image.fromarray(RGB)
    image.__class__ = Damaged
    assert torch.equal(read_image(image), chw(RGB))


def test_labels(tmp_path: Path):
    values = np.array([[0, 1, 2], [7, 254, 255]], np.uint8)
    path = tmp_path / "a.png"
    for image in (
        Image.fromarray(values),
        Image.fromarray(np.stack([values] * 3, -1)),
        Image.fromarray(np.stack([values, values, values, values * 0 + 255], -1)),
        Image.fromarray(np.stack([values, values * 0 + 255], -1)),
    ):
        image.save(path)
        assert read_labels(path).dtype == torch.uint8
        assert read_labels(path).tolist() == values.tolist()
    palette = Image.fromarray(values)
    palette.putpalette(np.random.default_rng(0).integers(0, 255, 768, np.uint8).tobytes())
    palette.save(path)
    assert read_labels(path).tolist() == values.tolist()
    Image.fromarray(values > 1).save(path)
    assert read_labels(path).tolist() == [[0, 0, 1], [1, 1, 1]]
    for wide in (values.astype(np.uint16) * 200, values.astype(np.int32) * 1000):
        Image.fromarray(wide).save(tmp_path / "a.tif")
        assert read_labels(tmp_path / "a.tif").dtype == torch.int64
        assert read_labels(tmp_path / "a.tif").tolist() == wide.tolist()
    Image.fromarray(RGB).save(path)
    with pytest.raises(UserError, match=r"a\.png: the mask is a colour picture \(RGB\), not a map of class numbers"):
        read_labels(path)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match="the mask has pixels of mode F, not class numbers; save it as an 8-bit"):
        read_labels(tmp_path / "f.tif")


def test_batches():
    image = chw(RGB)
    for images, count in [
        (image, 1),
        (RGB, 1),
        ([image, RGB], 2),
        ((image,), 1),
        (torch.stack([image, image]), 2),
        (np.stack([RGB, RGB, RGB]), 3),
        (torch.stack([image, image]) / 255, 2),
        (Image.fromarray(RGB), 1),
        ([], 0),
    ]:
        batch = as_batch(images)
        assert len(batch) == count
        for x in batch:
            assert x.dtype == torch.float32
            assert torch.allclose(x, image / 255)
    fine = torch.rand(3, 4, 4, requires_grad=True)
    assert as_batch(fine)[0] is fine, "what floats know below 1/255 is kept, and the gradient"
    assert as_batch(fine.double())[0].dtype == torch.float32
    assert to_float(image).max() <= 1
    assert as_batch(torch.rand(1, 4, 4))[0].shape == (3, 4, 4)


def test_photographs():
    path = shared("data", "camvid", "images", "val", "0016E5_07959.jpg")
    assert read_image(path).shape == (3, 360, 480)
    assert as_batch(str(path))[0].mean().item() == pytest.approx(0.4, abs=0.2)


def test_a_tiff_of_six_bands(tmp_path: Path):
    """As satellites deliver them; Pillow knows no mode for it."""
    side, bands = 4, 6
    data, tags = bytes(side * side * bands), 10
    sizes = 10 + 12 * tags + 4  # where the bits of each band are listed
    entries = [
        (256, 3, 1, side), (257, 3, 1, side), (258, 3, bands, sizes), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, sizes + 2 * bands), (277, 3, 1, bands), (278, 3, 1, side), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, tags) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path = tmp_path / "six.tif"
    path.write_bytes(head + bytes(4) + struct.pack("<6H", *[8] * bands) + data)
    with pytest.raises(BadFile) as caught:
        read_image(path)
    assert str(caught.value) == (
        f"{path}: Pillow does not read this TIFF; it may have more than 4 bands; "
        "read it with tifffile or rasterio, and pass the three bands to see as an array"
    )
