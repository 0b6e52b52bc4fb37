"""`masklet weights` and `masklet doctor`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import masklet
from command_line import answer, mistake, run
from conftest import REPOSITORY
from masklet.cli import doctor
from masklet.cli.words import choices, numbers, one_of, pair, settings_of
from masklet.models import build
from masklet.structures import Classes
from masklet.weights import CATALOG, read_note, save_checkpoint


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
    published = found["fcn_resnet50_coco"]
    assert published["sha256"] == "1167a1af"
    assert published["licence"] == "BSD-3-Clause"
    assert published["scores"] == {"miou": 0.605, "pixel_accuracy": 0.914}
    assert published["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    line = next(line for line in lines if line.startswith("fcn_resnet50_coco"))
    assert (
        "  to fetch, 135 MiB  20 kinds of everyday objects and background, fcn_resnet50  [mIoU 0.605 on COCO]" in line
    )
    assert list(answer("weights", "list", "--here")["weights"]) == ["flood"]


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """An empty cache and no network; `flood` is what masklet brings along."""
    monkeypatch.setenv("MASKLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKLET_OFFLINE", "1")
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    save_checkpoint(tmp_path / "flood.safetensors", build("unet", classes=Classes(("dry", "wet")), base=4, depth=1))
    return tmp_path


def test_fetch_offline(machine):
    found = mistake("weights", "fetch", "flood", "fcn_resnet50_coco")
    assert found["error"] == "fcn_resnet50_coco is not on this machine and MASKLET_OFFLINE is set"
    assert found["hint"] == (
        f"put https://download.pytorch.org/models/fcn_resnet50_coco-1167a1af.pth into {machine / 'cache' / 'weights'}, "
        "or run there: masklet weights import BUNDLE"
    )
    assert answer("weights", "fetch", "flood")["weights"] == {"flood": str(machine / "flood.safetensors")}
    assert mistake("weights", "fetch", "flod") == {"error": "unknown weights 'flod'", "hint": "did you mean flood?"}
    assert mistake("weights", "fetch")["error"] == "no weights were named"


def test_what_was_put_in_the_cache_by_hand_is_checked(machine):
    by_hand = machine / "cache" / "weights" / "resnet18-f37072fd.pth"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"half a file")
    sentence = f"{by_hand} is not what was published (its sha256 begins 89ec7839, not f37072fd)"
    found = mistake("weights", "fetch", "resnet18_imagenet")
    assert found == {"error": sentence, "hint": "run: masklet weights fetch resnet18_imagenet --again"}
    result = run("weights", "verify")
    assert (result.exit_code, result.stdout) == (1, f"resnet18_imagenet: {sentence}\n")
    by_hand.unlink()
    assert run("weights", "verify").stdout == f"no weights in {by_hand.parent}\n"
    assert mistake("weights", "verify", "flood")["error"] == "flood is not in the cache"


def test_licences_and_the_gate():
    found = answer("weights", "licences")["weights"]
    assert found["deeplabv3plus_resnet103_cityscapes"] == {
        "licence": "CC-BY-SA-3.0",
        "text": "https://spdx.org/licenses/CC-BY-SA-3.0.html",
        "objections": ["copyleft", "non-commercial-data"],
        "data": ["ImageNet", "Cityscapes"],
    }
    assert set(found) == set(CATALOG)
    gate = ("--fail-on", "non-commercial,copyleft")
    assert run("weights", "licences", "flood", "fcn_resnet50_coco", *gate).exit_code == 0
    result = run("weights", "licences", "flood", "deeplabv3plus_resnet103_cityscapes", *gate)
    assert result.exit_code == 1
    assert result.stdout.endswith("\nrefused: deeplabv3plus_resnet103_cityscapes\n")
    result = run("weights", "licences", "flood", "unet_drive", "--fail-on", "non-commercial-data", "--json")
    assert (result.exit_code, json.loads(result.stdout)["refused"]) == (1, ["flood"])
    assert mistake("weights", "licences", "--fail-on", "gpl") == {
        "error": "--fail-on has no 'gpl'",
        "hint": "choose from non-commercial, copyleft, non-commercial-data, unknown",
    }
    assert mistake("weights", "licences", "unet_driv")["hint"] == "did you mean unet_drive?"


def test_a_bundle_from_machine_to_machine(machine, monkeypatch):
    (machine / "flood.safetensors").rename(machine / "lakes.safetensors")
    out = machine / "air.zip"
    packed = answer("weights", "bundle", machine / "lakes.safetensors", "--out", out)
    assert packed["files"] == [str(out)]
    assert [item["licence"] for item in packed["weights"]] == [None]
    digest = packed["sha256"]
    found = answer("weights", "import", out, "--sha256", digest)
    assert found["files"] == [str(machine / "cache" / "weights" / "lakes.safetensors")]
    assert masklet.load("lakes").classes.names == ("dry", "wet")
    assert answer("weights", "list", "--here")["weights"]["lakes"]["sha256"] == found["weights"][0]["sha256"]
    assert run("weights", "verify").stdout == "lakes: right\n"
    assert "lakes" in run("weights", "licences", "--fail-on", "unknown").stdout.splitlines()[-1]
    assert run("weights", "licences", "lakes", "--fail-on", "copyleft").exit_code == 0
    place = machine / "cache" / "weights" / "lakes.safetensors"
    place.write_bytes(place.read_bytes()[:-1])
    result = run("weights", "verify", "lakes")
    assert result.exit_code == 1
    assert f"{place} has changed since it came" in result.stdout
    assert mistake("weights", "import", out, "--sha256", "0" * 64)["error"].startswith(f"{out} is not the bundle with")


def test_convert_there_and_back(tmp_path):
    """From ours to OpenMMLab's names and back: the same tensors under the same names."""
    settings = {"base": 4, "up": "interp_conv", "head_channels": 64, "dropout": 0.1}
    model = build("unet", num_classes=3, **settings)
    ours = save_checkpoint(tmp_path / "ours.safetensors", model)
    theirs, again = tmp_path / "theirs.pth", tmp_path / "again.safetensors"
    found = answer("weights", "convert", ours, "--to", "openmmlab", "--out", theirs)
    assert (found["model"], found["files"]) == ("unet", [str(theirs)])
    assert "decode_head.conv_seg.weight" in torch.load(theirs, weights_only=True)
    answer("weights", "convert", theirs, "base=4", "--model", "unet", "--out", again)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in load_file(again).items())
    answer("weights", "convert", ours, "--to", "openmmlab", "--out", tmp_path / "theirs.safetensors")
    assert load_file(tmp_path / "theirs.safetensors").keys() == torch.load(theirs, weights_only=True).keys()
    wrong = mistake("weights", "convert", ours, "--to", "openmmlab", "--out", tmp_path / "x.onnx")
    assert wrong["error"] == "--to openmmlab writes .safetensors or .pth, in 32 bits"
    assert mistake("weights", "convert", ours, "--to", "semseg", "--out", theirs)["error"] == (
        "there is no way back from this unet to semseg"
    )
    assert mistake("weights", "convert", theirs, "--out", again)["error"] == (
        "theirs.pth does not say which model it is for"
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A bare state dict, as training scripts leave it."""
    path = tmp_path_factory.mktemp("plain") / "plain.pth"
    torch.save(build("unet", num_classes=3, base=4, depth=1).state_dict(), path)
    return path


def test_what_the_catalog_knows_of_a_file_stays_known(tmp_path, machine):
    """A published file that is converted keeps its licence and its classes, in a bundle too."""
    entry = CATALOG["unet_drive"]
    torch.save(build("unet", num_classes=2, base=4, depth=1).state_dict(), tmp_path / entry.file)
    out = tmp_path / "vessels.safetensors"
    words = ("weights", "convert", tmp_path / entry.file, "base=4", "depth=1", "--model", "unet", "--out", out)
    answer(*words)
    note = read_note(out)
    assert (note["licence"], note["objections"]) == (entry.licence, list(entry.kinds))
    assert tuple(note["classes"]["names"]) == entry.classes.names
    (item,) = answer("weights", "bundle", out, "--out", tmp_path / "air.zip")["weights"]
    assert (item["licence"], item["objections"], item["source"]) == (entry.licence, list(entry.kinds), entry.source)
    answer(*words, "num_classes=2")
    assert read_note(out)["classes"]["names"] != note["classes"]["names"]


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
    assert set(found["bundled"]) == {"street", "flood", "pets", "nuclei", "click"}


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


def test_the_page_about_weights_runs(tmp_path, monkeypatch):
    """Every command and example of docs/weights.md that needs no network and no file of somebody else."""
    if not (CATALOG["flood"].path.exists() and CATALOG["street"].path.exists()):
        pytest.skip("this copy has no bundled weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKLET_OFFLINE", "1")
    page = (REPOSITORY / "docs" / "weights.md").read_text()
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)).splitlines()
    words = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("masklet ")]
    runnable = [w for w in words if w[:2] not in (["weights", "fetch"], ["weights", "convert"]) and w[0] != "predict"]
    assert [w[1] for w in runnable] == ["list", "verify", "bundle", "import", "list", "licences", "licences"]
    for line in runnable:
        assert run(*line).exit_code == 0, line
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile("\n".join(blocks), "weights.md", "exec"), {})
