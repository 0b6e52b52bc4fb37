"""Every way a weight file can be broken is one sentence; what we write is whole or not there."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from masklet.models import build
from masklet.structures.errors import UserError
from masklet.weights import load, read_note, read_tensors, save_checkpoint
from masklet.weights.files import VERSION, unwrap

GOOD = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2)}


class Trap:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch sprung",)


def torch_file(content, **options) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def safe_file(content, **metadata) -> bytes:
    from safetensors.torch import save

    return save(content, metadata or None)


def zip_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("readme.txt", "no weights here")
    return out.getvalue()


CUT = "{path} is cut short or damaged; copy or download it again"
TRAPPED = (
    "{path} holds Python objects besides tensors (posix.system) and was not opened, as reading them runs code; "
    "ask its author for the state dict alone, best as safetensors"
)
BROKEN = {
    "empty.pth": (b"", "{path} is empty (0 bytes); copy or download it again"),
    "cut.pth": (torch_file(GOOD)[:400], CUT),
    "cut_end.pth": (torch_file(GOOD)[:-5], CUT),
    "cut_old.pth": (torch_file(GOOD, _use_new_zipfile_serialization=False)[:-5], CUT),
    "cut.safetensors": (safe_file(GOOD)[:-5], CUT),
    "cut_header.safetensors": (safe_file(GOOD)[:30], CUT),
    "archive.pth": (zip_file(), CUT),
    "trap.pth": (torch_file({**GOOD, "extra": Trap()}), TRAPPED),
    "trap_alone.pth": (torch_file(Trap()), TRAPPED),
    "trap_old.pth": (torch_file({"extra": Trap()}, _use_new_zipfile_serialization=False), TRAPPED),
    "trap.pkl": (pickle.dumps(Trap()), TRAPPED),
    "module.pth": (
        torch_file(nn.ReLU()),
        "{path} holds Python objects besides tensors (torch.nn.modules.activation.ReLU) and was not opened, as reading "
        "them runs code; ask its author for the state dict alone, best as safetensors",
    ),
    "cut.pkl": (pickle.dumps({"model": {"a": np.ones(3)}})[:-9], CUT),
    "page.pth": (
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "{path} is text, not weights (it begins '<!DOCTYPE html>'); download the file itself",
    ),
    "notes.safetensors": (b"\n\n", "{path} is text, not weights (it begins ''); download the file itself"),
    "pointer.pth": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "{path} is a Git LFS pointer, not the weights; run: git lfs pull",
    ),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(60), CUT),
    "voc.caffemodel": (
        b"\n\x07fcn8s",
        "{path} is a Caffe file, which masklet does not read; look for a PyTorch port of it",
    ),
    "noise.pth": (bytes(range(1, 200)), "{path} is not a weight file that masklet knows; check what was downloaded"),
    "list.pth": (torch_file([1, 2]), "{path} holds a list, not named tensors; save model.state_dict()"),
    "record.pth": (
        torch_file({"epoch": 3, "loss": 0.1}),
        "{path} holds no tensors; save model.state_dict(); it holds epoch, loss",
    ),
    "nothing.pth": (torch_file({}), "{path} holds no tensors; save model.state_dict(); it holds nothing"),
    "mixed.pth": (
        torch_file({**GOOD, "epoch": 3}),
        "{path} holds more than tensors (epoch); save only model.state_dict()",
    ),
    "folder.pth": (None, "{path} is a folder; give the weight file in it"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = BROKEN[name]
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    for door in (read_tensors, lambda p: load("fcn8s", weights=p)):
        with pytest.raises(UserError) as caught:
            door(path)
        assert str(caught.value) == message.format(path=path)
    assert not (tmp_path / "sprung").exists()


def test_missing_file(tmp_path):
    for door in (read_tensors, load, lambda p: load("fcn8s", weights=p)):
        with pytest.raises(FileNotFoundError) as caught:
            door(tmp_path / "gone.pth")
        assert str(caught.value) == f"no weight file at {tmp_path / 'gone.pth'}; check the path"


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_program(tmp_path):
    torch.jit.script(nn.ReLU()).save(str(tmp_path / "program.pt"))
    with pytest.raises(UserError, match=r"program.pt is a TorchScript program; save its state_dict\(\) instead"):
        read_tensors(tmp_path / "program.pt")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d,
        lambda d: {"state_dict": d, "epoch": 7, "arch": "fcn"},
        lambda d: {"model_state_dict": {f"module.{key}": value for key, value in d.items()}, "optim": {}},
        lambda d: {"model": {"state_dict": d}},
        lambda d: {"model": {key: value + 1 for key, value in d.items()}, "ema": {"module": d, "updates": 3}},
        lambda d: {"state_dict": {**d, "ema_conv_weight": d["conv.weight"], "ema_conv_bias": d["conv.bias"]}},
        lambda d: {"state_dict": d, "args": argparse.Namespace(lr=1e-3), "best": np.float64(0.5), "epoch": np.int64(3)},
    ],
)
def test_torch_files_are_unwrapped(wrap, old, tmp_path):
    path = tmp_path / "weights.bin"  # the suffix does not matter
    path.write_bytes(torch_file(wrap(GOOD), _use_new_zipfile_serialization=not old))
    tensors = read_tensors(str(path))
    assert tensors.keys() == GOOD.keys()
    assert all(torch.equal(tensors[key], GOOD[key]) for key in GOOD)
    assert read_note(path) is None


def test_safetensors_of_others(tmp_path):
    path = tmp_path / "theirs.pth"
    path.write_bytes(safe_file(GOOD, author="somebody"))
    assert torch.equal(read_tensors(path)["conv.weight"], GOOD["conv.weight"])
    assert read_note(path) is None
    assert unwrap({"module.a": GOOD["conv.bias"]}, "x").keys() == {"a"}


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "is cut short or damaged; copy or download it again"),
        ("[1]", "does not name a model; write it again with save_checkpoint"),
        ('{"model": "unet"}', "does not name a model; write it again with save_checkpoint"),
        (
            '{"model": "unet", "options": {}, "version": 9}',
            "was written by a newer masklet (format 9); upgrade masklet",
        ),
    ],
)
def test_notes_that_make_no_sense(note, message, tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safe_file(GOOD, masklet=note))
    with pytest.raises(UserError) as caught:
        read_note(path)
    assert str(caught.value).endswith(message)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("unet", base=4, depth=2, classes=["dry", "wet", "mud"])


def test_checkpoint_round_trip(model, tmp_path):
    path = save_checkpoint(
        tmp_path / "new" / "model.safetensors", model, {"scores": {"miou": 0.5}, "recipe": {"lr": 1}}
    )
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    note = read_note(path)
    assert note == {
        "version": VERSION,
        "model": "unet",
        "options": {"base": 4, "depth": 2, "num_classes": 3},
        "classes": note["classes"],
        "scores": {"miou": 0.5},
        "recipe": {"lr": 1},
    }
    for loaded in (load(path), load(str(path)), load("unet", weights=path)):
        assert not loaded.training
        assert loaded.classes == model.classes
        assert loaded.spec == model.spec
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_half_keeps_what_half_would_hurt(tmp_path):
    model = build("unet", base=8, depth=1)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var.fill_(1e6)
    with torch.no_grad():
        model.head[-1].weight[0] = 1e6
    full = save_checkpoint(tmp_path / "full.safetensors", model)
    half = save_checkpoint(tmp_path / "half.safetensors", model, half=True)
    kinds = {value.dtype for value in load_file(half).values() if value.is_floating_point()}
    assert kinds == {torch.float16, torch.float32}
    assert half.stat().st_size < 0.7 * full.stat().st_size
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        wide, narrow = load(full)(image), load(half)(image)
    assert all(value.dtype == torch.float32 for value in load(half).parameters())
    assert (narrow - wide).abs().max() < 5e-3 * wide.abs().max()


def test_a_checkpoint_is_there_or_not(model, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "model.safetensors", model)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, model, {"more": 1})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_checkpoint_of_a_stranger(tmp_path):
    with pytest.raises(UserError, match=r"ReLU does not say how it was built; make models with masklet\.build"):
        save_checkpoint(tmp_path / "x.safetensors", nn.ReLU())


def test_files_of_safetensors_hold_a_readable_note(model, tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", model)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["masklet"])["model"] == "unet"
    assert stat.S_ISREG(Path(path).stat().st_mode)
    save_file(GOOD, tmp_path / "plain.safetensors")
    assert read_note(tmp_path / "plain.safetensors") is None
