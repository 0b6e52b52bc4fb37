"""`score_matting` on folders: the numbers of the metric, file by file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from command_line import answer, run
from conftest import shared
from masklet.data.mattes import read_alpha, read_trimap
from masklet.inference.scores.matting import score_matting
from masklet.metrics.matting import MattingScore
from masklet.structures import UserError

RNG = np.random.default_rng(0)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def frames(folder, *names, size=(20, 30)):
    return [save(folder / f"{name}.png", RNG.integers(0, 256, size, np.uint8)) for name in names]


def test_stills_and_videos(tmp_path):
    names = ("still", "clip/1", "clip/2", "clip/3")
    pred, truth = frames(tmp_path / "pred", *names), frames(tmp_path / "truth", *names)
    trimaps = [save(tmp_path / "tri" / f"{n}.png", RNG.choice([0, 128, 255], (20, 30)).astype(np.uint8)) for n in names]
    flow = RNG.integers(-3, 4, (2, 2, 20, 30)).astype(np.float32)
    (tmp_path / "flow" / "clip").mkdir(parents=True)
    for name, values in zip("23", flow, strict=True):
        np.save(tmp_path / "flow" / "clip" / f"{name}.npy", values)
    want = MattingScore("paper")
    for i, name in enumerate(names):
        where = {"video": "clip", "flow": flow[i - 2] if i > 1 else None} if i else {"name": name}
        want.update(pred[i], truth[i], trimaps[i], **where)
    calls = []
    found = score_matting(
        tmp_path / "pred",
        tmp_path / "truth",
        scale="paper",
        trimaps=tmp_path / "tri",
        flow=str(tmp_path / "flow"),
        progress=lambda *now: calls.append(now),
    )
    assert found.compute() == want.compute()
    assert {"sad", "dtssd", "messddt"} < set(found.compute())
    assert [row["name"] for row in found.table()] == ["clip", "still"]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    without = score_matting(tmp_path / "pred", tmp_path / "truth", stills=True)
    assert set(without.compute()) == {"mad", "sad", "mse", "grad", "conn"}
    assert len(without.table()) == 4


def test_background_matting_layout(tmp_path):
    for side in ("pred", "truth"):
        frames(tmp_path / side, "pha/1", "pha/2", size=(21, 30))
        for name in "12":
            save(tmp_path / side / "fgr" / f"{name}.png", RNG.integers(0, 256, (21, 30, 3), np.uint8))
    for name in "12":
        save(tmp_path / "truth" / "trimap" / f"{name}.png", np.full((21, 30), 128, np.uint8))
    result = run("score", tmp_path / "pred", tmp_path / "truth", "--metric", "matting", "-o", "scale=bmv2")
    assert result.stdout.splitlines()[0:2][-1].startswith("mse:0.1")
    found = answer("score", tmp_path / "pred", tmp_path / "truth", "--metric", "matting")["metrics"]
    assert found["fgr_mse"] == pytest.approx(1e3 / 6, rel=0.1)  # of two uniform values


def test_real_predictions_against_each_other():
    """FBA's alpha of the lemur against the one that PyMatting ships as true, on the unknown pixels."""
    lemur = shared("data", "matting_lemur")
    score = MattingScore("paper")
    trimap = read_trimap(lemur / "lemur_trimap_fba.png")
    score.update(read_alpha(lemur / "lemur_alpha_fba.png"), read_alpha(lemur / "lemur_alpha.png"), trimap)
    found = score.compute()
    assert 0 < found["mse"] < 0.05
    assert 0 < found["sad"] < 10


def test_mistakes_name_the_file(tmp_path):
    frames(tmp_path / "truth", "clip/1", "clip/2")
    frames(tmp_path / "pred", "clip/1")
    frames(tmp_path / "pred", "clip/2", size=(9, 9))
    with pytest.raises(UserError) as error:
        score_matting(tmp_path / "pred", tmp_path / "truth")
    file = tmp_path / "pred" / "clip" / "2.png"
    assert str(error.value) == f"{file}: the prediction is 9x9 but the truth is 20x30; resize it to the truth"
    with pytest.raises(UserError) as error:
        score_matting(tmp_path / "pred", tmp_path / "truth", scale="bmv2")
    assert str(error.value) == (
        f"{tmp_path / 'truth' / 'clip' / 'trimap'} does not exist; it should hold a trimap for each of 2 pictures"
    )
