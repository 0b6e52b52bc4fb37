"""The guards of the test suite itself."""

import socket

import pytest
import torch

from conftest import shared


def test_missing_shared_data_skips():
    with pytest.raises(pytest.skip.Exception, match=r"needs \.\./shared/no/such/file beside the repository"):
        shared("no", "such", "file")


def test_the_network_is_closed():
    with pytest.raises(RuntimeError, match="tests work offline"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="tests work offline"), socket.socket() as s:
        s.connect_ex(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="tests work offline"):
        socket.getaddrinfo("example.org", 443)


def test_loopback_is_open():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            assert client.getpeername() == server.getsockname()


def test_single_thread(single_thread):
    assert torch.get_num_threads() == 1
