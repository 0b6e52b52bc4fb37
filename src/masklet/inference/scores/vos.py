"""Videos of object masks in files against true ones: J&F by the protocols of DAVIS and SA-V, G of YouTube-VOS.

Boundary IoU of index pictures is here too, as it is read the same way: ids in, outlines compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from masklet.data.davis import MaskVideo, list_mask_videos, read_object_ids, read_sequence_list
from masklet.data.images import list_images
from masklet.data.youtube_vos import categories, read_meta, seen_objects
from masklet.inference.scores.semantic import existing_folder, find_partners
from masklet.metrics.boundary import BoundaryIoU
from masklet.metrics.video_protocols import PROTOCOLS, YouTubeVOS
from masklet.metrics.vos import JF, YouTubeVOSScore
from masklet.structures import UserError

__all__ = ["score_boundary", "score_g", "score_jf"]

Progress = Callable[[int, int], None]


def score_jf(
    predictions: Path,
    truth: Path,
    *,
    protocol: str = "semisupervised",
    sequences: Sequence[str] | str = (),
    joined: bool = False,
    bound: int | float = 0.008,
    progress: Progress | None = None,
) -> JF:
    """J, F and J&F of folders of mask PNGs, `<sequence>/<frame>.png`, against a data set or folders like them.

    `protocol` is semisupervised or unsupervised (DAVIS), sav or youtube_vos. `sequences` are the names of those to
    score, or the path of a list such as ImageSets/2017/val.txt; without it all that the truth has. With `joined` all
    ids above 0 are one object, as in DAVIS 2016. Files of one object each (SA-V) are read so in any case.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {protocol!r}", hint=f"choose from {', '.join(sorted(PROTOCOLS))}")
    rule = PROTOCOLS[protocol]
    metric = JF(rule, bound)
    pairs = _pairs(predictions, truth, sequences, unsupervised=rule.matched)
    total, done = sum(len(true.files) for _, true in pairs), 0
    for pred, true in pairs:
        one = joined or "/" in true.name
        ends = (
            {min(true.files), max(true.files)} if rule.trimmed else set()
        )  # nobody needs to predict what is not scored
        for frame in true.files:
            ids = true.read(frame)
            found = np.zeros_like(ids) if frame in ends - pred.files.keys() else pred.read(frame)
            if one:
                found, ids = found > 0, ids > 0
            metric.update(found, ids, true.name, frame)
            done += 1
            if progress is not None:
                progress(done, total)
        rule.tracks(true.name, metric.sequences[true.name])  # what is wrong is said now, not after the last video
    return metric


def score_g(
    predictions: Path,
    truth: Path,
    *,
    seen: str = "",
    meta: str = "",
    sequences: Sequence[str] | str = (),
    listed: bool = True,
    skip_given: bool = False,
    bound: int | float = 0.008,
    progress: Progress | None = None,
) -> YouTubeVOSScore:
    """G of YouTube-VOS from folders of palette PNGs and the meta.json of the truth (`meta`, if it lies elsewhere).

    `seen` names the training set's meta.json, or a text file of categories: what it has is seen. With `listed` the
    frames of an object are those of meta.json, else all that the truth has from its first on. `skip_given` leaves out
    the frame whose mask was given.
    """
    if not seen:
        raise UserError("nobody said which categories are seen", hint="give -o seen=train/meta.json, or a list of them")
    objects = read_meta(Path(meta) if meta else truth / "meta.json")
    frames = {
        video: {k: one.frames for k, one in known.items()}
        for video, known in objects.items()
        if listed and all(one.frames for one in known.values())
    }
    rule = YouTubeVOS(frames, skip_given)
    metric = YouTubeVOSScore(seen_objects(objects, categories(Path(seen))), rule, bound)
    pairs = _pairs(predictions, truth, sequences)
    total, done = sum(len(true.files) for _, true in pairs), 0
    for pred, true in pairs:
        for frame in true.files:
            metric.update(pred.read(frame), true.read(frame), true.name, frame)
            done += 1
            if progress is not None:
                progress(done, total)
        rule.tracks(true.name, metric.scores.sequences[true.name])
    return metric


def score_boundary(
    predictions: Path,
    truth: Path,
    *,
    fraction: int | float = 0.02,
    background: int = 0,
    ignore: int = 255,
    progress: Progress | None = None,
) -> BoundaryIoU:
    """Boundary IoU of a folder of index pictures, one per truth file of the same name (`a` or `a_index`).

    `background` is the value that is no mask; -1 where 0 is a class like the others.
    """
    metric = BoundaryIoU(fraction, None if background < 0 else background, ignore)
    files = list_images(existing_folder(truth))
    partners = find_partners(predictions, files)
    for done, (partner, file) in enumerate(zip(partners, files, strict=True), 1):
        try:
            metric.update(read_object_ids(partner), read_object_ids(file), file.stem)
        except UserError as error:
            raise UserError(f"{partner}: {error.message}", hint=error.hint) from error
        if progress is not None:
            progress(done, len(files))
    return metric


def _pairs(
    predictions: Path, truth: Path, sequences: Sequence[str] | str, *, unsupervised: bool = False
) -> list[tuple[MaskVideo, MaskVideo]]:
    """Each true sequence with its prediction; none may be missing, and what the truth lacks is left alone."""
    if isinstance(sequences, str):
        is_list = sequences.endswith(".txt") or Path(sequences).is_file()
        sequences = read_sequence_list(Path(sequences)) if is_list else tuple(filter(None, sequences.split(",")))
    true = list_mask_videos(truth, unsupervised=unsupervised, named=sequences or None)
    mine = list_mask_videos(predictions, unsupervised=unsupervised, named=[*true])
    return [(mine[name], video) for name, video in true.items()]
