"""What is written comes back the same, with the numbers the data set had on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.data import formats
from masklet.data.check import check
from masklet.data.images import read_labels
from masklet.data.pairs import Coding, Listing
from masklet.data.sources import open_source
from masklet.data.synthetic import synthetic
from masklet.structures import Classes, Instances, Masks, SemanticMap, UserError

SPARSE = Classes(("grass", "dog", "sky"), ids=(3, 7, 90), colors=((1, 2, 3), (4, 5, 6), (7, 8, 9)))


@pytest.mark.parametrize(
    ("classes", "ignored", "mode"),
    [
        (Classes(("a", "b", "c")), 255, "P"),
        (SPARSE, 255, "P"),
        (Classes(("a", "b", "c"), ids=(0, 255, 254)), 253, "P"),
        (Classes(("a", "b", "c"), ids=(0, 1000, 65535)), 65534, "I;16"),
    ],
)
def test_index_png(classes: Classes, ignored: int, mode: str, tmp_path: Path):
    labels = torch.tensor([[0, 1, 2], [2, 255, 0]], dtype=torch.uint8)
    path = tmp_path / "deep" / "a.png"
    formats.write_index_png(path, labels, classes)
    stored = read_labels(path)
    assert stored.tolist() == [[*classes.ids], [classes.ids[2], ignored, classes.ids[0]]]
    assert torch.equal(Coding(classes, ignored=(ignored,)).decode(path), labels)
    with Image.open(path) as image:
        assert image.mode == mode
        if mode == "P":
            assert image.convert("RGB").getpixel((1, 0)) == classes.colors[1]
            assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    with pytest.raises(UserError, match="label 3"):
        formats.write_index_png(path, labels + 3, classes)
    assert read_labels(path).tolist() == stored.tolist(), "a failed write leaves the old file"


def test_more_than_255_classes():
    classes = Classes(tuple(f"c{i}" for i in range(300)), ignore=-1)
    stored = formats.to_ids(torch.tensor([[0, 299, -1]]), classes)
    assert stored.tolist() == [[0, 299, 65535]]


def test_sparse_ids_go_in_and_out(tmp_path: Path):
    """USER: ids 3, 7 and 90 train as 0, 1 and 2 and are exported as 3, 7 and 90."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    stored = np.array([[3, 7], [90, 255]], np.uint8)
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "a.png")
    Image.fromarray(stored).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("3: grass\n7: dog\n90: sky\n")
    sample = open_source(f"folder:{tmp_path}", "all")[0]
    assert sample.semantic.tolist() == [[0, 1], [2, 255]]
    formats.write_index_png(tmp_path / "out.png", sample.semantic, sample.classes)
    assert read_labels(tmp_path / "out.png").tolist() == stored.tolist()
    found = formats.coco_json([("a.png", SemanticMap(sample.semantic, sample.classes))], sample.classes)
    assert [a["category_id"] for a in found["annotations"]] == [3, 7, 90]
    assert [c["id"] for c in found["categories"]] == [3, 7, 90]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in pycocotools
def test_coco_of_objects_reads_with_pycocotools(tmp_path: Path):
    from pycocotools import mask as coco_mask

    sample = synthetic("shapes3", size=48)[0]
    objects = sample.instances
    found = formats.coco_json([("a.jpg", objects), ("b.jpg", objects)], objects.classes)
    assert [image["id"] for image in found["images"]] == [1, 2]
    assert [a["id"] for a in found["annotations"]] == list(range(1, 2 * len(objects) + 1))
    for annotation, mask in zip(found["annotations"], objects.masks.dense(), strict=False):
        assert (coco_mask.decode(annotation["segmentation"]).astype(bool) == mask.numpy()).all()
        assert annotation["area"] == int(mask.sum())
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert annotation["score"] == 1
    formats.write_json(tmp_path / "a.json", found)
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(found))


def test_coco_of_boxes_and_of_nothing():
    classes = Classes(("a", "b"))
    boxes = Instances(
        torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([1]), torch.tensor([0.5]), None, (9, 9), classes
    )
    (entry,) = formats.coco_annotations(boxes, 3, 7)
    assert entry == {
        "id": 7, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0, "score": 0.5,
    }  # fmt: skip
    assert "score" not in formats.coco_annotations(boxes, 3, 7, scores=False)[0]
    nothing = Instances.from_masks(Masks(4, 5), torch.zeros(0, dtype=torch.int64), classes)
    assert formats.coco_annotations(nothing, 1) == []
    ignored = SemanticMap(torch.full((4, 5), 255, dtype=torch.uint8), classes)
    assert formats.coco_annotations(ignored, 1) == []


