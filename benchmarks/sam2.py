"""SAM 2.1 tiny against transformers with the same random weights: what a frame costs, and each part of it.

python benchmarks/sam2.py [--threads N] [--rounds N] [--only TEXT]

A frame is what comes after 16 others with one click on the first: seven maps and 16 pointers, 28,736 tokens at 1024.
"automatic" is ours in the number format that the processor computes in (bfloat16 with AVX512-BF16 or AMX) against
theirs in float32. The frames before are copies of the first, on both sides, so that nothing else has to be computed.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel

from masklet.models import build
from masklet.models.prompting import Queries
from masklet.parts.memory import Recalled
from masklet.parts.memory_bank import Memory, Remembered
from masklet.parts.positions import sine_grid
from masklet.parts.precision import autocast, automatic
from masklet.weights import remap
from masklet.weights.from_sam2 import TRANSFORMERS

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
NOW = 16  # the number of the frame that is timed


def configured(side: int) -> Sam2VideoConfig:
    """transformers' tiny for squares of `side` pixels."""
    settings = Sam2VideoConfig().to_dict()
    cells = [[side // stride] * 2 for stride in (4, 8, 16)]
    settings["vision_config"] |= {"backbone_feature_sizes": cells}
    settings["vision_config"]["backbone_config"] |= {"image_size": [side, side]}
    settings["prompt_encoder_config"] |= {"image_size": side}
    settings |= {"image_size": side, "memory_attention_rope_feat_sizes": cells[-1]}
    return Sam2VideoConfig(**settings)


def pair(side: int = 1024) -> tuple[Any, Any]:
    """transformers' model and ours with its weights."""
    torch.manual_seed(0)
    theirs = Sam2VideoModel(configured(side))
    for value in theirs.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
    theirs.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(9.0)  # in sight
    frequencies = theirs.shared_image_embedding.positional_embedding
    theirs.prompt_encoder.shared_embedding.positional_embedding.data.copy_(frequencies)
    ours = build("sam2_hiera_tiny", side=side)
    remap.fill(ours, theirs.state_dict(), TRANSFORMERS)
    return theirs.eval(), ours.eval()


def near(most: float) -> Callable[[Tensor, Tensor], bool]:
    return lambda a, b: a.shape == b.shape and bool((a.float() - b).abs().max() < most * b.std())


def fast(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same in the number format that suits the processor."""

    def run() -> Tensor:
        with autocast("cpu", automatic("cpu")):
            return call()

    return run


def following(objects: int, side: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and theirs: a frame is looked at, `objects` are found in it (coarse logits), and it is remembered."""
    theirs, ours = pair(side)
    image, place = torch.rand(1, 3, side, side), torch.full((1, 1, 2), side / 3)
    pixels, label = ((image - MEAN) / STD)[0], torch.ones(1, 1, dtype=torch.int64)

    session = Sam2VideoInferenceSession(pixels[None], side, side, dtype=torch.float32)
    session.obj_id_to_idx(1)
    session.add_point_inputs(0, 0, {"point_coords": place[None], "point_labels": label[None]})
    session.obj_with_new_inputs = [1]
    theirs(session, frame_idx=0)
    session.processed_frames = dict.fromkeys(range(NOW + 1), pixels)
    first = session.output_dict_per_obj[0]["cond_frame_outputs"][0]
    for number in range(objects):
        kept = session.output_dict_per_obj[session.obj_id_to_idx(number + 1)]
        kept["cond_frame_outputs"][0] = first
        kept["non_cond_frame_outputs"] |= {at: dict(first) for at in range(1, NOW)}

    seen = ours.embed(image)
    _, memory = ours.step(seen, ours.nothing_remembered(NOW + 1), Queries(place, label), at=0)
    entry = memory.prompted[0][torch.zeros(objects, dtype=torch.int64)]
    recent = tuple(Remembered(at, entry.map, entry.pointer) for at in range(1, NOW))
    memory = Memory((entry,), recent, NOW + 1)

    def mine() -> Tensor:
        return ours.step(ours.embed(image), memory, at=NOW)[0].logits

    def of_theirs() -> Tensor:
        session.cache.clear_all()
        return theirs(session, frame_idx=NOW).pred_masks[:, 0]

    return mine, of_theirs


def parts() -> dict[str, tuple[Any, Any, Any, float | None]]:
    """Image encoder, memory attention and memory encoder at 1024."""
    theirs, ours = pair()
    image = torch.rand(1, 3, 1024, 1024)
    pixels = (image - MEAN) / STD
    features, maps, pointers = torch.randn(1, 256, 64, 64), torch.randn(1, 7, 4096, 64), torch.randn(1, 64, 64)
    recalled = Recalled(maps, torch.randn(7, 4096, 64), pointers, torch.randn(64, 64))
    grid, logits = sine_grid(64, 64, 256), torch.randn(1, 1, 1024, 1024)

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
        found = theirs.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
        return found.permute(1, 2, 0).view(1, 256, 64, 64)

    def written() -> Tensor:
        return ours.writer(features, logits)

    return {
        "image encoder, 1024": (seen, seen_by_them, near(1e-2), 0.85),
        "image encoder, 1024, automatic": (fast(seen), seen_by_them, near(0.5), 0.5),
        "memory attention, 28,736 tokens": (read_ours, read_theirs, near(1e-2), None),
        "memory attention, 28,736 tokens, automatic": (fast(read_ours), read_theirs, near(0.5), None),
        "memory encoder, 1024": (written, lambda: theirs.memory_encoder(features, logits)[0], near(1e-2), None),
    }


def frames(objects: int, side: int) -> dict[str, tuple[Any, Any, Any, float | None]]:
    """A frame of a video, in float32 (one object) and in the automatic format."""
    mine, of_theirs = following(objects, side)
    name = f"a frame, {side}, {objects} object{'s' if objects > 1 else ''}"
    cases: dict[str, tuple[Any, Any, Any, float | None]] = {}
    if objects == 1:
        cases[name] = (mine, of_theirs, near(3e-2), 0.8)
    return cases | {f"{name}, automatic": (fast(mine), of_theirs, near(0.5), 0.5)}


def main() -> None:
    options = threads(rounds=2)
    with torch.inference_mode():
        for make in (parts, lambda: frames(1, 1024), lambda: frames(10, 512)):
            for name, (own, peer, same, target) in make().items():
                if options.only in name:
                    compare(name, own, {"transformers": peer}, same=same, rounds=options.rounds, target=target)


if __name__ == "__main__":
    main()
