"""What every test gets: shared data by name (or a skip), fixed seeds, and no network."""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """The path `../shared/<parts>` beside the repository; the test is skipped where it does not exist."""
    path = REPOSITORY.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"needs ../shared/{'/'.join(parts)} beside the repository")
    return path


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from the old global generator
    torch.manual_seed(0)


def _is_loopback(host: object) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests talk to nobody: only Unix sockets and loopback may connect."""
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guard(family: int, host: object) -> None:
        if family != getattr(socket, "AF_UNIX", None) and not _is_loopback(host):
            raise RuntimeError(f"a test tried to reach {host!r}; tests work offline")

    def guarded_connect(self: socket.socket, address):
        guard(self.family, address[0])
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address):
        guard(self.family, address[0])
        return connect_ex(self, address)

    def guarded_lookup(host, *args, **kwargs):
        if host is not None and host != socket.gethostname():
            guard(socket.AF_INET, host.decode() if isinstance(host, bytes) else host)
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


@pytest.fixture
def as_user() -> Iterator[None]:
    """Without the suite's run-time shape checks, which users do not have: what meets a mistake is the door itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def single_thread() -> Iterator[None]:
    """Torch on one thread, for tests of timing and of bit-equal sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