def test_convert_to_folder_and_back(tmp_path: Path):
    data = synthetic("scenes", "all", size=24, count=2)
    steps: list[tuple[int, int]] = []
    out = formats.convert(data, tmp_path / "out", progress=lambda i, n: steps.append((i, n)))
    assert steps == [(i, 4) for i in range(1, 5)]
    again = open_source(f"folder:{out}", "all")
    assert again.classes == data.classes
    by_name = {s.name: s for s in data}
    for sample in again:
        assert torch.equal(sample.image, by_name[sample.name].image)
        assert torch.equal(sample.semantic, by_name[sample.name].semantic)
    assert [f.code for f in check(f"folder:{out}") if f.level == "error"] == []
    twice = formats.convert(again, tmp_path / "twice")
    name = again[0].name
    assert (twice / "images" / f"{name}.png").read_bytes() == (out / "images" / f"{name}.png").read_bytes()


def test_pictures_with_exif_are_written_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "images" / "a.png", exif=exif)
    Image.new("L", (4, 6), 1).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    out = formats.convert(open_source(f"folder:{tmp_path}", "all"), tmp_path / "out")
    with Image.open(out / "images" / "a.png") as image:
        assert image.size == (4, 6)
        assert not image.getexif()
    assert check(f"folder:{out}")[0].code == "class_absent"


def test_convert_to_flood(tmp_path: Path):
    data = synthetic("flood", size=24, count=6)
    out = formats.convert(data, tmp_path / "flood", "flood")
    assert (out / "metadata.csv").read_text().splitlines()[:2] == [
        "Image,Mask",
        "flood_train_0000.jpg,flood_train_0000.png",
    ]
    again = open_source(f"flood:{out}", "all")
    assert all(torch.equal(a.semantic, b.semantic) for a, b in zip(again, data, strict=True))
    assert len(open_source(f"flood:{out}", "val")) == 2
    assert formats.convert(again, tmp_path / "copy", "flood").is_dir()
    with pytest.raises(UserError, match="the flood layout has two classes, scenes has 5; use folder"):
        formats.convert(synthetic("scenes", size=24, count=1), tmp_path / "x", "flood")
    listing = Listing(
        "two", "all", tmp_path, (("a", tmp_path / "a.png"),), (("a", tmp_path / "m.png"),), Coding(data.classes)
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4), 255).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="a has ignored pixels, which black and white cannot keep; use folder"):
        formats.convert(listing.pairs(), tmp_path / "y", "flood")


def test_convert_to_coco(tmp_path: Path):
    out = formats.convert(synthetic("cells", size=32, count=2), tmp_path / "coco", "coco")
    found = json.loads((out / "annotations.json").read_text())
    assert len(found["images"]) == 2
    assert all((out / "images" / image["file_name"]).is_file() for image in found["images"])
    assert {a["category_id"] for a in found["annotations"]} == {1}
    assert "score" not in found["annotations"][0]
    stuff = formats.convert(synthetic("flood", size=24, count=1), tmp_path / "stuff", "coco")
    found = json.loads((stuff / "annotations.json").read_text())
    assert sum(a["area"] for a in found["annotations"]) == 24 * 24


def test_convert_refuses(tmp_path: Path):
    data = synthetic("flood", size=24, count=1)
    with pytest.raises(UserError, match="unknown format 'voc'; choose from folder, flood, coco"):
        formats.convert(data, tmp_path / "x", "voc")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("")
    with pytest.raises(UserError, match="exists and is not empty; name a new folder"):
        formats.convert(data, tmp_path / "x")

    class Bare:
        name, split, classes = "bare", "all", data.classes

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int):
            from dataclasses import replace

            return replace(data[0], semantic=None)

        def __iter__(self):
            return iter([self[0]])

        def paths(self, index: int) -> tuple[Path, ...]:
            return ()

    with pytest.raises(UserError, match="has no label map; convert a data set with masks"):
        formats.convert(Bare(), tmp_path / "y")
