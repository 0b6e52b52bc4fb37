"""What the operators make together: detectron2's recorded proposals and detections, from logits, deltas and anchors."""

import pytest
import torch

import oracle
from masklet.ops import boxes, nms
from masklet.ops.boxes import RPN_CODER

STRIDES, SIZES = (4, 8, 16, 32, 64), (32, 64, 128, 256, 512)


def read(folder, *names):
    return tuple(torch.from_numpy(oracle.recorded(name, folder)) for name in names)


def anchors(stride, size, height, width):
    """Three boxes of equal area at every cell: ratios of height to width .5, 1 and 2, around the cell's corner."""
    ratio = torch.tensor([0.5, 1, 2])
    w = size / ratio.sqrt()
    around = torch.stack([-w, -w * ratio, w, w * ratio], 1) / 2
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    return (torch.stack([x, y, x, y], -1)[:, :, None] + around).view(-1, 4)


def proposals(folder, per_level, count, min_size, threshold=0.7):
    meta, uniform = oracle.meta(folder), oracle.keyfill(folder).uniform
    height, width = meta["image_height"], meta["image_width"]
    found, scores, levels = [], [], []
    for i, (stride, size) in enumerate(zip(STRIDES, SIZES, strict=True)):
        (logits,) = read(folder, f"logits.{i}")
        entry = meta["arrays"][f"deltas.{i}"]
        stored = "step" in entry  # the large ones are remade
        shape = tuple(entry["shape"])
        deltas = (
            read(folder, f"deltas.{i}")[0] if stored else 0.4 * torch.from_numpy(uniform(f"ops_proposals:d{i}", shape))
        )
        grid = anchors(stride, size, -(-height // stride), -(-width // stride))
        best = logits[0].topk(min(per_level, logits.shape[1])).indices
        found.append(RPN_CODER.decode(grid[best], deltas[0][best].float()))
        scores.append(logits[0][best])
        levels.append(torch.full_like(best, i))
    every, score, level = torch.cat(found), torch.cat(scores), torch.cat(levels)
    every = boxes.clip(every, height, width)
    keep = boxes.larger_than(every, min_size)
    every, score, level = every[keep], score[keep], level[keep]
    kept = nms.batched_nms(every, score, level, threshold)[:count]
    return every[kept], score[kept]


@pytest.mark.parametrize(
    ("name", "per_level", "count", "min_size"),
    [("test", 1000, 1000, 0.0), ("train", 2000, 1000, 0.0), ("small", 100, 50, 0.0), ("minsize", 300, 100, 20.0)],
)
def test_proposals_recorded_from_detectron2(name, per_level, count, min_size):
    folder = oracle.find("ops_proposals")
    found, logits = proposals(folder, per_level, count, min_size)
    expected, scores, total = read(folder, f"{name}.boxes", f"{name}.logits", f"{name}.count")
    assert len(found) == int(total)
    torch.testing.assert_close(found[: len(expected)], expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(logits[: len(scores)], scores)
    other, _ = proposals(folder, per_level, count, min_size, threshold=0.65)
    assert len(other) != len(found) or not torch.allclose(other[: len(expected)], expected, atol=1)


@pytest.mark.parametrize(
    ("name", "min_score", "threshold", "count"), [("a", 0.05, 0.5, 100), ("b", 0.0, 0.5, 30), ("c", 0.3, 0.7, None)]
)
def test_detections_recorded_from_detectron2(name, min_score, threshold, count):
    folder = oracle.find("ops_proposals")
    meta = oracle.meta(folder)
    per_class, scores = read(folder, "fast.boxes", "fast.scores")
    per_class = boxes.clip(per_class.view(60, 5, 4), meta["image_height"], meta["image_width"])
    row, label = (scores[:, :-1] > min_score).nonzero(as_tuple=True)
    kept = nms.batched_nms(per_class[row, label], scores[row, label], label, threshold)[:count]
    expected, theirs, labels, index = read(
        folder, *(f"fast.{name}.{k}" for k in ("boxes", "scores", "classes", "roi_index"))
    )
    assert label[kept].tolist() == labels.tolist()
    assert row[kept].tolist() == index.tolist()
    torch.testing.assert_close(per_class[row, label][kept], expected)
    torch.testing.assert_close(scores[row, label][kept], theirs)
