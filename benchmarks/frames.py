"""Frames of a video as a network wants them, against the way of SAM 2's own loader: all of them in one float stack.

python benchmarks/frames.py [--threads N] [--rounds N] [--only TEXT]

60 frames of a made film, 1280x720, to 1024x1024. Both decode with PyAV. The peer resizes each with Pillow, stacks them
in float32 and normalises the stack; ours gives them one by one as bytes. The second case normalises each of ours as
well, which the network otherwise does.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
import tempfile
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from masklet.data.images import to_float
from masklet.inference.frames import open_frames
from masklet.inference.video import video_writer
from masklet.parts.norm import IMAGENET, Normalize

FRAMES, SIDE = 60, 1024
LOOKED_AT = slice(None, None, 64)  # pixels of each frame that are compared


def film(path: Path) -> None:
    """A smooth picture that drifts."""
    coarse = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(coarse, (900, 1500), mode="bicubic").clamp(0, 1)[0].mul(255).byte()
    pixels = picture.permute(1, 2, 0).numpy()
    with video_writer(path, 25) as append:
        for t in range(FRAMES):
            append(np.ascontiguousarray(pixels[t : t + 720, 2 * t : 2 * t + 1280]))


def some(frames: Tensor) -> Tensor:
    return frames[:, :, LOOKED_AT, LOOKED_AT].clone()


def main() -> None:
    options = threads(rounds=3)
    normalize = Normalize(*IMAGENET)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET.mean, IMAGENET.std))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "film.mp4"
        film(path)

        def one_by_one(whole: bool) -> Tensor:
            frames, seen = open_frames(path), []
            for number in range(FRAMES):
                small = F.interpolate(frames[number][None], (SIDE, SIDE), mode="bilinear", antialias=True)
                seen.append(some(normalize(to_float(small))) if whole else normalize(to_float(some(small))))
            return torch.cat(seen)

        def stacked() -> Tensor:
            stack = torch.empty(FRAMES, 3, SIDE, SIDE)
            with av.open(str(path)) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                    pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255.0
                    stack[number] = torch.from_numpy(pixels).permute(2, 0, 1)
            stack -= mean
            stack /= std
            return some(stack)

        def same(a: Tensor, b: Tensor) -> bool:
            return a.shape == b.shape and float((a - b).abs().max()) < 1.01 / 255 / min(IMAGENET.std)

        name = f"{FRAMES} frames 1280x720 to {SIDE}x{SIDE}"
        for case, whole, target in ((name, False, 0.3), (f"{name}, normalised", True, None)):
            if options.only in case:
                own, rounds = partial(one_by_one, whole), options.rounds
                compare(case, own, {"float stack": stacked}, same=same, rounds=rounds, target=target)


if __name__ == "__main__":
    main()
