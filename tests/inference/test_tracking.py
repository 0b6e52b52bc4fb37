"""Objects through a video: each on its own, forward and back, corrected, from any source, in constant memory."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from masklet.inference.frames import Live, open_frames
from masklet.inference.tracking import Tidy, VideoSession, propagate_together
from masklet.models import build
from masklet.ops.components import components, smoothed_over
from masklet.ops.rle import decode_many
from masklet.structures.errors import UserError

TINY: dict[str, Any] = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}
COUNT = 14


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = build("sam2_hiera_tiny", **TINY).eval()
    for name, value in made.named_parameters():
        if value.ndim > 1 and not name.startswith("encoder"):
            torch.nn.init.normal_(value, std=0.2)
    made.decoder.object[-1].bias.data.fill_(3.0)  # in sight
    return made


def film(seed: int = 0, count: int = COUNT) -> list[np.ndarray]:
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, (48 + count, 60 + 2 * count), mode="bicubic").clamp(0, 1)[0]
    picture = (fine.permute(1, 2, 0) * 255).round().byte().numpy()
    return [picture[t : t + 48, 2 * t : 2 * t + 60].copy() for t in range(count)]


def prompted(model: Any, source: Any, **options: Any) -> VideoSession:
    session = VideoSession(model, source, **options)
    session.add_prompt(0, 1, points=[(20, 30)])
    return session


def run(session: VideoSession, *args: Any, **options: Any) -> dict[int, dict[int, Any]]:
    """Masks by object and frame."""
    out: dict[int, dict[int, Any]] = {}
    for frame in session.propagate(*args, **options):
        for number, mask in frame.masks.items():
            out.setdefault(number, {})[frame.index] = mask
    return out


def test_objects_come_and_go_and_leave_the_others_alone(model: Any) -> None:
    alone = run(prompted(model, film()))
    assert list(alone[1]) == list(range(COUNT))
    assert len({str(mask) for mask in alone[1].values()}) > 1

    session = prompted(model, film())
    first = run(session, stop=7)
    session.add_prompt(5, 2, box=(10, 10, 40, 40))  # comes later, where the first one has been already
    both = run(session)
    assert list(both[2]) == list(range(5, COUNT))
    assert {**first[1], **both[1]} == alone[1]  # bit for bit, and no frame twice
    assert not set(first[1]) & set(both[1])

    session = prompted(model, film())
    session.add_prompt(0, 2, box=(10, 10, 40, 40))
    session.add_prompt(3, 3, points=[(50, 10), (5, 5)], labels=[1, 0])
    some = run(session, stop=6)
    session.remove_object(2)
    assert session.objects == (1, 3)
    rest = run(session)
    assert {**some[1], **rest[1]} == alone[1]
    assert set(rest) == {1, 3}

    backward = run(session, "backward")
    assert list(backward[3]) == [3, 2, 1, 0]
    assert list(backward[1]) == [0]
    assert backward[3][3] == some[3][3]  # what was prompted stays


def test_together_or_alone(model: Any) -> None:
    masks = []
    for together in (1, 3):
        session = prompted(model, film(), together=together)
        session.add_prompt(0, 2, box=(10, 10, 40, 40))
        session.add_prompt(0, 3, points=[(50, 10)])
        masks.append(run(session, stop=5))
    for number in (1, 2, 3):
        for at in range(5):
            one, other = masks[0][number][at], masks[1][number][at]
            assert one.area == pytest.approx(other.area, abs=3)


def test_a_correction_concerns_one_object_from_there_on(model: Any) -> None:
    session = prompted(model, film())
    session.add_prompt(0, 2, box=(10, 10, 40, 40))
    before = run(session)
    found, score = session.add_prompt(9, 1, points=[(30, 20)], labels=[0])
    assert 0 <= score <= 1
    after = run(session)
    assert set(after) == {1}
    assert list(after[1]) == list(range(9, COUNT))
    assert after[1][9] == found
    assert any(after[1][at] != before[1][at] for at in after[1])
    again = session.add_prompt(9, 1, points=[(31, 21)])[0]  # a second click adds to the first
    assert session._tracks[1].prompts[9].points.shape[1] == 2
    assert run(session)[1][9] == again
    session.add_prompt(9, 1, points=[(31, 21)], clear=True)
    assert session._tracks[1].prompts[9].points.shape[1] == 1
    repeated = run(session, start=2, objects=[2])
    assert list(repeated[2]) == list(range(2, COUNT))
    report = session.memory_report()
    assert report["prompted_frames"] == {1: 2, 2: 1}
    assert report["total"] == sum(report["objects"].values()) + report["frames"] + report["embeddings"]


def test_a_drawn_mask_is_the_answer(model: Any) -> None:
    drawn = torch.zeros(48, 60, dtype=torch.bool)
    drawn[10:40, 20:50] = True
    session = VideoSession(model, film())
    found, score = session.add_prompt(2, 7, mask=drawn)
    assert score == 1.0
    assert abs(found.area - int(drawn.sum())) < 80
    both = run(session, "both")
    assert sorted(both[7]) == list(range(COUNT))


def test_masks_are_tidied_as_asked(model: Any) -> None:
    def three(tidy: Tidy | None = None) -> dict[int, dict[int, Any]]:
        session = prompted(model, film(count=4), tidy=tidy)
        session.add_prompt(0, 2, box=(10, 10, 40, 40))
        session.add_prompt(1, 3, points=[(50, 10)])
        return run(session)

    plain, apart = three(), three(Tidy(non_overlap_masks=True))
    assert [*plain] == [*apart] == [1, 2, 3]
    shared = 0
    for at in range(4):
        before, after = ([masks[n][at] for n in masks if at in masks[n]] for masks in (plain, apart))
        together, alone = decode_many(before, 48, 60), decode_many(after, 48, 60)
        shared += int((together.sum(0) > 1).sum())
        assert (alone.sum(0) == together.any(0)).all()  # everything that was some object's is now one object's
        assert not (alone & ~together).any()
    assert shared  # they did overlap
    assert three(Tidy()) == plain
    assert three(Tidy(fill_hole_area=0, max_sprinkle_area=0)) == plain

    def parts(masks: dict[int, dict[int, Any]]) -> tuple[int, int]:
        """The smallest hole and the smallest part, in pixels."""
        dense = [decode_many([mask], 48, 60)[0] for frames in masks.values() for mask in frames.values()]
        sizes = [[components(m)[1][1:] for m in each] for each in ([~m for m in dense], dense)]
        return tuple(min(int(s.min()) for s in some if len(s)) for some in sizes)  # type: ignore[return-value]

    tidied = three(Tidy(fill_hole_area=20, max_sprinkle_area=20))  # cells of 15 x 12 pixels
    assert tidied != plain
    assert parts(tidied) > parts(plain)


def test_what_is_written_of_a_prompted_frame_is_what_is_shown(model: Any) -> None:
    """The memory of a prompted frame has its holes filled, as the authors' predictor fills them before it encodes."""
    first = prompted(model, film())
    found = first._tracks[1].logits[0]
    session = prompted(model, film(), tidy=Tidy(fill_hole_area=200, max_sprinkle_area=200))
    kept = session._tracks[1].logits[0]
    assert torch.equal(kept, smoothed_over(found, 200, 200))
    assert not torch.equal(kept, found)
    assert not torch.equal(
        session._tracks[1].memory[False].prompted[0].map, first._tracks[1].memory[False].prompted[0].map
    )


