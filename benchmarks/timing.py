"""How every benchmark measures: CPU seconds, peers taking turns in one run, one JSON line per case and peer.

Import this before torch: it makes waiting threads sleep, which would otherwise spin and count as work.

    from timing import compare

    compare("argmax 19x128x256", ours=lambda: ..., peers={"torch": lambda: ...}, same=torch.equal)

CPU seconds are those of user and system of this process, the minimum over the rounds, divided by the calls of a
round. Ratios compare only what ran in the same rounds. Peak memory is what one call adds to the resident set.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
LONG = 0.5  # seconds: a call that takes longer is not called once more to see how long it takes


def threads(argv: list[str] | None = None, rounds: int = 7) -> argparse.Namespace:
    """Read `--threads N` and `--rounds N` (else `rounds`), and hold torch to that many threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", default="", help="run only the cases whose name contains this text")
    options = parser.parse_args(argv)
    import torch

    torch.set_num_threads(options.threads)
    return options


def compare(
    case: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    *,
    same: Callable[[Any, Any], bool] | None = None,
    rounds: int = 7,
    target: float | None = None,
    **facts: object,
) -> dict[str, float]:
    """Time `ours` and every peer in turn, print a JSON line for each peer, return the ratios ours / peer.

    `same(our result, peer's result)` must hold, else the fast one is just wrong. `facts` (shapes, dtype) go into
    the line. Calls shorter than 20 ms are repeated within a round.
    """
    calls = {"masklet": ours, **peers}
    repeats, memory, found = {}, {}, {}
    for name, call in calls.items():
        start = time.perf_counter()
        memory[name], found[name] = _watched(call)
        if time.perf_counter() - start < LONG:  # the first call does what later ones find done
            start = time.perf_counter()
            call()
        repeats[name] = max(1, round(0.02 / max(time.perf_counter() - start, 1e-6)))
        if name in peers and same is not None and not same(found["masklet"], found[name]):
            raise AssertionError(f"{case}: masklet and {name} return different things")
    found.clear()
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            n = repeats[name]
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            for _ in range(n):
                call()
            cpu[name].append((time.process_time() - cpu_start) / n)
            wall[name].append((time.perf_counter() - wall_start) / n)
    ratios = {}
    for name in peers:
        ratios[name] = min(cpu["masklet"]) / max(min(cpu[name]), 1e-9)
        line = {
            "case": case,
            "peer": name,
            "ratio": round(ratios[name], 4),
            "target": target,
            "cpu_s": round(min(cpu["masklet"]), 6),
            "peer_cpu_s": round(min(cpu[name]), 6),
            "ms_median": round(1e3 * statistics.median(wall["masklet"]), 3),
            "peer_ms_median": round(1e3 * statistics.median(wall[name]), 3),
            "peak_rss_mb": memory["masklet"],
            "peer_peak_rss_mb": memory[name],
            "rounds": rounds,
            **_threads(),
            **facts,
        }
        print(json.dumps(line), flush=True)
    return ratios


def alone(
    case: str, call: Callable[[], Any], *, rounds: int = 7, most_ms: float | None = None, **facts: object
) -> float:
    """Time what has no peer, print a JSON line, return the median of the wall-clock milliseconds of a call.

    `most_ms` is what it may take; `cpu_ms` is the CPU time of all threads together, the minimum over the rounds.
    """
    memory = _added_memory(call)
    cpu, wall = [], []
    for _ in range(rounds):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    median = 1e3 * statistics.median(wall)
    line = {
        "case": case,
        "ms_median": round(median, 2),
        "most_ms": most_ms,
        "cpu_ms": round(1e3 * min(cpu), 2),
        "peak_rss_mb": memory,
        "peak_rss_of_process_mb": round(_status("VmHWM") / 1024),
        "rounds": rounds,
        **_threads(),
        **facts,
    }
    print(json.dumps(line), flush=True)
    return median


def _added_memory(call: Callable[[], Any]) -> float | None:
    """MB that a call adds to the resident set at its peak; None where the system does not tell."""
    return _watched(call)[0]


def _watched(call: Callable[[], Any]) -> tuple[float | None, Any]:
    """The memory that a call adds, and what it returns."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left behind would hide what this one needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from the present size
    except (OSError, AttributeError):
        return None, call()
    before = _status("VmRSS")
    result = call()
    return round((_status("VmHWM") - before) / 1024, 1), result


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _threads() -> dict[str, int]:
    torch = sys.modules.get("torch")
    return {} if torch is None else {"threads": torch.get_num_threads()}
