"""How long a user waits before anything happens: `import masklet` and `masklet --help`, beside bare peers.

    python benchmarks/startup.py [--rounds 7]

One JSON line per case: wall milliseconds, median and minimum over rounds; peers take turns in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CASES = {
    "python": [sys.executable, "-c", "pass"],
    "import masklet": [sys.executable, "-c", "import masklet"],
    "masklet --help": [sys.executable, "-m", "masklet.cli", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torchvision": [sys.executable, "-c", "import torchvision"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, command in CASES.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(1000 * (time.perf_counter() - start))
    for name, values in times.items():
        row = {"case": name, "ms_median": round(statistics.median(values), 1), "ms_min": round(min(values), 1)}
        print(json.dumps({**row, "rounds": rounds}))


if __name__ == "__main__":
    main()
