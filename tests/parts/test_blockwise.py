"""Attention and maps in pieces, against the same in one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.parts import blockwise
from masklet.parts.backbones.hiera import Hiera, HieraSize
from masklet.parts.memory import MemoryAttention, Recalled
from masklet.parts.positions import sine_grid


def tensors(*shape: int, seed: int = 0, peaks: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys with something in common, and values; scores have `peaks` for their deviation."""
    generator = torch.Generator().manual_seed(seed)
    s, t, e, c = shape
    q, k, v = (torch.randn(n, w, generator=generator) for n, w in ((s, e), (t, e), (t, c)))
    return peaks * q, k + 3 * torch.randn(e, generator=generator), v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q.double() @ k.double().T) * q.shape[1] ** -0.5).softmax(1) @ v.double()


def off(got: Tensor, want: Tensor) -> float:
    """The root of the mean squared error, as a share of the deviation."""
    return float((got - want).square().mean().sqrt() / want.std())


@pytest.mark.parametrize("peaks", [1.0, 30.0])
@torch.inference_mode()
def test_blocks_of_keys_give_the_same_mean(peaks: float) -> None:
    """Blocks that are not full at either end; scores up to hundreds, whose exponentials float32 does not hold."""
    q, k, v = tensors(blockwise.QUERIES + 3, 2 * blockwise.KEYS + 5, 16, 8, peaks=peaks)
    got, want = blockwise.averaged(q, k, v, 16**-0.5), exact(q, k, v)
    assert got.isfinite().all()
    assert off(got, want) < 1e-5 * peaks
    assert off(blockwise.averaged(q, k.flip(0), v, 16**-0.5), want) > 0.1  # the comparison can fail


@pytest.mark.parametrize(("peaks", "most"), [(1.0, 0.006), (4.0, 0.03)])
@torch.inference_mode()
def test_bfloat16_is_near_float32(peaks: float, most: float) -> None:
    """Scores are rounded to 8 binary digits: the sharper the attention, the more that tells."""
    q, k, v = tensors(blockwise.MOST + 3, 3000, 256, 64, peaks=peaks)
    k = k - 0.5 * k.mean(0)
    got = blockwise.averaged(q.bfloat16(), k, v, 256**-0.5)
    assert got.dtype == torch.bfloat16
    assert 1e-5 < off(got.float(), exact(q, k, v)) < most


@torch.inference_mode()
def test_what_keys_have_in_common_costs_no_digits() -> None:
    q, k, v = tensors(64, 500, 64, 16)
    near, far = (off(blockwise.averaged(q.bfloat16(), k + c, v, 0.125).float(), exact(q, k, v)) for c in (0.0, 50.0))
    assert far < 1.2 * near


@pytest.mark.parametrize("tokens", [(30, 40), (blockwise.MOST + 1, blockwise.MOST + 2)])
@torch.inference_mode()
def test_attention_of_several_heads(tokens: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, n, 16, generator=generator) for n in (tokens[0], tokens[1], tokens[1]))
    want = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(blockwise.attention(q, k, v), want)  # float32 is left to torch
    with torch.autocast("cpu", torch.bfloat16):
        got = blockwise.attention(q, k, v)
    assert got.dtype == torch.bfloat16
    assert got.shape == want.shape
    assert off(got.float(), want) < 0.01


def test_gradients_go_through_torch() -> None:
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        blockwise.attention(q, q, q).float().sum().backward()
    assert q.grad is not None
    layer = blockwise.Linear(8, 4)
    layer(q).sum().backward()
    assert layer.weight.grad is not None


@torch.inference_mode()
def test_products() -> None:
    layer = blockwise.Linear(24, 7)
    for x in (torch.randn(5, 24), torch.randn(2, 3, 4, 24), torch.randn(24, 6).T, torch.randn(0, 24)):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(5, 24)).dtype == torch.bfloat16


@pytest.mark.parametrize(("height", "width"), [(96, 160), (70, 33)])
@torch.inference_mode()
def test_stripes_of_a_hiera(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows do not see each other, so a map may go through a block row of windows by row of windows."""
    torch.manual_seed(0)
    net = Hiera(HieraSize(16, 1, (1, 2, 3, 1), (4,), grid=3, windows=(8, 4, 6, 3))).eval()
    for parameter in net.parameters():
        parameter.uniform_(-0.2, 0.2)
    images = torch.randn(2, 3, height, width)
    whole = net(images)
    monkeypatch.setattr(blockwise, "PIECE", 1)
    for level, x in net(images).items():
        torch.testing.assert_close(x, whole[level], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_memory_read_in_bfloat16() -> None:
    torch.manual_seed(0)
    attention = MemoryAttention(64, 16, 2, 2, 64).eval()
    recalled = Recalled(torch.randn(2, 3, 256, 16), torch.randn(3, 256, 16), torch.randn(2, 8, 16), torch.randn(8, 16))
    features, grid = torch.randn(2, 64, 16, 16), sine_grid(16, 16, 64)
    want = attention(features, grid, recalled)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (features, features.bfloat16()):
            assert 1e-5 < off(attention(given, grid.to(given.dtype), recalled).float(), want) < 0.02
