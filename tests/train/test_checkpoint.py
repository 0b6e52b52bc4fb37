from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from masklet.train.checkpoint import Progress, load_last, read_notes, save_last, write_atomically
from masklet.train.loop import fit
from toy import make


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_everything_comes_back(tmp_path, optimizer):
    t, path = make(optimizer=optimizer), tmp_path / "last.safetensors"
    list(fit(t, epochs=1))
    save_last(path, t.model, t.optimizer, t.progress, t.ema, {"lr": 0.1})
    fresh = make(optimizer=optimizer)
    assert load_last(path, fresh.model, fresh.optimizer, fresh.ema) == t.progress
    for a, b in ((t.model, fresh.model), (t.ema.model, fresh.ema.model)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    for p, q in zip(t.model.parameters(), fresh.model.parameters(), strict=True):
        for key, value in t.optimizer.state[p].items():
            got = fresh.optimizer.state[q][key]
            assert torch.equal(got, value), key
            assert got.stride() == value.stride(), "the fused kernels need the memory format back too"
    assert t.optimizer.param_groups[0].keys() == fresh.optimizer.param_groups[0].keys()
    assert read_notes(path)["recipe"] == {"lr": 0.1}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    write_atomically(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("masklet.train.checkpoint.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_broken_files(tmp_path):
    t, path = make(), tmp_path / "last.safetensors"
    with pytest.raises(FileNotFoundError):
        read_notes(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"is damaged .*; delete it to train from the start"):
        read_notes(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"is not the state of a training; resume from the file called last"):
        load_last(path, t.model, t.optimizer)


def test_another_training_is_refused(tmp_path):
    t, path = make(), tmp_path / "last.safetensors"
    list(fit(t, epochs=1))
    save_last(path, t.model, t.optimizer, t.progress, t.ema)
    with pytest.raises(ValueError, match="was written with averaged weights"):
        load_last(path, t.model, t.optimizer)
    other = make(norm=False)
    with pytest.raises(ValueError, match="belongs to another model"):
        load_last(path, other.model, other.optimizer, other.ema)
    other = make()
    other.optimizer.param_groups.pop()
    with pytest.raises(ValueError, match="other parameter groups"):
        load_last(path, other.model, other.optimizer, other.ema)


def test_progress_survives_json():
    progress = Progress(epoch=3, best=0.1 + 0.2, sums={"loss": 1 / 3}, history=[{"miou": float("nan"), "loss": 1e-300}])
    again = Progress(**json.loads(json.dumps(progress.__dict__)))
    assert again.best == progress.best
    assert again.sums == progress.sums
    assert again.history[0]["loss"] == 1e-300
