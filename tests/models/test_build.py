"""The table of systems, `build`, and what models share."""

from __future__ import annotations

import json
import subprocess
import sys
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

import masklet
from masklet import models
from masklet.models import MODELS, System, build, builder, list_models, options
from masklet.models.base import covered, evaluating, predict_semantic, uninitialised, upsample
from masklet.structures import Classes
from masklet.structures.errors import UserError


class Half(nn.Module):
    """Scores at half resolution of the image padded to even sides: its brightest channel is its class."""

    align_corners = False

    def __init__(self, num_classes: int, sizes: tuple):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.sizes, self.num_classes = sizes, num_classes

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return height + height % 2, width + width % 2

    def scores(self, images):
        height, width = self.padded_size(*images.shape[-2:])
        images = nn.functional.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        return self.dropout(nn.functional.avg_pool2d(images * self.weight, 2)[:, : self.num_classes])


def half(num_classes: int = 3, sizes: tuple = (1, 2), weights: str | None = None, extra: dict | None = None) -> Half:
    return Half(num_classes, sizes)


@pytest.fixture(autouse=True)
def _table(monkeypatch):
    """A table with one toy more, its builder in this file."""
    toy = System("fcn:half", ("semantic",), "a toy")
    monkeypatch.setattr(models, "MODELS", MappingProxyType({**MODELS, "half": toy}))
    monkeypatch.setattr("masklet.models.fcn.half", half, raising=False)


def test_every_name_resolves():
    for name in MODELS:
        assert builder(name).__name__ == name
        assert "num_classes" in options(name)
        assert list_models()[name] == MODELS[name].tasks
    assert list_models("semantic").keys() <= list_models().keys()
    assert masklet.list_models("semantic") == list_models("semantic")


def test_listing_imports_nothing_heavy():
    code = "import sys, masklet; masklet.list_models(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_a_built_model_says_what_it_is():
    model = build("half", sizes=[3, [4, 5]], weights="imagenet", extra={"a": [1]})
    assert model.sizes == (3, (4, 5))
    assert model.classes == Classes.default(3)
    assert model.spec == {"model": "half", "options": {"sizes": (3, (4, 5)), "extra": {"a": (1,)}, "num_classes": 3}}
    again = json.loads(json.dumps(model.spec))
    assert build(again["model"], **again["options"]).spec == model.spec
    assert masklet.build("half", num_classes=2).num_classes == 2


def test_classes_decide():
    classes = Classes(("dry", "wet"))
    assert build("half", classes=classes).classes is classes
    assert build("half", classes=["dry", "wet"]).num_classes == 2
    assert build("half", classes=classes, num_classes=2).classes is classes


@pytest.mark.parametrize(
    ("name", "choices", "error", "message"),
    [
        ("fcn8", {}, UserError, "unknown model 'fcn8'; did you mean 'fcn8s'? models: cascade_mask_rcnn, "),
        ("fjord", {}, UserError, "unknown model 'fjord'; models: cascade_mask_rcnn, "),
        (
            "half",
            {"nun_classes": 3},
            UserError,
            "unknown option of half 'nun_classes'; did you mean 'num_classes'? "
            "options: classes, extra, num_classes, sizes, weights",
        ),
        ("half", {"num_classes": 0}, UserError, "num_classes of half is 0; give a whole number from 1 up"),
        ("half", {"num_classes": True}, UserError, "num_classes of half is True; give a whole number from 1 up"),
        (
            "half",
            {"num_classes": 3, "classes": ["a", "b"]},
            UserError,
            "num_classes is 3 but 2 classes are named; leave num_classes out",
        ),
        (
            "half",
            {"sizes": nn.ReLU()},
            TypeError,
            "option 'sizes' of half is a ReLU; give a number, a string or a list of them",
        ),
    ],
)
def test_mistakes(name, choices, error, message):
    with pytest.raises(error) as caught:
        build(name, **choices)
    assert str(caught.value).startswith(message)


def test_unknown_task():
    with pytest.raises(UserError, match="unknown task 'semantics'; did you mean 'semantic'"):
        list_models("semantics")


def test_predict_gives_as_many_as_came():
    model = build("half", classes=["red", "green", "blue"]).train()
    red = np.zeros((5, 7, 3), np.uint8)
    red[..., 0] = 255
    result = predict_semantic(model, red)
    assert result.size == (5, 7)
    assert result.labels.dtype == torch.uint8
    assert result.area() == {"red": 1.0, "green": 0.0, "blue": 0.0}
    assert model.dropout.training
    batch = torch.zeros(2, 3, 5, 4)
    batch[0, 1], batch[1, 2] = 1, 1
    for many in (batch, list(batch), tuple(batch), batch.permute(0, 2, 3, 1).mul(255).byte().numpy()):
        first, second = predict_semantic(model, many)
        assert first.mask("green").all()
        assert second.mask("blue").all()
    assert len(predict_semantic(model, [red])) == 1


def test_probabilities_on_request():
    model = build("half").eval()
    image = torch.rand(3, 9, 6)
    plain, full = predict_semantic(model, image), predict_semantic(model, image, probs=True)
    assert plain.probs is None
    assert full.probs.shape == (3, 9, 6)
    assert torch.allclose(full.probs.sum(0), torch.ones(9, 6))
    assert torch.equal(plain.labels, full.labels)
    want = upsample(model, model.scores(image[None]), (9, 6))
    assert covered(model, 9, 6) == (10, 6)
    assert torch.equal(full.labels, want[0].argmax(0).byte())


def test_many_classes_need_wide_labels():
    model = build("half", num_classes=3)
    model.classes = Classes.default(300, ignore=65535)
    assert predict_semantic(model, torch.rand(3, 4, 4), probs=False).labels.dtype == torch.uint8
    model.scores = lambda images: torch.rand(1, 300, 2, 2)
    assert predict_semantic(model, torch.rand(3, 4, 4)).labels.dtype == torch.int64
    assert predict_semantic(model, torch.rand(3, 4, 4), probs=True).labels.dtype == torch.int64


def test_evaluating_puts_every_part_back():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    net[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(net):
        1 / sum(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, True, False, False]


def test_uninitialised_still_sets_constants():
    with uninitialised():
        norm, conv = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)
        nn.init.trunc_normal_(conv.weight)
        nn.init.constant_(conv.weight, 2.0)
        garbage = torch.full((9,), float("inf"))  # fresh memory may hold anything
        for _ in range(2):  # these draw until all values are within bounds
            nn.init.trunc_normal_(garbage, std=0.02)
            nn.init.trunc_normal_(garbage, mean=5.0, a=4.0, b=6.0)
            nn.init.trunc_normal_(garbage, mean=0.0, std=1.0, a=2.0, b=3.0)
            garbage.fill_(float("nan"))
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(conv.weight, torch.full((4, 3, 3, 3), 2.0))
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    with uninitialised():
        nn.Linear(100, 100)
    assert torch.equal(torch.rand(1), before)


def test_uninitialised_has_no_singular_vectors_to_look_for():
    """Fresh memory may hold NaN, which a decomposition refuses; what it gives is overwritten anyway."""
    with uninitialised():
        u, s, v = torch.linalg.svd(torch.full((3, 4), float("nan")), full_matrices=False)
    assert (u.shape, s.shape, v.shape) == ((3, 3), (3,), (3, 4))
    assert s.isfinite().all()
