"""Hiera against transformers' with the same weights, and what its options change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from masklet.parts.backbones import build_backbone
from masklet.parts.backbones.hiera import Attention, Hiera, HieraSize, RelativePositions, cut, join
from masklet.structures.errors import UserError

MINI = HieraSize(16, 1, (1, 2, 3, 1), (4,), grid=3, windows=(8, 4, 6, 3))


def mini(**options: object) -> Hiera:
    torch.manual_seed(0)
    return Hiera(MINI, **options).eval()


def theirs(net: Hiera) -> torch.nn.Module:
    """transformers' backbone with the weights of `net`."""
    from transformers.models.sam2 import Sam2HieraDetConfig
    from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

    size = net.size
    config = Sam2HieraDetConfig(
        hidden_size=size.width,
        num_attention_heads=size.heads,
        blocks_per_stage=list(size.depths),
        embed_dim_per_stage=[size.width * 2**i for i in range(4)],
        num_attention_heads_per_stage=[size.heads * 2**i for i in range(4)],
        window_size_per_stage=list(size.windows),
        global_attention_blocks=list(size.whole),
        window_positional_embedding_background_size=[size.grid, size.grid],
        image_size=[96, 160],
    )
    model = Sam2HieraDetModel(config).eval()
    names = {"patch_embed.": "patch_embed.projection.", "norm1": "layer_norm1", "norm2": "layer_norm2"}
    names |= {"fc1": "proj_in", "fc2": "proj_out"}
    state: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    model.load_state_dict(state)
    return model


@torch.inference_mode()
def test_maps_equal_transformers() -> None:
    net = mini()
    for parameter in net.parameters():
        parameter.uniform_(-0.2, 0.2)
    images = torch.randn(2, 3, 96, 160)
    want = theirs(net)(images).intermediate_hidden_states
    got = net(images)
    for level, x in zip(("c2", "c3", "c4", "c5"), want, strict=True):
        torch.testing.assert_close(got[level], x.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    flipped = net(images.flip(1))["c5"]
    assert (flipped - got["c5"]).abs().max() > 0.01 * got["c5"].std()  # the comparison can fail


@torch.inference_mode()
def test_images_of_any_size() -> None:
    net = mini()
    for height, width in ((1, 1), (33, 70), (64, 96)):
        maps = net(torch.rand(1, 3, height, width))
        assert set(maps) == set(net.channels) == set(net.strides)
        assert all(x.isfinite().all() and x.shape[1] == net.channels[level] for level, x in maps.items())
    for level, x in maps.items():
        assert x.shape[2:] == (64 // net.strides[level], 96 // net.strides[level])


def test_windows_are_cut_and_joined() -> None:
    x = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    assert torch.equal(cut(x, 2)[1], x[0, :2, 2:])
    assert torch.equal(join(cut(x, 2), 3, 2), x)


@torch.inference_mode()
def test_padding_after_the_projection_is_padding_before_it() -> None:
    """A window over the edge sees tokens of zeros: their queries, keys and values are the bias."""
    attention = Attention(8, 8, 2, 4, pool=False, positions=None).eval()
    x = torch.randn(1, 5, 6, 8)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 3))
    torch.testing.assert_close(attention(x), attention(padded)[:, :5, :6])


@torch.inference_mode()
def test_relative_positions_read_by_hand() -> None:
    tables = RelativePositions(2, 1)
    tables.rows.copy_(torch.tensor([[1.0], [10.0], [100.0]]))  # a key one row below, the same row, one above
    q = torch.tensor([1.0, 1, 2, 2]).view(1, 1, 4, 1)  # a 2 x 2 window
    want = torch.tensor([[10.0, 10, 1, 1], [10, 10, 1, 1], [200, 200, 20, 20], [200, 200, 20, 20]])
    assert torch.equal(tables(q, (2, 2), (2, 2))[0, 0], want)
    pooled = tables(torch.ones(1, 1, 1, 1), (1, 1), (2, 2))[0, 0]  # one query over four keys
    assert torch.equal(pooled, torch.tensor([[10.0, 10, 1, 1]]))


def test_options() -> None:
    plain, more = mini(), mini(relative=True)
    assert sum(p.numel() for p in more.parameters()) > sum(p.numel() for p in plain.parameters())
    images = torch.rand(1, 3, 64, 96)
    more(images)["c5"].square().mean().backward()
    assert all(block.attn.positions.rows.grad is not None for block in more.blocks)
    with pytest.raises(UserError, match=r"drop_path is 1\.5"):
        mini(drop_path=1.5)
    with pytest.raises(UserError, match="width 63 does not divide into 2 heads"):
        build_backbone("hiera_large", width=63)
    assert build_backbone("hiera_tiny", width=8, depths=(1, 1, 1, 1), whole=(2,)).channels["c5"] == 64
