"""Fetches published weights into the cache: whole and right, or not at all.

What arrives is hashed before it gets its name. A broken download goes on where it stopped, in the same call while
there is hope, else in the next one. Several processes may ask for one file: the first fetches, the others wait for it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from masklet.structures.errors import UserError
from masklet.weights import cache
from masklet.weights.catalog import HOSTS, Entry

Progress = Callable[[int, int], None]  # bytes here, bytes in all (0: not said)
TRIES = 3  # in a row without a byte
PAUSE = 1.0  # seconds before the second try, twice that before the third
TIMEOUT = 30.0  # seconds without an answer
BLOCK = 1 << 20
SPARE = 1 << 26  # bytes that stay free on the disk


def offline() -> bool:
    """Whether `MASKLET_OFFLINE` forbids to fetch."""
    return os.environ.get("MASKLET_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def address(entry: Entry) -> str:
    """Where to fetch from: the publisher, or the same path on `MASKLET_MIRROR`, as `mirror/host/path`."""
    mirror = os.environ.get("MASKLET_MIRROR")
    return entry.url if not mirror else f"{mirror.rstrip('/')}/{entry.url.partition('://')[2]}"


def fetch(entry: Entry, progress: Progress | None = None, again: bool = False) -> Path:
    """The file of `entry`, from the cache if it is there, else from its publisher; checked either way.

    A file is hashed when it arrives, when it was put there by hand, and when it changed since. `again` fetches anew
    what is there but wrong.
    """
    path = entry.path
    if entry.bundled or (path.exists() and why_wrong(entry, path) is None):
        return path
    path = cache.folder() / entry.file
    with cache.locked(path):
        if entry.path.exists():
            wrong = why_wrong(entry, entry.path)
            if wrong is None:
                return entry.path  # another process was faster
            if not again:
                raise UserError(wrong, hint=f"run: masklet weights fetch {entry.name} --again")
        if offline():
            raise UserError(f"{entry.name} is not on this machine and MASKLET_OFFLINE is set", hint=_by_hand(entry))
        partial = path.with_name(f"{path.name}.part")
        _download(entry, partial, progress)
        digest = cache.sha256_of(partial)
        if not digest.startswith(entry.sha256):
            partial.unlink()
            raise UserError(
                f"{_host(address(entry))} sent something else than {entry.file} "
                f"(its sha256 begins {digest[:8]}, published is {entry.sha256})",
                hint="nothing was kept; a proxy may answer in its place",
            )
        os.replace(partial, path)
        cache.remember(path, digest, {"name": entry.name, "url": entry.url, "licence": entry.licence})
    return path


def on_terminal(name: str) -> Progress | None:
    """Progress in one line on stderr, where that is a terminal: for downloads that a call did not ask for."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(
            f"\rfetching {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB ",
            end="\n" if done == total else "",
            file=sys.stderr,
            flush=True,
        )

    return show


def why_wrong(entry: Entry, path: Path, thorough: bool = False) -> str | None:
    """What is wrong with the file of `entry` at `path`; None if nothing is. `thorough` hashes it in any case."""
    if not thorough and cache.untouched(path):
        return None
    known, digest = cache.known(path), cache.sha256_of(path)
    published = path.name == entry.file and entry.sha256
    if published and not digest.startswith(published):
        return f"{path} is not what was published (its sha256 begins {digest[:8]}, not {published})"
    if known.get("sha256", digest) != digest:
        return cache.changed(path, digest)
    with contextlib.suppress(OSError):  # a cache that may only be read is hashed each time
        cache.remember(path, digest, known or {"name": entry.name, "url": entry.url, "licence": entry.licence})
    return None


def _download(entry: Entry, partial: Path, progress: Progress | None) -> None:
    url, failures = address(entry), 0
    opener = build_opener(_Redirects({_host(url), *HOSTS, *HOSTS.get(_host(entry.url), ())}))
    while True:
        before = _size(partial)
        try:
            return _go_on(opener, url, partial, progress)
        except HTTPError as error:
            error.close()
            if error.code == 416:  # nothing comes after what is here; the hash will tell whether it is all
                return
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(
                    f"{_host(url)} answered {error.code} ({error.reason}) for {entry.file}", hint=_by_hand(entry)
                ) from error
            reason = f"{error.code} {error.reason}"
        except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
        failures = 1 if _size(partial) > before else failures + 1
        if failures >= TRIES:
            break
        time.sleep(PAUSE * failures)
    if before := _size(partial):
        raise UserError(
            f"the download of {entry.file} stopped after {before / 1e6:.1f} MB ({reason})",
            hint="the same command goes on from there",
        )
    raise UserError(f"{_host(url)} could not be reached ({reason})", hint=_by_hand(entry))


def _go_on(opener: Any, url: str, partial: Path, progress: Progress | None) -> None:
    """One connection: what is missing behind the bytes in `partial`, or all of it from a host that knows no ranges."""
    here = _size(partial)
    headers = {"User-Agent": "masklet"} | ({"Range": f"bytes={here}-"} if here else {})
    with opener.open(Request(url, headers=headers), timeout=TIMEOUT) as reply:
        if reply.status == 206 and not reply.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            partial.unlink()
            raise ConnectionError("the host sent another part than the one asked for")
        if reply.status != 206:
            here = 0
        length = reply.headers.get("Content-Length")
        total = here + int(length) if length else 0
        if total - here > (free := shutil.disk_usage(partial.parent).free) - SPARE:
            raise UserError(
                f"{partial.parent} has {free / 1e6:.0f} MB free, the download takes {(total - here) / 1e6:.0f} MB",
                hint="make room, or set MASKLET_CACHE to another disk",
            )
        with open(partial, "ab" if here else "wb") as out:
            while block := reply.read(BLOCK):
                here += out.write(block)
                if progress is not None:
                    progress(here, total)
        if here < total:
            raise ConnectionError("the connection was closed")


class _Redirects(HTTPRedirectHandler):
    """Follows a host only to hosts that it is known to hand downloads on to."""

    def __init__(self, hosts: set[str]) -> None:
        self.hosts = hosts

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if _host(newurl) not in self.hosts or (req.type == "https" and not newurl.startswith("https:")):
            fp.close()
            raise UserError(
                f"{_host(req.full_url)} sends on to {newurl.partition('?')[0]}, where it publishes no weights",
                hint="nothing was fetched; a proxy may answer in its place",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _by_hand(entry: Entry) -> str:
    return f"put {entry.url} into {cache.folder()}, or run there: masklet weights import BUNDLE"


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
