"""Matting errors against recorded numbers of RobustVideoMatting's evaluation, hand-worked mattes, and themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from conftest import shared
from masklet.metrics.matting import BMV2, PAPER, RVM_HR, RVM_LR, SCALES, MattingScore, stretched
from masklet.structures import Matte, UserError


def score(pred, truth, trimap=None, scale=RVM_LR, **more):
    found = MattingScore(scale)
    found.update(pred, truth, trimap, **more)
    return found.compute()


def ramp(start, size=64):
    """64 x 64, from 0 to 1 within 16 pixels to the right of `start`."""
    line = np.clip((np.arange(size) - start) / 16, 0, 1).astype(np.float32)
    return np.tile(line, (size, 1))


def square(*parts, size=64):
    out = np.zeros((size, size), np.float32)
    for (y, x), side, value in parts:
        out[y : y + side, x : x + side] = value
    return out


# agreement with recorded numbers


def made(folder):
    """The recorded frames: prediction, truth, and where alpha is unknown."""
    image = oracle.keyfill(folder).image
    big, other = image("matting_made_t", 96, 160, 1)[0], image("matting_made_p", 96, 160, 1)[0]
    unknown = image("matting_made_u", 96, 128, 1)[0] > 0.5
    for t in range(4):
        truth = np.clip(2.2 * big[:, 6 * t : 6 * t + 128] - 0.6, 0, 1).astype(np.float32)
        pred = np.clip(2.0 * other[:, 6 * t + 1 : 6 * t + 129] - 0.5, 0, 1).astype(np.float32)
        yield pred, truth, unknown


def test_recorded_numbers_of_robust_video_matting():
    folder = shared("oracles", "matting_metrics", "made")
    want, video = oracle.meta(folder)["per_frame"], MattingScore(RVM_LR)
    names = {"mad": "mad_x1e3", "mse": "mse_x1e3", "grad": "grad", "conn": "conn", "sad": "sad_div_1000"}
    for (pred, truth, unknown), frame in zip(made(folder), want, strict=True):
        video.update(pred, truth, video="made")
        found = score(pred, truth)
        assert {k: found[k] for k in names} == pytest.approx({k: frame[v] for k, v in names.items()}, rel=5e-7)
        found = score(pred, truth, np.where(unknown, 128, 255), PAPER)
        assert found["sad"] == pytest.approx(frame["sad_unknown_div_1000"], rel=1e-9)
        assert found["mse"] == pytest.approx(frame["mse_unknown"], rel=1e-8)
    found = video.compute()
    assert found["dtssd"] == pytest.approx(np.mean([f["dtssd_x1e2"] for f in want]), rel=1e-7)
    assert found["conn"] == pytest.approx(np.mean([f["conn"] for f in want]), rel=5e-7)


def test_recorded_numbers_tell_the_wrong_convention():
    """Mattes that are not stretched, another first frame or another order of frames do not pass."""
    folder = shared("oracles", "matting_metrics", "made")
    want, frames = oracle.meta(folder)["per_frame"], list(made(folder))
    pred, truth, _ = frames[0]
    pred, truth = 0.25 + pred / 2, 0.25 + truth / 2  # stretching undoes this
    assert score(pred, truth)["grad"] == pytest.approx(want[0]["grad"], rel=1e-5)
    assert score(pred, truth, scale=RVM_HR)["grad"] == pytest.approx(want[0]["grad"] / 4, rel=1e-5)
    recorded = np.mean([f["dtssd_x1e2"] for f in want])
    for scale, order in ((replace(RVM_LR, first_dtssd=None), frames), (RVM_LR, [frames[i] for i in (0, 2, 1, 3)])):
        video = MattingScore(scale)
        for pred, truth, _ in order:
            video.update(pred, truth, video="made")
        assert abs(video.compute()["dtssd"] / recorded - 1) > 0.005


# known answers (specification, section 32)


def test_ramps_two_pixels_apart():
    found = score(ramp(22), ramp(24))
    assert found["mad"] == pytest.approx(31.25)  # 2 pixels of 64 in every row
    assert found["mse"] == pytest.approx(1e3 * (15 * 0.125**2 + 2 * 0.0625**2) / 64)
    assert found["mse"] == pytest.approx(3.78418, abs=5e-6)
    assert found["grad"] == pytest.approx(0.036705, abs=5e-7)
    assert found["conn"] == pytest.approx(0.1192, abs=5e-5)
    assert found["sad"] == pytest.approx(64 * 2 / 1000)


def test_an_island_beside_the_object():
    truth = square(((10, 4), 30, 1))
    found = score(square(((10, 4), 30, 1), ((20, 48), 5, 0.5)), truth)
    assert found["mad"] == pytest.approx(25 * 0.5 / 4096 * 1e3)
    assert found["mse"] == pytest.approx(25 * 0.25 / 4096 * 1e3)
    assert found["grad"] == pytest.approx(0.065906, abs=5e-7)
    assert found["conn"] == pytest.approx(25 * 0.5 / 1000)  # none of it hangs on to the object


def test_flicker():
    pred, truth = ramp(22), ramp(24)
    video = MattingScore(RVM_LR)
    video.update(pred, truth, video="a")
    assert "dtssd" not in video.compute()
    video.update(0.9 * pred, truth, video="a")
    assert 2 * video.compute()["dtssd"] == pytest.approx(6.94215, abs=5e-6)  # RVM counts the first frame as 0
    erofeev = MattingScore(PAPER)
    erofeev.update(pred, truth, video="a")
    erofeev.update(0.9 * pred, truth, video="a")
    assert erofeev.compute()["dtssd"] == pytest.approx(0.0694215 * 64, abs=1e-4)


def moving(flow):
    """A matte that is .2 wrong in a square which moves 3 right and 2 down, and messddt with this flow."""
    first, second = square(((10, 10), 8, 0.2)), square(((12, 13), 8, 0.2))
    video = MattingScore(replace(PAPER, conn=None))
    video.update(first, np.zeros_like(first), video="a")
    video.update(second, np.zeros_like(second), video="a", flow=flow)
    return video.compute()["messddt"]


def test_an_error_that_moves_with_the_object_is_no_flicker():
    flow = np.zeros((2, 64, 64), np.float32)
    wrong = 2 * (64 - 5 * 6)  # pixels that have an error in one of the two frames only
    assert moving(flow) == pytest.approx(wrong * 0.04)
    flow[0], flow[1] = 3.2, 1.9  # x, then y; to the nearest pixel
    assert moving(flow) == pytest.approx(0, abs=1e-12)
    assert moving(flow[::-1].copy()) > 0.5
    flow[:] = np.nan  # nobody knows where these went
    assert moving(flow) == 0


def test_foreground_colours_count_where_there_is_foreground():
    alpha = torch.zeros(1, 4, 4)
    alpha[:, :2] = 0.5
    pred, truth = torch.full((3, 4, 4), 0.7), torch.full((3, 4, 4), 0.4)
    pred[:, 2:] = 0.0  # invisible
    assert score(Matte(alpha, pred), Matte(alpha, truth))["fgr_mse"] == pytest.approx(90, rel=1e-5)
    assert "fgr_mse" not in score(Matte(alpha, pred), Matte(alpha))


def test_scales_differ_by_what_their_papers_say():
    pred, truth = ramp(22), ramp(24)
    trimap = np.where((truth > 0) & (truth < 1), 128, 255 * truth).astype(np.uint8)
    count = int((trimap == 128).sum())
    rvm, paper, bmv2 = (score(pred, truth, trimap, scale) for scale in ("rvm_lr", "paper", "bmv2"))
    assert set(score(pred, truth, scale="rvm_hr")) == {"mad", "sad", "mse", "grad"}
    assert set(bmv2) == {"sad", "mse", "grad", "conn"}
    assert rvm["mad"] == pytest.approx(rvm["sad"] * 1e6 / count)
    assert bmv2["mse"] == paper["mse"] == pytest.approx(rvm["mse"] / 1000)
    assert bmv2["conn"] == pytest.approx(paper["conn"] * 1000)
    assert bmv2["grad"] == pytest.approx(paper["grad"] * 1000)


def test_bmv2_crops_to_multiples_of_four_and_prints_its_line():
    pred, truth = ramp(22), ramp(24)
    found = MattingScore(BMV2)
    wide = [np.pad(m, ((0, 2), (0, 3)), constant_values=v) for m, v in ((pred, 1.0), (truth, 0.0))]
    found.update(*wide, np.full((66, 67), 128))
    assert found.summary() == "mse:0.003784,sad:0.128,grad:37,conn:119"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_files_and_floats_are_the_same(dtype):
    top = np.iinfo(dtype).max
    pred, truth = (np.rint(m * top).astype(dtype) for m in (ramp(22), ramp(24)))
    same = score(*(torch.from_numpy(m.astype(np.float32) / top)[None] for m in (pred, truth)))
    assert score(pred, truth) == same


# properties


@st.composite
def clips(draw):
    """A handful of videos and stills of random mattes, each with a name."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    return [(f"clip{i}", n, rng.random((2, max(n, 1), 12, 14), np.float32)) for i, n in enumerate(sizes)]


