"""Prompts on a command line: from words to masks in files, and every mistake in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sam_peers
from command_line import answer, mistake
from masklet.cli.prompts import things_of
from masklet.inference.asked import spread
from masklet.models import build
from masklet.models.prompting import ask
from masklet.structures import Prompt
from masklet.weights import save_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny SAM, a photograph, a rough mask and strokes."""
    root = tmp_path_factory.mktemp("prompts")
    torch.manual_seed(0)
    save_checkpoint(root / "sam.safetensors", build("sam_vit_b", **sam_peers.TINY))
    y, x = np.mgrid[:40, :60]
    disc = (y - 20) ** 2 + (x - 25) ** 2 < 144
    photo = np.where(disc[..., None], [200, 60, 40], [50, 90, 160]).astype(np.uint8)
    Image.fromarray(photo).save(root / "photo.png")
    Image.fromarray(photo[:, ::-1]).save(root / "other.png")
    Image.fromarray(disc.astype(np.uint8)).save(root / "mask.png")
    strokes = np.zeros((40, 60), np.uint8)
    strokes[20, 20:30], strokes[3, 5:50] = 255, 128
    Image.fromarray(strokes).save(root / "strokes.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / "empty.png")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(root / "small.png")
    return root


def test_things_by_name_and_without(files):
    (one,) = things_of(["3,4", "5,6,0"], ["1,2,30,40"], [], [])
    assert (one.name, one.points, one.labels, one.box) == ("", [(3, 4), (5, 6)], [1, 0], (1, 2, 30, 40))
    two = things_of(["3,4:cat"], ["1,2,30,40:cat", "5,5,9,9:dog"], [str(files / "mask.png") + ":dog"], [])
    assert [(t.name, t.box, t.mask) for t in two] == [
        ("cat", (1, 2, 30, 40), None),
        ("dog", (5, 5, 9, 9), files / "mask.png"),
    ]
    assert [t.box for t in things_of([], ["1,2,3,4", "5,6,7,8"], [], [])] == [(1, 2, 3, 4), (5, 6, 7, 8)]


def test_a_click_becomes_files(files, tmp_path):
    import masklet

    words = ("predict", files / "photo.png", "--model", files / "sam.safetensors", "--out", tmp_path)
    found = answer(
        *words, "--point", "25,20:disc", "--point", "2,3,0:disc", "--box", "30,5,55,30:sky", "--precision", "fp32"
    )
    assert [image["image"] for image in found["images"]] == ["photo.png"]
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["sky", "disc"]  # boxes and masks, then clicks
    model = masklet.load(files / "sam.safetensors")
    with torch.inference_mode():
        embedding = model.embed(
            torch.from_numpy(np.array(Image.open(files / "photo.png"))).permute(2, 0, 1)[None] / 255
        )
    disc = Prompt(torch.tensor([[25.0, 20.0], [2.0, 3.0]]), torch.tensor([1, 0]))
    want = ask(model, embedding, [Prompt(boxes=torch.tensor([[30.0, 5.0, 55.0, 30.0]])), disc]).dense()
    areas = [part["area"] for part in coco["annotations"]]
    assert areas == pytest.approx(want.flatten(1).sum(1).tolist(), abs=3)
    assert (tmp_path / "overlay" / "photo.jpg").exists()
    assert (tmp_path / "index" / "photo.png").exists()


def test_everything_of_every_picture(files, tmp_path):
    words = (
        "predict",
        files / "photo.png",
        files / "other.png",
        "--model",
        files / "sam.safetensors",
        "--out",
        tmp_path,
    )
    found = answer(*words, "--grid", "3", "--threshold", "0", "--formats", "coco,json")
    assert len(found["images"]) == 2


@pytest.mark.parametrize("words", [("--box", "10,5,42,36"), ("--point", "25,20"), ("--scribble", "strokes.png")])
def test_grabcut_needs_no_weights(files, tmp_path, words):
    option, value = words
    value = files / value if option == "--scribble" else value
    answer("predict", files / "photo.png", "--model", "grabcut", option, value, "--out", tmp_path, "--sharpen")
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["annotations"][0]["area"] == np.array(Image.open(files / "mask.png")).sum()


def test_strokes_become_clicks(files, tmp_path):
    words = (
        "predict",
        files / "photo.png",
        "--model",
        files / "sam.safetensors",
        "--out",
        tmp_path,
        "--formats",
        "coco",
    )
    answer(*words, "--scribble", files / "strokes.png")
    line = torch.zeros(4, 9, dtype=torch.bool)
    line[2] = True
    assert spread(line, 3) == [(4.0, 2.0), (0.0, 2.0), (8.0, 2.0)]
    assert spread(line[:, :1], 3) == [(0.0, 2.0)]
    assert spread(line[:2], 3) == []


MISTAKES = [
    (
        ["--point", "3"],
        "--point is '3'",
        "write X,Y for this, or X,Y,0 for not this, in pixels from the top left corner",
    ),
    (["--point", "3,4,7"], "--point is '3,4,7'", "the third number is 1 (this) or 0 (not this)"),
    (
        ["--point", "a,b:cat"],
        "--point is 'a,b:cat'",
        "write X,Y for this, or X,Y,0 for not this, in pixels from the top left corner",
    ),
    (["--box", "1,2,3"], "--box is '1,2,3'", "write X0,Y0,X1,Y1, in pixels from the top left corner"),
    (["--box", "9,9,3,20"], "--box 9,9,3,20 ends before it begins", "write X0,Y0,X1,Y1, not X,Y,WIDTH,HEIGHT"),
    (
        ["--point", "61,3"],
        "the point 61,3 lies outside the image, which is 60 wide and 40 high",
        "points are x,y in pixels from the top left corner",
    ),
    (
        ["--box", "70,3,80,9"],
        "the box 70,3,80,9 covers nothing of the image, which is 60 wide and 40 high",
        "boxes are x0,y0,x1,y1 in pixels from the top left corner",
    ),
    (
        ["--box", "1,1,9,9", "--box", "2,2,8,8", "--point", "3,4"],
        "--point 3,4 belongs to which of 2 things?",
        "name them: --box 0,0,9,9:cat --point 3,4:cat",
    ),
    (
        ["--box", "1,1,9,9:cat", "--box", "2,2,8,8:cat"],
        "'cat' has two of --box",
        "a thing has one; give another name to the other",
    ),
    (["--mask", "none.png"], "--mask none.png does not exist", "name an image file of the size of the picture"),
    (["--mask", "{}/small.png"], "{}/small.png is 3x3 but the image is 40x60", "resize it to the image"),
    (["--mask", "{}/empty.png"], "{}/empty.png is empty", "pixels of the object are not 0"),
    (["--point", "3,4", "--grid", "8"], "--grid is for finding objects without prompts", "leave it out"),
    (["{}/other.png", "--point", "3,4"], "prompts belong to one picture, 2 were named", "name one picture"),
]


@pytest.mark.parametrize(("words", "error", "hint"), MISTAKES)
def test_mistakes_of_prompts(files, tmp_path, words, error, hint):
    said = [word.format(files) for word in words]
    found = mistake("predict", files / "photo.png", "--model", files / "sam.safetensors", "--out", tmp_path, *said)
    assert found == {"error": error.format(files), "hint": hint}


def test_mistakes_of_models(files, tmp_path):
    torch.manual_seed(0)
    unet = save_checkpoint(tmp_path / "unet.safetensors", build("unet", base=4, depth=1))
    found = mistake("predict", files / "photo.png", "--model", unet, "--point", "3,4", "--out", tmp_path)
    assert found["error"] == "unet takes no prompts"
    assert found["hint"].startswith("models that do: ")
    found = mistake("predict", files / "photo.png", "--model", unet, "--grid", "3", "--out", tmp_path)
    assert found == {"error": f"{unet} takes no prompts", "hint": "leave out --grid and --sharpen"}
    found = mistake("predict", files / "photo.png", "--model", "grabcut", "--out", tmp_path)
    assert found == {"error": "grabcut finds nothing by itself", "hint": "give --box, --point or --scribble"}
    words = ("--weights", unet, "--box", "1,2,3,4")
    found = mistake("predict", files / "photo.png", "--model", "grabcut", *words, "--out", tmp_path)
    assert found == {"error": "grabcut has no weights", "hint": "leave out --weights"}


def test_evaluate_by_clicks_and_boxes(files):
    words = ("evaluate", "--data", "synthetic:shapes3", "--split", "val", "--limit", "2", "--clicks", "2")
    found = answer(*words, "--model", "grabcut", "--protocol", "box")
    assert list(found["metrics"]) == ["iou@1"]
    assert found["metrics"]["iou@1"] > 0.5
    assert found["objects"] == 2
    found = answer(*words, "--model", files / "sam.safetensors", "--protocol", "clicks")
    assert {"iou@1", "iou@2", "noc85", "noc90"} <= found["metrics"].keys()
    assert mistake(*words, "--model", "grabcut", "--protocol", "line") == {
        "error": "--protocol has no 'line'",
        "hint": "choose from clicks, box, vos",
    }
