"""Every reader on a made copy of its layout, and on the real data where it lies beside the repository."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import shared
from masklet.data.ade20k import CLASSES as ADE
from masklet.data.check import check
from masklet.data.cityscapes import CLASSES as CITY
from masklet.data.folder import guess_classes
from masklet.data.pairs import Coding, Pairs, number_of
from masklet.data.sources import SOURCES, Dataset, find_source, open_source
from masklet.data.voc import CLASSES as VOC
from masklet.data.voc import voc_color
from masklet.structures import Classes, UserError


def picture(path: Path, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (len(path.stem) * 20 % 255, 90, 120)).save(path)


def mask(path: Path, values: object = (0, 1), size: tuple[int, int] = (6, 8), dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, dtype), size)).save(path)


def values(dataset: Dataset) -> set[int]:
    return {v for sample in dataset for v in sample.semantic.unique().tolist()}


@pytest.mark.parametrize(
    ("source", "split", "count"),
    [
        ("camvid:camvid", "train", 367),
        ("camvid:camvid", "val", 101),
        ("camvid:camvid", "all", 468),
        ("pets:pets", "train", 166),
        ("pets:pets", "val", 40),
        ("flood:flood_area", "all", 216),
        ("flood:flood_area", "val", 46),
        ("flood:flood_area", "train", 170),
        ("ade20k:ade20k_sample", "val", 3),
        ("folder:camvid", "val", 101),
    ],
)
def test_real_data(source: str, split: str, count: int):
    kind, _, folder = source.partition(":")
    data = open_source(f"{kind}:{shared('data', folder)}", split)
    assert len(data) == count
    assert isinstance(data, Dataset)
    for i in (0, count // 2, count - 1):
        sample = data[i]
        assert sample.image.dtype == sample.semantic.dtype == torch.uint8
        assert sample.semantic.shape == sample.image.shape[1:]
        assert sample.classes == data.classes
        found = set(sample.semantic.unique().tolist()) - {255}
        assert found <= set(range(len(data.classes)))
        assert data.paths(i)[0].stem == sample.name.split("/")[-1]


def test_real_classes():
    camvid = open_source(f"camvid:{shared('data', 'camvid')}", "val")
    assert camvid.classes.names[3] == "road"
    road = torch.stack([s.semantic[250:, 200:280] == 3 for s in camvid[:20]]).float().mean()
    assert road > 0.6, "the middle of the lower third is road"
    pets = open_source(f"pets:{shared('data', 'pets')}", "val")
    assert pets.classes.ids == (1, 2, 3)
    assert pets.classes.unscored == (2,)
    middle = torch.stack([(s.semantic[s.size[0] // 2, s.size[1] // 2] == 0) for s in pets]).float().mean()
    assert middle > 0.6, "the animal is in the middle"
    table = shared("data", "ade20k_sample", "objectInfo150.txt").read_text().splitlines()[1:]
    assert [line.split("\t")[-1].split(", ")[0].strip() for line in table] == list(ADE.names)


def test_camvid_void_is_ignored_and_tutorial_layout(tmp_path: Path):
    for name in ("train", "val"):
        picture(tmp_path / name / "a.png")
        mask(tmp_path / f"{name}annot" / "a.png", (0, 10, 11))
    data = open_source(f"camvid:{tmp_path}", "val")
    assert values(data) == {0, 10, 255}
    assert data[0].name == "a"
    assert [s.name for s in open_source(f"camvid:{tmp_path}", "all")] == ["train/a", "val/a"]
    with pytest.raises(UserError, match="test: no image in this folder"):
        open_source(f"camvid:{tmp_path}", "test")


def test_pets_official_layout(tmp_path: Path):
    for name in ("cat_1", "cat_2", "dog_1"):
        picture(tmp_path / "images" / f"{name}.jpg")
        mask(tmp_path / "annotations" / "trimaps" / f"{name}.png", (1, 2, 3))
    (tmp_path / "annotations" / "trainval.txt").write_text("#Image CLASS-ID\ncat_1 1 1 1\ncat_2 1 1 1\n")
    with pytest.raises(UserError, match=r"test\.txt: the list of this split is missing"):
        open_source(f"pets:{tmp_path}", "val")
    (tmp_path / "annotations" / "test.txt").write_text("dog_1 2 2 1\n")
    assert [s.name for s in open_source(f"pets:{tmp_path}", "train")] == ["cat_1", "cat_2"]
    assert [s.name for s in open_source(f"pets:{tmp_path}", "val")] == ["dog_1"]
    assert len(open_source(f"pets:{tmp_path}", "all")) == 3
    assert values(open_source(f"pets:{tmp_path}", "all")) == {0, 1, 2}
    (tmp_path / "annotations" / "test.txt").write_text("")
    with pytest.raises(UserError, match="no image in this folder"):
        open_source(f"pets:{tmp_path}", "test")


def test_flood_layouts_and_split_by_number(tmp_path: Path):
    seed, ours = tmp_path / "seed", tmp_path / "ours"
    lines = ["Image,Mask"]
    for n in (0, 1, 5, 12, 20, 103):
        picture(seed / "Image" / f"{n}.jpg")
        mask(seed / "Mask" / f"{n}.png", (0, 127, 128, 255))
        lines.append(f"{n}.jpg,{n}.png")
        picture(ours / "images" / f"{n}.jpg")
        mask(ours / "labels" / f"{n}.png", (0, 1))
    (seed / "metadata.csv").write_text("\n".join(lines) + "\n")
    for root in (seed, ours):
        assert [s.name for s in open_source(f"flood:{root}", "val")] == ["0", "5", "20"]
        assert [s.name for s in open_source(f"flood:{root}", "train")] == ["1", "12", "103"]
        assert len(open_source(f"flood:{root}", "all")) == 6
        assert values(open_source(f"flood:{root}", "all")) == {0, 1}
        assert check(f"flood:{root}") == []
        with pytest.raises(UserError, match="this data set has no test split; choose train, val or all"):
            open_source(f"flood:{root}", "test")
    assert open_source(f"flood:{seed}", "val")[0].semantic[0, :4].tolist() == [0, 0, 1, 1], "cut above 127"
    (seed / "metadata.csv").write_text("Image,Mask\n")
    with pytest.raises(UserError, match="the table names no image"):
        open_source(f"flood:{seed}")
    (tmp_path / "none" / "images").mkdir(parents=True)
    (tmp_path / "none" / "labels").mkdir()
    with pytest.raises(UserError, match="no image in this folder"):
        open_source(f"flood:{tmp_path / 'none'}")
    assert number_of("flood_012") == 12
    assert number_of("shore") is None


def test_voc(tmp_path: Path):
    assert [voc_color(i) for i in (0, 1, 2, 15, 20)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (0, 64, 128),
    ]
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for n in ("2007_000032", "2007_000039", "2008_1"):
        picture(root / "JPEGImages" / f"{n}.jpg")
    mask(root / "SegmentationClass" / "2007_000032.png", (0, 15, 255))
    mask(root / "SegmentationClassAug" / "2008_1.png", (0, 3))
    color = np.resize(np.array([VOC.colors[i] for i in (0, 7, 20)], np.uint8), (6, 8, 3))
    Image.fromarray(color).save(root / "SegmentationClass" / "2007_000039.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2007_000039\n")
    (lists / "trainval.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "trainaug.txt").write_text("2008_1\n")
    (lists / "test.txt").write_text("\n")
    assert values(open_source(f"voc:{tmp_path}", "train")) == {0, 15, 255}
    assert values(open_source(f"voc:{tmp_path}", "val")) == {0, 7, 20}, "colour pictures by the VOC palette"
    assert len(open_source(f"voc:{root}", "all")) == 2
    assert values(open_source(f"voc:{tmp_path}", "train", extra=True)) == {0, 3}
    with pytest.raises(UserError, match="no image in this folder"):
        open_source(f"voc:{root}", "test")
    assert VOC.names[15] == "person"


def test_cityscapes(tmp_path: Path):
    for split, city in (("train", "ulm"), ("train", "aachen"), ("val", "munster"), ("test", "bonn")):
        picture(tmp_path / "leftImg8bit" / split / city / f"{city}_0_0_leftImg8bit.png")
        if split != "test":
            mask(tmp_path / "gtFine" / split / city / f"{city}_0_0_gtFine_labelIds.png", (0, 4, 7, 26, 33))
            mask(tmp_path / "gtFine" / split / city / f"{city}_0_0_gtFine_labelTrainIds.png", (255, 0, 13, 18))
            mask(tmp_path / "gtFine" / split / city / f"{city}_0_0_gtFine_instanceIds.png", (26001,), dtype=np.uint16)
    data = open_source(f"cityscapes:{tmp_path}", "train")
    assert [s.name for s in data] == ["train/aachen/aachen_0_0", "train/ulm/ulm_0_0"]
    assert values(data) == {0, 13, 18, 255}
    assert CITY.ids[13] == 26
    assert len(open_source(f"cityscapes:{tmp_path}", "all")) == 3
    for path in tmp_path.rglob("*_labelIds.png"):
        path.unlink()
    data = open_source(f"cityscapes:{tmp_path}", "val")
    assert values(data) == {0, 13, 18, 255}
    assert data.classes.ids == tuple(range(19))
    for path in tmp_path.rglob("*_leftImg8bit.png"):
        path.unlink()
    with pytest.raises(UserError, match="no image in this folder"):
        open_source(f"cityscapes:{tmp_path}", "val")


def test_ade20k(tmp_path: Path):
    root = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        picture(root / "images" / split / "ADE_1.jpg")
        mask(root / "annotations" / split / "ADE_1.png", (0, 1, 13, 150))
    for path in (tmp_path, root):
        data = open_source(f"ade20k:{path}", "val")
        assert values(data) == {255, 0, 12, 149}
        assert len(open_source(f"ade20k:{path}", "all")) == 2
    assert ADE.names[12] == "person"
    assert ADE.things[12]
    assert not ADE.things[0]
    picture(tmp_path / "flat" / "images" / "1.jpg")
    mask(tmp_path / "flat" / "annotations" / "1.png", (1, 2))
    assert len(open_source(f"ade20k:{tmp_path / 'flat'}", "val")) == 1
    with pytest.raises(UserError, match="no image in this folder"):
        open_source(f"ade20k:{tmp_path / 'flat'}", "train")


def test_folder_layouts(tmp_path: Path):
    by_split, split_first, flat = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for split in ("train", "val"):
        for i in (2, 10):
            picture(by_split / "images" / split / f"{i}.jpg")
            mask(by_split / "masks" / split / f"{i}.png")
            picture(split_first / split / "images" / f"{i}.jpg")
            mask(split_first / split / "labels" / f"{i}.png")
    for root in (by_split, split_first):
        assert [s.name for s in open_source(f"folder:{root}", "val")] == ["2", "10"]
        assert [s.name for s in open_source(f"folder:{root}", "all")] == ["train/2", "train/10", "val/2", "val/10"]
        with pytest.raises(UserError, match="no folder for split 'test'; it has train, val"):
            open_source(f"folder:{root}", "test")
    for i in range(12):
        picture(flat / "Images" / f"frame_{i}.jpg")
        mask(flat / "Annotations" / f"frame_{i}_mask.png")
    assert [s.name for s in open_source(f"folder:{flat}", "val", mask_suffix="_mask")] == [
        "frame_0",
        "frame_5",
        "frame_10",
    ]
    assert len(open_source(f"folder:{flat}", "train", mask_suffix="_mask")) == 9
    with pytest.raises(UserError, match=r"no mask is called 'frame_1' \(21 such files\); is it 'frame_1_mask'\?"):
        open_source(f"folder:{flat}", "train")
    with pytest.raises(UserError, match="this data set has no test split"):
        open_source(f"folder:{flat}", "test", mask_suffix="_mask")
    (flat / "val.txt").write_text("frame_3.jpg\n\nframe_4\n")
    assert len(open_source(f"folder:{flat}", "val", mask_suffix="_mask")) == 2
    assert len(open_source(f"folder:{flat}", "train", mask_suffix="_mask")) == 10, "what no list names"
    (flat / "val.txt").write_text("")
    with pytest.raises(UserError, match="no image belongs to split 'val'"):
        open_source(f"folder:{flat}", "val", mask_suffix="_mask")
    with pytest.raises(UserError, match="unknown split 'dev'; choose from train, val, test, all"):
        open_source(f"folder:{flat}", "dev")


def one(tmp_path: Path, stored: object, declared: dict[str, str] | None = None, dtype: type = np.uint8) -> Pairs:
    picture(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "masks" / "a.png", stored, dtype=dtype)
    for name, text in (declared or {}).items():
        (tmp_path / name).write_text(text)
    found = open_source(f"folder:{tmp_path}", "all")
    assert isinstance(found, Pairs)
    return found


@pytest.mark.parametrize(
    ("stored", "declared", "names", "ids", "came"),
    [
        ((0, 1, 2), {}, ("class 0", "class 1", "class 2"), (0, 1, 2), {0, 1, 2}),
        ((3, 7, 90, 255), {}, ("class 3", "class 7", "class 90"), (3, 7, 90), {0, 1, 2, 255}),
        ((0, 255), {}, ("background", "foreground"), (0, 255), {0, 1}),
        ((255,), {}, ("background", "foreground"), (0, 255), {1}),
        ((0, 2), {"classes.txt": "# names\na\nb\nc\n"}, ("a", "b", "c"), (0, 1, 2), {0, 2}),
        ((3, 90), {"classes.txt": "3: a\n90: b c\n"}, ("a", "b c"), (3, 90), {0, 1}),
        ((0, 1), {"classes.json": '["a", "b"]'}, ("a", "b"), (0, 1), {0, 1}),
        ((0, 7), {"classes.json": '{"7": "dog", "0": "ground"}'}, ("ground", "dog"), (0, 7), {0, 1}),
        (
            (1, 2, 9),
            {"classes.json": '{"classes": [{"name": "a", "id": 1}, {"name": "b", "id": 2}], "ignore": [0, 9]}'},
            ("a", "b"),
            (1, 2),
            {0, 1, 255},
        ),
        ((1, 0), {"classes.json": '[{"name": "a", "thing": true}, {"name": "b"}]'}, ("a", "b"), (0, 1), {0, 1}),
    ],
)
def test_classes_of_a_folder(stored, declared, names, ids, came, tmp_path: Path):
    data = one(tmp_path, stored, declared)
    assert data.classes.names == names
    assert data.classes.ids == ids
    assert values(data) == came


def test_colour_masks_of_a_folder(tmp_path: Path):
    colors = {"ground": [0, 0, 0], "road": [128, 64, 128], "house": [70, 70, 70]}
    listed = json.dumps({"classes": [{"name": n, "color": c} for n, c in colors.items()]})
    data = one(tmp_path, (0,), {"classes.json": listed})
    painted = np.resize(np.array([colors["road"], colors["house"], [255, 255, 255]], np.uint8), (6, 8, 3))
    Image.fromarray(painted).save(tmp_path / "masks" / "a.png")
    assert data[0].semantic[0, :4].tolist() == [1, 2, 255, 1]
    assert data.classes.colors[1] == (128, 64, 128)
    assert check(f"folder:{tmp_path}") == []


def test_more_than_254_classes_are_int64(tmp_path: Path):
    data = one(tmp_path, (0, 299, 300), {"classes.txt": "\n".join(f"c{i}" for i in range(300))}, dtype=np.uint16)
    assert data.classes.ignore == -1
    with pytest.raises(UserError, match="the mask holds 300, but the 300 classes are stored as 0 to 299"):
        data[0]
    mask(tmp_path / "masks" / "a.png", (0, 299, 255), dtype=np.uint16)
    assert data[0].semantic.dtype == torch.int64
    assert data[0].semantic[0, :3].tolist() == [0, 299, 255]


def test_guessing_survives_bad_files_and_odd_values(tmp_path: Path):
    assert guess_classes([]).classes == Classes.default(2)
    (tmp_path / "a.png").write_text("x")
    assert guess_classes([tmp_path / "a.png"]).classes == Classes.default(2)
    mask(tmp_path / "b.tif", (5, 70000), dtype=np.int32)
    assert guess_classes([tmp_path / "b.tif"]).classes == Classes.default(2)
    for i in range(10):
        mask(tmp_path / f"{i}.png", i)
    assert len(guess_classes([tmp_path / f"{i}.png" for i in range(10)], limit=5).classes) == 5


def test_values_beyond_16_bits_are_an_error(tmp_path: Path):
    data = one(tmp_path, (0, 1), {"classes.txt": "a\nb"})
    (tmp_path / "masks" / "a.png").unlink()
    mask(tmp_path / "masks" / "a.tif", (0, 70000), dtype=np.int32)
    data = open_source(f"folder:{tmp_path}", "all")
    with pytest.raises(UserError, match="the mask holds 70000"):
        data[0]


def test_size_mismatch_is_named(tmp_path: Path):
    one(tmp_path, (0, 1))
    mask(tmp_path / "masks" / "a.png", (0, 1), size=(3, 4))
    with pytest.raises(UserError) as caught:
        open_source(f"folder:{tmp_path}", "all")[0]
    assert str(caught.value) == (
        f"{tmp_path / 'masks' / 'a.png'}: mask is 3x4 but image is 6x8 (height x width); "
        "run `masklet data check` on the data set"
    )


def test_slices_and_paths(tmp_path: Path):
    for i in range(4):
        picture(tmp_path / "images" / f"{i}.jpg")
        mask(tmp_path / "masks" / f"{i}.png")
    data = open_source(f"folder:{tmp_path}", "all")
    part = data[1:3]
    assert [s.name for s in part] == ["1", "2"]
    assert part.paths(0) == (tmp_path / "images" / "1.jpg", tmp_path / "masks" / "1.png")
    assert data[-1].name == "3"


def test_rest_ignored():
    coding = Coding(Classes(("a",), ids=(4,)), rest="ignore")
    assert coding.table[[4, 5]].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("photos", {}, "data source 'photos' is not of the form `kind:path`; kinds are " + ", ".join(SOURCES)),
        ("/", {}, "data source '/' is not of the form `kind:path`; write `folder:/`"),
        ("camvid:", {}, "data source 'camvid:' is not of the form `kind:path`; kinds are " + ", ".join(SOURCES)),
        ("kamvid:x", {}, "unknown kind of data 'kamvid'; did you mean camvid? choose from " + ", ".join(SOURCES)),
        ("zzz:x", {}, "unknown kind of data 'zzz'; choose from " + ", ".join(SOURCES)),
        ("folder:x", {"suffix": "_m"}, "folder has no option 'suffix'; it takes mask_suffix"),
        ("camvid:x", {"a": 1}, "camvid has no option 'a'; it takes none"),
        ("camvid:x", {}, "x: the folder does not exist; check the path after `kind:`"),
    ],
)
def test_wrong_sources(source: str, options: dict, message: str):
    with pytest.raises(UserError) as caught:
        open_source(source, **options)
    assert str(caught.value) == message


def test_find_source_does_not_pair(tmp_path: Path):
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    assert len(find_source(f"folder:{tmp_path}", "all").problems()) == 1


# --- VGG Image Annotator -----------------------------------------------------------------------------------------


def region(name: str, attributes: dict, **shape) -> dict:
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": attributes}


BOTTLE = region("polygon", {"Name": "bottle"}, all_points_x=[2, 10, 10, 2], all_points_y=[1, 1, 9, 9])
SODA = region("rect", {"Name": "soda"}, x=8, y=4, width=10, height=6)
JUICE = region("circle", {"Name": "juice"}, cx=30.0, cy=14.0, r=5.0)


def annotate(path: Path, *entries: tuple[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({f"{name}123": {"filename": name, "size": 123, "regions": r} for name, r in entries}))


def test_via_regions(tmp_path: Path):
    for i in range(2):
        picture(tmp_path / f"{i}.jpg", (24, 40))
    annotate(tmp_path / "via.json", ("0.jpg", [BOTTLE, SODA, JUICE]), ("1.jpg", {"0": SODA, "1": BOTTLE}))
    data = open_source(f"via:{tmp_path}", "all")
    assert data.classes.names == ("background", "bottle", "juice", "soda")
    assert data.classes.things == (False, True, True, True)
    first, second = data
    assert first.instances.labels.tolist() == [1, 3, 2]
    assert first.instances.boxes.tolist() == [[2, 1, 10, 9], [8, 4, 18, 10], [25, 9, 35, 19]]
    assert first.instances.masks.areas().tolist()[:2] == [64, 60]
    assert int(first.instances.masks.areas()[2]) == pytest.approx(math.pi * 25, abs=4)
    assert first.semantic[5, 9] == 3, "the later region lies on top"
    assert second.semantic[5, 9] == 1
    assert second.name == "1"
    assert data.paths(1) == (tmp_path / "1.jpg",)
    assert [s.name for s in data[1:]] == ["1"]
    assert check(f"via:{tmp_path}") == []


def test_via_ellipse_turns(tmp_path: Path):
    picture(tmp_path / "images" / "a.jpg", (40, 40))
    tall = region("ellipse", {}, cx=20, cy=20, rx=12, ry=4, theta=math.pi / 2)
    annotate(tmp_path / "p.json", ("a.jpg", [tall]))
    sample = open_source(f"via:{tmp_path / 'p.json'}", "all")[0]
    assert sample.classes.names == ("background", "object"), "regions without attributes are objects"
    assert sample.instances.boxes[0].tolist() == pytest.approx([16, 8, 24, 32], abs=1)


def test_via_project_splits_and_options(tmp_path: Path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "pictures" / f"{name}.jpg", (24, 40))
    checked = region("rect", {"kind": {"dog": True}, "note": "x"}, x=0, y=0, width=4, height=4)
    project = {"_via_settings": {}, "_via_img_metadata": {"k": {"filename": "a.jpg", "size": 1, "regions": [checked]}}}
    (tmp_path / "drinks_train.json").write_text(json.dumps(project))
    cat = region("rect", {"kind": {"cat": True}}, x=0, y=0, width=4, height=4)
    annotate(tmp_path / "drinks-val.json", ("b.jpg", [cat]), ("c.jpg", []))
    options = {"images": str(tmp_path / "pictures"), "attribute": "kind"}
    train, val = (open_source(f"via:{tmp_path}", split, **options) for split in ("train", "val"))
    assert train.classes == val.classes
    assert val.classes.names == ("background", "cat", "dog")
    assert [s.name for s in train] == ["a"]
    assert [s.name for s in val] == ["b", "c"]
    assert len(val[1].instances) == 0
    assert len(open_source(f"via:{tmp_path}", "all", **options)) == 3
    with pytest.raises(UserError, match="no annotation of split 'test'"):
        open_source(f"via:{tmp_path}", "test", **options)
    balloon = tmp_path / "balloon"
    picture(balloon / "train" / "x.jpg", (24, 40))
    annotate(balloon / "train" / "via_region_data.json", ("x.jpg", [BOTTLE]))
    assert open_source(f"via:{balloon}", "train").paths(0) == (balloon / "train" / "x.jpg",)


def test_via_every_fifth_is_val(tmp_path: Path):
    for i in range(11):
        picture(tmp_path / f"{i}.jpg", (24, 40))
    annotate(tmp_path / "via.json", *[(f"{i}.jpg", [SODA]) for i in range(11)])
    assert [s.name for s in open_source(f"via:{tmp_path}", "val")] == ["0", "5", "10"]
    assert len(open_source(f"via:{tmp_path}", "train")) == 8


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (region("point", {"Name": "a"}, cx=1, cy=1), "region 1 is a point, which covers no area"),
        ({"region_attributes": {"Name": "a"}}, "region 1 is a nameless shape, which covers no area"),
        (region("rect", {}, x=1, y=1, width=2, height=2), "region 1 has no 'Name'"),
        (region("rect", {"Name": "a"}, x=1, y=1), "region 1 is a rect with unusable coordinates ('width')"),
        (
            region("polygon", {"Name": "a"}, all_points_x=[1, 2], all_points_y=[1, 2]),
            "region 1 is a polygon of 2 points",
        ),
    ],
)
def test_via_bad_regions(shape: dict, message: str, tmp_path: Path):
    picture(tmp_path / "0.jpg", (24, 40))
    annotate(tmp_path / "via.json", ("0.jpg", [SODA, shape]))
    findings = check(f"via:{tmp_path}")
    assert [(f.code, f.message, f.file) for f in findings] == [("bad_region", message, str(tmp_path / "0.jpg"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "this is no annotation of the VGG Image Annotator"),
        ('{"a": {"b": 1}}', "this is no annotation of the VGG Image Annotator"),
        ("{}", "no image in this folder"),
        (None, "no .json file in this folder"),
    ],
)
def test_via_bad_files(text: str | None, message: str, tmp_path: Path):
    if text is not None:
        (tmp_path / "via.json").write_text(text)
    assert message in check(f"via:{tmp_path}")[0].message


def test_via_missing_image(tmp_path: Path):
    annotate(tmp_path / "via.json", ("0.jpg", [SODA]))
    assert [f.code for f in check(f"via:{tmp_path}")] == ["missing_file"]