def add(score, clip):
    name, frames, (preds, truths) = clip
    for pred, truth in zip(preds, truths, strict=True):
        score.update(pred, truth, **({"video": name} if frames else {"name": name}))


@settings(max_examples=25, deadline=None)
@given(clips(), st.randoms(use_true_random=False), st.sampled_from(sorted(set(SCALES) - {"bmv2"})))
def test_parts_merge_into_the_whole_in_any_order(data, random, scale):
    whole = MattingScore(scale)
    for clip in data:
        add(whole, clip)
    parts = [MattingScore(scale) for _ in range(3)]
    for clip in random.sample(data, len(data)):
        add(random.choice(parts), clip)
    random.shuffle(parts)
    merged = MattingScore(scale)
    for part in parts:
        merged.merge(part)
    assert merged.compute() == whole.compute()  # to the last bit
    assert merged.table() == whole.table()
    assert merged.images == whole.images


@settings(max_examples=25, deadline=None)
@given(clips())
def test_equal_mattes_have_no_error_and_others_stay_in_range(data):
    right, some = MattingScore(RVM_LR), MattingScore(RVM_LR)
    for name, frames, (preds, truths) in data:
        add(right, (name, frames, (truths, truths)))
        add(some, (name, frames, (preds, truths)))
    assert set(right.compute().values()) == {0.0}
    found = some.compute()
    assert 0 <= found["mse"] <= found["mad"] <= 1000
    assert all(v >= 0 for v in found.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.flipud, np.fliplr]))
