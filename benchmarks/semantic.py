"""A whole prediction against torchvision: FCN on ResNet-50 with the same weights, from a photograph to its label map.

python benchmarks/semantic.py [--threads N] [--rounds N]

The peer has the auxiliary head, as all its published weights do, and computes it although nobody looks. "without aux"
is the same without that head. The weights are random, as none can be fetched; agreement is the share of pixels with
one class in float32 and in the automatic precision.
"""

from __future__ import annotations

import json

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50

import masklet
from masklet.inference.image import Predictor, Settings

SIZE = 520
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def photograph() -> Tensor:
    astronaut = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float()
    return F.interpolate(astronaut, size=(SIZE, SIZE), mode="bilinear")[0].round().to(torch.uint8)


def twins(seed: int, aux: bool) -> tuple[nn.Module, nn.Module]:
    """torchvision's model and ours with the same random weights."""
    torch.manual_seed(seed)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=aux).eval()
    return theirs, masklet.load("fcn_resnet50", weights=theirs.state_dict(), aux_weight=0.5 if aux else 0.0)


def agree(a: Tensor, b: Tensor) -> float:
    return (a.long() == b).float().mean().item()


def main() -> None:
    options = threads()
    photo = photograph()
    for aux in (True, False):
        theirs, ours = twins(0, aux)
        exact, automatic = (Predictor(ours, Settings(precision=name), many=True) for name in ("fp32", "auto"))

        @torch.inference_mode()
        def peer(model: nn.Module = theirs) -> Tensor:
            return model(((photo.float() / 255 - MEAN) / STD)[None])["out"].argmax(1)[0]

        for name, predictor, least, target in (
            ("fp32", exact, 0.9999, 1.0),
            ("automatic precision", automatic, 0.995, 0.5),
        ):
            compare(
                f"fcn_resnet50 {name}" + ("" if aux else " without aux"),
                lambda predictor=predictor: predictor([photo])[0].labels,
                {"torchvision fp32": peer},
                same=lambda a, b, least=least: agree(a, b) >= least,
                rounds=options.rounds,
                target=target,
                shapes=f"3x{SIZE}x{SIZE}",
                dtype=str(predictor.dtype).removeprefix("torch."),
                agreement=round(agree(predictor([photo])[0].labels, peer()), 5),
            )
    shares = []
    for seed in range(1, 5):
        _, model = twins(seed, aux=False)
        low, high = (Predictor(model, Settings(precision=name))([photo])[0].labels for name in ("auto", "fp32"))
        shares.append(round(agree(low, high), 5))
    print(json.dumps({"case": "agreement with fp32 for four other sets of random weights", "shares": shares}))


if __name__ == "__main__":
    main()
