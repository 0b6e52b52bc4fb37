"""DAVIS, YouTube-VOS, MOSE and SA-V as frames and clips, SA-1B as images; what is broken in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import shared

from masklet.data.check import check
from masklet.data.films import frames_at, read_frames
from masklet.data.mixture import Mixture, Share
from masklet.data.sources import open_source
from masklet.data.videos import davis, sav, youtube_vos
from masklet.ops import rle
from masklet.structures import Clip, UserError

SIZE = (6, 8)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def mask(path: Path, ids: np.ndarray, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8))
    if palette:
        image.putpalette([*range(256)] * 3)  # a short palette would be saved with fewer bits than 255 needs
    image.save(path)


def ids(*columns: int) -> np.ndarray:
    """A map whose columns are these numbers."""
    out = np.zeros(SIZE, np.uint8)
    out[:, : len(columns)] = columns
    return out


def made(root: Path, inner: str = "480p", videos: tuple[str, ...] = ("a", "b")) -> Path:
    for video in videos:
        for frame in range(3):
            picture(root / "JPEGImages" / inner / video / f"{frame:05d}.jpg")
        mask(root / "Annotations" / inner / video / "00000.png", ids(1, 0, 2, 255))
        mask(root / "Annotations" / inner / video / "00002.png", ids(0, 2, 2, 3))
    return root


def test_frames_with_masks_are_samples_and_all_frames_belong_to_clips(tmp_path):
    data = davis(made(tmp_path), "all")
    assert [v.name for v in data.videos] == ["a", "b"]
    assert len(data) == 4
    assert [data[i].name for i in range(4)] == ["a/00000", "a/00002", "b/00000", "b/00002"]
    assert data[0].instances.masks.areas().tolist() == [6, 6]  # void is no object
    assert data[-1].instances.masks.areas().tolist() == [12, 6]
    clip = data.videos[0].clip([0, 1, 2])
    assert clip.known.tolist() == [True, False, True]
    assert clip.masks.sum((2, 3)).tolist() == [[6, 0, 0], [6, 0, 12], [0, 0, 6]]  # objects 1, 2 and 3
    assert data.videos[0].clip([2, 0]).masks.sum((2, 3)).tolist() == [[0, 6], [12, 6], [6, 0]]  # in the order asked for
    with pytest.raises(IndexError):
        data[4]


def test_a_slice_keeps_its_frames_and_the_videos_they_are_of(tmp_path):
    part = davis(made(tmp_path), "all")[1:3]
    assert [s.name for s in part] == ["a/00002", "b/00000"]
    assert len(part.videos[0].frames) == 3


def test_one_object_of_davis_2016_is_255_and_void_elsewhere_is_nothing(tmp_path):
    picture(tmp_path / "JPEGImages/480p/a/00000.jpg")
    picture(tmp_path / "JPEGImages/480p/a/00001.jpg")
    mask(tmp_path / "Annotations/480p/a/00000.png", ids(), palette=False)  # nothing to see yet: it cannot tell
    mask(tmp_path / "Annotations/480p/a/00001.png", ids(255, 255), palette=False)
    video = davis(tmp_path, "all").videos[0]
    assert video.objects(0) == {}
    assert {k: int(m.sum()) for k, m in video.objects(1).items()} == {1: 12}


def test_splits_are_those_of_the_lists_and_else_the_held_out_videos(tmp_path):
    root = made(tmp_path / "one", videos=("bear", "dog", "libby"))
    assert [v.name for v in davis(root, "val").videos] == ["dog", "libby"]
    assert [v.name for v in davis(root, "train").videos] == ["bear"]
    assert [v.name for v in davis(root, named="libby,bear").videos] == ["libby", "bear"]
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("bear\n")
    (root / "ImageSets/2017/train.txt").write_text("cow\nhorse\n")
    assert [v.name for v in davis(root, "val").videos] == ["bear"]
    with pytest.raises(UserError, match=r"none of the 2 videos that 2017/train\.txt lists is there"):
        davis(root, "train")
    with pytest.raises(UserError, match="has no video 'cat'"):
        davis(root, named="cat")
    other = made(tmp_path / "two", videos=tuple("abcdef"))
    assert [v.name for v in davis(other, "val").videos] == ["a", "f"]


def test_youtube_vos_has_folders_for_its_splits(tmp_path):
    for split, video in (("train", "x"), ("valid", "y")):
        made(tmp_path / split, inner="", videos=(video,))
    assert [v.name for v in youtube_vos(tmp_path, "train").videos] == ["x"]
    assert [v.name for v in youtube_vos(tmp_path, "val").videos] == ["y"]
    assert [v.name for v in youtube_vos(tmp_path, "all").videos] == ["x", "y"]
    with pytest.raises(UserError, match="no folder for split 'test'"):
        youtube_vos(tmp_path, "test")
    with pytest.raises(UserError, match="has no video 'z'"):
        youtube_vos(tmp_path, "train", named="z")


def test_objects_of_sav_have_files_of_their_own_and_may_overlap(tmp_path):
    for frame in range(5):
        picture(tmp_path / f"JPEGImages_24fps/sav_1/{frame:05d}.jpg")
    for frame in (0, 4):
        mask(tmp_path / f"Annotations_6fps/sav_1/000/{frame:05d}.png", ids(1, 1))
        mask(tmp_path / f"Annotations_6fps/sav_1/001/{frame:05d}.png", ids(0, *[1] * (frame // 4 + 1)))
    data = sav(tmp_path, "all")
    assert len(data) == 2
    assert [int(m.sum()) for m in data.videos[0].objects(0).values()] == [12, 6]
    assert data[1].instances.masks.areas().tolist() == [12, 12]
    (tmp_path / "sav_val.txt").write_text("sav_1\n")
    assert len(sav(tmp_path, "val").videos) == 1
    assert len(sav(tmp_path, named="sav_1").videos) == 1


def film(file: Path, count: int = 10) -> list[np.ndarray]:
    """A video file of so many grey frames, at 24 a second with a key frame every four; the frames."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    pictures = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(count)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "4", "bf": "2"}
        for one in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode())
    return pictures