def test_mirrored_mattes_have_the_same_errors(seed, mirror):
    rng = np.random.default_rng(seed)
    pred, truth = rng.random((2, 40, 30), np.float32)
    there = score(pred, truth)
    back = score(mirror(pred).copy(), mirror(truth).copy())
    there.pop("conn"), back.pop("conn")  # of equally large components the first counts
    assert back == pytest.approx(there, rel=1e-5)


def test_memory_does_not_grow_with_the_video():
    video = MattingScore(replace(RVM_LR, grad=None, conn=None))
    for _ in range(50):
        video.update(ramp(22), ramp(24), video="a")
    assert video.images == 50
    assert len(video.clips) == 1
    held = [x for x in vars(video._last).values() if isinstance(x, np.ndarray)]
    assert sum(x.nbytes for x in held) == 2 * 64 * 64 * 4


def test_what_people_read():
    found = MattingScore()
    found.update(ramp(22), ramp(24), name="b")
    found.update(ramp(24), ramp(24), name="a")
    assert found.summary().splitlines()[:3] == [
        "rvm_lr: 2 videos and stills, 2 frames",
        "mad         15.6250",
        "sad          0.0640",
    ]
    rows = found.table()
    assert [row["name"] for row in rows] == ["a", "b"]
    assert rows[1]["mad"] == pytest.approx(31.25)
    curve = found.curves()[0]
    assert (curve.name, curve.x.tolist(), curve.y.tolist()) == ("mad", [0, 31.25], [0.5, 1])
    assert MattingScore().compute() == {}
    assert MattingScore().table() == MattingScore().curves() == []