def test_sources_give_the_same(model: Any, tmp_path: Path) -> None:
    pictures = film(count=6)
    want = run(prompted(model, pictures))
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert run(prompted(model, tmp_path)) == want
    assert run(prompted(model, str(tmp_path / "*.png"))) == want

    read = 0

    def stream() -> Any:
        nonlocal read
        for picture in pictures:
            read += 1
            yield picture

    session = prompted(model, stream())
    assert read == 1
    got: dict[int, Any] = {}
    for frame in session.propagate():
        assert read == frame.index + 1  # never ahead
        got[frame.index] = frame.masks[1]
    assert {1: got} == want


def test_a_video_file_is_read_as_it_is_needed(tmp_path: Path) -> None:
    from masklet.inference.video import read_frames, video_writer

    with video_writer(tmp_path / "film.mp4") as write:
        for picture in film():
            write(picture)
    want = [image for _, _, image in read_frames(tmp_path / "film.mp4")]
    frames = open_frames(tmp_path / "film.mp4", kept=4)
    for number in (0, 5, 2, 13, 12, 13):
        assert torch.equal(frames[number], want[number])
    assert frames.nbytes <= 4 * want[0].nbytes
    with pytest.raises(IndexError):
        frames[COUNT]
    assert frames.length == COUNT


