"""Looking closer at small objects: the window, and that a window's answers are those of the piece it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from masklet.inference.click import ClickSession, look
from masklet.inference.zoom import Zoom, answer, looked_at, recast, zoom_of
from masklet.models import build
from masklet.models.prompting import Answers, Embedding, ask, enlarged
from masklet.structures import Prompt


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    tiny = {"width": 8, "depths": (1, 1, 1, 1), "whole": (2,), "channels": 32, "decoder_heads": 4}
    more = {"decoder_hidden": 16, "memory_channels": 16, "own_layers": 1, "memory_layers": 1, "memory_hidden": 16}
    return build("sam2_hiera_tiny", side=64, drawn=2.0, **tiny, **more).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1))


def click(x: float, y: float) -> Prompt:
    return Prompt(torch.tensor([[float(x), float(y)]]), torch.tensor([1]))


def found(box: tuple[int, int, int, int], picture: tuple[int, int] = (90, 120)) -> Answers:
    """An answer whose mask is a box of the picture."""
    mask = torch.full((1, 4, *picture), -5.0)
    x0, y0, x1, y1 = box
    mask[:, :, y0:y1, x0:x1] = 5.0
    nothing = torch.zeros(1, 1, 1, 1)
    embedding = Embedding(nothing, (), nothing[0], picture, picture, picture)
    return Answers(mask, torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), embedding)


@torch.inference_mode()
def test_a_window_answers_as_the_piece_alone(model: torch.nn.Module, image: Tensor) -> None:
    x0, y0, x1, y1 = window = (30, 20, 90, 70)
    piece = image[:, y0:y1, x0:x1]
    here = ask(model, looked_at(model, image, window), click(50, 40))
    alone = ask(model, look(model, piece), click(20, 20))
    assert torch.equal(here.logits, alone.logits)
    dense = here.dense()
    assert dense.shape == (1, 90, 120)
    assert torch.equal(dense[:, y0:y1, x0:x1], alone.dense())
    outside = dense.clone()
    outside[:, y0:y1, x0:x1] = False
    assert not outside.any()
    assert here.instances(model.classes).size == (90, 120)
    masks = here.meanings(0)[0]
    assert masks.shape == (3, 90, 120)
    drawn = torch.zeros(1, 90, 120, dtype=torch.bool)
    drawn[:, 30:50, 40:60] = True
    one = ask(model, here.embedding, Prompt(masks=drawn))
    other = ask(model, alone.embedding, Prompt(masks=drawn[:, y0:y1, x0:x1]))
    assert torch.equal(one.logits, other.logits)
    boxed = Prompt(boxes=torch.tensor([[40.0, 30.0, 60.0, 50.0]]))
    shifted = Prompt(boxes=torch.tensor([[10.0, 10.0, 30.0, 30.0]]))
    assert torch.equal(ask(model, here.embedding, boxed).logits, ask(model, alone.embedding, shifted).logits)


def test_windows_by_hand() -> None:
    zoom = Zoom(around=2.0, least=16, worth=0.7)
    assert zoom.window(found((50, 30, 70, 50)), click(60, 40)) == (40, 20, 80, 60)
    assert zoom.window(found((58, 38, 62, 42)), click(60, 40)) == (52, 32, 68, 48)  # at least 16 pixels
    assert zoom.window(found((0, 0, 20, 20)), click(5, 5)) == (0, 0, 40, 40)  # stays in the picture
    assert zoom.window(found((50, 44, 90, 46)), click(60, 45)) == (30, 25, 110, 65)  # half as high as wide
    assert zoom.window(found((20, 10, 100, 80)), click(60, 40)) is None  # it is large already
    assert zoom.window(found((50, 30, 50, 30)), click(60, 40)) is None  # nothing was found
    wide = replace(click(60, 40), points=torch.tensor([[60.0, 40.0], [100.0, 40.0]]), point_labels=torch.tensor([1, 0]))
    assert zoom.window(found((50, 30, 70, 50)), wide) == (20, 15, 120, 65)  # a click beside the object is shown too
    boxed = Prompt(boxes=torch.tensor([[50.0, 30.0, 70.0, 50.0]]))
    assert zoom.window(found((50, 30, 50, 30)), boxed) == (40, 20, 80, 60)


def test_a_window_stays_while_it_fits() -> None:
    zoom = Zoom(around=2.0, least=16)
    inner = found((10, 10, 30, 30), (40, 40))
    here = replace(inner, embedding=replace(inner.embedding, corner=(40, 20), whole=(90, 120)))
    assert zoom.window(here, click(60, 40)) is None
    edge = found((10, 10, 40, 30), (40, 40))  # the object reaches the rim: there may be more of it
    here = replace(edge, embedding=replace(edge.embedding, corner=(40, 20), whole=(90, 120)))
    assert zoom.window(here, click(60, 40)) == (35, 20, 95, 60)


@torch.inference_mode()
def test_a_click_outside_of_the_window_asks_about_the_whole(model: torch.nn.Module, image: Tensor) -> None:
    whole = look(model, image)
    inside = ask(model, looked_at(model, image, (30, 20, 90, 70)), click(50, 40))
    far = replace(click(0, 0), points=torch.tensor([[50.0, 40.0], [5.0, 5.0]]), point_labels=torch.tensor([1, 0]))
    got = answer(model, image, whole, far, inside)
    assert got.embedding is whole
    assert torch.equal(got.logits, ask(model, whole, far, recast(inside, whole)).logits)
    near = replace(far, points=torch.tensor([[50.0, 40.0], [60.0, 50.0]]))
    assert answer(model, image, whole, near, inside).embedding is inside.embedding


@torch.inference_mode()
def test_masks_keep_their_place_from_window_to_window(model: torch.nn.Module, image: Tensor) -> None:
    whole = look(model, image)
    first = ask(model, whole, click(60, 40))
    closer = looked_at(model, image, (30, 20, 90, 70))
    moved = recast(first, closer)
    assert moved.shape == (1, *closer.mask_size)
    seen = enlarged(moved[:, None], closer)[0, 0, 20:70, 30:90]
    before = enlarged(first.best[:, None], whole)[0, 0, 20:70, 30:90].clamp(-32, 32)
    assert torch.corrcoef(torch.stack([seen.flatten(), before.flatten()]))[0, 1] > 0.9
    shifted = enlarged(moved[:, None], closer)[0, 0, 10:60, 30:90]
    assert torch.corrcoef(torch.stack([shifted.flatten(), before.flatten()]))[0, 1] < 0.8


def test_who_looks_closer(model: torch.nn.Module, image: Tensor) -> None:
    assert zoom_of(model) == Zoom()
    assert zoom_of(model, False) is None
    assert zoom_of(torch.nn.Identity()) is None  # as its authors' code
    assert zoom_of(torch.nn.Identity(), True) == Zoom()
    own = Zoom(around=3.0)
    assert zoom_of(model, own) is own
    session = ClickSession(model, image, zoom=False)
    session.click(60, 40)
    assert session.steps[1][-1].answers.embedding is session.embedding
