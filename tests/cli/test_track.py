"""`masklet track` from words to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import answer, mistake
from masklet.cli.track import prompts_of
from masklet.data.davis import read_object_ids
from masklet.data.davis_writer import davis_palette, write_davis_png
from masklet.models import build
from masklet.ops.rle import encode, from_coco
from masklet.structures.errors import UserError
from masklet.weights import save_checkpoint

TINY: dict[str, Any] = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build("sam2_hiera_tiny", **TINY)
    model.decoder.object[-1].bias.data.fill_(3.0)
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.safetensors", model)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("film"), np.random.default_rng(0)
    picture = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(np.roll(picture, 2 * i, 1)).save(folder / f"{i:02d}.png")
    drawn = np.zeros((40, 60), np.uint8)
    drawn[10:30, 10:40] = 1
    (folder / "drawn").mkdir()
    Image.fromarray(drawn).save(folder / "drawn" / "mask.png")
    return folder


def test_two_objects_to_files(checkpoint: Path, film: Path, tmp_path: Path) -> None:
    prompts = ("--point", "0:20,15", "--point", "0:50,5:1:0", "--mask", f"1:{film / 'drawn' / 'mask.png'}:2")
    found = answer("track", film, "--model", checkpoint, *prompts, "--out", tmp_path, "--precision", "fp32")
    assert (found["command"], found["frames"]) == ("track", 4)
    assert [Path(file).name for file in found["files"]] == ["overlay.mp4", "masklets.json", "masks"]
    entries = json.loads((tmp_path / "masklets.json").read_text())
    assert [entry["frame"] for entry in entries] == [0, 1, 2, 3]
    assert [list(entry["objects"]) for entry in entries] == [["1"], ["1", "2"], ["1", "2"], ["1", "2"]]
    for entry in entries:
        ids = read_object_ids(tmp_path / "masks" / f"{entry['frame']:05d}.png")
        first = from_coco(entry["objects"]["1"])
        assert int((ids == 1).sum()) == first.area
        assert 0 <= entry["objects"]["1"]["score"] <= 1
    assert set(found["seen"]) == {"1", "2"}
    assert (tmp_path / "overlay.mp4").stat().st_size > 0
    back = answer(
        *("track", film, "--model", checkpoint, "--box", "2:5,5,40,30", "--out", tmp_path / "back"),
        *("--direction", "backward", "--formats", "json", "--non-overlap", "--fill-hole-area", "8"),
    )
    assert [entry["frame"] for entry in json.loads((tmp_path / "back" / "masklets.json").read_text())] == [2, 1, 0]
    assert back["frames"] == 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "nothing says what to follow"),
        (("--point", "20,15"), "--point is '20,15'"),
        (("--point", "0:20"), "--point is '0:20'"),
        (("--point", "0:20,15:1:0:3"), "--point is '0:20,15:1:0:3'"),
        (("--point", "0:20,15:cat"), "--point is '0:20,15:cat'"),
        (("--box", "0:20,15,10,30"), "--box 0:20,15,10,30 ends before it begins"),
        (("--box", "0:1,1,9,9", "--box", "0:2,2,9,9"), "--box 0:2,2,9,9 is the second of its object in this frame"),
        (("--mask", "0:nowhere.png"), "--mask nowhere.png does not exist"),
        (("--point", "9:20,15"), "there is no frame 9"),
        (("--point", "0:90,15"), "the point 90,15 lies outside the image, which is 60 wide and 40 high"),
        (("--point", "0:1,1", "--direction", "up"), "--direction has no 'up'"),
    ],
)
def test_mistakes_of_the_user(checkpoint: Path, film: Path, words: tuple[str, ...], error: str) -> None:
    assert mistake("track", film, "--model", checkpoint, *words)["error"] == error


def test_a_model_that_cannot_follow(film: Path) -> None:
    assert mistake("track", film, "--model", "street", "--point", "0:1,1")["error"] == "unet follows no objects"


def test_words_of_prompts() -> None:
    said = prompts_of(["0:1,2", "0:3,4:0", "5:6,7:2", "5:8,9:2:0", "5:1,1:2:1"], ["0:1,2,3,4:3"], [])
    assert said[0, 1] == {"points": [[1.0, 2.0], [3.0, 4.0]], "labels": [1, 0]}
    assert said[5, 2] == {"points": [[6.0, 7.0], [8.0, 9.0], [1.0, 1.0]], "labels": [1, 0, 1]}
    assert said[0, 3] == {"box": [1.0, 2.0, 3.0, 4.0]}


def test_davis_files(tmp_path: Path) -> None:
    colors = davis_palette()
    assert colors[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]  # as in DAVIS' own files
    assert colors[8].tolist() == [64, 0, 0]
    left, right = np.zeros((2, 5, 6), bool)
    left[:, :4], right[:, 2:] = True, True
    write_davis_png(tmp_path / "00000.png", {2: encode(right), 1: encode(left)}, (5, 6))
    ids = read_object_ids(tmp_path / "00000.png")
    assert ids.tolist() == [[1, 1, 1, 1, 2, 2]] * 5
    with pytest.raises(UserError, match=r"^object 255 has no place in a DAVIS file; number objects from 1 to 254$"):
        write_davis_png(tmp_path / "x.png", {255: encode(left)}, (5, 6))
    write_davis_png(tmp_path / "empty.png", {}, (5, 6))
    assert not read_object_ids(tmp_path / "empty.png").any()


def test_evaluate_on_videos(checkpoint: Path, film: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / folder / "480p" / name).mkdir(parents=True)
        for i, file in enumerate(sorted(film.glob("*.png"))):
            Image.open(file).save(tmp_path / "JPEGImages" / "480p" / name / f"{i:05d}.jpg")
            ids = read_object_ids(film / "drawn" / "mask.png")
            Image.fromarray(np.roll(ids, 2 * i, 1)).save(tmp_path / "Annotations" / "480p" / name / f"{i:05d}.png")
    words = ("evaluate", "--model", checkpoint, "--data", f"davis:{tmp_path}", "--split", "all", "--protocol", "vos")
    found = answer(*words, "--precision", "fp32")
    assert (found["videos"], found["objects"], found["protocol"], found["clicks"]) == (2, 2, "vos", None)
    assert {"j", "f", "jf", "jf/a", "jf/b"} <= found["metrics"].keys()
    assert found["metrics"]["jf"] == pytest.approx((found["metrics"]["j"] + found["metrics"]["f"]) / 2, abs=2e-6)
    assert found["metrics"]["jf/a"] == found["metrics"]["jf/b"] == found["metrics"]["jf"]
    clicked = answer(*words, "--clicks", "3", "--limit", "1")
    assert (clicked["videos"], clicked["clicks"]) == (1, 3)
    wrong = ("evaluate", "--model", checkpoint, "--data", "synthetic:shapes3", "--protocol", "vos")
    assert mistake(*wrong) == {
        "error": "shapes3 has no videos",
        "hint": "follow objects through davis:, youtube_vos: or sav:",
    }
