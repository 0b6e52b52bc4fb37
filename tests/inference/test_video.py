from __future__ import annotations

import builtins
import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from masklet.inference.video import describe, predict_video, read_frames, video_writer
from masklet.inference.writers import predict_files
from masklet.structures.errors import UserError
from semantic_toys import CLASSES, Brightness, Toy

av = pytest.importorskip("av")


def picture(i, height=48, width=64):
    frame = np.full((height, width, 3), 30, np.uint8)
    frame[:, : 8 * (i + 1)] = 220
    return frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with video_writer(path, 10) as append:
        for i in range(6):
            append(picture(i))
    return path


def test_what_was_written_is_read_again(clip):
    about = describe(clip)
    assert (about.width, about.height, about.rate, about.frames) == (64, 48, Fraction(10), 6)
    frames = list(read_frames(clip))
    assert [index for index, _, _ in frames] == list(range(6))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([i / 10 for i in range(6)])
    for index, _, image in frames:
        assert image.shape == (3, 48, 64)
        assert (image.permute(1, 2, 0).float() - torch.from_numpy(picture(index)).float()).abs().mean() < 6


@pytest.mark.parametrize("batch", [1, 4])
def test_a_result_per_frame(clip, batch):
    found = list(predict_video(Brightness(), clip, batch=batch, precision="fp32"))
    assert [frame.index for frame in found] == list(range(6))
    for frame in found:
        width = 8 * (frame.index + 1)
        assert (frame.result.labels[:, : width - 2] == 2).all()
        assert (frame.result.labels[:, width + 2 :] == 0).all()


def test_frames_are_chosen_and_read_only_when_wanted(clip):
    assert [f.index for f in predict_video(Brightness(), clip, every=2)] == [0, 2, 4]
    assert [f.index for f in predict_video(Brightness(), clip, every=2, most=2)] == [0, 2]
    taken = []

    def camera():
        for i in range(10**9):
            taken.append(i)
            yield picture(0)

    stream = predict_video(Brightness(), camera())
    assert next(stream).index == 0
    assert next(stream).result.size == (48, 64)
    assert taken == [0, 1]
    with pytest.raises(UserError, match="every is 0"):
        predict_video(Brightness(), clip, every=0)


def test_memory_does_not_grow_with_the_video():
    """Of a hundred frames only the one at hand is alive."""
    import weakref

    alive = weakref.WeakSet()

    def camera():
        for _ in range(100):
            frame = torch.zeros(3, 16, 16, dtype=torch.uint8)
            alive.add(frame)
            yield frame

    most = 0
    for _ in predict_video(Brightness(), camera()):
        most = max(most, len(alive))
    assert most <= 4


def test_videos_that_were_turned(tmp_path):
    """A telephone held upright writes a lying picture and the angle."""
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(stream.encode())
    plain = [image for _, _, image in read_frames(path)]

    class Turned:
        def __init__(self, frame):
            self.frame, self.rotation, self.time = frame, -90, frame.time

        def to_ndarray(self, format):
            return self.frame.to_ndarray(format=format)

    import masklet.data.films as video

    real = video.av_library()
    decode = real.container.InputContainer.decode

    class Library:
        FFmpegError = real.FFmpegError

        @staticmethod
        def open(name):
            opened = real.open(name)

            class Container:
                streams = opened.streams

                def __enter__(self):
                    return self

                def __exit__(self, *args):
                    opened.close()

                def decode(self, stream):
                    return map(Turned, decode(opened, stream))

            return Container()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "av_library", lambda: Library)
        turned = [image for _, _, image in video.read_frames(path)]
    assert turned[0].shape == (3, 64, 48)
    assert torch.equal(turned[0], torch.rot90(plain[0], 3, (1, 2)))


def test_a_video_becomes_a_film_index_pictures_and_a_summary(clip, tmp_path):
    done = predict_files(Brightness(), clip, tmp_path, precision="fp32")
    assert sorted(str(p.relative_to(tmp_path)) for p in done.files) == [
        *(f"index/clip/{i:06}.png" for i in range(6)), "overlay/clip.mp4", "summary.json",
    ]  # fmt: skip
    assert done.frames == 6
    assert describe(tmp_path / "overlay/clip.mp4").frames == 6
    assert json.loads((tmp_path / "summary.json").read_text())["video_frames"] == 6
    only = predict_files(Brightness(), clip, tmp_path / "b", formats=("index",))
    assert len(only.files) == 6


def test_odd_sides_lose_a_row(tmp_path):
    with video_writer(tmp_path / "odd.mkv", 29.97) as append:
        append(picture(0, 49, 65))
    assert (describe(tmp_path / "odd.mkv").height, describe(tmp_path / "odd.mkv").width) == (48, 64)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_half_video(tmp_path, trouble):
    def interrupted():
        with video_writer(tmp_path / "x.mp4") as append:
            append(picture(0))
            raise trouble

    with pytest.raises(trouble):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_frames_must_agree_and_exist(tmp_path):
    def write(*sizes, name="x.mp4"):
        with video_writer(tmp_path / name) as append:
            for size in sizes:
                append(picture(0, *size))

    with pytest.raises(UserError, match="a frame is 32x32 but the video is 48x64"):
        write((48, 64), (32, 32))
    with pytest.raises(UserError, match="no frame was written to"):
        write()
    with pytest.raises(UserError, match="a video of 1x1 pixels cannot be written"):
        write((1, 1))
    with pytest.raises(UserError, match=r"cannot write a video to .*; end its name in .mp4 or .mkv"):
        write((48, 64), name="x.nonsense")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; check the spelling and the folder"):
        next(predict_video(Brightness(), tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(UserError, match=r"text.mp4 is not a video that can be read; convert it to MP4 \(H.264\)"):
        next(predict_video(Brightness(), tmp_path / "text.mp4"))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound.wav has no picture track; is it a sound file\?"):
        describe(tmp_path / "sound.wav")


def test_without_pyav_the_message_says_what_to_install(monkeypatch, clip):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"videos need PyAV, which is not installed; pip install 'masklet\[video\]'"):
        next(predict_video(Toy(CLASSES), clip))
