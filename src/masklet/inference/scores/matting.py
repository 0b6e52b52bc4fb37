"""Folders of alpha mattes against folders of true ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from masklet.data.mattes import matte_pairs, read_flow, read_trimap
from masklet.metrics.matting import MattingScore, Scale
from masklet.structures import UserError

__all__ = ["score_matting"]


def score_matting(
    predictions: Path,
    truth: Path,
    *,
    scale: str = "rvm_lr",
    trimaps: Path | str | None = None,
    flow: Path | str | None = None,
    stills: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MattingScore:
    """Errors of alpha pictures (8 or 16 bits), one per true one of the same place and name, frame by frame.

    Pictures at the top of `truth` are stills, folders below it videos (`stills` says that they are not). `scale` is
    rvm_lr, rvm_hr, bmv2 or paper. With a folder of `trimaps` only unknown pixels count; bmv2 takes `trimap/` beside
    `pha/` by itself. `flow` is a folder of .flo or .npy files named after the frame they lead to; without it there is
    no messddt.
    """
    score = MattingScore(scale)
    assert isinstance(score.scale, Scale)
    pairs = matte_pairs(
        predictions,
        truth,
        trimaps=None if trimaps is None else Path(trimaps),
        own_trimaps=score.scale.unknown_only and trimaps is None,
        flow=None if flow is None else Path(flow),
        stills=stills,
    )
    for done, pair in enumerate(pairs, 1):
        mattes = pair.mattes()
        try:
            score.update(
                *mattes,
                None if pair.trimap is None else read_trimap(pair.trimap),
                name=pair.name,
                video=pair.video,
                flow=None if pair.flow is None else read_flow(pair.flow),
            )
        except UserError as error:
            raise UserError(f"{pair.pred}: {error.message}", error.hint) from error  # which of the files
        if progress is not None:
            progress(done, len(pairs))
    return score
