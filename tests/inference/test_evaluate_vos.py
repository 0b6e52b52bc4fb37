"""Videos measured by the rules of their benchmarks: hand values with a model that never moves, files, clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from masklet.data.davis_writer import write_davis_png
from masklet.data.images import to_float
from masklet.data.sources import open_source
from masklet.inference.evaluate_vos import measure_vos
from masklet.inference.scores.vos import score_jf
from masklet.inference.tracking import VideoSession
from masklet.models import build
from masklet.models.prompting import Embedding
from masklet.models.sam2 import Found
from masklet.ops.rle import encode
from masklet.parts.memory_bank import Memory, MemoryBank, Remembered
from masklet.structures import Classes, UserError

TINY: dict[str, Any] = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4},
    **{"memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16},
    **{"width": 8, "depths": (1, 1, 1, 1), "whole": (2,)},
}


class Still(nn.Module):
    """Takes the mask that it was given, or a square of 21 pixels around each click, for the mask of every frame."""

    classes, spec = Classes(("object",)), {"model": "still"}

    def __init__(self) -> None:
        super().__init__()
        self.bank = MemoryBank(4, 4)
        self.clicks: list[Any] = []

    def embed(self, images: torch.Tensor) -> Embedding:
        size = (images.shape[2], images.shape[3])
        images = to_float(images)
        return Embedding(images, (), images[0], size, size, size)

    @staticmethod
    def nothing_remembered() -> Memory:
        return Memory()

    def step(self, frame: Embedding, memory: Memory, queries: Any = None, drawn: Any = None, **how: Any) -> Any:
        if queries is not None:
            self.clicks.append(queries.points[0].tolist())
            drawn = torch.zeros(1, *frame.size, dtype=torch.bool)
            for x, y in queries.points[0].int().tolist():
                drawn[0, y - 10 : y + 11, x - 10 : x + 11] = True
        logits = memory.prompted[-1].map[:, 0] if drawn is None else torch.where(drawn, 10.0, -10.0)
        one = torch.ones(1)
        return Found(logits, one, one, torch.zeros(1, 4), logits[:, None], one[:, None]), memory

    def write(self, frame: Embedding, memory: Memory, found: Found, drawn: Any = None, **how: Any) -> Memory:
        return self.bank.write(memory, Remembered(how["at"], found.logits[:, None], found.pointers), how["prompted"])


def film(root: Path, frames: list[np.ndarray], name: str = "a", every: int = 1) -> Path:
    """A DAVIS folder; masks of every `every`-th frame."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / name).mkdir(parents=True)
    for i, ids in enumerate(frames):
        picture = np.random.default_rng(i).integers(0, 255, (*ids.shape, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg")
        if i % every == 0:
            masks = {int(k): encode(ids == k) for k in np.unique(ids) if k}
            write_davis_png(root / "Annotations" / "480p" / name / f"{i:05d}.png", masks, ids.shape)
    return root


def square(y: int, x: int, number: int = 1, into: np.ndarray | None = None) -> np.ndarray:
    ids = np.zeros((100, 100), np.uint8) if into is None else into
    ids[y : y + 40, x : x + 40] = number
    return ids


def test_hand_values_and_which_frames_count(tmp_path: Path) -> None:
    film(tmp_path, [square(20, 20), square(21, 21), square(24, 20), square(60, 60)])  # the last does not count
    film(tmp_path, [square(20, 20)] * 3, "b")
    done: list[tuple[int, int]] = []
    score = measure_vos(
        Still(), open_source(f"davis:{tmp_path}", "all"), precision="fp32", progress=lambda *at: done.append(at)
    )
    found = score.compute()
    first, last = (1521 / 1679 + 36 / 44) / 2, (1 + 0.5125) / 2
    assert found["j"] == pytest.approx((first + 1) / 2)
    assert found["f"] == pytest.approx((last + 1) / 2)
    assert found["jf/a"] == pytest.approx((first + last) / 2)
    assert found["jf/b"] == 1
    assert done == [(i, 7) for i in range(1, 8)]
    assert [*measure_vos(Still(), open_source(f"davis:{tmp_path}", "all"), limit=1).sequences] == ["a"]


def test_the_same_as_files_scored_afterwards(tmp_path: Path) -> None:
    frames = [square(10 + 3 * t, 20, 2, square(20, 10 + 2 * t)) for t in range(6)]
    film(tmp_path / "data", frames)
    torch.manual_seed(0)
    model = build("sam2_hiera_tiny", **TINY).eval()
    model.decoder.object[-1].bias.data.fill_(3.0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and not name.startswith("encoder"):
                nn.init.normal_(value, std=0.2)
    score = measure_vos(model, open_source(f"davis:{tmp_path / 'data'}", "all"), precision="fp32")
    session = VideoSession(model, tmp_path / "data" / "JPEGImages" / "480p" / "a")
    for number in (1, 2):
        session.add_prompt(0, number, mask=frames[0] == number)
    (tmp_path / "results" / "a").mkdir(parents=True)
    for frame in session.propagate():
        write_davis_png(tmp_path / "results" / "a" / f"{frame.index:05d}.png", frame.masks, (100, 100))
    want = score_jf(tmp_path / "results", tmp_path / "data")
    assert score.table() == want.table()
    assert 0 < want.compute()["j"] < 1  # there was something to see


def test_clicks_go_where_the_largest_mistake_is(tmp_path: Path) -> None:
    wide = np.zeros((60, 100), np.uint8)
    wide[15:46, 10:81] = 1  # 31 high, 71 wide
    film(tmp_path, [wide] * 3)
    data, ious = open_source(f"davis:{tmp_path}", "all"), []
    for clicks in (1, 2, 3):
        model = Still()
        ious.append(measure_vos(model, data, clicks=clicks, precision="fp32").compute()["j"])
        assert [len(points) for points in model.clicks] == [1, 2, 3][:clicks]  # one at a time, the earlier ones again
    first, second, third = model.clicks[-1]
    assert (first[1], second[1]) == (30, 30)  # in the middle of the bar, then of the larger rest
    assert second[0] > first[0] + 20
    assert third[0] != second[0]
    assert ious == sorted(ious)
    assert ious[0] == pytest.approx(21 * 21 / (31 * 71))


def test_objects_that_come_later_and_overlap(tmp_path: Path) -> None:
    frames = [square(0, 0), square(0, 0), square(50, 50, 2, square(0, 0)), square(50, 50, 2, square(0, 0))]
    film(tmp_path / "y", frames)
    found = measure_vos(Still(), open_source(f"youtube_vos:{tmp_path / 'y'}", "all"), precision="fp32")
    assert [(row["object"], row["frames"], row["j"]) for row in found.table()] == [(1, 3, 1.0), (2, 1, 1.0)]
    assert len(measure_vos(Still(), open_source(f"davis:{tmp_path / 'y'}", "all")).table()) == 1

    root = tmp_path / "sav"
    for t in range(9):  # frames at 24 a second, masks at 6
        (root / "JPEGImages_24fps" / "v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "JPEGImages_24fps" / "v" / f"{t:05d}.jpg")
        for k, extent in ((0, 20), (1, 30)):  # one lies inside the other
            (root / "Annotations_6fps" / "v" / f"{k:03d}").mkdir(parents=True, exist_ok=True)
            if t % 4 == 0:
                ids = np.zeros((40, 40), np.uint8)
                ids[5:extent, 5:extent] = 1
                Image.fromarray(ids).save(root / "Annotations_6fps" / "v" / f"{k:03d}" / f"{t:05d}.png")
    model = Still()
    table = measure_vos(model, open_source(f"sav:{root}", "all"), precision="fp32").table()
    assert [(row["object"], row["frames"], row["j"]) for row in table] == [(1, 1, 1.0), (2, 1, 1.0)]


def test_mistakes(tmp_path: Path) -> None:
    hint = "follow objects through davis:, youtube_vos: or sav:"
    with pytest.raises(UserError, match=rf"^shapes3 has no videos; {hint}$"):
        measure_vos(Still(), open_source("synthetic:shapes3", "val"))
    film(tmp_path, [square(0, 0)] * 3)
    data = open_source(f"davis:{tmp_path}", "all")
    with pytest.raises(UserError, match=r"^clicks is 0; allow at least one, or none to give true masks$"):
        measure_vos(Still(), data, clicks=0)
    with pytest.raises(
        UserError, match=r"^unet follows no objects; take sam2_hiera_tiny, or another of the task video$"
    ):
        measure_vos(build("unet", num_classes=1, widths=(4, 8)), data)
