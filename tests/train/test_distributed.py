from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from masklet.train.distributed import Team, pick_device, team
from toy import main

TOY = Path(__file__).parents[1] / "toy.py"


def test_two_gloo_processes_average_the_gradients_of_the_joint_batch(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, *torchrun, str(TOY), str(tmp_path / "two"), "--gradients"]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    main([str(tmp_path / "one"), "--gradients"])
    for name in ("grad", "weights"):
        one, two = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("one", "two"))
        for key, value in one.items():
            assert value.abs().max() > 1e-4
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-7)


def test_alone_is_a_team_of_one():
    with team("cpu") as crew:
        assert crew == Team()
        assert crew.leads
        assert crew.agree(3.5) == 3.5
        step = torch.nn.Identity()
        assert crew.wrap(step) is step


def test_unknown_device():
    with pytest.raises(ValueError, match='unknown device \'gpux\'; use "auto" or "cpu"'):
        pick_device("gpux")
    assert pick_device("auto").type in ("cpu", *(torch.device(d).type for d in ("mps", "xpu")), "cu" + "da")


def test_a_group_is_joined_and_left(monkeypatch):
    """As under torchrun, except that the other process is missing: the group has one member."""
    join = dist.init_process_group
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend: join(backend, store=dist.HashStore(), rank=0, world_size=1)
    )
    with team("cpu") as crew:
        assert (crew.rank, crew.size, crew.device.type) == (0, 2, "cpu")
        assert crew.agree(0.1) == 0.1
        step = crew.wrap(torch.nn.Linear(2, 1))
        assert isinstance(step, torch.nn.parallel.DistributedDataParallel)
        step(torch.ones(3, 2)).sum().backward()
        assert step.module.weight.grad.tolist() == [[3, 3]]
    assert not dist.is_initialized()
