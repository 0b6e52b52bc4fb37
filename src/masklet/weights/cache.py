"""Where fetched weights live, and how several processes share that place without harm.

Beside each file `x` lie `x.json`, what is known of it, and `x.lock`, which the process that writes `x` holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masklet.structures.files import replacing


def folder() -> Path:
    """`$MASKLET_CACHE/weights`, or `$XDG_CACHE_HOME/masklet/weights`, or `~/.cache/masklet/weights`."""
    if given := os.environ.get("MASKLET_CACHE"):
        return Path(given).expanduser() / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "masklet" / "weights"


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remember(path: Path, sha256: str, facts: Mapping[str, Any]) -> None:
    """Writes down that the file at `path` is right as it lies there now, with what else is known of it."""
    state = path.stat()
    known = {**facts, "sha256": sha256, "size": state.st_size, "changed": state.st_mtime_ns}
    with replacing(_record(path)) as unfinished:
        unfinished.write_text(json.dumps(known, indent=1), encoding="utf-8")


def known(path: Path) -> dict[str, Any]:
    """What was written down of `path`; empty if nothing was, or if it cannot be read."""
    try:
        found = json.loads(_record(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def untouched(path: Path) -> bool:
    """Whether `path` still has the size and the date that it had when it was found right."""
    state, then = path.stat(), known(path)
    return (then.get("size"), then.get("changed")) == (state.st_size, state.st_mtime_ns)


def changed(path: Path, digest: str | None = None) -> str | None:
    """The sentence for a file that is not what it was when it came; None if it is."""
    then, now = known(path).get("sha256", ""), digest or sha256_of(path)
    if now == then:
        return None
    return f"{path} has changed since it came (its sha256 begins {now[:8]}, not {then[:8]})"


def carried() -> dict[str, Path]:
    """Files that bundles brought, by name."""
    found = [path.with_suffix("") for path in folder().glob("*.json")]
    names = {known(file).get("name"): file for file in found if file.suffix == ".safetensors" and file.exists()}
    return {name: file for name, file in sorted(names.items()) if isinstance(name, str)}


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time for `path`; the others wait. A process that dies lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "a+b") as file:
        _hold(file.fileno())
        yield  # closing the file lets go


if sys.platform == "win32":
    import msvcrt

    def _hold(descriptor: int) -> None:
        while True:
            try:
                return msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # tries for ten seconds
            except OSError:
                continue
else:
    import fcntl

    def _hold(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
