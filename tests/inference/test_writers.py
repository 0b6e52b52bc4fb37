from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.inference import writers
from masklet.inference.writers import predict_files, summary, write
from masklet.structures import Classes, Instances, Masks, SemanticMap
from masklet.structures.errors import UserError
from semantic_toys import CLASSES, Brightness


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def result(height=40, width=60):
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[: height // 2] = 2
    return SemanticMap(labels, CLASSES)


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_every_format_of_one_result(tmp_path):
    paths = write(result(), photo(), tmp_path, "cat", (*writers.FORMATS, "overlay.png"), seconds=1.5)
    assert sorted(paths) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert files(tmp_path) == [
        "coco/cat.json", "html/cat.html", "index/cat.png", "json/cat.json", "overlay/cat.jpg", "overlay/cat.png",
    ]  # fmt: skip
    index = opened(tmp_path / "index/cat.png")
    assert index.mode == "P"
    np.testing.assert_array_equal(np.asarray(index), result().labels)
    assert tuple(index.getpalette()[6:9]) == CLASSES.colors[2]
    assert opened(tmp_path / "overlay/cat.jpg").size == (60, 40)
    about = json.loads((tmp_path / "json/cat.json").read_text())
    assert about == summary("cat", result(), 1.5)
    assert [(c["name"], c["fraction"], c["pixels"]) for c in about["classes"]] == [
        ("sky", 0.5, 1200),
        ("car", 0.5, 1200),
    ]
    coco = json.loads((tmp_path / "coco/cat.json").read_text())
    assert [a["category_id"] for a in coco["annotations"]] == [0, 2]
    assert Masks.from_rle([coco["annotations"][1]["segmentation"]]).dense()[0].equal(result().mask("car"))
    assert "data:image/jpeg;base64," in (tmp_path / "html/cat.html").read_text()


def test_channels_first_and_float_pictures_are_written_too(tmp_path):
    array = photo()
    image = torch.from_numpy(array).permute(2, 0, 1)
    write(result(), image, tmp_path, "a", ("overlay.png",))
    write(result(), image.float() / 255, tmp_path, "b", ("overlay.png",))
    np.testing.assert_array_equal(*(np.asarray(opened(tmp_path / f"overlay/{n}.png")) for n in "ab"))


def test_objects_are_written_with_their_numbers(tmp_path):
    mask = torch.zeros(3, 40, 60, dtype=torch.bool)
    mask[0, 5:15, 10:20] = True
    mask[1, 5:15, 15:25] = True  # behind the first, which is better
    mask[2, 30:40, 50:60] = True
    labels, scores = torch.tensor([2, 2, 0]), torch.tensor([0.9, 0.8, 0.7])
    objects = Instances.from_masks(Masks.from_dense(mask), labels, CLASSES, scores)
    write(objects, photo(), tmp_path, "x", ("overlay", "index", "coco", "json", "html"))
    ids = np.asarray(opened(tmp_path / "index/x.png"))
    assert ids.dtype == np.uint16
    assert np.bincount(ids.ravel()).tolist() == [40 * 60 - 250, 100, 50, 100]
    kinds = json.loads((tmp_path / "json/x.json").read_text())["classes"]
    assert [(k["name"], k["objects"], k["pixels"]) for k in kinds] == [("car", 2, 200), ("sky", 1, 100)]
    assert json.loads((tmp_path / "coco/x.json").read_text())["annotations"][0]["bbox"] == [10, 5, 10, 10]


def test_boxes_alone_are_written_too(tmp_path):
    boxes = torch.tensor([[10.0, 5.0, 20.0, 15.0], [10.0, 5.0, 30.0, 15.0]])
    objects = Instances(boxes, torch.tensor([2, 0]), torch.tensor([0.9, 0.8]), None, (40, 60), CLASSES)
    write(objects, photo(), tmp_path, "x")
    ids = np.asarray(opened(tmp_path / "index/x.png"))
    assert np.bincount(ids.ravel()).tolist() == [40 * 60 - 200, 100, 100]
    kinds = json.loads((tmp_path / "json/x.json").read_text())["classes"]
    assert [(k["name"], k["pixels"]) for k in kinds] == [("sky", 200), ("car", 100)]
    write(objects[[]], photo(), tmp_path, "none")
    assert not np.asarray(opened(tmp_path / "index/none.png")).any()


def test_what_covers_no_pixels_has_no_index(tmp_path):
    with pytest.raises(UserError, match='str has no class for every pixel; leave out the format "index"'):
        write("a word", photo(), tmp_path, "x", ("index",))


def test_unknown_formats(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown format 'gif'; choose from overlay, index, coco, json, html, overlay.png"
    ):
        write(result(), photo(), tmp_path, "x", ("gif",))
    with pytest.raises(UserError, match="unknown format 'gif'"):
        predict_files(Brightness(), photo(), tmp_path, formats=("gif",))


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "photos"
    (source / "more").mkdir(parents=True)
    for i, name in enumerate(("a_10.png", "a_2.png", "more/a_2.jpg")):
        Image.fromarray(photo(seed=i)).save(source / name)
    return source


def test_a_folder_becomes_files_and_one_report(folder, tmp_path):
    seen, out = [], tmp_path / "out"
    done = predict_files(
        Brightness().eval(), [folder, folder / "more"], out, precision="fp32", progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert files(out) == [
        "coco.json", "index/a_10.png", "index/a_2-2.png", "index/a_2.png", "overlay/a_10.jpg", "overlay/a_2-2.jpg",
        "overlay/a_2.jpg", "report.html", "summary.json",
    ]  # fmt: skip
    assert sorted(done.files) == sorted(p for p in out.rglob("*") if p.is_file())
    coco = json.loads((out / "coco.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == ["a_2.png", "a_10.png", "a_2.jpg"]
    assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert {a["image_id"] for a in coco["annotations"]} == {1, 2, 3}
    assert [c["name"] for c in coco["categories"]] == list(CLASSES.names)
    about = json.loads((out / "summary.json").read_text())
    assert about["model"] == "brightness"
    assert [i["image"] for i in about["images"]] == ["a_2.png", "a_10.png", "a_2.jpg"]
    assert sum(c["fraction"] for c in about["images"][0]["classes"]) == pytest.approx(1, abs=1e-5)
    report = (out / "report.html").read_text()
    assert report.count("<figure>") == 3
    assert "http" not in report.replace("http-equiv", "")


def test_only_what_was_asked_for(folder, tmp_path):
    done = predict_files(Brightness(), folder / "a_2.png", tmp_path / "out", formats=("index",))
    assert files(tmp_path / "out") == ["index/a_2.png"]
    assert done.images[0]["image"] == "a_2.png"


@pytest.mark.parametrize("where", ["_write_pixels", "write_json", "page"])
def test_an_interruption_leaves_only_finished_files(folder, tmp_path, monkeypatch, where):
    calls, real = [], getattr(writers, where)

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == (3 if where == "_write_pixels" else 1):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(writers, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(Brightness(), folder, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        assert path.suffix in (".png", ".jpg", ".json")
        if path.suffix != ".json":
            opened(path)
        else:
            json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["overlay", "index", "coco", "json", "html"])
def test_an_interruption_in_the_middle_of_a_file_leaves_the_old_one(tmp_path, monkeypatch, kind):
    write(result(), photo(), tmp_path, "x", (kind,))
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    before = path.read_bytes()

    def half(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.Image.Image.save", lambda image, path, *args, **kwargs: half(path))
    monkeypatch.setattr("pathlib.Path.write_text", lambda path, *args, **kwargs: half(path))
    if kind == "html":
        monkeypatch.setattr(writers, "card", lambda *args: None)
        monkeypatch.setattr(writers, "page", lambda *args: "")
    with pytest.raises(KeyboardInterrupt):
        write(result(), photo(seed=5), tmp_path, "x", (kind,))
    assert path.read_bytes() == before
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_many_pictures_make_a_light_report():
    one = writers._Cards(writers.CROWD + 1)
    assert one.side < writers._Cards(3).side


def test_classes_whose_numbers_on_disk_differ(tmp_path):
    classes = Classes(("a", "b", "c"), ids=(3, 7, 90))
    write(SemanticMap(result().labels, classes), photo(), tmp_path, "x", ("index",))
    assert set(np.unique(np.asarray(opened(tmp_path / "index/x.png")))) == {3, 90}
