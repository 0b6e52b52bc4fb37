"""Small parts: normalisation, convolution blocks, heads, pyramid pooling, number formats."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from masklet.parts import precision
from masklet.parts.context import PyramidPooling
from masklet.parts.conv import ConvNormAct, DepthwiseSeparable, Hardswish, init_kaiming, norm_layer, pad_to_at_least
from masklet.parts.heads import FCNHead
from masklet.parts.norm import CAFFE_BGR, IMAGENET, BatchNorm2d, FrozenBatchNorm2d, Normalize, freeze_batch_norm


def test_normalize_is_torchvisions() -> None:
    from torchvision.transforms.functional import normalize

    images = torch.rand(2, 3, 4, 5)
    got = Normalize(*IMAGENET)(images)
    torch.testing.assert_close(got, normalize(images, IMAGENET.mean, IMAGENET.std))
    assert not Normalize(*IMAGENET).state_dict()
    assert "bgr=False" in repr(Normalize(*IMAGENET))


def test_normalize_for_caffe_is_bgr_minus_mean() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    want = torch.tensor([-104.00699, -116.66877, 255 - 122.67892]).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalize(*CAFFE_BGR)(red), want)


def test_normalize_refuses_grey_and_zero_std() -> None:
    for mean, std in (((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.5, 0.0))):
        with pytest.raises(ValueError, match="mean and std need three values each and std > 0"):
            Normalize(mean, std)


def test_batch_norm_survives_one_value_per_channel() -> None:
    ours, plain = BatchNorm2d(4).train(), nn.BatchNorm2d(4).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        plain(torch.rand(1, 4, 1, 1))
    before = ours.running_mean.clone()
    x = torch.rand(1, 4, 1, 1)
    torch.testing.assert_close(ours(x), x, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.running_mean, before)
    batch = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(ours(batch), plain(batch))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_frozen_batch_norm_equals_batch_norm_in_eval_and_never_moves() -> None:
    net = init_kaiming(nn.Sequential(ConvNormAct(3, 8), nn.Sequential(ConvNormAct(8, 4))))
    net.train()(torch.randn(4, 3, 9, 9))  # running statistics that matter
    for parameter in net[0].norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    images = torch.randn(2, 3, 9, 9)
    want = net.eval()(images)
    frozen = freeze_batch_norm(net).train()
    assert isinstance(frozen[1][0].norm, FrozenBatchNorm2d)
    torch.testing.assert_close(frozen(images), want)
    torch.testing.assert_close(frozen(images), want)
    assert [name for name, _ in frozen.named_parameters()] == ["0.conv.weight", "1.0.conv.weight"]
    assert isinstance(freeze_batch_norm(nn.BatchNorm2d(3)), FrozenBatchNorm2d)


def test_conv_block_has_what_was_asked_for() -> None:
    assert [name for name, _ in ConvNormAct(3, 8).named_children()] == ["conv", "norm", "act"]
    plain = ConvNormAct(3, 8, norm=None, act=None)
    assert [name for name, _ in plain.named_children()] == ["conv"]
    assert plain.conv.bias is not None
    assert ConvNormAct(3, 8).conv.bias is None
    assert isinstance(ConvNormAct(3, 8, act=Hardswish).act, nn.Hardswish)
    assert isinstance(ConvNormAct(3, 8, norm=partial(BatchNorm2d, eps=0.1)).norm, BatchNorm2d)
    x = torch.rand(1, 3, 9, 11)
    for kernel, dilation in ((1, 1), (3, 1), (3, 4), (5, 2)):
        assert ConvNormAct(3, 8, kernel, dilation=dilation)(x).shape == (1, 8, 9, 11)
    assert ConvNormAct(3, 8, 3, 2, padding=(0, 1, 0, 1))(x[..., :8, :10]).shape == (1, 8, 4, 5)


def test_group_norm_divides_narrow_layers_too() -> None:
    assert [norm_layer("group")(c).num_groups for c in (64, 48, 12, 7)] == [32, 16, 4, 1]
    with pytest.raises(ValueError, match="unknown norm 'layer'; choose from batch, group, None, or pass a callable"):
        norm_layer("layer")


def test_depthwise_separable_costs_little() -> None:
    block = DepthwiseSeparable(16, 32)
    assert block.depthwise.conv.weight.shape == (16, 1, 3, 3)
    assert sum(p.numel() for p in block.parameters()) == 16 * 9 + 2 * 16 + 16 * 32 + 2 * 32
    assert block(torch.rand(1, 16, 5, 6)).shape == (1, 32, 5, 6)


@pytest.mark.parametrize("groups", [1, 8])
def test_kaiming_keeps_the_variance(groups: int) -> None:
    conv = init_kaiming(nn.Conv2d(256, 256, 3, padding=1, groups=groups))
    out = conv(torch.randn(1, 256, 20, 20).relu() * 2**0.5)
    assert 1.4 < out[..., 1:-1, 1:-1].std() < 1.9  # sqrt(2 * E[x^2]) with E[x^2] = 1: ~1.41, and means add
    assert (conv.bias == 0).all()


def test_padding_to_a_least_size() -> None:
    x = torch.rand(1, 2, 3, 8)
    padded = pad_to_at_least(x, 5)
    assert padded.shape == (1, 2, 5, 8)
    assert torch.equal(padded[..., :3, :], x)
    assert pad_to_at_least(x, 3) is x


def test_fcn_head_is_torchvisions() -> None:
    from torchvision.models.segmentation.fcn import FCNHead as Theirs

    theirs, ours = Theirs(16, 5).eval(), FCNHead(16, 4, 5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 16, 7, 9)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("align_corners", [True, False])
def test_pyramid_pooling_shows_every_pixel_the_whole(align_corners: bool) -> None:
    part = PyramidPooling(8, (1, 2, 3, 6), align_corners=align_corners).eval()
    assert part.out_channels == 16
    x = torch.rand(2, 8, 11, 7)
    out = part(x)
    assert out.shape == (2, 16, 11, 7)
    assert torch.equal(out[:, :8], x)
    mean = part.levels[0](x.mean((2, 3), keepdim=True))  # one bin: the same global mean everywhere
    torch.testing.assert_close(out[:, 8:10], mean.expand(2, 2, 11, 7))
    want = F.interpolate(
        part.levels[3](F.adaptive_avg_pool2d(x, 6)), (11, 7), mode="bilinear", align_corners=align_corners
    )
    torch.testing.assert_close(out[:, 14:], want)
    assert PyramidPooling(8, (1,), channels=3, norm=None).out_channels == 11
    with pytest.raises(ValueError, match=r"bins is \(\); give at least one"):
        PyramidPooling(8, ())


def test_pyramid_pooling_trains_on_one_image() -> None:
    part = PyramidPooling(8).train()
    part(torch.rand(1, 8, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize(
    ("bf16", "amx", "want"), [(0, 0, torch.float32), (1, 0, torch.bfloat16), (0, 1, torch.bfloat16)]
)
def test_automatic_precision_asks_the_processor(
    bf16: int, amx: int, want: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(bf16), raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx), raising=False)
    assert precision.automatic() == want


def test_automatic_precision_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert precision.automatic("cuda:0") == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert precision.automatic("cuda:0") == torch.bfloat16
    assert precision.automatic(torch.device("mps")) == torch.float32
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert precision.automatic("cpu") == torch.float32


def test_autocast_and_channels_last() -> None:
    conv = precision.channels_last(nn.Conv2d(3, 4, 3))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 5, 5)
    with precision.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    with precision.autocast("cpu", torch.float32):
        assert conv(x).dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_depthwise_convolution_leaves_autocast_only_in_training(training: bool) -> None:
    block = ConvNormAct(8, 8, groups=8, norm=None, act=None).train(training)
    with precision.autocast("cpu", torch.bfloat16):
        assert block(torch.rand(1, 8, 5, 5)).dtype == (torch.float32 if training else torch.bfloat16)
