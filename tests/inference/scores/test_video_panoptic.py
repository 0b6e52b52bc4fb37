"""Videos in files scored by vpq, stq, dvpq, dstq and depth: the numbers are those of memory, wrong files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.data.step import STEP_CLASSES
from masklet.inference.scores import SCORERS, options, scorer
from masklet.inference.scores.video_panoptic import score_depth, score_dstq, score_dvpq, score_stq, score_vpq
from masklet.metrics.depth import DepthScore
from masklet.metrics.video_panoptic import DSTQ, DVPQ, STQ, VPQ
from masklet.structures import Classes, Panoptic, Segment, UserError

KITTI = STEP_CLASSES["kitti_step"]
SIZE = (12, 16)


def frame(seed: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes and numbers (12, 16): road and sky, two cars that move, a person, a crowd of cars and void."""
    labels, numbers = np.zeros(SIZE, np.int64), np.zeros(SIZE, np.int64)
    labels[:4], labels[-1, :3] = 10, 255
    for number, (label, y, x) in enumerate(((13, 4, 2), (13, 6, 9), (11, 2, 6), (13, 9, 1)), 1):
        x = x + seed % 3 + (shift if number < 3 else 0)
        labels[y : y + 3, x : x + 4], numbers[y : y + 3, x : x + 4] = label, number if number < 4 else 0
    return labels, numbers


def panoptic(labels: np.ndarray, numbers: np.ndarray) -> Panoptic:
    ids = np.where(labels == 255, 0, labels + 1 << 16 | numbers)
    segments = [
        Segment(i, (i >> 16) - 1, KITTI.things[(i >> 16) - 1], crowd=KITTI.things[(i >> 16) - 1] and not i & 65535)
        for i in np.unique(ids).tolist()
        if i
    ]
    return Panoptic(torch.from_numpy(ids), tuple(segments))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def depth(seed: int, wrong: float = 1.0) -> np.ndarray:
    return (np.arange(192).reshape(SIZE) % 7 * 256 * (1 + (np.arange(16) % 5 == seed % 5) * (wrong - 1))).astype(
        np.uint16
    )


VIDEOS = {"0002": 5, "0006": 4}


@pytest.fixture
def step(tmp_path) -> tuple[Path, Path]:
    """Predictions and truth as STEP writes them, with depth beside them."""
    for video, frames in VIDEOS.items():
        for t in range(frames):
            for side, shift, wrong in (("pred", t % 2, 1.3), ("truth", 0, 1.0)):
                labels, numbers = frame(t, shift)
                colors = np.stack([labels, numbers >> 8, numbers & 255], -1).astype(np.uint8)
                save(tmp_path / side / "panoptic" / video / f"{t:06d}.png", colors)
                save(tmp_path / side / "depth" / video / f"{t:06d}.png", depth(t, wrong))
    return tmp_path / "pred", tmp_path / "truth"


def in_memory(metric, depths: bool = False):
    for video, frames in VIDEOS.items():
        for t in range(frames):
            more = (torch.from_numpy(depth(t, w) / 256) for w in (1.3, 1.0)) if depths else ()
            metric.update(panoptic(*frame(t, t % 2)), panoptic(*frame(t)), *more, video=video)
    return metric


def test_files_score_as_memory_does(step):
    calls: list[tuple[int, int]] = []
    assert score_vpq(*step, progress=lambda *a: calls.append(a)).compute() == pytest.approx(
        in_memory(VPQ(KITTI)).compute(), nan_ok=True
    )
    assert calls == [(n, 9) for n in range(1, 10)]
    found, wanted = score_stq(*step), in_memory(STQ(KITTI))
    assert found.compute() == pytest.approx(wanted.compute(), nan_ok=True)
    assert 0.3 < found.compute()["stq"] < 1
    assert [row["video"] for row in found.table()] == ["0002", "0006"]
    dvpq = score_dvpq(*step, dataset="kitti_step")
    assert dvpq.compute() == pytest.approx(in_memory(DVPQ(KITTI), True).compute(), nan_ok=True)
    assert dvpq.compute()["dvpq"] < score_vpq(*step).compute()["vpq"]
    dstq = score_dstq(*step, dataset="kitti_step")
    assert dstq.compute() == pytest.approx(in_memory(DSTQ(KITTI), True).compute(), nan_ok=True)


def test_depth_files_score_as_memory_does(step):
    metric = DepthScore(1e-3, 80.0)
    for frames in VIDEOS.values():
        for t in range(frames):
            metric.update(torch.from_numpy(depth(t, 1.3) / 256), torch.from_numpy(depth(t) / 256))
    assert score_depth(*step).compute() == pytest.approx(metric.compute())


def test_the_table_of_scorers_knows_them(step):
    for name in ("vpq", "stq", "dvpq", "dstq", "depth"):
        assert scorer(name).__name__ == f"score_{name}"
        assert "progress" not in options(name)
        assert SCORERS[name].about