def test_a_video_frame_without_unknown_pixels_counts_only_in_sums():
    found = MattingScore("paper")
    known = np.zeros((64, 64), np.uint8)
    found.update(ramp(22), ramp(24), known, video="a")
    found.update(ramp(22), ramp(24), known + 128, video="a")
    assert found.compute()["sad"] == pytest.approx(0.064)
    assert found.compute()["mse"] == pytest.approx(0.00378418, abs=1e-8)
    assert math.isnan(PAPER.mse(0.0, 0))


def test_flat_mattes_stretch_to_zero():
    assert (stretched(np.full((2, 2), 0.5, np.float32)) == 0).all()
    assert stretched(np.array([[0.25, 0.75]], np.float32)).tolist() == [[0, 1]]


# bad input

A, B = np.zeros((4, 6), np.float32), np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update(A[:3], B), "the prediction is 3x6 but the truth is 4x6; resize it to the truth"),
        (lambda s: s.update(A, B, A[:, :2]), "the trimap is 4x2 but the truth is 4x6; resize it to the truth"),
        (
            lambda s: s.update(255 * B, B),
            "the prediction has values from 255 to 255, alpha is in 0..1; "
            "divide 8-bit alpha by 255, or give it as uint8",
        ),
        (
            lambda s: s.update(A, A * np.nan),
            "the truth has values from nan to nan, alpha is in 0..1; divide 8-bit alpha by 255, or give it as uint8",
        ),
        (
            lambda s: s.update(A.astype(np.int64), B),
            "the prediction holds int64; give float in [0, 1], uint8 or uint16",
        ),
        (
            lambda s: s.update(np.zeros((2, 4, 6), np.float32), B),
            "the prediction has shape (2, 4, 6); expected one matte, (H, W) or (1, H, W)",
        ),
        (
            lambda s: s.update(A, B, np.full((4, 6), 127)),
            "the trimap holds 127; its values are 0 (background), 128 (unknown) and 255 (foreground)",
        ),
        (
            lambda s: [s.update(A, B, video="a"), s.update(A, B, video="a", flow=np.zeros((4, 6)))],
            "flow has shape (4, 6); expected (2, 4, 6): x and y for each pixel",
        ),
        (
            lambda s: s.update(A, B, video="a", flow=np.zeros((2, 4, 6))),
            "there is flow but no previous frame; give flow from the second frame of a video on",
        ),
        (
            lambda s: [s.update(A, B, name="a"), s.update(A, B, name="a")],
            "'a' came twice; give every still its own name",
        ),
        (
            lambda s: [s.update(A, B, video=v) for v in "aba"],
            "video 'a' came back after something else; give all frames of a video one after another",
        ),
        (
            lambda s: [s.update(A, B, video="a"), s.update(A[:2], B[:2], video="a")],
            "video 'a' changes from 4x6 to 2x6; resize its frames",
        ),
        (
            lambda s: [s.update(A, B, name="a"), s.merge(s)],
            "'a' is in both parts; split data between videos, not inside them",
        ),
        (lambda s: s.merge(MattingScore(PAPER)), "cannot merge scores of different scales: rvm_lr and paper"),
        (
            lambda _: MattingScore("rvm"),
            "there is no scale 'rvm'; choose rvm_lr, rvm_hr, bmv2, paper",
        ),
        (
            lambda _: MattingScore(BMV2).update(A, B),
            "scale bmv2 scores unknown pixels only, but there is no trimap; give trimaps, or choose another scale",
        ),
    ],
)
def test_mistakes_are_named(call, message, as_user):
    with pytest.raises(UserError) as error:
        call(MattingScore())
    assert str(error.value) == message
