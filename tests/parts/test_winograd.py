"""3x3 convolutions by NNPACK are 3x3 convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from masklet.parts import winograd as fast
from masklet.parts.mask_heads import FCNMaskHead, map_of
from masklet.parts.norm import FrozenBatchNorm2d, normed
from masklet.parts.winograd import Conv3x3, winograd


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 64, 47, 46), (2, 64, 48, 44), (33, 64, 10, 11)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_are_those_of_a_convolution(shape, bias):
    if not torch._nnpack_available():
        pytest.skip("this torch has no NNPACK")
    torch.manual_seed(1)
    conv, x, grad = Conv3x3(64, 70, bias), maps(*shape), maps(shape[0], 70, *shape[2:])
    want, got = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert winograd(x, conv.weight)
    plain = F.conv2d(want, conv.weight, conv.bias, padding=1)
    of_plain = torch.autograd.grad(plain, [want, *conv.parameters()], grad)
    ours = conv(got)
    of_ours = torch.autograd.grad(ours, [got, *conv.parameters()], grad)
    with torch.inference_mode():
        assert torch.equal(conv(x.contiguous(memory_format=torch.channels_last)), ours.detach())
    for a, b in zip((plain, *of_plain), (ours, *of_ours), strict=True):
        assert (a - b).abs().max() < 2e-4 * a.std()


def test_it_is_not_for_everything(monkeypatch):
    weight, large = maps(64, 64, 3, 3), maps(1, 64, 48, 48)
    assert winograd(large, weight) == torch._nnpack_available()
    assert not winograd(large, maps(64, 32, 3, 3))
    assert not winograd(maps(8, 64, 16, 16), weight)
    assert not winograd(large.bfloat16(), weight.bfloat16())
    assert not winograd(large.to("meta"), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd(large, weight)
    monkeypatch.setattr(fast._Process, "used", 1)  # as in a process forked off one that has used it
    assert not winograd(large, weight)
    monkeypatch.setattr(torch, "_nnpack_available", lambda: False)
    assert not winograd(large, weight)
    conv = Conv3x3(64, 64)
    torch.testing.assert_close(conv(large), F.conv2d(large, conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("boxes", [0, 3])
def test_the_map_of_one_class_is_one_of_all_maps(classes, boxes):
    torch.manual_seed(0)
    head, x, labels = FCNMaskHead(4, classes, 6, depth=2), maps(boxes, 4, 5, 5), torch.arange(boxes) + 1
    for layer in (head.up, head.predictor):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    torch.testing.assert_close(head.of(x, labels), map_of(labels, head(x)))


def test_a_constant_norm_goes_into_the_filters():
    conv, norm = torch.nn.Conv2d(4, 6, 3, 2, 1, bias=False), FrozenBatchNorm2d(6)
    for i, value in enumerate(norm.buffers()):
        value.uniform_(0.5 - (i == 2), 1.5)
    x = maps(2, 4, 9, 8)
    torch.testing.assert_close(normed(conv, norm, x), norm(conv(x)))
    plain = torch.nn.BatchNorm2d(6)
    assert torch.equal(normed(conv, plain.eval(), x), plain(conv(x)))
