"""SAM's mask decoder after the embedding: one click, and a batch of 64 clicks of a grid, against transformers.

python benchmarks/promptable.py [--threads N] [--rounds N] [--only TEXT]

Weights are random and the same; the decoder is that of the published SAM (64x64 cells of 256 channels). The encoder
takes no part. Of the grid's masks a quarter is predicted well enough to be kept.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamConfig, SamImageProcessor, SamMaskDecoderConfig, SamModel, SamVisionConfig

from masklet.inference.everything import Everything, grid
from masklet.inference.everything import _of_points as of_points
from masklet.inference.everything import _passed as passed
from masklet.models import build
from masklet.models.prompting import Embedding, Queries, ask
from masklet.structures import Prompt
from masklet.weights import remap
from masklet.weights.from_sam import TRANSFORMERS

SIZE, COVERED = (480, 640), (768, 1024)


def pair() -> tuple[Any, Any]:
    """transformers' model and ours with its weights; of the encoder one narrow block is left."""
    torch.manual_seed(0)
    vision = SamVisionConfig(hidden_size=96, num_hidden_layers=1, num_attention_heads=2, global_attn_indexes=[])
    theirs = SamModel(SamConfig(vision_config=vision, mask_decoder_config=SamMaskDecoderConfig(layer_norm_eps=1e-5)))
    for value in theirs.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
    theirs.shared_image_embedding.positional_embedding.data.normal_()
    ours = build("sam_vit_b", width=96, depth=1, heads=2, whole=())
    remap.fill(ours, theirs.state_dict(), TRANSFORMERS)
    return theirs.eval(), ours.eval()


def main() -> None:
    options = threads()
    theirs, ours = pair()
    images, features = SamImageProcessor(), torch.randn(1, 256, 64, 64)
    embedding = Embedding(features, (), ours.prompts.positions.grid(64, 64), SIZE, COVERED, (1024, 1024))
    scale = torch.tensor(embedding.scale)

    def decoded(points: Tensor) -> Any:
        labels = torch.ones(1, len(points), 1, dtype=torch.int64)
        asked = {"input_points": (points * scale)[None, :, None], "input_labels": labels}
        return theirs(image_embeddings=features, **asked, multimask_output=True)

    def enlarged(found: Any, binary: bool) -> Any:
        return images.post_process_masks(found.pred_masks, [list(SIZE)], [list(COVERED)], binarize=binary)[0]

    def mine(points: Tensor) -> Tensor:
        labels = torch.ones(len(points), 1, dtype=torch.int64)
        answer = ours.answer(embedding, Queries((points * scale)[:, None], labels))
        return ours.masks(embedding, answer, slice(1, None))

    def near(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() < 1e-3 * b.std())

    def few_differ(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and float((a != b).float().mean()) < 1e-3

    click = torch.tensor([[300.0, 200.0]])
    clicks = grid(8) * torch.tensor([float(SIZE[1]), float(SIZE[0])])
    with torch.inference_mode():
        best = int(decoded(click).iou_scores[0, 0].argmax())
        scores = torch.cat([decoded(part).iou_scores.flatten() for part in clicks.split(16)])
        chosen = Everything(score=float(scores.quantile(0.75)), stability=0.01)

        def of_grid() -> Tensor:
            parts = clicks.split(chosen.batch)
            several = [own for part in parts for _, own in of_points(ours, embedding, part, chosen)]
            found = [passed(own, embedding, (0, 0, *SIZE[::-1]), SIZE, chosen) for own in several]
            return torch.cat([own.scores for own in found]).sort().values

        def of_their_grid() -> Tensor:
            found = decoded(clicks)
            arguments = ([*SIZE], [0, 0, *SIZE[::-1]], chosen.score, chosen.stability)
            return images.filter_masks(enlarged(found, False), found.iou_scores[0], *arguments)[1].sort().values

        cases = {
            "click, logits": (lambda: mine(click), lambda: decoded(click).pred_masks[0], near, 0.7),
            "click, mask of the photograph": (
                lambda: ask(ours, embedding, Prompt(click)).dense()[0],
                lambda: enlarged(decoded(click), True)[0, best],
                few_differ,
                0.7,
            ),
            "64 clicks, all logits": (
                lambda: torch.cat([mine(part) for part in clicks.split(4)]),
                lambda: decoded(clicks).pred_masks[0],
                near,
                None,
            ),
            "64 clicks, masks that are kept as run lengths": (
                of_grid,
                of_their_grid,
                lambda a, b: len(a) == len(b) and bool((a - b).abs().max() < 1e-3),
                0.4,
            ),
        }
        for name, (own, peer, same, target) in cases.items():
            if options.only in name:
                compare(name, own, {"transformers": peer}, same=same, rounds=options.rounds, target=target)


if __name__ == "__main__":
    main()
