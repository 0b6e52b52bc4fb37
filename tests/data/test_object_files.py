"""Id maps, labelme, YOLO, VOC, SBD, ICDAR and DOTA: read, written, read again; exact words for faults."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy.io import savemat

from conftest import shared
from masklet.data.check import check
from masklet.data.formats import convert
from masklet.data.object_writers import bridged
from masklet.data.rotated_quads import rotated_boxes
from masklet.data.sources import open_source
from masklet.data.yolo import yaml_names
from masklet.ops import polygons
from masklet.structures import Classes, Instances, Masks, Panoptic, Sample, Segment, UserError

TWO = Classes(("cat", "dog"), things=(True, True))
SHAPES = np.zeros((4, 12, 16), bool)
SHAPES[0, 1:5, 1:6] = SHAPES[0, 7:9, 3:5] = True  # two parts
SHAPES[1, 2:11, 8:15], SHAPES[1, 5:7, 10:13] = True, False  # a hole
SHAPES[2, 9:12, 0:16] = True  # over a part of the hole's owner
SHAPES[3, 0:2, 8:16] = True  # a crowd


def same(a: Sample, b: Sample) -> None:
    """Two samples with the same objects."""
    assert torch.equal(a.image, b.image)
    assert a.instances.labels.tolist() == b.instances.labels.tolist()
    assert a.instances.masks.items == b.instances.masks.items


class Made(list):
    """Samples as a data set."""

    name, split, classes = "made", "train", TWO

    def paths(self, index: int) -> tuple[Path, ...]:
        return ()


def made(*chosen: int) -> Made:
    masks = Masks.from_dense(SHAPES[[*chosen]])
    crowd = torch.tensor([k == 3 for k in chosen])
    labels = torch.tensor([k % 2 for k in chosen])
    objects = Instances(masks.boxes(), labels, torch.ones(len(chosen)), masks, (12, 16), TWO, crowd)
    image = torch.arange(3 * 12 * 16, dtype=torch.uint8).view(3, 12, 16)
    return Made([Sample(image, name="a", instances=objects, classes=TWO)])


@pytest.mark.parametrize(
    ("to", "chosen", "lost"),
    [
        ("coco", (0, 1, 2, 3), []),
        ("labelme", (0, 1, 2, 3), []),
        ("yolo", (0, 2), []),
        ("yolo", (0, 1, 2, 3), [
            "1 object left out: YOLO has no mark for regions that are not one object",
            "holes of 1 object filled: an outline in YOLO has none",
        ]),
        ("nuclei", (0, 1, 2, 3), [
            "1 object left out: an id map has no mark for regions that are not one object",
            "1 object lost pixels to a later one: in an id map a pixel belongs to one object",
            "the classes of 3 objects: an id map has only one",
        ]),
    ],
)  # fmt: skip
def test_written_and_read_again(to: str, chosen: tuple[int, ...], lost: list[str], tmp_path: Path):
    told = list[str]()
    convert(made(*chosen), tmp_path / "out", to, lost=told.append)
    assert told == lost
    (found,) = open_source(f"{to}:{tmp_path / 'out'}", "all" if to != "labelme" else "train")
    want = made(*chosen)[0]
    if not lost:
        assert torch.equal(found.image, want.image)
        assert found.instances.masks.items == want.instances.masks.items
        assert found.instances.labels.tolist() == want.instances.labels.tolist()
        assert found.classes.names == TWO.names
        if to != "yolo":
            assert found.instances.crowd.tolist() == want.instances.crowd.tolist()
    elif to == "yolo":
        filled = SHAPES[:3].copy()
        filled[1, 2:11, 8:15] = True
        assert np.array_equal(found.instances.masks.dense(), filled)
    else:
        left = SHAPES[:3].copy()
        left[1] &= ~left[2]
        assert np.array_equal(found.instances.masks.dense(), left)


@pytest.mark.parametrize("to", ["yolo", "labelme", "coco"])
def test_real_data_keeps_its_pixels(to: str, tmp_path: Path):
    data = open_source(f"nuclei:{shared('data', 'nuclei')}", "val")[:4]
    lost = list[str]()
    convert(data, tmp_path / "out", to, lost=lost.append)
    for old, new in zip(data, open_source(f"{to}:{tmp_path / 'out'}", "all" if to != "yolo" else "val"), strict=True):
        if not (to == "yolo" and lost):
            assert new.instances.masks.items == old.instances.masks.items
    back = convert(open_source(f"coco:{tmp_path / 'out'}", "all"), tmp_path / "ids", "nuclei") if to == "coco" else None
    if back is not None:
        for old, new in zip(data, open_source(f"nuclei:{back}", "train"), strict=True):
            same(old, new)


def test_panoptic_things_become_objects(tmp_path: Path):
    classes = Classes(("sky", "cat"), things=(False, True))
    ids = torch.tensor([[1, 1, 5], [7, 7, 5]])
    segments = (Segment(1, 0, False), Segment(5, 1, True), Segment(7, 1, True, crowd=True))
    data = Made([Sample(torch.zeros(3, 2, 3), name="a", panoptic=Panoptic(ids, segments), classes=classes)])
    data.classes = classes
    convert(data, tmp_path / "out", "coco")
    (found,) = open_source(f"coco:{tmp_path / 'out'}", "all")
    assert found.instances.masks.areas().tolist() == [2, 2]
    assert found.instances.crowd.tolist() == [False, True]
    assert [found.classes.names[k] for k in found.instances.labels] == ["cat", "cat"]
    with pytest.raises(UserError) as caught:
        convert(Made([Sample(torch.zeros(3, 2, 3), name="a")]), tmp_path / "b", "yolo")
    assert str(caught.value) == "sample 'a' has no objects; use coco or folder for a label map"


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (9, 11)))
def test_bridges_cover_nothing(mask: np.ndarray):
    rings = polygons.trace(mask)
    if rings:
        assert np.array_equal(polygons.fill([bridged(rings)], 9, 11), mask)


def test_labelme_examples():
    root = shared("data", "labelme_examples", "instance_segmentation", "data_annotated")
    data = open_source(f"labelme:{root}", "all")
    assert len(data.classes) == 20
    names = [[data.classes.names[k] for k in s.instances.labels] for s in data]
    assert names == [
        ["person", "person", "bottle"],
        ["person", "person", "person", "chair", "person", "sofa"],
        ["bus", "bus", "car"],
    ]
    assert check(f"labelme:{root}") == []
    boxes = open_source(f"labelme:{root.parents[1] / 'bbox_detection' / 'data_annotated'}", "all")[0].instances
    assert len(boxes) == 2
    drawn = Image.new("1", (500, 338))  # Pillow's polygon holds its border, so it is a little larger
    for shape in json.loads((root / "2011_000003.json").read_text())["shapes"][1:3]:
        ImageDraw.Draw(drawn).polygon([tuple(p) for p in shape["points"]], fill=1)
    ours, theirs = data[0].instances.masks.dense()[1].numpy(), np.array(drawn)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


def labelme_shape(**more):
    shape = {"label": "cat", "points": [[1, 1], [5, 1], [5, 4]], "shape_type": "polygon", "group_id": None}
    return {"imagePath": "a.png", "imageHeight": 12, "imageWidth": 16, "shapes": [{**shape, **more}]}


def test_labelme_shapes(tmp_path: Path):
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png")
    bitmap = io.BytesIO()
    Image.fromarray(SHAPES[0, :5, :6]).save(bitmap, "PNG")
    mask = {"shape_type": "mask", "mask": base64.b64encode(bitmap.getvalue()).decode(), "points": [[2, 3], [7, 7]]}
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[5, 4], [1, 1]]},
        {"label": "dog", "shape_type": "circle", "points": [[8, 6], [8, 9]], "group_id": 1},
        {"label": "dog", "shape_type": "rectangle", "points": [[0, 10], [2, 12]], "group_id": 1},
        {"label": "_background_", "shape_type": "polygon", "points": []},
        {"label": "cat", **mask},
    ]
    (tmp_path / "a.json").write_text(json.dumps({**labelme_shape(), "shapes": shapes}))
    found = open_source(f"labelme:{tmp_path}")[0].instances
    assert found.labels.tolist() == [0, 1, 0]
    assert found.masks.areas()[0] == 12
    assert found.masks.areas()[1] == 32 + 4, "32 middles of pixels lie within 3 of a corner of pixels"
    assert found.boxes.tolist()[2] == [3, 4, 8, 8]


LABELME = {
    "two points": (
        labelme_shape(points=[[1, 1], [2, 2]]),
        "shape 0 is a polygon of 2 points; give it at least 3, or delete it",
    ),
    "an odd count": (
        labelme_shape(points=[[1, 1], [2, 2], [3]]),
        "shape 0 is a polygon with unusable coordinates (setting an array element with a sequence. The requested array "
        "has an inhomogeneous shape after 1 dimensions. The detected shape was (3,) + inhomogeneous part.); "
        "draw it again, or delete it",
    ),
    "a line": (
        labelme_shape(shape_type="line"),
        "shape 0 is a line, which covers no area; draw a polygon, rectangle or circle, or delete it",
    ),
    "an unknown label": (
        labelme_shape(label="cow"),
        "shape 0 is called 'cow', which labels.txt does not list; add it there, or rename the shape",
    ),
    "another size": (
        {**labelme_shape(), "imageHeight": 13},
        "mask is 13x16 but image is 12x16 (height x width); run `masklet data check` on the data set",
    ),
    "no labelme": (
        {"shapes": [{}]},
        'this is no annotation of labelme; it holds {"shapes": [{"label": ...}]}',
    ),
}


@pytest.mark.parametrize("case", LABELME)
def test_bad_labelme(case: str, tmp_path: Path):
    truth, message = LABELME[case]
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text("__ignore__\ncat\n")
    (tmp_path / "a.json").write_text(json.dumps(truth))
    with pytest.raises(UserError) as caught:
        open_source(f"labelme:{tmp_path}")[0]
    assert str(caught.value) == f"{tmp_path / 'a.json'}: {message}"


YOLO = {
    "odd": ("0 .1 .1 .2 .2 .3", "line 1 has 5 coordinates, an odd number"),
    "two points": ("0 .1 .1", "line 1 is a polygon of 1 points"),
    "no class": ("\n7 .1 .1 .2 .2 .3 .3", "line 2 has the class 7, but there are 2 classes"),
    "pixels": ("0 1 1 20 20 3 30", "line 1 has coordinates from 1 to 30"),
    "words": ("cat .1 .1 .2 .2 .3 .3", "line 1 holds something that is no number"),
    "boxes and outlines": ("0 .5 .5 .2 .2\n0 .1 .1 .2 .2 .3 .3", "line 2: boxes and outlines in one file"),
}


def yolo_folder(root: Path, text: str) -> Path:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (20, 10)).save(root / "images" / "train" / f"{name}.png")
    (root / "labels" / "train" / "a.txt").write_text(text)
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.mark.parametrize("case", YOLO)
def test_bad_yolo(case: str, tmp_path: Path):
    text, message = YOLO[case]
    data = open_source(f"yolo:{yolo_folder(tmp_path, text)}")
    with pytest.raises(UserError) as caught:
        data[0]
    assert caught.value.message == f"{tmp_path / 'labels' / 'train' / 'a.txt'}: {message}"
    assert len(check(data)) == 1


def test_yolo_boxes_and_images_without_objects(tmp_path: Path):
    data = open_source(f"yolo:{yolo_folder(tmp_path, '1 .5 .5 .2 .4')}")
    assert data[0].instances.boxes.tolist() == [pytest.approx([8, 3, 12, 7])]
    assert data[0].instances.masks is None
    assert len(data[1].instances) == 0
    assert (data.paths(1), len(data[1:])) == ((tmp_path / "images" / "train" / "b.png",), 1)
    (tmp_path / "labels" / "train" / "c.txt").write_text("")
    with pytest.raises(UserError, match="no image is called 'c'; add the image, or remove the file"):
        open_source(f"yolo:{tmp_path}")


@pytest.mark.parametrize(
    "text",
    [
        "path: x\nnames: [cat, 'big dog']\nnc: 2",
        "names:\n  - cat\n  - big dog\nnc: 2",
        'nc: 2\nnames:\n  0: cat\n  1: "big dog"\n',
        "names: ['cat',\n  'big dog']",
        "names: {0: cat, 1: big dog}",
    ],
)
def test_names_in_yaml(text: str):
    assert yaml_names(text) == ["cat", "big dog"]


def id_folder(root: Path, ids: np.ndarray) -> Path:
    for folder in ("images", "instance_ids"):
        (root / folder / "val").mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(root / "images" / "val" / "a.jpg")
    Image.fromarray(ids).save(root / "instance_ids" / "val" / "a.png")
    return root


def test_id_maps(tmp_path: Path):
    ids = np.zeros((12, 16), np.uint16)
    ids[2:4, 3:6], ids[8:, 10:] = 40_000, 7
    root = id_folder(tmp_path, ids)
    data = open_source(f"nuclei:{root}", "val", classes="cell")
    assert data.classes.names == ("cell",)
    assert data[0].instances.masks.areas().tolist() == [24, 6]
    assert data[0].instances.boxes.tolist() == [[10, 8, 16, 12], [3, 2, 6, 4]]
    Image.fromarray(ids[:6]).save(root / "instance_ids" / "val" / "a.png")
    text = "mask is 6x16 but image is 12x16 (height x width); run `masklet data check` on the data set"
    assert [str(f) for f in check(data)] == [f"{root / 'instance_ids' / 'val' / 'a.png'}: {text}"]
    (root / "instance_ids" / "val" / "a.png").rename(root / "instance_ids" / "val" / "b.png")
    with pytest.raises(UserError, match=r"a\.jpg: no mask is called 'a' \(2 such files\); add the mask, or remove the"):
        open_source(f"nuclei:{root}", "val")


def test_nuclei_have_every_nucleus():
    data = open_source(f"nuclei:{shared('data', 'nuclei')}", "val")
    assert len(data) == 70
    ids = np.array(Image.open(data.paths(3)[1]))
    found = data[3].instances
    assert np.array_equal(np.bincount(ids.ravel())[1:][np.unique(ids)[1:] - 1], found.masks.areas())
    assert found.masks.union().sum() == (ids > 0).sum()


def test_voc_objects(tmp_path: Path):
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    ids, kinds = np.zeros((2, 12, 16), np.uint8)
    ids[2:6, 2:6], kinds[2:6, 2:6] = 1, 15
    ids[2:6, 9:12], kinds[2:6, 9:12] = 2, 3
    ids[1, 2:12] = kinds[1, 2:12] = 255
    kinds[2, 2] = 255
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", kinds)):
        Image.fromarray(values).save(tmp_path / folder / "a.png")
    data = open_source(f"voc_instances:{tmp_path}")
    assert [data.classes.names[k] for k in data[0].instances.labels] == ["person", "bird"]
    assert data.classes.ids == tuple(range(1, 21))
    assert data[0].instances.masks.areas().tolist() == [16, 12]
    Image.fromarray(kinds * 0).save(tmp_path / "SegmentationClass" / "a.png")
    with pytest.raises(UserError, match="object 1 has the class 0 in SegmentationClass; every object is of a class fr"):
        data[0]


def test_sbd(tmp_path: Path):
    (tmp_path / "img").mkdir()
    (tmp_path / "inst").mkdir()
    Image.new("RGB", (16, 12)).save(tmp_path / "img" / "a.jpg")
    (tmp_path / "train.txt").write_text("a\n")
    ids = np.zeros((12, 16), np.uint8)
    ids[2:6, 2:6], ids[2:6, 9:12] = 1, 2
    truth = {"Segmentation": ids, "Categories": np.array([[15], [3]], np.float64), "Boundaries": 0}
    savemat(tmp_path / "inst" / "a.mat", {"GTinst": truth})
    data = open_source(f"sbd:{tmp_path}")
    assert [data.classes.names[k] for k in data[0].instances.labels] == ["person", "bird"]
    assert data[0].instances.masks.areas().tolist() == [16, 12]
    for categories, message in (
        ([15], "the map holds object 2, but only 1 have a class; copy it again"),
        ([15, 40], "an object has the class 40; classes are 1 to 20"),
    ):
        savemat(tmp_path / "inst" / "a.mat", {"GTinst": {**truth, "Categories": np.array(categories)}})
        with pytest.raises(UserError) as caught:
            data[0]
        assert str(caught.value) == f"{tmp_path / 'inst' / 'a.mat'}: {message}"
    savemat(tmp_path / "inst" / "a.mat", {"other": 1})
    with pytest.raises(UserError, match="this is no file of SBD"):
        data[0]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(2, 60), st.floats(2, 60), st.floats(-44, 44), st.integers(0, 3)
)  # fmt: skip
def test_rectangles_are_their_own_rotated_boxes(cx: float, cy: float, w: float, h: float, degrees: float, first: int):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = np.array([(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)])
    corners = corners @ np.array([[cos, -sin], [sin, cos]]) + (cx, cy)  # counter-clockwise where y points down
    assert rotated_boxes(np.roll(corners, first, 0)[None])[0] == pytest.approx([cx, cy, w, h, degrees], abs=1e-6)


def test_rotated_boxes_have_the_least_area():
    cv2 = pytest.importorskip("cv2")
    corners = np.random.default_rng(0).uniform(0, 100, (200, 4, 2))
    found = rotated_boxes(corners)
    assert (np.abs(found[:, 4]) <= 45).all()
    least = [np.prod(cv2.minAreaRect(quad.astype(np.float32))[1]) for quad in corners]
    assert np.allclose(found[:, 2] * found[:, 3], least, rtol=1e-3)


def test_icdar(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "img_1.png")
    text = tmp_path / "gt" / "gt_img_1.txt"
    text.write_text("\ufeff10,10,30,10,30,20,10,20,a, b\n40,5,50,5,50,15,40,15,###\n")
    found = open_source(f"icdar:{tmp_path}")[0].instances
    assert found.rotated.tolist() == [[20, 15, 20, 10, 0], [45, 10, 10, 10, 0]]
    assert found.crowd.tolist() == [False, True]
    assert found.masks.areas().tolist() == [200, 100]
    for line, message in (
        ("1,2,3", "line 1 has 2 numbers before the transcription; "
            "a line is x1,y1,x2,y2,x3,y3,x4,y4,transcription"),
        ("a,2,3,4,5,6,7,8,x", "a corner is no number (could not convert string to float: 'a'); write it again"),
    ):  # fmt: skip
        text.write_text(line)
        with pytest.raises(UserError) as caught:
            open_source(f"icdar:{tmp_path}")[0]
        assert str(caught.value) == f"{text}: {message}"


def test_dota(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "P1.png")
    text = tmp_path / "labelTxt" / "P1.txt"
    text.write_text("imagesource:GoogleEarth\ngsd:0.1\n10 10 30 10 30 20 10 20 ship 0\n40 5 50 5 50 15 40 15 plane 1\n")
    data = open_source(f"dota:{tmp_path}")
    found = data[0].instances
    assert [data.classes.names[k] for k in found.labels] == ["ship", "plane"]
    assert found.crowd.tolist() == [False, True]
    text.write_text("10 10 30 10 30 20 10 20 boat 0\n")
    with pytest.raises(UserError) as caught:
        open_source(f"dota:{tmp_path}", classes="ship,plane")[0]
    message = "line 1 is called 'boat', which is no class; classes are ship, plane; pass classes=A,B"
    assert str(caught.value) == f"{text}: {message}"
    text.write_text("1 2 3\n")
    with pytest.raises(UserError, match="line 1 has 3 words; a line is x1 y1 x2 y2 x3 y3 x4 y4 class difficult"):
        open_source(f"dota:{tmp_path}")[0]


def test_real_quadrilaterals(tmp_path: Path):
    data = open_source(f"icdar:{shared('data', 'rotated_text')}/textdet_test.json", "all")
    assert sum(len(s.instances) for s in data) == 82
    assert data.keys[-1] == "img_10"
    tile = open_source(f"dota:{shared('data', 'rotated_dota_tile')}", "all")[0].instances
    assert len(tile) == 4
    lost = list[str]()
    convert(data[:1], tmp_path / "out", "coco", lost=lost.append)
    assert lost == [f"rotated boxes of {len(data[0].instances)} objects: coco has no place for them"]


def test_via_there_and_back(tmp_path: Path):
    """Objects of several parts stay one region; holes are filled, crowds left out, and both said."""
    convert(made(0, 2), tmp_path / "out", "via")
    (found,) = open_source(f"via:{tmp_path / 'out'}", "all")
    want = made(0, 2)[0]
    assert torch.equal(found.image, want.image)
    assert found.instances.masks.items == want.instances.masks.items
    assert found.classes.names == ("background", *sorted({TWO.names[k] for k in want.instances.labels.tolist()}))
    names = [found.classes.names[k] for k in found.instances.labels.tolist()]
    assert names == [TWO.names[k] for k in want.instances.labels.tolist()]
    told = list[str]()
    convert(made(0, 1, 2, 3), tmp_path / "more", "via", lost=told.append)
    assert told == [
        "1 object left out: VIA has no mark for regions that are not one object",
        "holes of 1 object filled: an outline in VIA has none",
    ]
    (entry,) = json.loads((tmp_path / "more" / "regions.json").read_text()).values()
    assert (entry["filename"], entry["size"]) == ("a.png", (tmp_path / "more" / "images" / "a.png").stat().st_size)
    boxes = Made([replace(want, instances=replace(want.instances, masks=None))])
    convert(boxes, tmp_path / "boxes", "via")
    (found,) = open_source(f"via:{tmp_path / 'boxes'}", "all")
    assert found.instances.masks.boxes().tolist() == want.instances.boxes.tolist()
