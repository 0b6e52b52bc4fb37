"""`masklet weights` and `masklet doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import masklet
from command_line import answer, mistake, run
from masklet.cli import doctor
from masklet.cli.words import choices, numbers, one_of, pair, settings_of
from masklet.models import build
from masklet.structures import Classes
from masklet.weights import read_note, save_checkpoint


def test_list_says_which_weights_are_here(tmp_path, monkeypatch):
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    model = build("unet", classes=Classes(("dry", "flooded")), base=4, depth=1)
    save_checkpoint(tmp_path / "flood.safetensors", model, {"scores": {"miou": 0.875}})
    lines = run("weights", "list").stdout.splitlines()
    assert next(line for line in lines if line.startswith("flood")).endswith("[mIoU 0.875 on Flood Area Segmentation]")
    assert next(line for line in lines if line.startswith("pets")).endswith(
        "[not in this copy; run: make train-bundled]"
    )
    found = answer("weights", "list")["weights"]
    assert found["flood"]["model"] == "unet"
    assert found["flood"]["classes"] == ["dry", "flooded"]
    assert found["flood"]["path"] == str(tmp_path / "flood.safetensors")
    assert found["pets"]["path"] is None


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A bare state dict, as training scripts leave it."""
    path = tmp_path_factory.mktemp("plain") / "plain.pth"
    torch.save(build("unet", num_classes=3, base=4, depth=1).state_dict(), path)
    return path


def test_convert_gives_a_file_that_knows_itself(plain, tmp_path):
    out = tmp_path / "ours.safetensors"
    words = ("weights", "convert", plain, "base=4", "depth=1", "num_classes=3", "--model", "unet", "--out", out)
    found = answer(*words, "--classes", "a, b, c")
    assert found["files"] == [str(out)]
    assert found["parameters"] == sum(p.numel() for p in build("unet", num_classes=3, base=4, depth=1).parameters())
    model = masklet.load(out)
    assert model.classes.names == ("a", "b", "c")
    assert all(torch.equal(v, torch.load(plain, weights_only=True)[k]) for k, v in model.state_dict().items())
    half = tmp_path / "half.safetensors"
    assert run(*words[:-1], half, "--half").stdout.endswith(f"parameters\nwrote {half}\n")
    assert half.stat().st_size < out.stat().st_size
    assert (read_note(half) or {})["converted"] == {"file": "plain.pth", "origin": None}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["{plain}", "--model", "unet", "--out", "{tmp}/o.pth"],
            "--out is {tmp}/o.pth, but checkpoints are safetensors files",
        ),
        (
            ["{tmp}/none.pth", "--model", "unet", "--out", "{tmp}/o.safetensors"],
            "no weight file at {tmp}/none.pth; check the path",
        ),
        (["{plain}", "base", "--model", "unet", "--out", "{tmp}/o.safetensors"], "'base' is not key=value"),
        (["{plain}", "bas=4", "--model", "unet", "--out", "{tmp}/o.safetensors"], "unknown option of unet 'bas'"),
        (["{plain}", "--model", "unnet", "--out", "{tmp}/o.safetensors"], "unknown model 'unnet'"),
        (["{plain}", "--model", "unet", "--origin", "d2", "--out", "{tmp}/o.safetensors"], "unknown origin 'd2'"),
    ],
)
def test_wrong_conversions(plain, tmp_path, words, error):
    places = {"plain": plain, "tmp": tmp_path}
    assert mistake("weights", "convert", *(word.format(**places) for word in words))["error"] == error.format(**places)
    assert not list(tmp_path.iterdir())


def test_doctor_for_programs():
    found = answer("doctor")
    assert found["masklet"] == masklet.__version__
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["devices"]["cpu"]["works"] is True
    assert found["devices"]["cpu"]["precision"] in ("bfloat16", "float32")
    assert set(found["extras"]) == {"video", "report", "demo", "train", "keras"}
    assert set(found["bundled"]) == {"street", "flood", "pets"}


def test_doctor_for_people_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "version", lambda name: (_ for _ in ()).throw(doctor.PackageNotFoundError(name)))
    text = run("doctor").stdout
    assert "  predict on videos: no (av); pip install 'masklet[video]'" in text
    assert "  device cpu: " in text
    assert "torch missing" in text
    assert "  model street: no weights in this copy; run: make train-bundled" in text


def test_words():
    assert pair("512", "--size") == (512, 512)
    assert pair("360X480", "--size") == (360, 480)
    assert numbers("0.5,1", "--scales") == (0.5, 1.0)
    assert choices("a, b", "--formats", ("a", "b")) == ("a", "b")
    assert one_of("a", "--mode", ("a",)) == "a"
    assert settings_of(["a=1", "b=x=y", "c=[1,2]"], "") == {"a": 1, "b": "x=y", "c": [1, 2]}


@pytest.mark.parametrize("word", ["", "0", "x5", "1x2x3", "-3", "axb"])
def test_wrong_sizes(word):
    with pytest.raises(ValueError, match="--size is "):
        pair(word, "--size")


@pytest.mark.parametrize("word", ["", "a", "1,,2", "0", "-1", "inf", "nan"])
def test_wrong_numbers(word):
    with pytest.raises(ValueError, match="--scales is "):
        numbers(word, "--scales")