def table(file: Path, objects: list[list[np.ndarray | None]], count: int = 10) -> None:
    """SA-V's JSON of masks, for each annotated frame one for each object."""

    def entry(mask: np.ndarray | None) -> dict[str, object]:
        return {} if mask is None else rle.to_coco(rle.encode(mask))

    frames = [[entry(mask) for mask in here] for here in objects]
    ids = [str(i) for i in range(len(objects[0]))]
    file.write_text(json.dumps({"video_frame_count": count, "masklet": frames, "masklet_id": ids}))


def half(column: int) -> np.ndarray:
    """The part of a frame left of a column."""
    out = np.zeros((48, 64), bool)
    out[:, :column] = True
    return out


def test_videos_of_sav_are_files_with_tables_beside_them(tmp_path):
    file = tmp_path / "sav_train/sav_000/sav_000001.mp4"
    film(file)
    film(file.with_name("sav_000002.mp4"))  # has no masks
    table(file.with_name("sav_000001_manual.json"), [[half(8), None], [half(16), half(4)], [half(32), None]])
    data = sav(tmp_path, "all")
    assert [v.name for v in data.videos] == ["sav_000001"]
    video = data.videos[0]
    assert (video.frames, video.annotated) == (tuple(range(10)), (0, 4, 8))
    assert len(data) == 3
    assert {k: int(m.sum()) for k, m in video.objects(4).items()} == {1: 48 * 16, 2: 48 * 4}
    assert [*video.objects(8)] == [1]
    clip = video.clip([3, 4, 9, 8])
    assert clip.known.tolist() == [False, True, False, True]
    assert clip.masks.flatten(2).sum(2).tolist() == [[0, 768, 0, 1536], [0, 192, 0, 0]]
    grey = [int(frame.float().mean().round()) for frame in clip.frames]
    assert all(abs(got - 20 * number) <= 3 for got, number in zip(grey, (3, 4, 9, 8), strict=True))
    sample = data[1]
    assert (sample.name, sample.size) == ("sav_000001/00004", (48, 64))
    assert sample.instances.masks.areas().tolist() == [768, 192]
    assert [s.name for s in data[1:]] == ["sav_000001/00004", "sav_000001/00008"]
    assert [f.name for f in data.paths(0)] == ["sav_000001.mp4", "sav_000001_manual.json"]
    assert check(f"sav:{tmp_path}") == []
    drawn = Mixture([Share(data)], (32, 48), pasted=0.0).draw(3, torch.Generator().manual_seed(0))
    assert drawn.frames.shape == (3, 3, 32, 48)
    assert drawn.masks[:, 0].any()
    table(file.with_name("sav_000001_auto.json"), [[half(40)], [half(41)]])
    both = sav(tmp_path, "all", masks="both").videos[0]
    assert {k: int(m.sum()) for k, m in both.objects(0).items()} == {1: 48 * 8, 3: 48 * 40}
    assert [*sav(tmp_path, "all", masks="auto").videos[0].objects(4)] == [1]
    with pytest.raises(UserError, match=r"^masks is 'all'; choose from manual, auto, both$"):
        sav(tmp_path, "all", masks="all")


def test_frames_of_a_file_by_number_are_those_one_after_the_other(tmp_path):
    film(tmp_path / "a.mp4")
    want = [image for _, _, image in read_frames(tmp_path / "a.mp4")]
    for numbers in ([0], [9], [5, 3], [2, 4, 8], range(10)):
        found = frames_at(tmp_path / "a.mp4", numbers)
        assert found.keys() == set(numbers)
        assert all(torch.equal(found[i], want[i]) for i in numbers)
    with pytest.raises(UserError, match=r"a\.mp4 has no frame 10; is the file whole\?$"):
        frames_at(tmp_path / "a.mp4", [9, 10])


