"""`masklet data check|convert|show` on a small set, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import answer, run
from masklet.ops import rle


@pytest.fixture
def photos(tmp_path) -> Path:
    root = tmp_path / "photos"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nsquare\n")
    for i in range(6):
        mask = np.zeros((20, 24), np.uint8)
        mask[4 + i : 12 + i, 4:12] = 1
        Image.fromarray(np.full((20, 24, 3), 90 + i, np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


def test_check_finds_nothing_wrong(photos):
    result = run("data", "check", f"folder:{photos}")
    assert (result.exit_code, result.stdout) == (0, "nothing wrong\n")
    found = answer("data", "check", f"folder:{photos}", "--limit", 2)
    assert (found["command"], found["split"], found["findings"], found["errors"]) == ("data check", "all", [], 0)


def test_check_names_the_bad_files(photos):
    Image.new("L", (10, 10)).save(photos / "masks" / "2.png")
    (photos / "images" / "4.png").unlink()
    result = run("data", "check", f"folder:{photos}", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["errors"] == 2
    assert {(Path(f["file"]).name, f["code"], f["level"]) for f in found["findings"]} == {
        ("2.png", "size_mismatch", "error"),
        ("4.png", "mask_without_image", "error"),
    }
    text = run("data", "check", f"folder:{photos}").stdout
    assert f"error: {photos / 'masks' / '2.png'}: mask is 10x10 but image is 20x24" in text
    assert text.endswith("2 errors, 0 warnings\n")


def test_convert_and_back(photos, tmp_path):
    found = answer("data", "convert", f"folder:{photos}", tmp_path / "coco", "--to", "coco")
    assert (found["files"], found["samples"], found["to"]) == ([str(tmp_path / "coco")], 6, "coco")
    assert len(json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]) == 6
    assert run("data", "convert", f"folder:{photos}", tmp_path / "again").exit_code == 0
    assert run("data", "check", f"folder:{tmp_path / 'again'}").stdout == "nothing wrong\n"


def test_show_draws_a_contact_sheet(photos, tmp_path):
    out = tmp_path / "sheet.png"
    result = run("data", "show", f"folder:{photos}", "--split", "all", "--count", 5, "--out", out)
    assert result.stdout == f"6 samples, 2 classes: ground, square\nwrote {out}\n"
    with Image.open(out) as sheet:
        assert sheet.width == 1600


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["data"], None, None),
        (["data", "check"], "masklet data check needs SOURCE", "see masklet data check --help"),
        (
            ["data", "check", "{photos}"],
            "data source '{photos}' is not of the form `kind:path`",
            "write `folder:{photos}`",
        ),
        (["data", "check", "folders:{photos}"], "unknown kind of data 'folders'", None),
        (
            ["data", "check", "folder:{photos}", "--option", "suffix"],
            "--option 'suffix' is not key=value",
            "write for example mask_suffix=_mask or depth=3",
        ),
        (
            ["data", "check", "folder:{photos}", "--option", "sufix=1"],
            "folder has no option 'sufix'",
            "it takes mask_suffix",
        ),
        (["data", "check", "folder:{photos}", "--split", "vall"], "unknown split 'vall'", None),
        (["data", "check", "folder:{photos}", "--limit", "0"], None, "see masklet data check --help"),
        (["data", "convert", "folder:{photos}"], "masklet data convert needs OUT", None),
        (["data", "convert", "folder:{photos}", "{photos}"], "{photos} exists and is not empty", "name a new folder"),
        (["data", "convert", "folder:{photos}", "{tmp}/new", "--to", "coko"], "unknown format 'coko'", None),
        (
            ["data", "show", "folder:{tmp}/none"],
            "{tmp}/none: the folder does not exist",
            "check the path after `kind:`",
        ),
    ],
)
def test_wrong_input(photos, tmp_path, words, error, hint):
    places = {"photos": photos, "tmp": tmp_path}
    result = run(*(word.format(**places) for word in words), "--json")
    if words == ["data"]:
        assert result.exit_code in (0, 2)  # some versions of click show the help instead
        return
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert error is None or found["error"] == error.format(**places)
    assert hint is None or found["hint"] == hint.format(**places)


def test_objects_are_checked_shown_and_converted(tmp_path):
    """Two images of three cells, the second under the third: as id maps, then as COCO and back."""
    masks = np.zeros((3, 20, 24), bool)
    masks[0, 2:6, 2:8] = masks[1, 8:16, 3:9] = masks[2, 12:18, 5:15] = True
    entries = [
        {"id": 10 * i + k, "image_id": i, "category_id": 7, "segmentation": rle.to_coco(rle.encode(mask)),
         "bbox": [0, 0, 9, 9], "iscrowd": 0}
        for i in (1, 2) for k, mask in enumerate(masks)
    ]  # fmt: skip
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        Image.fromarray(np.full((20, 24, 3), 90 + i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 24} for i in (1, 2)]
    truth = tmp_path / "annotations.json"
    categories = [{"id": 7, "name": "cell"}]
    truth.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    assert run("data", "check", f"coco:{truth}").stdout == "nothing wrong\n"
    out = tmp_path / "sheet.png"
    shown = run("data", "show", f"coco:{truth}", "--split", "all", "--out", out)
    assert shown.stdout == f"2 samples, 1 classes: cell\nwrote {out}\n"
    with Image.open(out) as sheet:
        pixels = np.array(sheet.convert("RGB")).reshape(-1, 3)
    assert (np.ptp(pixels.astype(int), axis=1) > 50).any(), "objects are in colour, the photographs are grey"
    ids = tmp_path / "ids"
    lost = "2 objects lost pixels to a later one: in an id map a pixel belongs to one object"
    result = run("data", "convert", f"coco:{truth}", ids, "--to", "nuclei")
    assert result.stdout == f"2 samples as nuclei\nlost: {lost}\nwrote {ids}\n"
    back = answer("data", "convert", f"nuclei:{ids}", tmp_path / "yolo", "--to", "yolo", "--split", "train")
    assert (back["samples"], back["lost"]) == (2, [])
    assert run("data", "check", f"yolo:{tmp_path / 'yolo'}").stdout == "nothing wrong\n"
    truth.write_text("{")
    broken = run("data", "check", f"coco:{truth}", "--json")
    assert broken.exit_code == 1
    assert [(f["code"], f["level"]) for f in json.loads(broken.stdout)["findings"]] == [("bad_table", "error")]
