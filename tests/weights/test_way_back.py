"""What came from another code base goes back there: its own loader takes the result, strictly, tensor for tensor."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from masklet.models import build
from masklet.structures.errors import UserError
from masklet.weights import ORIGINS, Layout, Rule, load
from masklet.weights.remap import remap
from masklet.weights.way_back import named_as, reverse

TWO_WAYS = [
    (origin.name, number)
    for origin in ORIGINS.values()
    for number, layout in enumerate(origin.layouts)
    if reverse(layout) is not None
]


def message(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_there_are_ways_back():
    found = {(name, model) for name, number in TWO_WAYS for model in ORIGINS[name].layouts[number].models}
    assert found >= {
        *(("torchvision", name) for name in ("fcn_resnet50", "fcn_resnet101", "deeplabv3")),
        *(("pytorch_fcn", name) for name in ("fcn32s", "fcn16s", "fcn8s", "fcn8s_at_once")),
        *(("openmmlab", name) for name in ("pspnet", "unet", "upernet")),
        ("semseg", "pspnet"),
    }


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("fcn_resnet50", "fcn_resnet50", {}),
        ("fcn_resnet101", "fcn_resnet101", {"aux_weight": 0.0}),
        ("deeplabv3", "deeplabv3_resnet50", {"layout": "torchvision"}),
        ("deeplabv3", "deeplabv3_mobilenet_v3_large", {"layout": "torchvision", "backbone": "mobilenet_v3_large"}),
    ],
)
def test_torchvision_takes_it(name, theirs, options):
    if "mobilenet" in theirs:
        options |= {"output_stride": 16, "rates": (12, 24, 36)}
    with torch.device("meta"):
        model = build(name, num_classes=5, **options)
        want = getattr(torchvision.models.segmentation, theirs)(
            weights=None, weights_backbone=None, num_classes=5, aux_loss=bool(model.aux_weight)
        )
    tensors = named_as(model, "torchvision")
    expected = {key: value.shape for key, value in want.state_dict().items()}
    assert {key: value.shape for key, value in tensors.items()} == expected
    want.load_state_dict(tensors, strict=True, assign=True)


@pytest.mark.parametrize(
    ("name", "origin", "options"),
    [
        ("fcn32s", "pytorch_fcn", {}),
        ("fcn16s", "pytorch_fcn", {}),
        ("fcn8s", "pytorch_fcn", {"learned": True}),
        ("fcn8s_at_once", "pytorch_fcn", {}),
        ("pspnet", "semseg", {}),
        ("pspnet", "semseg", {"backbone": "resnet101", "aux_weight": 0.0}),
        ("pspnet", "openmmlab", {"layout": "mmseg"}),
        ("upernet", "openmmlab", {"backbone": "resnet50"}),
        ("upernet", "openmmlab", {"backbone": "resnet101", "aux_weight": 0.0}),
        ("unet", "openmmlab", {"up": "interp_conv", "head_channels": 64, "dropout": 0.1, "aux_weight": 0.4}),
    ],
)
def test_there_and_back(name, origin, options):
    """Shapes alone would not see two tensors change places, so each carries its own number."""
    with torch.device("meta"):
        model = build(name, num_classes=3, **options)
    numbered = {key: _marked(value, i) for i, (key, value) in enumerate(model.state_dict().items())}
    model.load_state_dict(numbered, assign=True)
    tensors = named_as(model, origin)
    assert set(tensors) != set(numbered)
    layout = ORIGINS[origin].find(tensors, name)
    again, report = remap(tensors, layout.rules)
    assert report.dropped == ()
    assert again.keys() == numbered.keys()
    assert all(again[key].flatten()[0] == value.flatten()[0] for key, value in numbered.items())


def _marked(value: Tensor, number: int) -> Tensor:
    return torch.tensor(number, dtype=value.dtype).expand(value.shape)


def test_what_has_no_way_back():
    with torch.device("meta"):
        semseg, unet, fcn = build("pspnet"), build("unet"), build("fcn8s")
    assert message(named_as, semseg, "openmmlab") == (
        "there is no way back from this pspnet to openmmlab: there it has layout='mmseg', here 'semseg'; "
        "there may be one to semseg"
    )
    assert message(named_as, unet, "openmmlab") == (
        "there is no way back from this unet to openmmlab; keep the checkpoint, which says what it is"
    )
    assert message(named_as, fcn, "torchvision") == (
        "there is no way back from this fcn8s to torchvision; there may be one to pytorch_fcn"
    )
    assert message(named_as, fcn, "torchvison").startswith("unknown origin 'torchvison'; did you mean 'torchvision'?")


@pytest.mark.parametrize(
    "rule",
    [
        Rule(r"fc\..+", None),  # dropped
        Rule(r"(\w+)\.weight", r"\1.kernel", lambda t: t.T),  # changed
        Rule(r"(?:net|model)\.weight", "net.weight"),  # which of the two?
        Rule(r"(\d)\.(\d)\.weight", r"\1.weight"),  # half forgotten
        Rule(r"net.weight", "net.weight"),  # any letter
        Rule(r"((a|b)c)\.weight", r"\1.weight"),  # groups in groups
    ],
)
def test_rules_of_one_way(rule):
    assert reverse(Layout(("unet",), (), (rule,))) is None


def test_rules_of_two_ways():
    rules = reverse(
        Layout(("unet",), (), (Rule(r"a\.(\d+)\.(w|b)", r"\2.x\1"), Rule(r"plain", "simple"), Rule(r"(.+)", r"m.\1")))
    )
    source = {"w.x12": torch.ones(1), "simple": torch.ones(1), "m.else": torch.ones(1)}
    assert list(remap(source, rules)[0]) == ["a.12.w", "plain", "else"]


def test_a_loaded_file_is_written_as_it_was():
    theirs = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2
    ).state_dict()
    again = named_as(load("deeplabv3", weights=theirs), "torchvision")
    assert again.keys() == theirs.keys()
    assert all(torch.equal(value, again[key]) for key, value in theirs.items())