def test_tables_that_are_none(tmp_path):
    film(tmp_path / "a.mp4", 2)
    for content in ("[]", '{"masklet": [[]]}', "{"):
        (tmp_path / "a_manual.json").write_text(content)
        with pytest.raises(UserError, match=r"a_manual\.json: this is no table of SA-V \("):
            sav(tmp_path, "all")[0]
    table(tmp_path / "a_manual.json", [[np.ones((4, 4), bool)]], 2)
    with pytest.raises(UserError, match=r"a_manual\.json: mask is 4x4 but image is 48x64"):
        sav(tmp_path, "all").videos[0].clip([0])


def test_sa1b(tmp_path):
    picture(tmp_path / "sa_1.jpg")
    dense = np.zeros((2, *SIZE), bool)
    dense[0, :2], dense[1, 1:4, 1:4] = True, True
    coco = [{"size": [*SIZE], "counts": text} for text in rle.to_strings(rle.encode_many(dense))]
    file = tmp_path / "sa_1.json"
    image = {"height": SIZE[0], "width": SIZE[1]}
    file.write_text(
        json.dumps({"image": image, "annotations": [{"segmentation": c, "predicted_iou": 0.5} for c in coco]})
    )
    found = open_source(f"sa1b:{tmp_path}", "all")[0].instances
    assert torch.equal(found.masks.dense(), torch.from_numpy(dense))
    assert found.scores.tolist() == [0.5, 0.5]
    file.write_text(json.dumps({"image": image, "annotations": []}))
    assert len(open_source(f"sa1b:{tmp_path}", "all")[0].instances) == 0
    for content, sentence in (
        ({"image": image}, "this is no annotation of SA-1B (KeyError: 'annotations')"),
        ({"image": {**image, "height": 9}, "annotations": []}, "mask is 9x8 but image is 6x8 (height x width)"),
        ({"image": image, "annotations": [{"segmentation": {"size": [6, 8], "counts": "?"}}]}, "sa_1.json: "),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError) as caught:
            open_source(f"sa1b:{tmp_path}", "all")[0]
        assert sentence in str(caught.value)


def test_every_way_a_video_can_be_broken_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder for images in it"):
        davis(tmp_path / "empty", "all")
    root = made(tmp_path / "one", videos=("a",))
    mask(root / "Annotations/480p/a/00007.png", ids(1))
    with pytest.raises(UserError, match=r"no image of frame 7 in .*JPEGImages/480p/a"):
        davis(root, "all")
    (root / "Annotations/480p/a/00007.png").unlink()
    mask(root / "Annotations/480p/a/00002.png", np.ones((3, 3)))
    assert [f.code for f in check(f"davis:{root}")] == ["size_mismatch"]
    mask(root / "Annotations/480p/z/00000.png", ids(1))
    with pytest.raises(UserError, match="the video has masks but no folder of images"):
        davis(root, "all")


@pytest.mark.parametrize(
    ("frames", "masks", "known", "sentence"),
    [
        ((2, 1, 4, 4), (1, 2, 4, 4), None, "the frames of x have shape (2, 1, 4, 4)"),
        ((2, 3, 4, 4), (1, 3, 4, 4), None, "the masks of x cover 3 x 4x4 but the frames are 2 x 4x4"),
        (
            (2, 3, 4, 4),
            (2, 4, 4),
            None,
            "the masks of x are bool (k, t, h, w), these are torch.bool of shape (2, 4, 4)",
        ),
        ((2, 3, 4, 4), (1, 2, 4, 4), (3,), "known of x is torch.bool of shape (3,)"),
    ],
)
def test_a_clip_checks_itself(frames, masks, known, sentence, as_user):
    with pytest.raises(UserError) as caught:
        Clip(
            torch.zeros(frames, dtype=torch.uint8),
            torch.zeros(masks, dtype=torch.bool),
            "x",
            None if known is None else torch.zeros(known, dtype=torch.bool),
        )
    assert str(caught.value).startswith(sentence)


def test_davis_as_it_was_published():
    root = shared("data/davis2016")
    assert [v.name for v in davis(root, "val").videos] == ["car-shadow", "dog", "libby"]
    assert len(davis(root, "all")) == 648
    clip = davis(root, named="dog").videos[0].clip([0, 59])
    assert clip.masks.shape == (1, 2, 480, 854)
    assert clip.masks.flatten(2).any(2).all()
    many = davis(shared("data/davis2017_first_frames"), "all")
    assert len(many) == 30
    assert max(len(sample.instances) for sample in many[:6]) > 1