def test_classes_can_be_named(step, tmp_path):
    own = score_stq(*step, classes=KITTI.names, things="person,car")
    assert own.compute() == pytest.approx(score_stq(*step).compute(), nan_ok=True)
    assert score_stq(*step, classes=19, things=["13"]).classes.things.index(True) == 13
    people = score_stq(*step, things=["person"]).table()
    assert [row["tracks"] for row in people] == [1, 1]


# --- JSON as in Cityscapes-VPS ---------------------------------------------------------------------------------------


def as_json(root: Path, videos: dict[str, int], shift: bool, said: str = "video_id") -> Path:
    """A COCO panoptic JSON of all videos; ids on disk are 5 more than the class, segments 1, 2, 3, ... by object."""
    images, annotations = [], []
    for video, frames in videos.items():
        for t in range(frames):
            labels, numbers = frame(t, t % 2 if shift else 0)
            ids = np.where(labels == 255, 0, (labels + 1) * 10 + numbers)
            name = f"{video}/{t}.png" if said == "folder" else f"{video}_{t}.png"
            save(root / "maps" / name, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8))
            segments = [
                {
                    "id": i,
                    "category_id": i // 10 + 4,
                    "iscrowd": int(not shift and i % 10 == 0 and i // 10 - 1 in (11, 13)),
                }
                for i in np.unique(ids).tolist()
                if i
            ]
            entry = {"image_id": f"{video}_{t}", "file_name": name, "segments_info": segments}
            images.append({"id": f"{video}_{t}", **({"video_id": video} if said == "video_id" else {})})
            annotations.append(entry)
    categories = [
        {"id": i + 5, "name": name, "isthing": int(thing)}
        for i, (name, thing) in enumerate(zip(KITTI.names, KITTI.things, strict=True))
    ]
    path = root / "maps.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_json_scores_as_png_do(step, tmp_path):
    wanted = score_vpq(*step).compute(), score_stq(*step).compute()
    for said in ("video_id", "folder"):
        truth, pred = (
            as_json(tmp_path / said / "t", VIDEOS, False, said),
            as_json(tmp_path / said / "p", VIDEOS, True, "no"),
        )
        found = score_vpq(pred, truth).compute(), score_stq(pred, truth).compute()
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine == pytest.approx(theirs, nan_ok=True)


def test_videos_of_a_fixed_length_and_one_json_per_video(step, tmp_path):
    videos = {"a": 4, "b": 4}
    truth, pred = as_json(tmp_path / "t", videos, False, "no"), as_json(tmp_path / "p", videos, True, "no")
    wanted = score_vpq(pred, truth, frames_per_video=4)
    assert wanted.frames == {"0": 4, "1": 4}
    for side in ("t", "p"):
        for video in videos:
            path = as_json(tmp_path / side / "each" / video, {video: 4}, side == "p")
            path.rename(tmp_path / side / "each" / f"{video}.json")
            (path.parent / "maps").rename(tmp_path / side / "each" / f"{video}_maps")
            path.parent.rmdir()
            (tmp_path / side / "each" / f"{video}_maps").rename(tmp_path / side / "each" / video)
    found = score_vpq(tmp_path / "p" / "each", tmp_path / "t" / "each")
    assert found.frames == {"a": 4, "b": 4}
    assert found.compute() == pytest.approx(wanted.compute(), nan_ok=True)


def test_folders_of_the_official_submission(tmp_path):
    truth, pred = as_json(tmp_path / "t", {"a": 4}, False), as_json(tmp_path / "p", {"a": 4}, True)
    (tmp_path / "t" / "maps").rename(tmp_path / "t" / "panoptic_video")
    (tmp_path / "p" / "maps").rename(tmp_path / "p" / "pan_pred")
    assert 0 < score_vpq(pred, truth).compute()["vpq"] < 1


# --- wrong files -----------------------------------------------------------------------------------------------------


def message_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_missing_videos_frames_and_depths_are_named(step):
    pred, truth = step
    maps = pred / "panoptic"
    (maps / "0006" / "000001.png").unlink()
    (maps / "0006" / "000003.png").unlink()
    assert message_of(lambda: score_stq(pred, truth)) == (
        f"{pred} has 2 of the 4 frames of video '0006'; the first that is missing is '000001'"
    )
    for path in (maps / "0006").iterdir():
        path.unlink()
    assert message_of(lambda: score_vpq(pred, truth)) == f"{pred} has no video '0006'; it has 0002"
    (truth / "depth" / "0002" / "000004.png").unlink()
    assert message_of(lambda: score_depth(pred / "depth" / "0006", truth / "depth")) == (
        f"{pred / 'depth' / '0006'} has no depth for frame '000000' of video '0002' (4 of 8 are missing); "
        "call it depth/0002/000000.png or 0002_000000_depth.png"
    )


def test_a_missing_true_depth_is_named(step):
    pred, truth = step
    (truth / "depth" / "0002" / "000004.png").unlink()
    assert message_of(lambda: score_dvpq(pred, truth, dataset="kitti_step")) == (
        f"{truth} has no depth for frame '000004' of video '0002'; "
        "call it depth/0002/000004.png or 0002_000004_depth.png"
    )


def test_maps_are_not_taken_for_depth(step):
    pred, truth = step
    assert message_of(lambda: score_dvpq(pred / "panoptic", truth, dataset="kitti_step")) == (
        f"{pred / 'panoptic'} holds no depth maps; "
        "expected depth/<video>/<frame>.png or <video>_<frame>_*_depth.png in it"
    )
    first = truth / "depth" / "0002" / "000000.png"
    save(first, np.zeros(SIZE, np.uint8))
    for metric in (score_dvpq, score_dstq):
        assert message_of(lambda metric=metric: metric(pred, truth, dataset="kitti_step")) == (
            f"{first}: depth is a grey PNG of 16 bits, this one has mode L; "
            "save metres times 256 as uint16, 0 where unknown"
        )


def test_one_number_may_stand_alone(step):
    assert score_vpq(*step, windows=2).windows == (2,)
    found = score_dvpq(*step, windows=1, lambdas=0.5, dataset="kitti_step")
    assert (found.windows, found.lambdas) == ((1,), (0.5,))
    assert score_dstq(*step, thresholds=1.1, dataset="kitti_step").thresholds == (1.1,)


def test_more_frames_than_the_truth_has_are_left_alone(step):
    pred, truth = step
    wanted = score_stq(pred, truth).compute()
    save(pred / "panoptic" / "0002" / "000099.png", np.zeros((2, 2, 3), np.uint8))
    assert score_stq(pred, truth).compute() == pytest.approx(wanted, nan_ok=True)


def test_wrong_sizes_windows_and_data_sets_are_named(step):
    pred, truth = step
    assert message_of(lambda: score_vpq(pred, truth, windows=[1, 6])) == (
        "no video has 6 frames, so there is no window of 6; the longest has 5; give windows like [1, 5]"
    )
    assert message_of(lambda: score_vpq(pred, truth, dataset="kitti")) == (
        "dataset is 'kitti'; choose from kitti_step, motchallenge_step, cityscapes_dvps"
    )
    first = truth / "panoptic" / "0002" / "000000.png"
    assert message_of(lambda: score_stq(truth, truth, dataset="motchallenge_step")) == (
        f"{first}: the map holds class 10, but there are 7 classes; classes are 0..6, and 255 for void"
    )
    save(pred / "panoptic" / "0002" / "000001.png", np.zeros((12, 15, 3), np.uint8))
    for metric in (score_stq, score_vpq):
        assert message_of(lambda metric=metric: metric(pred, truth)) == (
            "frame '000001': prediction of video '0002' is 12x15 but truth is 12x16; "
            "resize the prediction to the truth (nearest)"
        )
    save(pred / "depth" / "0002" / "000000.png", np.zeros((3, 3), np.uint16))
    assert message_of(lambda: score_depth(pred, truth)) == (
        f"{pred / 'depth' / '0002' / '000000.png'}: the predicted depth is 3x3 but the true depth is 12x16; "
        "resize the depth"
    )
    assert message_of(lambda: score_dvpq(pred, truth, dataset="kitti_step")) == (
        "frame '000000': the predicted depth is 3x3 but the panoptic map is 12x16; resize the depth"
    )


def test_json_without_videos_or_frames_is_named(tmp_path):
    truth, pred = as_json(tmp_path / "t", {"a": 4}, False, "no"), as_json(tmp_path / "p", {"a": 3}, True, "no")
    assert message_of(lambda: score_vpq(pred, truth)) == (
        f"{truth}: nothing says which video image a_0 belongs to; "
        "add video_id to the images, or pass frames_per_video=6"
    )
    assert message_of(lambda: score_vpq(pred, truth, frames_per_video=3)) == (
        f"{truth}: its 4 images cannot be cut into videos of 3; are frames missing?"
    )
    assert message_of(lambda: score_vpq(pred, truth, frames_per_video=4)) == (
        f"{pred} has 3 of the 4 frames of video '0'; the first that is missing is 'a_3'"
    )
    data = json.loads(truth.read_text())
    truth.write_text(json.dumps(data | {"annotations": []}))
    assert message_of(lambda: score_stq(pred, truth)) == (
        f"{truth} annotates no image; it lists the frames of all videos under annotations"
    )


def test_own_classes_of_a_png_folder(tmp_path):
    save(tmp_path / "v" / "1.png", np.zeros((2, 2, 3), np.uint8))
    found = score_stq(tmp_path, tmp_path, classes=["ball"], things=["ball"])
    assert found.classes == Classes(("ball",), things=(True,))
    assert found.compute()["aq"] == 0  # number 0: a crowd
