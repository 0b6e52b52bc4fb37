"""A whole prediction against torchvision: FCN on ResNet-50 with the same weights, from a photograph to its label map.

python benchmarks/semantic.py [--threads N] [--rounds N] [--only fp32|automatic|aux|agreement]

Both sides are without the auxiliary head; "peer with aux" gives torchvision the one that its published weights have
and that it computes although nobody looks. "one" is `model.predict`, "many" a predictor for many pictures, which folds
norms into convolutions first. The weights are random, as none can be fetched. "agreement" is the share of pixels with
one class in float32 and in the automatic precision, for five sets of weights; random weights leave hardly any margin
between the best two classes, so each line also says how large it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

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
AGREEMENT = 0.995  # least share of pixels with one class in float32 and in the automatic precision
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


def speed(only: str, rounds: int) -> None:
    photo = photograph()
    for aux in (False, True):
        theirs, ours = twins(0, aux)

        @torch.inference_mode()
        def peer(model: nn.Module = theirs) -> Tensor:
            return model(((photo.float() / 255 - MEAN) / STD)[None])["out"].argmax(1)[0]

        exact, automatic = (Predictor(ours, Settings(precision=name), many=True) for name in ("fp32", "auto"))
        cases = {
            "fp32 one": (lambda model=ours: model.predict(photo), torch.float32),
            "fp32 many": (lambda predictor=exact: predictor([photo])[0], torch.float32),
            "automatic many": (lambda predictor=automatic: predictor([photo])[0], automatic.dtype),
        }
        for name, (call, dtype) in cases.items():
            case = f"fcn_resnet50 {name}" + (", peer with aux" if aux else "")
            if only not in case:
                continue
            least = 0.9999 if dtype == torch.float32 else AGREEMENT
            compare(
                case,
                lambda call=call: call().labels,
                {"torchvision fp32": peer},
                same=lambda a, b, least=least: agree(a, b) >= least,
                rounds=rounds,
                target=1.0 if dtype == torch.float32 else 0.5,
                shapes=f"3x{SIZE}x{SIZE}",
                dtype=str(dtype).removeprefix("torch."),
            )


def agreement(seeds: Iterable[int]) -> None:
    """Prints, for sets of random weights, how often the automatic precision chooses what float32 chooses."""
    photo = photograph()
    for seed in seeds:
        _, model = twins(seed, aux=False)
        low, high = (Predictor(model, Settings(precision=name))([photo])[0].labels for name in ("auto", "fp32"))
        with torch.inference_mode():
            scores = model.eval().scores(photo[None] / 255)
        best = scores.topk(2, 1).values
        share = agree(low, high)
        line = {
            "case": f"agreement with fp32, weights of seed {seed}",
            "share": round(share, 5),
            "target": AGREEMENT,
            "met": share >= AGREEMENT,
            "median_margin": round(((best[:, 0] - best[:, 1]).median() / scores.std()).item(), 4),  # in std of scores
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    options = threads()
    speed(options.only, options.rounds)
    if options.only in "agreement":
        agreement(range(5))


if __name__ == "__main__":
    main()
