"""The bundled `click` finds what is clicked on in pictures that it has not seen, all coins, and a coin that rolls."""

from __future__ import annotations

import pytest
import torch

from conftest import shared
from masklet.data.framing import evenly
from masklet.data.images import read_image
from masklet.data.sources import open_source
from masklet.inference.demo import PHOTOGRAPHS, ROUND_THINGS, sample_photographs
from masklet.inference.demo_clicks import COIN, COINS, ROCKET, rolling_coin
from masklet.inference.evaluate_clicks import measure_prompts
from masklet.inference.everything import everything
from masklet.inference.tracking import VideoSession
from masklet.ops.rle import decode
from masklet.weights import CATALOG, load

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    if not CATALOG["click"].path.exists():
        pytest.skip("this copy has no bundled weights")
    return load("click")


def test_it_fits_the_wheel(model):
    assert CATALOG["click"].path.stat().st_size <= 16 * 2**20
    assert model.classes.names == ("object",)
    assert model.spec["model"] == "sam2"


def test_pets_are_found_in_three_clicks_or_a_box(model):
    data = evenly(open_source(f"pets:{shared('data', 'pets')}", "val"), 6)
    found = measure_prompts(model, data, clicks=3).compute()
    assert found["iou@1"] > 0.6  # a face is a thing too
    assert found["iou@3"] > 0.85
    assert measure_prompts(model, data, "box").compute()["iou@1"] > 0.8


def test_coins_are_found_without_a_word(model):
    photo = read_image(sample_photographs(ROUND_THINGS)[COINS])
    found = everything(model, photo).instances
    assert found.masks is not None
    assert 15 <= len(found) <= 40  # there are 24
    x, y, radius = COIN
    rows, columns = torch.meshgrid(torch.arange(photo.shape[1]), torch.arange(photo.shape[2]), indexing="ij")
    disc = torch.hypot(columns - x, rows - y) < radius
    dense = found.masks.dense()
    assert ((dense & disc).sum((1, 2)) / (dense | disc).sum((1, 2))).max() > 0.8


def test_a_coin_is_followed(model):
    photographs = sample_photographs({**PHOTOGRAPHS, **ROUND_THINGS})
    clip = rolling_coin(photographs[COINS], photographs[ROCKET])
    frames, truth = [*clip.frames[:8]], clip.masks[0, :8]
    x, y = truth[0].nonzero().float().mean(0).flip(0).tolist()
    session = VideoSession(model, frames)
    session.add_prompt(0, 1, points=[(x, y)])
    masks = torch.stack([torch.from_numpy(decode(frame.masks[1])) for frame in session.propagate()])
    ious = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
    assert ious.mean() > 0.8
