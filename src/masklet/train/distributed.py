"""Several processes as one: what `torchrun` starts, joined by gloo on CPU or the accelerator's own backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from masklet.structures.errors import UserError

CPU = torch.device("cpu")


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the accelerator where there is one (this process's own under torchrun), else the CPU."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as e:
            raise UserError(f"unknown device {name!r}", hint='use "auto" or "cpu"') from e
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return CPU
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


@dataclass(frozen=True)
class Team:
    """The processes that train one model together; a lone process is a team of one."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes files and shows progress."""
        return self.rank == 0

    def wrap(self, step: nn.Module) -> nn.Module:
        """`step` with gradients averaged over the team after each backward; its losses must be means of equal parts.

        Batch norm normalises each process's own part; its running statistics are the leader's.
        """
        if self.size == 1:
            return step
        return DistributedDataParallel(step)

    def agree(self, value: float) -> float:
        """The leader's `value`, everywhere."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return shared.item()


@contextmanager
def team(device: str = "auto") -> Iterator[Team]:
    """Joins the processes that torchrun started, and leaves them again; without torchrun, a team of one."""
    where = pick_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(device=where)
        return
    backend = "gloo" if where.type == "cpu" else dist.get_default_backend_for_device(where)
    dist.init_process_group(backend)
    try:
        yield Team(dist.get_rank(), size, where)
    finally:
        dist.destroy_process_group()
