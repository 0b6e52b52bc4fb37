"""Without `--model` a prompt is answered by the bundled `click`: here an untrained one in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import answer, mistake, run
from masklet.inference import zoom
from masklet.inference.click import ClickSession
from masklet.models import build
from masklet.structures import Classes
from masklet.weights import save_checkpoint

TINY: dict[str, Any] = {
    **{"backbone": "resnet18", "side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundled")
    model = build("sam2", **TINY, classes=Classes(("object",)))
    model.decoder.object[-1].bias.data.fill_(3.0)  # it sees its object in every frame
    save_checkpoint(folder / "click.safetensors", model, half=True)
    return folder


@pytest.fixture
def photo(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", bundled)
    y, x = np.mgrid[:40, :60]
    disc = (y - 20) ** 2 + (x - 25) ** 2 < 144
    Image.fromarray(np.where(disc[..., None], [200, 60, 40], [50, 90, 160]).astype(np.uint8)).save(tmp_path / "a.png")
    strokes = np.zeros((40, 60), np.uint8)
    strokes[20, 20:30], strokes[3, 5:50] = 1, 2
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "mask.png")
    return tmp_path / "a.png"


PROMPTS = [
    ["--point", "25,20"],
    ["--point", "25,20", "--point", "3,3,0"],
    ["--box", "10,5,42,36"],
    ["--scribble", "strokes.png"],
    ["--mask", "mask.png"],
    ["--box", "10,5,42,36", "--sharpen"],
]


@pytest.mark.parametrize("words", PROMPTS)
def test_prompts_need_no_model(photo: Path, tmp_path: Path, words: list[str]) -> None:
    said = [str(tmp_path / word) if word.endswith(".png") else word for word in words]
    plain = answer("predict", photo, *said, "--out", tmp_path / "out")
    named = answer("predict", photo, *said, "--model", "click", "--out", tmp_path / "named")
    assert plain["model"] == named["model"] == "click"
    found, want = (json.loads((tmp_path / out / "coco.json").read_text()) for out in ("out", "named"))
    assert found == want
    assert len(found["annotations"]) == 1


def test_small_things_are_looked_at_closer(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a session of clicks does; `masklet.inference.zoom` decides what is small."""
    seen, answered = [], zoom.answer

    def answer_and_note(*words: Any, **options: Any) -> Any:
        seen.append(options["zoom"])
        return answered(*words, **options)

    monkeypatch.setattr("masklet.inference.zoom.answer", answer_and_note)
    words = ("--box", "10,5,42,36", "--point", "3,3:other", "--precision", "fp32", "--formats", "coco,json")
    answer("predict", photo, *words, "--out", tmp_path / "out")
    assert seen == [zoom.Zoom()] * 2
    box, other = json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"]
    session = ClickSession("click", photo)
    assert box["area"] == pytest.approx(int(session.box(10, 5, 42, 36).sum()), abs=3)
    assert other["area"] == pytest.approx(int(session.click(3, 3, thing="other").sum()), abs=3)


def test_sharpening_moves_the_border_only(photo: Path, tmp_path: Path) -> None:
    masks = []
    for out, more in (("plain", []), ("sharp", ["--sharpen"])):
        answer("predict", photo, "--mask", tmp_path / "mask.png", *more, "--out", tmp_path / out)
        masks.append(np.array(Image.open(tmp_path / out / "index" / "a.png")) > 0)
    assert (masks[0] != masks[1]).any()


def test_without_a_prompt_it_looks_for_everything(photo: Path, tmp_path: Path) -> None:
    words = ("--grid", 4, "--threshold", -1, "--formats", "coco,json")
    found = answer("predict", photo, *words, "--out", tmp_path / "out")
    assert found["model"] == "click"
    assert [image["image"] for image in found["images"]] == ["a.png"]


def test_tracks_need_no_model(photo: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        Image.fromarray(np.roll(np.array(Image.open(photo)), 2 * i, 1)).save(frames / f"{i:02d}.png")
    words = ("track", frames, "--point", "0:25,20", "--formats", "davis,json")
    plain = answer(*words, "--out", tmp_path / "out")
    assert (plain["model"], plain["frames"]) == ("click", 3)
    answer(*words, "--model", "click", "--out", tmp_path / "named")
    found, want = ((tmp_path / out / "masklets.json").read_text() for out in ("out", "named"))
    assert found == want


def test_mistakes(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("predict", photo), ("track", tmp_path, "--point", "0:3,4")):
        assert mistake(*words, "--weights", tmp_path / "x.pt") == {
            "error": "--weights is the file of a system",
            "hint": "name it, for example --model sam2_hiera_tiny",
        }
    film = tmp_path / "film.mp4"
    film.write_bytes(b"")
    assert mistake("predict", film) == {
        "error": f"{film} is a video",
        "hint": "`masklet track` follows what is clicked on; --model pets and the like see every frame by itself",
    }
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    missing = {"error": "the weights of 'click' are not in this copy of masklet", "hint": "run: make train-bundled"}
    assert mistake("predict", photo, "--point", "3,4") == missing
    assert mistake("predict", photo) == missing


def test_help_names_it() -> None:
    for command in ("predict", "track"):
        assert "[default: click]" in run(command, "--help").stdout
