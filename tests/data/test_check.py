"""A table of broken data sets: what was wrong, which file, what came, what to do, word for word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import shared
from masklet.data.check import CODES, check
from masklet.data.images import read_image
from masklet.data.pairs import Finding, describe
from masklet.data.sources import open_source
from masklet.structures import UserError


def picture(path: Path, height: int = 12, width: int = 16, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def mask(path: Path, values: object = (0, 1, 2), height: int = 12, width: int = 16, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(values, dtype), (height, width))
    Image.fromarray(array).save(path)


def good(root: Path) -> None:
    for i in range(6):
        picture(root / "images" / f"{i}.jpg")
        mask(root / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("ground\nroad\nhouse\n")


def all_masks(values: object, **options) -> Callable[[Path], None]:
    return lambda root: [mask(path, values, **options) for path in (root / "masks").iterdir()]


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def colour_mask(path: Path) -> None:
    Image.fromarray(np.resize(np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8), (12, 16, 3))).save(path)


def colour_classes(root: Path) -> None:
    colors = {"ground": [0, 0, 0], "road": [255, 0, 0], "house": [0, 255, 0]}
    (root / "classes.txt").unlink()
    (root / "classes.json").write_text(json.dumps({"classes": [{"name": n, "color": c} for n, c in colors.items()]}))


def rename(root: Path, old: str, new: str) -> None:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


def as_jpeg(root: Path) -> None:
    with Image.open(root / "masks/2.png") as image:
        image.save(root / "masks/2.jpg")
    (root / "masks/2.png").unlink()


def two_frames(path: Path) -> None:
    path.unlink()
    frames = [Image.new("L", (16, 12), v) for v in (10, 200)]
    frames[0].save(path.with_suffix(".tif"), save_all=True, append_images=frames[1:])


def float_picture(path: Path) -> None:
    path.unlink()
    Image.fromarray(np.full((12, 16), 300.0, np.float32)).save(path.with_suffix(".tif"))


def sixteen_bit(path: Path) -> None:
    mask(path, (0, 1000, 65535), dtype=np.uint16)


def each(*actions: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        for action in actions:
            action(root)

    return run


S = "the 3 classes are stored as 0 to 2"
C = "correct the mask, or add the class to classes.txt"
CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing wrong": (lambda r: None, []),
    "no such folder": (
        lambda r: shutil.rmtree(r),
        ["error no_folder .: the folder does not exist; check the path after `kind:`"],
    ),
    "a file instead of a folder": (
        lambda r: (shutil.rmtree(r), r.write_text("x")),
        ["error not_a_folder .: this is a file, not a folder; name the folder of the data set"],
    ),
    "no images folder": (
        lambda r: shutil.rmtree(r / "images"),
        [
            "error no_images_folder .: no folder for images in it; "
            "put the images into `images` (also accepted: image, imgs)"
        ],
    ),
    "no masks folder": (
        lambda r: shutil.rmtree(r / "masks"),
        [
            "error no_masks_folder .: no folder for masks in it; "
            "put the masks into `labels` (also accepted: masks, annotations, mask, label, gt)"
        ],
    ),
    "empty folder": (
        lambda r: [p.unlink() for p in (r / "images").iterdir()],
        ["error empty images: no image in this folder; put .jpg, .png, .tif, .bmp or .webp files into it"],
    ),
    "only foreign formats": (
        lambda r: [p.rename(p.with_suffix(".heic")) for p in (r / "images").iterdir()],
        [
            "error empty images: no image in this folder (but 6 .heic files); "
            "put .jpg, .png, .tif, .bmp or .webp files into it"
        ],
    ),
    "no mask at all": (
        lambda r: [p.unlink() for p in (r / "masks").iterdir()],
        ["error no_masks .: none of the 6 images has a mask; put masks of the same names beside them"],
    ),
    "image without mask": (
        lambda r: (r / "masks/3.png").unlink(),
        ["error image_without_mask images/3.jpg: no mask is called '3'; add the mask, or remove the image"],
    ),
    "mask without image": (
        lambda r: (r / "images/4.jpg").unlink(),
        ["error mask_without_image masks/4.png: no image is called '4'; add the image, or remove the mask"],
    ),
    "masks with a suffix": (
        lambda r: rename(r, "masks/3.png", "masks/3_mask.png"),
        [
            "error image_without_mask images/3.jpg: no mask is called '3'; is it '3_mask'? pass mask_suffix='_mask'",
            "error mask_without_image masks/3_mask.png: no image is called '3_mask'; add the image, or remove the mask",
        ],
    ),
    "upper and lower case": (
        lambda r: (rename(r, "images/3.jpg", "images/Tree.jpg"), rename(r, "masks/3.png", "masks/tree.png")),
        [
            "error image_without_mask images/Tree.jpg: no mask is called 'Tree'; "
            "there is 'tree'; upper and lower case must agree",
            "error mask_without_image masks/tree.png: no image is called 'tree'; add the image, or remove the mask",
        ],
    ),
    "two images of one name": (
        lambda r: picture(r / "images/1.png"),
        [
            "error duplicate_image images/1.png: there is also 1.jpg, so image '1' exists twice; "
            "rename or remove one of them"
        ],
    ),
    "two masks of one name": (
        lambda r: mask(r / "masks/1.tif"),
        [
            "error duplicate_mask masks/1.tif: there is also 1.png, so mask '1' exists twice; "
            "rename or remove one of them"
        ],
    ),
    "image of no bytes": (
        lambda r: (r / "images/0.jpg").write_bytes(b""),
        ["error empty_file images/0.jpg: the file is empty (0 bytes); copy it again, or remove it"],
    ),
    "image that is text": (
        lambda r: (r / "images/0.jpg").write_text("<html>not found</html>"),
        [
            "error unreadable images/0.jpg: this is not an image that can be read; "
            "convert it to PNG or JPEG, or remove it"
        ],
    ),
    "image cut short": (
        lambda r: cut(r / "images/0.jpg", 0.9),
        ["error truncated images/0.jpg: the file is damaged or cut short (*); copy it again, or remove it"],
    ),
    "mask cut short": (
        lambda r: cut(r / "masks/0.png", 0.7),
        ["error truncated masks/0.png: the file is damaged or cut short (*); copy it again, or remove it"],
    ),
    "mask that is text": (
        lambda r: (r / "masks/5.png").write_text("x"),
        [
            "error unreadable masks/5.png: this is not an image that can be read; "
            "convert it to PNG or JPEG, or remove it"
        ],
    ),
    "broken link": (
        lambda r: ((r / "images/0.jpg").unlink(), (r / "images/0.jpg").symlink_to("nowhere.jpg")),
        ["error missing_file images/0.jpg: the file does not exist; add it, or remove it from the list"],
    ),
    "several frames": (
        lambda r: two_frames(r / "images/2.jpg"),
        [
            "warning several_frames images/2.tif: the file holds 2 pictures, only the first is used; "
            "split it into single images"
        ],
    ),
    "float image out of range": (
        lambda r: float_picture(r / "images/2.jpg"),
        [
            "error bad_values images/2.tif: floating point image has values from 300 to 300; "
            "scale it to [0, 1] or pass uint8"
        ],
    ),
    "wrong size": (
        lambda r: mask(r / "masks/1.png", height=6, width=8),
        [
            "error size_mismatch masks/1.png: mask is 6x8 but image is 12x16 (height x width); "
            "resize the mask (nearest neighbour) or use its image"
        ],
    ),
    "mask on its side": (
        lambda r: mask(r / "masks/1.png", height=16, width=12),
        [
            "error size_mismatch masks/1.png: mask is 16x12 but image is 12x16 (height x width); "
            "turn the mask by 90 degrees"
        ],
    ),
    "EXIF turns the image, not the mask": (
        lambda r: picture(r / "images/1.jpg", orientation=6),
        [
            "error exif_rotation masks/1.png: mask is 12x16 but image is 16x12 (height x width): the image is turned "
            "by its EXIF orientation 6; turn the mask as well, or save the image upright without EXIF orientation"
        ],
    ),
    "EXIF turns image and mask": (
        lambda r: (picture(r / "images/1.jpg", orientation=8), mask(r / "masks/1.png", height=16, width=12)),
        [],
    ),
    "EXIF upside down": (
        lambda r: picture(r / "images/1.jpg", orientation=3),
        [
            "warning exif_unsure masks/1.png: the image is turned by its EXIF orientation 3, the mask's is 1; "
            "look whether the mask fits the upright image (`masklet data show`)"
        ],
    ),
    "label outside": (
        lambda r: mask(r / "masks/1.png", (0, 1, 2, 7)),
        [f"error label_outside masks/1.png: the mask holds 7, but {S}; {C}"],
    ),
    "several labels outside": (
        lambda r: mask(r / "masks/1.png", (0, 3, 9, 17)),
        [f"error label_outside masks/1.png: the mask holds 3, 9 and 17, but {S}; {C}"],
    ),
    "ignored pixels are fine": (lambda r: mask(r / "masks/1.png", (0, 255, 2)), []),
    "every pixel ignored": (
        lambda r: mask(r / "masks/1.png", 255),
        [
            "warning all_ignored masks/1.png: every pixel is 255, which is ignored; annotate it, or remove the pair",
        ],
    ),
    "all masks 0 and 255": (
        all_masks((0, 255)),
        [
            "error mask_0_255 .: all masks hold only 0 and 255 (0.png is the first), and 255 means ignore; "
            "divide them by 255, or list the classes as `0: background` and `255: object` in classes.txt"
        ],
    ),
    "0 and 255, no list of classes": (each(all_masks((0, 255)), lambda r: (r / "classes.txt").unlink()), []),
    "numbered from 1": (
        all_masks((1, 2, 3)),
        [
            f"error one_based .: the masks hold 1 to 3, but {S}; "
            "subtract 1, or begin the list in classes.txt with `1: ground`"
        ],
    ),
    "numbered from 1 in the list too": (
        each(all_masks((1, 2, 3)), lambda r: (r / "classes.txt").write_text("1: ground\n2: road\n3: house\n")),
        [],
    ),
    "gaps in the numbers": (
        each(all_masks((3, 7, 90)), lambda r: (r / "classes.txt").write_text("3: ground\n7: road\n90: house\n")),
        [],
    ),
    "16-bit greys": (
        lambda r: sixteen_bit(r / "masks/2.png"),
        [
            f"error mask_16bit masks/2.png: the mask is 16-bit with 1000 and 65535, but {S}; "
            "save class numbers, not scaled grey values or object numbers"
        ],
    ),
    "16-bit class numbers are fine": (lambda r: mask(r / "masks/2.png", (0, 1, 2), dtype=np.uint16), []),
    "colour picture": (
        lambda r: colour_mask(r / "masks/0.png"),
        [
            "error mask_in_colour masks/0.png: the mask is a colour picture (RGB), not a map of class numbers; "
            "give the classes' colours in classes.json, or save one channel of class numbers"
        ],
    ),
    "colour that is no class": (
        each(lambda r: colour_mask(r / "masks/0.png"), colour_classes),
        [
            "error colour_outside masks/0.png: the mask holds the colour #0000ff, which belongs to no class; "
            "add it to classes.json, or save the mask without smoothing"
        ],
    ),
    "JPEG mask": (
        as_jpeg,
        [
            "error mask_jpeg masks/2.jpg: the mask is a JPEG, which blurs class numbers at every edge; "
            "export the masks again as PNG; rounding what JPEG left is a last resort"
        ],
    ),
    "smoothed mask": (
        lambda r: mask(r / "masks/2.png", range(40)),
        [
            "error mask_smoothed masks/2.png: the mask holds 37 values between those of the 3 classes; "
            "resize masks with nearest neighbour and save them as PNG"
        ],
    ),
    "floating point mask": (
        lambda r: ((r / "masks/2.png").unlink(), mask(r / "masks/2.tif", (0.0, 1.0), dtype=np.float32)),
        [
            "error mask_mode masks/2.tif: the mask has pixels of mode F, not class numbers; "
            "save it as an 8-bit or 16-bit PNG"
        ],
    ),
    "grey pictures and no list of classes": (
        each(all_masks(range(100)), lambda r: (r / "classes.txt").unlink()),
        [
            "error many_values .: the masks hold 100 different values and no classes.txt says what they mean; "
            "list the classes in classes.txt; if the masks are grey pictures, cut them at a threshold first"
        ],
    ),
    "a class that never occurs": (
        lambda r: (r / "classes.txt").write_text("ground\nroad\nhouse\nboat\n"),
        [
            "warning class_absent .: 1 of 4 classes occur in no mask: boat; add examples, or take them off the list",
        ],
    ),
    "empty list of classes": (
        lambda r: (r / "classes.txt").write_text("\n"),
        ["error bad_classes classes.txt: it names no class; write one class name per line"],
    ),
    "a class twice": (
        lambda r: (r / "classes.txt").write_text("ground\nroad\nroad\n"),
        ["error bad_classes classes.txt: the name 'road' occurs twice; give each class its own name"],
    ),
    "a number twice": (
        lambda r: (r / "classes.txt").write_text("1: ground\n2: road\n2: house\n"),
        ["error bad_classes classes.txt: the id 2 occurs twice; give each class its own id"],
    ),
    "a number too large": (
        lambda r: (r / "classes.txt").write_text("1: ground\n70000: road\n"),
        ["error bad_classes classes.txt: ids are 1 and 70000; ids must lie in 0..65535"],
    ),
    "classes.json that is not JSON": (
        lambda r: (r / "classes.json").write_text("{"),
        ["error bad_classes classes.json: not valid JSON (*); correct it, or use classes.txt"],
    ),
    "classes.json that is no list": (
        lambda r: (r / "classes.json").write_text('{"a": 1}'),
        [
            "error bad_classes classes.json: this is no list of classes; "
            'write ["ground", "dog"] or {"classes": [{"name": "dog", "id": 1}]}'
        ],
    ),
    "a list that names a missing image": (
        lambda r: ((r / "train.txt").write_text("0\n1\n"), (r / "val.txt").write_text("2\n9.jpg\n")),
        ["error listed_but_missing val.txt: it names '9', which is no image; correct the line, or add the image"],
    ),
    "a folder called like an image": (
        lambda r: ((r / "images/0.jpg").unlink(), (r / "masks/0.png").unlink(), (r / "images/0.jpg").mkdir()),
        [],
    ),
}


def told(finding: Finding, root: Path) -> str:
    file = Path(finding.file)
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else finding.file
    return f"{finding.level} {finding.code} {name}: {finding.message}; {finding.hint}"


def same(came: str, expected: str) -> bool:
    """Equal, where `*` stands for the words of Pillow or json."""
    before, star, after = expected.partition("(*)")
    return came == expected if not star else came.startswith(before + "(") and came.endswith(")" + after)


@pytest.mark.parametrize("case", CASES)
def test_broken_set(case: str, tmp_path: Path):
    root = tmp_path / "photos"
    good(root)
    damage, expected = CASES[case]
    damage(root)
    split = "val" if "list that names" in case else "all"
    came = [told(f, root) for f in check(f"folder:{root}", split)]
    assert len(came) == len(expected), came
    for a, b in zip(came, expected, strict=True):
        assert same(a, b), f"\ncame     {a}\nexpected {b}"
    assert all(line.split()[1] in CODES for line in came)


@pytest.mark.parametrize("case", CASES)
def test_what_the_check_calls_an_error_stops_training_with_a_sentence(case: str, tmp_path: Path):
    root = tmp_path / "photos"
    good(root)
    damage, expected = CASES[case]
    damage(root)
    silent = ("mask_0_255", "mask_jpeg", "one_based", "many_values")  # only the check can see these
    errors = [line for line in expected if line.startswith("error") and line.split()[1] not in silent]

    def read_all() -> None:
        for _ in open_source(f"folder:{root}", "val" if "list that names" in case else "all"):
            pass

    if errors:
        with pytest.raises((UserError, FileNotFoundError)) as caught:
            read_all()
        assert "; " in str(caught.value), "what to do is missing"
    elif not expected or expected[0].startswith("warning"):
        read_all()


def test_split_folders(tmp_path: Path):
    for name in ("train", "val"):
        picture(tmp_path / "images" / name / "a.jpg")
    mask(tmp_path / "masks" / "train" / "a.png")
    expected = "masks/val/a.png"
    came = [told(f, tmp_path) for f in check(f"folder:{tmp_path}")]
    assert came == [
        "error image_without_mask images/val/a.jpg: no mask is called 'val/a'; add the mask, or remove the image"
    ]
    mask(tmp_path / expected)
    assert check(f"folder:{tmp_path}") == []
    assert [told(f, tmp_path) for f in check(f"folder:{tmp_path}", "test")] == [
        "error no_split_folder .: no folder for split 'test'; it has train, val"
    ]


def broken_flood(root: Path) -> None:
    for i in (1, 5):
        picture(root / "images" / f"{i}.jpg")
        mask(root / "labels" / f"{i}.png", (0, 255))


def broken_table(root: Path) -> None:
    root.mkdir()
    (root / "metadata.csv").write_text("picture;mask\n")


def missing_in_table(root: Path) -> None:
    picture(root / "Image/0.jpg")
    (root / "metadata.csv").write_text("Image,Mask\n0.jpg,0.png\n")


def camvid_without_split(root: Path) -> None:
    picture(root / "images/train/a.jpg")
    mask(root / "labels/train/a.png")


OTHER = {
    "flood": (
        "flood",
        broken_flood,
        "all",
        [
            "error mask_0_255 labels/1.png: the mask holds 0 and 255, but the 2 classes are stored as 0 and 1; "
            "divide it by 255",
            "error mask_0_255 labels/5.png: the mask holds 0 and 255, but the 2 classes are stored as 0 and 1; "
            "divide it by 255",
        ],
    ),
    "flood table": (
        "flood",
        broken_table,
        "all",
        ["error bad_table metadata.csv: its columns are picture;mask; expected a first line `Image,Mask`"],
    ),
    "flood file of the table": (
        "flood",
        missing_in_table,
        "all",
        ["error missing_file Mask/0.png: the file does not exist; add it, or remove it from the list"],
    ),
    "flood val": (
        "flood",
        lambda r: (picture(r / "images/1.jpg"), mask(r / "labels/1.png", (0, 1))),
        "val",
        ["error empty_split .: no image belongs to split 'val'; val is every number divisible by 5"],
    ),
    "camvid val": (
        "camvid",
        camvid_without_split,
        "val",
        ["error no_split_folder images: no folder for split 'val'; it has train"],
    ),
    "voc": (
        "voc",
        lambda r: (r / "JPEGImages").mkdir(parents=True),
        "val",
        [
            "error no_split_list ImageSets/Segmentation/val.txt: the list of this split is missing; "
            "name the folder with JPEGImages in it"
        ],
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_sources(case: str, tmp_path: Path):
    kind, make, split, expected = OTHER[case]
    root = tmp_path / "set"
    make(root)
    assert [told(f, root) for f in check(f"{kind}:{root}", split)] == expected


def test_limit_threads_and_progress(tmp_path: Path):
    good(tmp_path)
    mask(tmp_path / "masks/0.png", 9)
    steps: list[tuple[int, int]] = []
    found = check(f"folder:{tmp_path}", limit=2, threads=1, progress=lambda i, n: steps.append((i, n)))
    assert [f.code for f in found] == ["label_outside"]
    assert steps == [(1, 2), (2, 2)]
    assert len(check(f"folder:{tmp_path}", limit=50)) == 1
    with pytest.raises(UserError, match="limit is 0; look at one sample at least"):
        check(f"folder:{tmp_path}", limit=0)


def test_many_broken_files_are_all_named_in_order(tmp_path: Path):
    good(tmp_path)
    for i in range(150):
        picture(tmp_path / "images" / f"x{i}.jpg", 4, 4)
        mask(tmp_path / "masks" / f"x{i}.png", 77, 4, 4)
    found = check(f"folder:{tmp_path}", mask_suffix="")
    assert [Path(f.file).name for f in found] == [f"x{i}.png" for i in range(150)]


def test_sets_that_are_no_files():
    steps: list[int] = []
    assert check("synthetic:shapes3", "val", limit=2, size=16, progress=lambda i, n: steps.append(i)) == []
    assert steps == [1, 2]


def test_bundled_data_is_clean():
    assert check(f"camvid:{shared('data', 'camvid')}", limit=40) == []
    assert check(f"pets:{shared('data', 'pets')}", limit=40) == []
    assert check(f"flood:{shared('data', 'flood_area')}", limit=40) == []


def test_every_code_is_described_and_every_described_code_is_used():
    used = {line.split()[1] for _, lines in CASES.values() for line in lines}
    used |= {line.split()[1] for _, _, _, lines in OTHER.values() for line in lines}
    elsewhere = {"folder", "no_permission", "too_large", "bad_region"}
    assert used | elsewhere == set(CODES)


def test_numbers_in_sentences():
    assert describe([]) == "nothing"
    assert describe([4]) == "4"
    assert describe([0, 1]) == "0 and 1"
    assert describe([2, 0, 1]) == "0 to 2"
    assert describe([90, 3, 7]) == "3, 7 and 90"
    assert describe(range(0, 90, 2)) == "0, 2, 4, 6 and 41 more"


@pytest.mark.parametrize("turn", range(1, 9))
def test_eight_orientations_agree_with_their_masks(turn: int, tmp_path: Path):
    """An image and a mask that carry the same orientation are turned alike and pass."""
    upright = np.zeros((6, 10), np.uint8)
    upright[:2, :3] = 1
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that makes the stored file
    for folder, scale in (("images", 255), ("masks", 1)):
        stored = Image.fromarray(upright * scale)
        stored = stored if turn == 1 else stored.transpose(Image.Transpose(undo[turn]))
        exif = Image.Exif()
        exif[0x0112] = turn
        (tmp_path / folder).mkdir()
        stored.save(tmp_path / folder / "0.png", exif=exif)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    sample = open_source(f"folder:{tmp_path}", "all")[0]
    assert (sample.image[0].numpy() == upright * 255).all()
    assert (sample.semantic.numpy() == upright).all()
    assert check(f"folder:{tmp_path}") == []
    assert read_image(tmp_path / "images/0.png").shape == (3, 6, 10)
