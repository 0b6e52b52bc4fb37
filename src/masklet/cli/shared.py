"""Options that mean the same in several commands, and the model that they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Batch", "Crf", "Device", "Flip", "Model", "Precision", "Scales", "Tile", "Weights", "ready"]

Model = Annotated[str, typer.Option(help="A trained model (masklet weights list), a checkpoint, or a system.")]
Weights = Annotated[Path | None, typer.Option(help="Weight file, where --model names a system.")]
Tile = Annotated[int | None, typer.Option(help="See pictures in overlapping tiles of this side; for huge ones.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture.")]
Crf = Annotated[bool, typer.Option("--crf", help="Sharpen edges by a dense CRF on the colours (DeepLab v2's).")]
Scales = Annotated[str, typer.Option(help="Average over sizes of the picture: 0.75,1,1.25.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")]
Batch = Annotated[int, typer.Option(help="Pictures that go through the model together.")]


def ready(model: str, weights: Path | None, device: str) -> tuple[Any, str]:
    """The loaded model and its device: with "auto" an accelerator, if there is one."""
    import torch

    from masklet.weights import load

    loaded = load(model, weights)
    best = torch.accelerator.current_accelerator(check_available=True) if device == "auto" else None
    return loaded, device if best is None else best.type
