"""A session of clicks: what it answers, what it takes back, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sam_peers
from masklet.inference.click import Clicker, ClickSession, click_on
from masklet.models import build
from masklet.models.prompting import ask
from masklet.structures import Prompt
from masklet.structures.errors import UserError

SAM2 = {"side": 64, "channels": 32, "decoder_heads": 4, "memory_channels": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return build("sam_vit_b", **sam_peers.TINY).eval()


@pytest.fixture
def session(model):
    return ClickSession(model, sam_peers.photo(40, 60))


def test_steps_forward_and_back(model, session):
    first = session.click(20, 10)
    assert first.shape == session.size == (40, 60)
    alone = ask(model, session.embedding, Prompt(torch.tensor([[20.0, 10.0]])))
    assert torch.equal(first, alone.dense()[0])
    assert session.score() == float(alone.score)
    second = session.click(5, 30, positive=False)
    both = Prompt(torch.tensor([[20.0, 10.0], [5.0, 30.0]]), torch.tensor([1, 0]))
    assert torch.equal(second, ask(model, session.embedding, both, alone.best).dense()[0])
    plain = ClickSession(model, sam_peers.photo(40, 60), refine=False)
    plain.click(20, 10)
    assert torch.equal(plain.click(5, 30, False), ask(model, session.embedding, both).dense()[0])
    assert torch.equal(session.undo(), first)
    session.box(2, 3, 30, 20)
    session.draw(torch.ones(40, 60, dtype=torch.bool))
    assert session.undo() is not None
    assert torch.equal(session.undo(), first)
    assert session.undo() is None
    assert session.steps == {}


def test_one_click_means_several_things(session):
    first = session.click(20, 10)
    masks, scores = session.meanings()
    assert torch.equal(masks[0], first)
    assert (scores.diff() <= 0).all()
    assert torch.equal(session.choose(2), masks[2])
    assert session.score() == float(scores[2])
    with pytest.raises(UserError, match=r"^there is no meaning 3; give 0 to 2, best first$"):
        session.choose(3)


def test_things_do_not_meet(session):
    cat = session.click(20, 10, thing="cat")
    session.click(50, 30, thing="dog")
    session.box(1, 1, 9, 9, thing="cat 2")
    assert torch.equal(session.mask("cat"), cat)
    found = session.instances()
    assert found.classes.names == ("cat", "dog", "cat 2")
    assert found.labels.tolist() == [0, 1, 2]
    assert torch.equal(found.masks.dense()[1], session.mask("dog"))
    session.clear("dog")
    assert len(session.instances()) == 2
    assert len(ClickSession(session.model, sam_peers.photo(40, 60)).instances()) == 0


def test_what_a_session_refuses(session, model):
    with pytest.raises(UserError, match=r"^there is no thing 'x'; click on it first; known: none$"):
        session.mask("x")
    with pytest.raises(UserError, match=r"^the point 61,3 lies outside the image, which is 60 wide and 40 high; "):
        session.click(61, 3)
    assert session.steps == {}
    with pytest.raises(UserError, match=r"^2 images; give one photograph at a time$"):
        ClickSession(model, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"^unet takes no prompts; models that do: sam"):
        ClickSession(build("unet", base=4), sam_peers.photo(40, 60))


def test_a_simulated_annotator_looks_once(model, monkeypatch):
    looked = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda images: looked.append(1) or embed(images))
    truth = torch.zeros(40, 60, dtype=torch.bool)
    truth[10:30, 15:40] = True
    image = sam_peers.photo(40, 60)
    found = click_on(model, image, truth, 3)
    assert len(looked) == 1
    assert len(found.ious) == 3
    session = ClickSession(model, image)
    masks = [session.click(c.x, c.y, c.positive) for c in found.clicks]
    assert torch.equal(masks[-1], found.mask)
    clicker = Clicker(model)
    prompt = Prompt(torch.tensor([[20.0, 10.0]]))
    assert torch.equal(clicker(image, prompt), clicker(image, prompt))  # a new object on the same image starts anew


def test_sam2_takes_the_same_session():
    torch.manual_seed(0)
    from masklet.models import options

    tiny = {key: value for key, value in SAM2.items() if key in options("sam2")}
    session = ClickSession(build("sam2", backbone="resnet18", **tiny).eval(), sam_peers.photo(40, 60))
    assert session.click(20, 10).shape == (40, 60)
    assert session.click(3, 4, False).shape == (40, 60)
    assert len(session.meanings()[1]) == 3
