"""A training killed with SIGKILL and started again ends with the same bits as one that ran straight through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from masklet.train.checkpoint import read_notes
from toy import main

TOY = Path(__file__).parents[1] / "toy.py"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    main([str(out)])
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize("kill_at", [10, 12])  # in the middle of an epoch of 4 steps, and at the end of one
@pytest.mark.usefixtures("single_thread")
def test_kill_and_resume_is_bit_equal(straight, tmp_path, kill_at):
    command = [sys.executable, str(TOY), str(tmp_path), "--kill-at", str(kill_at)]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert read_notes(tmp_path / "last.safetensors")["progress"]["step"] in (9, 12)
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    main([str(tmp_path)])

    assert (tmp_path / "steps.csv").read_text() == (straight / "steps.csv").read_text()  # losses of all 20 steps
    assert len((straight / "steps.csv").read_text().splitlines()) == 21
    want, got = (load_file(folder / "last.safetensors") for folder in (straight, tmp_path))
    assert want.keys() == got.keys()
    assert any(k.startswith("ema/") for k in want)
    assert any("exp_avg_sq" in k for k in want)
    assert any("running_var" in k for k in want)
    for key, value in want.items():
        assert torch.equal(value, got[key]), key
    notes = [read_notes(folder / "last.safetensors") for folder in (straight, tmp_path)]
    for note in notes:
        note["progress"].pop("seconds")
        for record in note["progress"]["history"]:
            record.pop("seconds")
    assert notes[0] == notes[1]


def test_finished_training_does_not_go_on(straight):
    before = (straight / "last.safetensors").read_bytes()
    main([str(straight)])
    assert (straight / "last.safetensors").read_bytes() == before
