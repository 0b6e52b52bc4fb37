"""How well a model follows the objects of a data set of videos, given their first masks or a few clicks on them.

score = measure_vos(model, open_source("davis:DAVIS", split="val"))
score.compute()["jf"]; score.table()  # a row for each object
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from masklet.data.davis_writer import davis_ids
from masklet.data.videos import Videos
from masklet.inference.image import Predictor, Settings
from masklet.inference.tracking import Tidy, VideoSession
from masklet.metrics.video_protocols import SAV, SemiSupervised, VideoProtocol, YouTubeVOS
from masklet.metrics.vos import JF
from masklet.ops.clicks import SAM2, Click, ClickRule, next_click
from masklet.ops.rle import RLE, decode, encode
from masklet.structures import Masks
from masklet.structures.errors import UserError

__all__ = ["BENCHMARKS", "Benchmark", "measure_vos"]

KEPT = 2  # frames: nothing goes back


@dataclass(frozen=True)
class Benchmark:
    """What counts, whether objects are given when they first appear or on the first frame only, and may overlap."""

    protocol: VideoProtocol
    late: bool
    overlap: bool


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "davis": Benchmark(SemiSupervised(), late=False, overlap=False),
        "youtube_vos": Benchmark(YouTubeVOS(skip_given=True), late=True, overlap=False),
        "sav": Benchmark(SAV(), late=True, overlap=True),
    }
)


def measure_vos(
    model: Any,
    dataset: Any,
    *,
    clicks: int | None = None,
    rule: ClickRule = SAM2,
    limit: int | None = None,
    together: int = 1,
    tidy: Tidy | None = None,
    precision: str = "auto",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> JF:
    """J, F and J&F of a data set of videos: semi-supervised, one pass forward, one video after the other.

    An object is given by its true mask in the frame that shows it first (in DAVIS the first frame), or by so many
    `clicks` on that frame: one in the middle of the object, then each in the middle of the largest mistake. What counts
    says the data set's own protocol (`masklet.metrics.video_protocols`); in DAVIS and SA-V the first and the last frame
    do not. Where predicted objects overlap, the smaller number covers the other as in a DAVIS file (unless `tidy` gives
    the pixel to the object that is surest of it); in SA-V they may overlap.

    `model` has `step`, or is what `masklet.load` takes. `limit` is the most videos; `together` objects are computed at
    a time. `progress(done, total)` counts frames. What is held does not grow with a video, but for four numbers for
    each object and frame.
    """
    if not isinstance(dataset, Videos):
        name = getattr(dataset, "name", type(dataset).__name__)
        raise UserError(f"{name} has no videos", hint="follow objects through davis:, youtube_vos: or sav:")
    if clicks is not None and clicks < 1:
        raise UserError(f"clicks is {clicks}", hint="allow at least one, or none to give true masks")
    ready = Predictor(model, Settings(device=device, precision=precision))
    videos, benchmark = dataset.videos[:limit], BENCHMARKS[dataset.name]
    total, done, score = sum(len(video.frames) for video in videos), 0, JF(benchmark.protocol)
    for video in videos:
        session = VideoSession(ready.model, video.source, kept=KEPT, together=together, dtype=ready.dtype, tidy=tidy)
        known = set(video.annotated)
        for at, number in enumerate(video.frames):
            truth = video.objects(number) if number in known else {}
            if benchmark.late or number == video.annotated[0]:
                for object in sorted(truth.keys() - set(session.objects)):
                    _tell(session, at, object, truth[object], clicks, rule)
            found = next(session.propagate(stop=at + 1)).masks if session.objects else {}
            if number in known:
                layers = _apart if benchmark.overlap else davis_ids
                size = (session.frames[at].shape[1], session.frames[at].shape[2])
                true = {k: encode(mask) for k, mask in truth.items()}
                score.update(layers(found, size), layers(true, size), video.name, number)
            done += 1
            if progress is not None:
                progress(done, total)
    return score


def _tell(
    session: VideoSession, at: int, object: int, truth: Bool[Tensor, "h w"], clicks: int | None, rule: ClickRule
) -> None:
    """Gives an object by its mask, or by clicks, each after a look at what came of the last one."""
    if clicks is None:
        session.add_prompt(at, object, mask=truth)
        return
    mask, made = np.zeros(truth.shape, bool), list[Click]()
    for _ in range(clicks):
        click = next_click(mask, truth.numpy(), made, rule=rule)
        if click is None:
            return
        made.append(click)
        found, _ = session.add_prompt(at, object, points=[(click.x, click.y)], labels=[int(click.positive)])
        mask = decode(found)


def _apart(masks: Mapping[int, RLE], size: tuple[int, int]) -> Masks:
    """A mask for each number from 1 on, as the metric takes objects that overlap."""
    empty = encode(np.zeros(size, bool))
    return Masks(*size, tuple(masks.get(k, empty) for k in range(1, max(masks, default=0) + 1)))
