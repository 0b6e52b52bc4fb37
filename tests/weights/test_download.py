"""Downloads from a host of our own on this machine: broken ones go on, wrong ones leave nothing, two are one."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from masklet.parts.backbones import build_backbone
from masklet.structures.errors import UserError
from masklet.weights import CATALOG, cache, catalog, download, load
from masklet.weights.catalog import Entry

CONTENT = bytes(range(256)) * 12_000  # 3 MB
HASH = hashlib.sha256(CONTENT).hexdigest()
URL = "https://download.pytorch.org/models/small-0123abcd.pth"


class Host(ThreadingHTTPServer):
    """Serves `files` by path; `plan` says, request by request, what goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plan: list[object] = []
        self.ranges: list[str | None] = []  # what was asked for
        self.gate = threading.Event()
        self.gate.set()

    def handle_error(self, request, client_address):
        """Clients that are gone are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, *_):
        pass

    def do_GET(self):
        host = self.server
        asked = self.headers.get("Range")
        host.ranges.append(asked)
        step = host.plan.pop(0) if host.plan else "fine"
        content = host.files.get(self.path)
        if isinstance(step, str) and step.startswith(("http:", "https:")):
            self.send_response(302)
            self.send_header("Location", step)
            return self.end_headers()
        if content is None or isinstance(step, int):
            return self.send_error(step if isinstance(step, int) else 404)
        start = int(asked[6:-1]) if asked and step != "no ranges" else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if asked and step != "no ranges" else 200)
        if asked:
            first = 7 if step == "another part" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: len(body) // 2])
        if step == "cut":
            return self.connection.close()
        host.gate.wait(300)
        self.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def host(monkeypatch, tmp_path) -> Iterator[Host]:
    """A mirror on this machine with one file, an empty cache, and no waiting between tries."""
    server = Host()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.files["/download.pytorch.org/models/small-0123abcd.pth"] = CONTENT
    monkeypatch.setenv("MASKLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKLET_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("MASKLET_OFFLINE", raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "BLOCK", 100_000)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def entry() -> Entry:
    return Entry("small", "A test", "nothing", "MIT", url=URL, sha256=HASH[:8], model="unet")


def message(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


def listing(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "weights").iterdir() if p.suffix != ".lock")


def test_a_file_arrives_once(host, entry, tmp_path):
    seen: list[tuple[int, int]] = []
    path = download.fetch(entry, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "cache" / "weights" / "small-0123abcd.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 10
    assert listing(tmp_path) == ["small-0123abcd.pth", "small-0123abcd.pth.json"]
    known = json.loads((path.parent / f"{path.name}.json").read_text())
    assert (known["sha256"], known["url"], known["licence"], known["size"]) == (HASH, URL, "MIT", len(CONTENT))
    assert download.fetch(entry) == path
    assert host.ranges == [None]


def test_a_broken_download_goes_on(host, entry):
    host.plan = ["cut", 503, "cut", "fine"]
    assert download.fetch(entry).read_bytes() == CONTENT
    assert host.ranges[0] is None
    assert host.ranges[1] == host.ranges[2] == "bytes=1536000-"
    assert host.ranges[3] == "bytes=2304000-"


def test_the_next_call_goes_on_as_well(host, entry, tmp_path):
    host.plan = ["cut", 500, 500, 500]
    assert message(download.fetch, entry) == (
        "the download of small-0123abcd.pth stopped after 1.5 MB (500 Internal Server Error); "
        "the same command goes on from there"
    )
    assert listing(tmp_path) == ["small-0123abcd.pth.part"]
    host.ranges.clear()
    host.plan = []
    assert download.fetch(entry).read_bytes() == CONTENT
    assert host.ranges == ["bytes=1536000-"]


def test_a_host_without_ranges_starts_over(host, entry):
    host.plan = ["cut", "no ranges"]
    assert download.fetch(entry).read_bytes() == CONTENT
    host.plan = ["cut", "another part"]
    cache_file = cache.folder() / entry.file
    cache_file.unlink()
    assert download.fetch(entry).read_bytes() == CONTENT
    assert host.ranges[-2:] == ["bytes=1536000-", None]


def test_all_was_there_but_the_name(host, entry):
    part = cache.folder() / f"{entry.file}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert download.fetch(entry).read_bytes() == CONTENT
    assert host.ranges == [f"bytes={len(CONTENT)}-"]


def test_wrong_content_leaves_nothing(host, entry, tmp_path):
    host.files["/download.pytorch.org/models/small-0123abcd.pth"] = CONTENT + b"?"
    other = hashlib.sha256(CONTENT + b"?").hexdigest()[:8]
    host_name = f"127.0.0.1:{host.server_port}"
    assert message(download.fetch, entry) == (
        f"{host_name} sent something else than small-0123abcd.pth (its sha256 begins {other}, "
        f"published is {HASH[:8]}); nothing was kept; a proxy may answer in its place"
    )
    assert listing(tmp_path) == []


def test_answers_that_are_no_files(host, entry, tmp_path, monkeypatch):
    where, by_hand = f"127.0.0.1:{host.server_port}", f"put {URL} into {tmp_path / 'cache' / 'weights'}, or run there: "
    by_hand += "masklet weights import BUNDLE"
    host.plan = [404]
    assert message(download.fetch, entry) == f"{where} answered 404 (Not Found) for small-0123abcd.pth; {by_hand}"
    host.plan = [503] * 3
    assert message(download.fetch, entry) == f"{where} could not be reached (503 Service Unavailable); {by_hand}"
    monkeypatch.setenv("MASKLET_MIRROR", "http://127.0.0.1:9")
    assert message(download.fetch, entry) == (
        f"127.0.0.1:9 could not be reached ([Errno 111] Connection refused); {by_hand}"
    )


def test_only_known_hosts_are_followed(host, entry):
    where = f"127.0.0.1:{host.server_port}"
    host.plan = ["https://evil.example/small.pth?token=1"]
    assert message(download.fetch, entry) == (
        f"{where} sends on to https://evil.example/small.pth, where it publishes no weights; "
        "nothing was fetched; a proxy may answer in its place"
    )
    host.files["/elsewhere"] = CONTENT
    host.plan = [f"http://{where}/elsewhere"]
    assert download.fetch(entry).read_bytes() == CONTENT


def test_no_room(host, entry, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert message(download.fetch, entry) == (
        f"{cache.folder()} has 1 MB free, the download takes 3 MB; make room, or set MASKLET_CACHE to another disk"
    )


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline(value, host, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKLET_OFFLINE", value)
    assert message(download.fetch, entry) == (
        f"small is not on this machine and MASKLET_OFFLINE is set; put {URL} into {tmp_path / 'cache' / 'weights'}, "
        "or run there: masklet weights import BUNDLE"
    )
    assert host.ranges == []
    by_hand = cache.folder() / entry.file
    by_hand.write_bytes(CONTENT)
    assert download.fetch(entry) == by_hand
    assert cache.known(by_hand)["sha256"] == HASH


def test_offline_is_off(monkeypatch):
    for value in ("", "0", "false", "No"):
        monkeypatch.setenv("MASKLET_OFFLINE", value)
        assert not download.offline()


def test_a_file_that_changed_in_the_cache(host, entry):
    path = download.fetch(entry)
    path.write_bytes(CONTENT[:-1])
    short = hashlib.sha256(CONTENT[:-1]).hexdigest()[:8]
    assert message(download.fetch, entry) == (
        f"{path} is not what was published (its sha256 begins {short}, not {HASH[:8]}); "
        "run: masklet weights fetch small --again"
    )
    assert download.fetch(entry, again=True).read_bytes() == CONTENT
    stamp = path.stat()
    path.write_bytes(CONTENT[:-1] + b"?")  # same size, and the date set back
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert download.fetch(entry) == path
    assert "is not what was published" in (download.why_wrong(entry, path, thorough=True) or "")


def test_a_publisher_without_hashes_is_taken_at_its_first_word(host):
    entry = Entry("other", "A test", "nothing", url=URL)
    path = download.fetch(entry)
    path.write_bytes(b"changed")
    now = hashlib.sha256(b"changed").hexdigest()[:8]
    assert message(download.fetch, entry) == (
        f"{path} has changed since it came (its sha256 begins {now}, not {HASH[:8]}); "
        "run: masklet weights fetch other --again"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read(host, entry):
    path = download.fetch(entry)
    path.with_name(f"{path.name}.json").unlink()
    path.parent.chmod(0o555)
    assert download.fetch(entry) == path
    path.parent.chmod(0o755)


def test_of_many_who_ask_one_fetches(host, entry, tmp_path):
    host.gate.clear()  # the first download hangs midway
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(download.fetch(entry).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    host.gate.set()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert host.ranges == [None]
    assert listing(tmp_path) == ["small-0123abcd.pth", "small-0123abcd.pth.json"]


def child(entry: Entry, out) -> None:
    try:
        out.put(len(download.fetch(entry).read_bytes()))
    except BaseException as error:
        out.put(repr(error))  # for the test to show


@pytest.mark.skipif(os.name != "posix", reason="processes are forked, which costs no second import of torch")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_of_which_one_dies(host, entry, tmp_path):
    """The second waits while the first fetches; when that is killed it goes on from the same byte."""
    host.gate.clear()
    fork = multiprocessing.get_context("fork")
    out = fork.SimpleQueue()
    first, second = (fork.Process(target=child, args=(entry, out), daemon=True) for _ in range(2))
    first.start()
    part = cache.folder() / f"{entry.file}.part"
    while first.is_alive() and not (part.exists() and part.stat().st_size):
        time.sleep(0.001)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert out.empty()
    first.kill()
    first.join()
    had = part.stat().st_size
    assert 0 < had < len(CONTENT)
    host.gate.set()
    assert out.get() == len(CONTENT)
    second.join()
    assert host.ranges == [None, f"bytes={had}-"]
    assert listing(tmp_path) == ["small-0123abcd.pth", "small-0123abcd.pth.json"]


def published(host, monkeypatch, name: str, tensors) -> Entry:
    """The catalog as if `tensors` were what the publisher of `name` had published."""
    out = io.BytesIO()
    torch.save(tensors, out)
    entry = CATALOG[name]
    host.files[f"/{entry.url.partition('://')[2]}"] = out.getvalue()
    ours = Entry(**{**vars(entry), "sha256": hashlib.sha256(out.getvalue()).hexdigest()[:8]})
    for module in (catalog, sys.modules["masklet.weights"]):
        monkeypatch.setattr(module, "CATALOG", {**CATALOG, name: ours})
    return ours


def test_load_by_name(host, monkeypatch):
    body = build_backbone("resnet18")
    tensors = {**body.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    published(host, monkeypatch, "resnet18_imagenet", tensors)
    loaded = load("resnet18_imagenet", output_stride=16)
    assert loaded.strides["c5"] == 16
    assert not loaded.training
    assert all(torch.equal(value, tensors[key]) for key, value in loaded.state_dict().items())
    monkeypatch.setenv("MASKLET_OFFLINE", "1")
    assert load("resnet18_imagenet").strides["c5"] == 32
    assert len(host.ranges) == 1


def test_load_a_system_by_name(host, monkeypatch):
    make = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    theirs = make(weights=None, weights_backbone=None, aux_loss=True).eval()
    published(host, monkeypatch, "deeplabv3_mobilenet_v3_large_coco", theirs.state_dict())
    model = load("deeplabv3_mobilenet_v3_large_coco")
    assert model.classes.names[15] == "person"
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        want = theirs(torchvision.transforms.functional.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        torch.testing.assert_close(model(image), want["out"], rtol=1e-4, atol=1e-4)
    fewer = load("deeplabv3_mobilenet_v3_large_coco", classes=["road", "wall"], fresh=r"(aux_)?head\.4\..*")
    assert fewer.classes.names == ("road", "wall")
    assert torch.equal(fewer.head[0].weight, model.head[0].weight)
    again = load("deeplabv3", weights="deeplabv3_mobilenet_v3_large_coco")
    assert again.spec == model.spec
    assert len(host.ranges) == 1