@pytest.fixture
def one_thread() -> Any:
    """Several threads divide a batch of four otherwise than one picture, and round the last bit otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_four_videos_in_a_batch_are_four_runs(model: Any) -> None:
    films = [film(seed, count) for seed, count in ((0, 5), (1, 3), (2, 5), (3, 4))]
    alone = [run(prompted(model, pictures)) for pictures in films]
    sessions = [prompted(model, pictures) for pictures in films]
    together: list[dict[int, Any]] = [{} for _ in films]
    for i, frame in propagate_together(sessions):
        together[i][frame.index] = frame.masks[1]
    for got, want in zip(together, alone, strict=True):
        assert got == want[1]
    batch = torch.stack([torch.from_numpy(pictures[0]).permute(2, 0, 1) / 255 for pictures in films])
    with torch.inference_mode():
        four, ones = model.embed(batch), [model.embed(picture[None]) for picture in batch]
    for i, one in enumerate(ones):
        torch.testing.assert_close(four.features[i : i + 1], one.features, rtol=1e-5, atol=1e-6)


def test_a_budget_lets_go_of_what_is_not_needed(model: Any) -> None:
    session = prompted(model, film())
    run(session)
    free = session.memory_report()
    tight = prompted(model, film(), memory_budget=free["total"] - free["frames"] // 2)
    assert run(tight) == run(prompted(model, film()))
    assert tight.memory_report()["total"] <= free["total"] - free["frames"] // 2
    with pytest.raises(UserError, match=r"^the session needs \d+ MiB but has 0 MiB; raise memory_budget, "):
        prompted(model, film(), memory_budget="2 KiB")


def test_live_frames_are_dropped_or_waited_for() -> None:
    def slow() -> Any:
        for i in range(20):
            time.sleep(0.005)
            yield i

    live = Live(slow(), "latest")
    seen = []
    for frame in live:
        seen.append(frame)
        time.sleep(0.03)
    assert seen == sorted(set(seen))
    assert live.dropped > 0
    assert seen[-1] == 19
    assert list(Live(range(20), "block", every=3)) == list(range(0, 20, 3))
    produced = []

    def counted() -> Any:
        for i in range(5):
            produced.append(i)
            yield i

    for i, _ in enumerate(Live(counted(), "block")):
        time.sleep(0.01)
        assert len(produced) <= i + 3  # one waits in the slot, one in the hand of the reader

    def broken() -> Any:
        yield 1
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        list(Live(broken(), "block"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add_prompt(99, 1, points=[(1, 1)]), f"there is no frame 99; the video has {COUNT} frames"),
        (
            lambda s: s.add_prompt(0, 1, points=[(70, 1)]),
            "the point 70,1 lies outside the image, which is 60 wide and 48 high; "
            "points are x,y in pixels from the top left corner",
        ),
        (
            lambda s: s.add_prompt(0, 1, points=[(1, 1)], mask=torch.ones(48, 60, dtype=torch.bool)),
            "a mask together with points or a box; give the mask, then correct it with points",
        ),
        (lambda s: list(s.propagate()), "no object has been prompted; session.add_prompt(0, 1, points=[(x, y)])"),
        (lambda s: s.remove_object(4), "there is no object 4; objects: none"),
        (lambda s: list(s.propagate("up")), "direction is 'up'; choose from forward, backward, both"),
        (
            lambda s: VideoSession(s.model, film(), memory_budget="lots"),
            "memory_budget is 'lots'; give bytes, or text such as \"2GiB\"",
        ),
        (lambda s: VideoSession(s.model, film(), together=0), "together is 0; give a number of objects"),
        (lambda s: Tidy(fill_hole_area=-1), "fill_hole_area is -1; give a number of cells, 0 for none"),
        (
            lambda s: VideoSession(torch.nn.Linear(1, 1), film()),
            "Linear follows no objects; take sam2_hiera_tiny, or another of the task video",
        ),
        (lambda s: open_frames(1.5), "a float is not a video; give a file, a folder, a camera's number or an iterator"),
        (lambda s: open_frames([]), "the video has no frames"),
        (lambda s: Live([], "oldest"), "drop is 'oldest'; choose block or latest"),
        (lambda s: Live([], every=0), "every is 0; give 1 for all frames, 2 for every second one, ..."),
    ],
)
def test_mistakes_are_said(model: Any, call: Any, message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        call(VideoSession(model, film()))


def test_frames_of_a_stream_that_are_gone(model: Any) -> None:
    frames = open_frames(iter(film()), kept=3)
    assert frames[5].shape == (3, 48, 60)
    message = "frame 2 of the stream is gone: the last 3 frames are kept; "
    with pytest.raises(UserError, match="^" + re.escape(message)):
        frames[2]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(model: Any) -> None:
    import psutil

    def endless(count: int) -> Any:
        pictures = film(count=20)
        for i in range(count):
            yield pictures[i % 20]

    def peak(count: int) -> int:
        session = prompted(model, endless(count))
        for number in (2, 3):
            session.add_prompt(0, number, box=(10, 10 * number, 40, 10 * number + 15))
        most = 0
        for frame in session.propagate():
            if frame.index % 20 == 0:
                most = max(most, psutil.Process().memory_info().rss)
        return most

    peak(50)
    short, long = peak(200), peak(2000)
    assert long < 1.05 * short
