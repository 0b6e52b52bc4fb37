"""SAM 2.1 tiny at 1024 against transformers with the same random weights: image encoder, memory attention, writing.

python benchmarks/sam2.py [--threads N] [--rounds N] [--only TEXT]

Memory attention sees what it sees from the 17th frame on: 7 maps and 16 pointers, 28,736 tokens. "automatic" is ours in
the number format that the processor computes in (bfloat16 with AVX512-BF16 or AMX) against theirs in float32.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from masklet.models import build
from masklet.parts.memory import Recalled
from masklet.parts.positions import sine_grid
from masklet.parts.precision import autocast, automatic
from masklet.weights import remap
from masklet.weights.from_sam2 import TRANSFORMERS

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def pair() -> tuple[Any, Any]:
    """transformers' model and ours with its weights."""
    torch.manual_seed(0)
    theirs = Sam2VideoModel(Sam2VideoConfig())
    for value in theirs.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
    ours = build("sam2_hiera_tiny")
    remap.fill(ours, theirs.state_dict(), TRANSFORMERS)
    return theirs.eval(), ours.eval()


def near(most: float) -> Callable[[Tensor, Tensor], bool]:
    return lambda a, b: bool((a.float() - b).abs().max() < most * b.std())


def main() -> None:
    options = threads()
    theirs, ours = pair()
    image = torch.rand(1, 3, 1024, 1024)
    pixels = (image - MEAN) / STD
    features, maps, pointers = torch.randn(1, 256, 64, 64), torch.randn(1, 7, 4096, 64), torch.randn(1, 64, 64)
    places, old = torch.randn(7, 4096, 64), torch.randn(64, 64)
    recalled = Recalled(maps, places, pointers, old)
    grid = sine_grid(64, 64, 256)
    logits = torch.randn(1, 1, 1024, 1024)

    def flat(x: Tensor) -> Tensor:
        return x.flatten(2).permute(2, 0, 1)

    def read_theirs() -> Tensor:
        return theirs.memory_attention(
            current_vision_features=flat(features),
            current_vision_position_embeddings=flat(grid[None]),
            memory=recalled.values().transpose(0, 1),
            memory_posision_embeddings=(recalled.keys() - recalled.values()).transpose(0, 1),
            num_object_pointer_tokens=64,
        ).reshape(4096, 256)

    def read_ours() -> Tensor:
        return flat(ours.attention(features, grid, recalled)).reshape(4096, 256)

    def seen() -> Tensor:
        return ours.encoder(image, ours.decoder.skips)[0]

    def seen_by_them() -> Tensor:
        return (
            theirs.get_image_features(pixels, return_dict=True)
            .fpn_hidden_states[-1]
            .permute(1, 2, 0)
            .view(1, 256, 64, 64)
        )

    def fast(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with autocast("cpu", automatic("cpu")):
                return call()

        return run

    cases: dict[str, tuple[Any, Any, Any, float | None]] = {
        "image encoder": (seen, seen_by_them, near(1e-2), 0.85),
        "image encoder, automatic": (fast(seen), seen_by_them, near(0.5), 0.5),
        "memory attention": (read_ours, read_theirs, near(1e-2), 0.8),
        "memory attention, automatic": (fast(read_ours), read_theirs, near(0.5), 0.5),
        "memory encoder": (
            lambda: ours.writer(features, logits),
            lambda: theirs.memory_encoder(features, logits)[0],
            near(1e-2),
            None,
        ),
    }
    with torch.inference_mode():
        for name, (own, peer, same, target) in cases.items():
            if options.only in name:
                compare(name, own, {"transformers": peer}, same=same, rounds=options.rounds, target=target)


if __name__ == "__main__":
    main()
