"""Label maps and masks against torch, numpy and pycocotools.

python benchmarks/masks.py [--threads N] [--rounds N] [--only argmax|confusion|rle|paste]
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from masklet.ops import rle
from masklet.ops.masks import confusion
from masklet.ops.paste import paste, whole_pixels
from masklet.ops.resize import argmax_resized


def smooth_scores(k: int, height: int, width: int) -> Tensor:
    """Scores with regions, as a network gives them: noise at a sixteenth of the size, blown up, and a little noise."""
    coarse = torch.randn(1, k, height // 16, width // 16)
    return F.interpolate(coarse, size=(height, width), mode="bicubic") + 0.05 * torch.randn(1, k, height, width)


def blobs(n: int, height: int, width: int) -> np.ndarray:
    """`n` wavy discs of 15 to 300 pixels radius anywhere in the image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out = np.zeros((n, height, width), bool)
    for mask in out:
        (cy, cx), (a, b) = rng.uniform(0, (height, width)), np.exp(rng.uniform(np.log(15), np.log(300), 2))
        mask[:] = ((y - cy) / b) ** 2 + ((x - cx) / a) ** 2 < 1 + 0.2 * np.sin(6 * np.arctan2(y - cy, x - cx))
    return out


def nearly(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for the few pixels where two classes tie to rounding."""
    return (ours.long() != theirs).float().mean().item() < 1e-4


def argmax_cases(rounds: int) -> None:
    size = (1024, 2048)
    for name, scores in (("noise", torch.randn(1, 19, 128, 256)), ("regions", smooth_scores(19, 128, 256))):
        compare(
            f"argmax_resized {name}",
            lambda scores=scores: argmax_resized(scores, size),
            {"interpolate+argmax": lambda s=scores: F.interpolate(s, size=size, mode="bilinear").argmax(1)},
            same=nearly,
            rounds=rounds,
            target=0.35,
            shapes="1x19x128x256 -> 1024x2048",
            dtype="float32",
        )


def confusion_cases(rounds: int) -> None:
    rng = np.random.default_rng(0)
    for k in (2, 19, 150):
        truth = np.kron(rng.integers(0, k, (16, 32)), np.ones((64, 64), np.int64))  # regions: long runs of one class
        pred = np.where(rng.random(truth.shape) < 0.1, rng.integers(0, k, truth.shape), truth)
        truth[rng.random(truth.shape) < 0.05] = 255

        def peer(truth: np.ndarray = truth, pred: np.ndarray = pred, k: int = k) -> np.ndarray:
            valid = truth != 255
            return np.bincount(truth[valid] * k + pred[valid], minlength=k * k).reshape(k, k)

        for dtype in (torch.uint8, torch.int64):
            pair = torch.from_numpy(truth).to(dtype), torch.from_numpy(pred).to(dtype)
            compare(
                f"confusion {k} classes",
                lambda pair=pair, k=k: confusion(*pair, k),
                {"numpy bincount int64": peer},
                same=lambda a, b: np.array_equal(a.numpy(), b),
                rounds=rounds,
                target=0.4,
                shapes="1024x2048",
                dtype=str(dtype).removeprefix("torch."),
            )


def rle_cases(rounds: int) -> None:
    height, width = 1080, 1920
    masks = blobs(100, height, width)
    fortran = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    theirs, ours = coco.encode(fortran), rle.encode_many(masks)
    texts = [c["counts"] for c in theirs]
    crops = [rle.crop(item) for item in ours]
    facts = {"rounds": rounds, "shapes": "100x1080x1920", "dtype": "bool"}

    def same_text(a: list[str], b: list[dict[str, bytes]]) -> bool:
        return a == [c["counts"].decode() for c in b]

    compare(
        "rle encode (to compressed strings)",
        lambda: rle.to_strings(rle.encode_many(masks)),
        {"pycocotools": lambda: coco.encode(fortran)},
        same=same_text,
        target=0.5,
        **facts,
    )
    compare(
        "rle decode (from compressed strings)",
        lambda: rle.decode_many([rle.from_string(t, height, width) for t in texts], height, width),
        {"pycocotools": lambda: coco.decode(theirs)},
        same=lambda a, b: np.array_equal(a, b.transpose(2, 0, 1)),
        target=0.3,
        **facts,
    )
    compare(
        "rle from crops (to compressed strings)",
        lambda: rle.to_strings(rle.from_crops([c for c, _, _ in crops], [at for _, *at in crops], height, width)),
        {"pycocotools dense": lambda: coco.encode(fortran)},
        same=same_text,
        target=0.2,
        **facts,
    )
    compare(
        "rle iou 100x100",
        lambda: rle.iou(ours, ours),
        {"pycocotools": lambda: coco.iou(theirs, theirs, [0] * len(theirs))},
        same=lambda a, b: np.allclose(a, b),
        **facts,
    )


def paste_cases(rounds: int) -> None:
    height, width, n = 1080, 1920, 100
    noise = torch.Generator().manual_seed(0)
    probs = F.interpolate(torch.randn(n, 1, 4, 4, generator=noise), size=(28, 28), mode="bicubic").mul(4).sigmoid()
    centre = torch.rand(n, 2, generator=noise) * torch.tensor([width, height])
    half = torch.empty(n, 2).uniform_(np.log(15), np.log(300), generator=noise).exp()  # as the blobs above
    limit = torch.tensor([width, height, width, height])
    boxes = torch.minimum(torch.cat([centre - half, centre + half], 1).clamp(min=0), limit)

    def theirs() -> list[dict[str, object]]:
        masks = paste_masks_in_image(probs, boxes, (height, width))[:, 0] >= 0.5
        return coco.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().view(np.uint8)))

    def nearly_all(a: list[str], b: list[dict[str, object]]) -> bool:
        """Pixels whose value is the threshold to rounding may fall on either side."""
        ours, other = coco.decode([{"size": [height, width], "counts": text} for text in a]), coco.decode(b)
        return (ours != other).sum() <= 1e-3 * other.sum()

    compare(
        "paste 28x28 into boxes (to compressed strings)",
        lambda: rle.to_strings(paste(probs[:, 0], boxes, (height, width), placement=whole_pixels)),
        {"torchvision paste + pycocotools": theirs},
        same=nearly_all,
        rounds=rounds,
        target=0.05,
        shapes=f"{n}x28x28 -> {height}x{width}",
        dtype="float32",
    )


if __name__ == "__main__":
    options = threads()
    torch.manual_seed(0)
    for name, cases in {
        "argmax": argmax_cases,
        "confusion": confusion_cases,
        "rle": rle_cases,
        "paste": paste_cases,
    }.items():
        if options.only in name:
            cases(options.rounds)
