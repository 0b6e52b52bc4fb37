"""Write a model as a PyTorch program (.pt2) that runs without masklet, and prove that it computes the same."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from masklet.models.base import channels, evaluating
from masklet.structures.errors import UserError

META = "masklet.json"  # inside the .pt2: what the numbers mean


@dataclass(frozen=True)
class Exported:
    """A finished file, and by how much its results differed from the model's, in standard deviations of the scores."""

    path: Path
    outputs: str
    size: tuple[int, int]
    difference: float


class Labels(nn.Module):
    """The best class of every pixel, as bytes: what most users of a file want."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"]) -> Shaped[Tensor, "b h w"]:
        logits = self.model(images)
        return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64)


def export_program(
    model: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int] = (512, 512),
    outputs: str = "logits",
    batch: int | None = 1,
    tolerance: float = 1e-4,
) -> Exported:
    """Save `model` for RGB images in 0..1 of one `size` (height, width); `batch=None` leaves the batch size open.

    `outputs` is "logits" (b k h w) or "labels" (b h w). The file is read back and run beside the model on two inputs;
    if a result differs by more than `tolerance` (standard deviations of the model's own), nothing is written.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise UserError(f"{path.name} does not end in .pt2", hint="a torch.export program is called NAME.pt2")
    if outputs not in ("logits", "labels"):
        raise UserError(f"unknown outputs {outputs!r}", hint="choose logits or labels")
    if min(size) < 1 or (batch is not None and batch < 1):
        raise UserError(f"size is {size}, batch is {batch}", hint="give whole numbers from 1 up")
    net: nn.Module = Labels(model) if outputs == "labels" else model
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    batches = [batch or 2] * 2 if batch else [2, 3]
    images = [torch.rand(n, channels(model), *size, generator=generator).to(device) for n in batches]
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    path.parent.mkdir(parents=True, exist_ok=True)
    drafts = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-")
    with evaluating(model), torch.no_grad(), drafts as folder:
        draft = Path(folder) / path.name
        program = torch.export.export(net.eval(), (images[0],), dynamic_shapes=shapes)
        torch.export.save(program, draft, extra_files={META: json.dumps(_describe(model, size, outputs, batch))})
        again = torch.export.load(draft).module()
        difference = max(_difference(net(x), again(x)) for x in images)
        if not difference <= tolerance:
            raise UserError(
                f"the exported program differs from the model by {difference:.2g} standard deviations",
                hint=f"nothing was written to {path}; is the model deterministic in eval mode?",
            )
        os.replace(draft, path)
    return Exported(path, outputs, (size[0], size[1]), difference)


def read_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of ours says about itself: model, options, classes, colours, input size."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(f"/{META}"))))
    except (zipfile.BadZipFile, StopIteration):
        raise UserError(f"{path} is not a program written by masklet", hint="make one with `masklet export`") from None


def _describe(model: Any, size: tuple[int, int], outputs: str, batch: int | None) -> dict[str, Any]:
    return {
        "version": 1,
        **getattr(model, "spec", {}),
        "classes": model.classes.to_dict() if hasattr(model, "classes") else None,
        "input": {
            "layout": f"b {channels(model)} h w",
            "colors": "RGB in 0..1",
            **_depth(model),
            "size": list(size),
            "batch": batch,
        },
        "outputs": outputs,
    }


def _depth(model: Any) -> dict[str, str]:
    """How the channels after the colours are to be filled, for a model that has such."""
    said = {"metres": "metres, 0 where unknown", "hha": "HHA in 0..1"}
    return {"depth": said[model.depth_as]} if channels(model) > 3 else {}


def _difference(want: Tensor, got: Tensor) -> float:
    """The largest error in standard deviations; of labels, the share of pixels that differ."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if not want.is_floating_point():
        return (want != got).float().mean().item()
    return ((want - got).abs().max() / want.std().clamp(min=1e-6)).item()
