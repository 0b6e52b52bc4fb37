"""From a file to a model: origins, strictness, and the sentence for each thing that does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import masklet
from masklet.models import build
from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.weights import CATALOG, ORIGINS, Layout, Origin, Rule, fill, load, recognise, save_checkpoint
from masklet.weights.remap import remap

SMALL = {"base": 2, "depth": 1}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("unet", classes=["dry", "wet"], **SMALL)


@pytest.fixture
def checkpoint(model, tmp_path):
    return save_checkpoint(tmp_path / "flood.safetensors", model)


@pytest.fixture
def by_hand(model, tmp_path):
    """A state dict saved without a note."""
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def message(call, *args, **options) -> str:
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        call(*args, **options)
    return str(caught.value)


def test_state_dict_by_hand(model, by_hand):
    assert same(load("unet", weights=by_hand, num_classes=2, **SMALL), model)
    assert same(load("unet", weights=model.state_dict(), num_classes=2, origin="masklet", **SMALL), model)
    assert same(masklet.load("unet", weights=str(by_hand), num_classes=2, **SMALL), model)


def test_other_options_than_the_file(model, checkpoint):
    renamed = load(checkpoint, classes=["land", "water"])
    assert renamed.classes.names == ("land", "water")
    assert same(renamed, model)
    more = load(checkpoint, num_classes=5, fresh=r"head\..*")
    assert more.classes == Classes.default(5)
    assert torch.equal(more.encoder.state_dict()["levels.0.0.conv.weight"], model.encoder.levels[0][0].conv.weight)
    assert more.head[-1].weight.shape[0] == 5
    assert load(checkpoint, classes=["a", "b", "c"], fresh=r"head\..*").classes.names == ("a", "b", "c")


def test_what_does_not_fit(model, checkpoint, by_hand):
    assert message(load, "fcn8s", weights=checkpoint) == (
        "flood.safetensors holds a unet, not a fcn8s; load('unet', weights=...)"
    )
    assert message(load, checkpoint, num_classes=5) == (
        "flood.safetensors knows 2 classes but 5 were asked for; "
        "leave num_classes and classes out, or name the layers to train anew with fresh="
    )
    assert message(load, checkpoint, classes=["a"]).startswith("flood.safetensors knows 2 classes but 1 were asked for")
    assert message(load, by_hand) == (
        "mine.pth does not say which model it is for; name it, for instance load('unet', weights=...)"
    )
    assert message(load, "unet", weights=by_hand, num_classes=3, **SMALL) == (
        "head.classifier.weight is 2x2x1x1 in mine.pth but 3x2x1x1 in unet; "
        "if they may start untrained, say so with fresh=r'head\\..*'"
    )
    assert message(load, "unet", weights=by_hand, num_classes=2, base=2, depth=2).startswith("mine.pth ")
    assert message(load, "seed_fcn", weights=by_hand).startswith(
        "mine.pth is not a seed_fcn; it has encoder.levels.0.0.conv"
    )
    assert message(load, "unet", weights=by_hand, origin="semseg") == (
        "mine.pth is not of origin 'semseg': its keys begin 'encoder.levels.0.0.conv.weight'"
    )
    assert message(load, "unet", weights=by_hand, origin="torchvison") == (
        f"unknown origin 'torchvison'; did you mean 'torchvision'? origins: {', '.join(sorted(['masklet', *ORIGINS]))}"
    )


def test_missing_and_extra_tensors(model, tmp_path):
    state = dict(model.state_dict())
    weight = state.pop("head.classifier.weight")
    options = {"num_classes": 2, **SMALL}
    assert message(load, "unet", weights=state, **options) == (
        "the state dict lacks 1 tensor of unet: head.classifier.weight; "
        "if they may start untrained, say so with fresh=r'head\\..*'"
    )
    assert message(load, "unet", weights={**state, "head.2.weight": weight}, **options) == (
        "the state dict lacks 1 tensor of unet: head.classifier.weight and has head.2.weight instead; "
        "if they may start untrained, say so with fresh=r'head\\..*'"
    )
    extra = {f"more.{i}": weight for i in range(5)}
    assert message(load, "unet", weights={**model.state_dict(), **extra}, **options) == (
        "the state dict has 5 tensors that unet has no place for: more.0, more.1, more.2 and 2 more; "
        "build the model with the options it was trained with"
    )
    counters = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert same(load("unet", weights=counters, **options), model)
    fresh = load("unet", weights=state, fresh=r"head\.classifier\.weight", **options)
    assert torch.equal(fresh.head.classifier.bias, model.head.classifier.bias)
    assert message(load, "unet", weights=state, fresh="tail", **options).startswith(
        "fresh='tail' matches no tensor of unet; they are called encoder.levels.0.0.conv.weight, "
    )
    assert message(load, "unet", weights=state, fresh="(", **options).startswith(
        "fresh='(' is not a regular expression"
    )


def test_wrong_kind_of_numbers(model):
    state = {**model.state_dict(), "encoder.levels.0.0.norm.num_batches_tracked": torch.tensor(0.5)}
    assert message(load, "unet", weights=state, num_classes=2, **SMALL) == (
        "encoder.levels.0.0.norm.num_batches_tracked is torch.float32 in the state dict but torch.int64 in unet"
    )


def test_names_without_weights(tmp_path, monkeypatch):
    assert (
        message(load, "fcn8s")
        == "fcn8s comes without weights; give a file, load('fcn8s', weights=...), or start with build"
    )
    assert (
        message(load, "streets")
        == "unknown weights 'streets'; did you mean 'street'? masklet weights list shows them all"
    )
    assert message(load, "fcn_resnet50") == (
        "fcn_resnet50 comes without weights; load('fcn_resnet50_coco'), load('fcn_resnet50_cityscapes'), "
        "give a file, load('fcn_resnet50', weights=...), or start with build"
    )
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    assert message(load, "street") == "the weights of 'street' are not in this copy of masklet; run: make train-bundled"
    assert message(load, "fcn9s", weights={"a": torch.ones(1)}).startswith("unknown model 'fcn9s'; did you mean 'fcn")


def test_bundled_names(model, tmp_path, monkeypatch):
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
    save_checkpoint(CATALOG["flood"].path, model)
    assert same(load("flood"), model)
    assert same(masklet.load("flood"), model)


TOY = Origin(
    "toy",
    (
        Layout(
            ("toy",),
            (r"net\.0\.weight", r"last\.bias"),
            (
                Rule(r"net\.0\.(\w+)", r"0.\1"),
                Rule(r"last\.weight", r"1.weight", lambda t: t.T),
                Rule(r"last\.bias", r"1.bias"),
                Rule(r"seen", None),
            ),
        ),
    ),
)


def test_rules():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    source = {
        "net.0.weight": torch.rand(3, 2),
        "net.0.bias": torch.rand(3),
        "last.weight": torch.rand(3, 4),
        "last.bias": torch.rand(4),
        "seen": torch.tensor(9),
    }
    layout = TOY.find(source)
    assert layout is TOY.layouts[0]
    assert TOY.find({"net.0.weight": source["net.0.weight"]}) is None
    tensors, report = remap(source, layout.rules)
    assert torch.equal(tensors["1.weight"], source["last.weight"].T)
    assert report.dropped == ("seen",)
    assert report.loaded == {
        "net.0.weight": "0.weight",
        "net.0.bias": "0.bias",
        "last.weight": "1.weight",
        "last.bias": "1.bias",
    }
    assert message(remap, {**source, "odd": source["seen"]}, layout.rules, "toy.pth") == (
        "toy.pth has 1 tensor that its layout does not know: odd; name the origin it comes from with origin="
    )
    twice = (Rule(r"last\.\w+", "1.weight"), *layout.rules)
    assert message(remap, source, twice) == "two tensors of the file became '1.weight', the second is 'last.bias'"
    report = fill(net, {f"module.{k}": v for k, v in tensors.items()})
    assert report.fresh == ()
    assert torch.equal(net[1].bias, source["last.bias"])
    report = fill(net, tensors, fresh=r"1\..*")
    assert report.fresh == ("1.weight", "1.bias")
    assert report.dropped == ("1.weight", "1.bias")


def test_parts_become_one_tensor():
    """In the order of the parts, whatever their order in the file; the same part twice is a mistake."""
    rules = (Rule(r"key", "qk", part=1), Rule(r"(query|other)", "qk", lambda t: -t, part=0))
    query, key = torch.rand(2, 3), torch.rand(1, 3)
    tensors, report = remap({"key": key, "query": query}, rules)
    assert torch.equal(tensors["qk"], torch.cat([-query, key]))
    assert report.loaded == {"key": "qk", "query": "qk"}
    assert message(remap, {"query": query, "other": query}, rules) == (
        "two tensors of the file became 'qk', the second is 'other'"
    )


def test_every_origin_knows_models_that_exist():
    for name, origin in ORIGINS.items():
        assert origin.name == name
        for layout in origin.layouts:
            assert set(layout.models) <= {*masklet.list_models(), "backbone"}
    assert recognise({"nothing": torch.ones(1)}) is None
