"""Videos of panoptic maps in files against true ones: VPQ, STQ, and with depth maps DVPQ, DSTQ and errors of depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from masklet.data.panoptic_videos import PanopticVideos, open_panoptic_videos
from masklet.data.step import STEP_CLASSES, list_depths, read_depth
from masklet.data.vps import vps_classes
from masklet.metrics.depth import DepthScore
from masklet.metrics.video_panoptic import DSTQ, DVPQ, STQ, VPQ
from masklet.structures import Classes, Panoptic, UserError
from masklet.structures.errors import missing_of

__all__ = ["score_depth", "score_dstq", "score_dvpq", "score_stq", "score_vpq"]

Progress = Callable[[int, int], None]
Number = TypeVar("Number", int, float)
Scored = TypeVar("Scored", VPQ, STQ, DVPQ, DSTQ)


def score_vpq(
    predictions: Path,
    truth: Path,
    *,
    windows: Sequence[int] | int = (1, 2, 3, 4),
    dataset: str = "kitti_step",
    classes: Sequence[str] | int | None = None,
    things: Sequence[str] = (),
    frames_per_video: int = 0,
    progress: Progress | None = None,
) -> VPQ:
    """VPQ of videos in files: JSON and PNG as in Cityscapes-VPS, or PNG as in STEP.

    PNG files have the classes of `dataset` (kitti_step, motchallenge_step, cityscapes_dvps), or `classes` by name of
    which `things` are counted; JSON files name their own. `frames_per_video` cuts a JSON file without videos in it.
    """
    pairs = _open(predictions, truth, _classes(truth, dataset, classes, things), frames_per_video)
    metric = VPQ(pairs[1].classes, _windows(windows, pairs[1]))
    return _fed(metric, pairs, progress)


def score_stq(
    predictions: Path,
    truth: Path,
    *,
    dataset: str = "kitti_step",
    classes: Sequence[str] | int | None = None,
    things: Sequence[str] = (),
    predicted_void: str = "class",
    frames_per_video: int = 0,
    progress: Progress | None = None,
) -> STQ:
    """STQ of videos in files, as in `score_vpq`; `predicted_void` is explained at `STQ`."""
    pairs = _open(predictions, truth, _classes(truth, dataset, classes, things), frames_per_video)
    metric = STQ(pairs[1].classes, predicted_void)
    return _fed(metric, pairs, progress)


def score_dvpq(
    predictions: Path,
    truth: Path,
    *,
    windows: Sequence[int] | int = (1, 2, 3, 4),
    lambdas: Sequence[float] | float = (0.1, 0.25, 0.5),
    dataset: str = "cityscapes_dvps",
    classes: Sequence[str] | int | None = None,
    things: Sequence[str] = (),
    depth_scale: float = 256.0,
    progress: Progress | None = None,
) -> DVPQ:
    """DVPQ of folders of panoptic and depth maps, each in the layout of DVPS or as panoptic/ beside depth/.

    Depth files hold metres times `depth_scale`. The rest as in `score_vpq`.
    """
    pairs = _open(predictions, truth, _classes(truth, dataset, classes, things))
    metric = DVPQ(pairs[1].classes, _windows(windows, pairs[1]), _several(lambdas))
    depths = _depths(predictions, truth, pairs[1].frames)
    return _fed(metric, pairs, progress, lambda *key: [read_depth(path, depth_scale) for path in depths[key]])


def score_dstq(
    predictions: Path,
    truth: Path,
    *,
    thresholds: Sequence[float] | float = (1.25, 1.1),
    dataset: str = "cityscapes_dvps",
    classes: Sequence[str] | int | None = None,
    things: Sequence[str] = (),
    predicted_void: str = "class",
    depth_scale: float = 256.0,
    progress: Progress | None = None,
) -> DSTQ:
    """DSTQ of folders of panoptic and depth maps, as in `score_dvpq`."""
    pairs = _open(predictions, truth, _classes(truth, dataset, classes, things))
    metric = DSTQ(pairs[1].classes, _several(thresholds), predicted_void)
    depths = _depths(predictions, truth, pairs[1].frames)
    return _fed(metric, pairs, progress, lambda *key: [read_depth(path, depth_scale) for path in depths[key]])


def score_depth(
    predictions: Path,
    truth: Path,
    *,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    mode: str = "image",
    depth_scale: float = 256.0,
    progress: Progress | None = None,
) -> DepthScore:
    """Errors of depth maps in files, 16-bit PNG (metres times `depth_scale`) or .npy (metres), one per truth file."""
    metric = DepthScore(min_depth, max_depth, mode)
    files = list_depths(truth)
    partners = _partners(predictions, list_depths(predictions), {video: tuple(f) for video, f in files.items()})
    for done, (video, frame) in enumerate(partners, 1):
        called, true = (read_depth(path, depth_scale) for path in (partners[video, frame], files[video][frame]))
        with _naming(str(partners[video, frame])):
            metric.update(called, true)
        if progress is not None:
            progress(done, len(partners))
    return metric


def _classes(truth: Path, dataset: str, names: Sequence[str] | int | None, things: Sequence[str]) -> Classes:
    """The classes of the truth: what its JSON says, or names that were given, or those of a known data set."""
    if (known := vps_classes(truth)) is not None:
        return known
    if isinstance(names, int):
        found = Classes.default(names)
    elif names is not None:
        found = Classes(tuple(names))
    elif dataset in STEP_CLASSES:
        found = STEP_CLASSES[dataset]
    else:
        raise UserError(f"dataset is {dataset!r}", hint=f"choose from {', '.join(STEP_CLASSES)}")
    counted = things.split(",") if isinstance(things, str) else things
    numbers = {found.index(int(thing) if isinstance(names, int) else thing) for thing in counted if thing != ""}
    return replace(found, things=tuple(i in numbers for i in range(len(found)))) if numbers else found


def _several(values: Sequence[Number] | Number) -> tuple[Number, ...]:
    """Numbers, of which there may be just one."""
    return (values,) if isinstance(values, int | float) else tuple(values)


def _windows(windows: Sequence[int] | int, truth: PanopticVideos) -> tuple[int, ...]:
    """The lengths of windows; each must fit into some video."""
    lengths = _several(windows)
    longest = max(len(frames) for frames in truth.frames.values())
    if too_long := [k for k in lengths if isinstance(k, int) and k > longest]:
        hint = f"the longest has {longest}; give windows like [1, {longest}]"
        raise UserError(f"no video has {too_long[0]} frames, so there is no window of {too_long[0]}", hint=hint)
    return lengths


def _open(
    predictions: Path, truth: Path, classes: Classes, frames_per_video: int = 0
) -> tuple[PanopticVideos, PanopticVideos]:
    true = open_panoptic_videos(truth, classes, frames_per_video)
    return open_panoptic_videos(predictions, classes, frames_per_video, like=true), true


def _fed(
    metric: Scored,
    pairs: tuple[PanopticVideos, PanopticVideos],
    progress: Progress | None,
    more: Callable[[str, str], Sequence[Any]] = lambda video, frame: (),
) -> Scored:
    """The metric after every frame; `more` is what its update takes of a frame besides the two panoptic maps."""
    for video, frame, pred, true in _frames(*pairs, progress):
        rest = more(video, frame)
        with _naming(f"frame {frame!r}"):
            metric.update(pred, true, *rest, video=video)
    return metric


def _frames(
    pred: PanopticVideos, truth: PanopticVideos, progress: Progress | None
) -> Iterator[tuple[str, str, Panoptic, Panoptic]]:
    """Every frame of the truth in order: video, frame, what was predicted and what is true."""
    pairs = pred.paired(truth)
    for done, (video, frame) in enumerate(pairs, 1):
        yield video, frame, pred.read(video, frame), truth.read(video, frame)
        if progress is not None:
            progress(done, len(pairs))


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Says in which of the files a mistake was."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error.message}", error.hint) from error


def _depths(
    predictions: Path, truth: Path, frames: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], tuple[Path, Path]]:
    """The files of predicted and true depth of every frame."""
    sides = [_partners(root, list_depths(root, mixed=True), frames) for root in (predictions, truth)]
    return {key: (sides[0][key], sides[1][key]) for key in sides[0]}


def _partners(
    root: Path, files: Mapping[str, Mapping[str, Path]], frames: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], Path]:
    """The depth file of every frame; none may be missing."""
    wanted = [(video, frame) for video, names in frames.items() for frame in names]
    if lost := [(v, f) for v, f in wanted if f not in files.get(v, {})]:
        video, frame = lost[0]
        more = missing_of(lost, wanted)
        raise UserError(
            f"{root} has no depth for frame {frame!r} of video {video!r}{more}",
            hint=f"call it depth/{video}/{frame}.png or {video}_{frame}_depth.png",
        )
    return {(v, f): files[v][f] for v, f in wanted}
