"""Swin V1 and V2 against torchvision's, and what shifted windows must and must not do."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from masklet.parts.backbones import build_backbone
from masklet.parts.backbones.swin import CosineWindowAttention, WindowAttention, cut, join, relative_index, shift_mask
from masklet.structures.errors import UserError
from masklet.weights import fill


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def stir(model: nn.Module) -> nn.Module:
    """Numbers like those of a trained net: in a fresh one every branch is close to nothing, and so are its mistakes."""
    for name, value in model.named_parameters():
        if value.ndim == 1:
            nn.init.normal_(value, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
        elif "logit_scale" not in name:
            nn.init.normal_(value, std=1.0 if "table" in name else value[0].numel() ** -0.5)
    return model


@pytest.mark.parametrize(("name", "window"), [("swin_t", 7), ("swin_v2_t", 8)])
def test_maps_are_torchvisions(name, window):
    """At sizes whose last map is larger than a window: theirs does not shift one that is not."""
    theirs = stir(getattr(torchvision.models, name)(weights=None)).eval()
    ours = build_backbone(name, norms=True).eval()
    report = fill(ours, theirs.state_dict(), fresh=r"norm[012]\..*")
    assert {key.split(".")[0] for key in report.dropped if "relative_" not in key} == {"head"}
    assert count(ours) == count(theirs) - count(theirs.head) + sum(count(getattr(ours, f"norm{i}")) for i in range(3))
    for i in range(3):
        setattr(ours, f"norm{i}", nn.Identity())  # theirs norms the last map only
    x = torch.rand(1, 3, 32 * window + 4, 32 * window + 36)  # odd at every level
    with torch.inference_mode():
        maps, want = ours(x), theirs.features[0](x)
        for i, level in enumerate(("c2", "c3", "c4", "c5")):
            want = theirs.features[2 * i + 1](want)
            expected = (theirs.norm(want) if level == "c5" else want).permute(0, 3, 1, 2)
            assert (maps[level] - expected).abs().max() / expected.std() < 2e-5
            assert maps[level].shape[1:] == (
                ours.channels[level],
                -(-x.shape[2] // ours.strides[level]),
                expected.shape[3],
            )
            want = theirs.features[2 * i + 2](want) if i < 3 else want
        # What must not pass: colours in another order, no shift, the rows of the table read columns first.
        first = lambda x: ours.layers[0].blocks(ours.patch_embed(x))  # noqa: E731
        attention = [block.attn for block in ours.layers[0].blocks]
        right = first(x)
        assert (first(x.flip(1)) - right).abs().max() / right.std() > 0.1
        attention[1].shift = 0
        assert (first(x) - right).abs().max() / right.std() > 0.1
        attention[1].shift = window // 2
        assert torch.equal(first(x), right)
        attention[0].relative_position_index = attention[0].relative_position_index.T
        assert (first(x) - right).abs().max() / right.std() > 0.1


def test_parameters():
    """transformers' Swin-T has 27,522,234 with the classifier's norm, which no feature map passes."""
    with torch.device("meta"):
        assert count(build_backbone("swin_t")) + 2 * 768 == 27_522_234
        assert count(build_backbone("swin_t", norms=False)) == 27_522_234 - 2 * 768 - 2 * (96 + 192 + 384 + 768)
    with pytest.raises(UserError, match="window is 1; give the side of a window in patches, as 7 or 12"):
        build_backbone("swin_t", window=1)


def test_table_of_offsets_by_hand():
    """Window 2: pixels 0 1 / 2 3. From pixel 0 to pixel 3 it is one down and one right: offset (-1, -1), row 0."""
    assert relative_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_windows_round_trip():
    x = torch.randn(2, 6, 9, 5)
    windows = cut(x, 3)
    assert windows.shape == (2, 6, 9, 5)
    assert torch.equal(windows[1, 4].view(3, 3, 5), x[1, 3:6, 3:6])
    assert torch.equal(join(windows, (6, 9), 3), x)


def test_mask_by_hand():
    """A row of two windows of 2, shifted by 1: the last window holds the map's end and its beginning."""
    barred = shift_mask((2, 4), 2, 1, torch.device("cpu"))
    assert barred.shape == (2, 4, 4)
    apart = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]  # rows 0 and 1, columns 3 and 0: all four strange
    assert (barred[1] < 0).int().tolist() == apart
    rows_only = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert (barred[0] < 0).int().tolist() == rows_only


@pytest.mark.parametrize("kind", [WindowAttention, CosineWindowAttention])
def test_what_a_shifted_window_sees(kind):
    """A pixel changes with those of its own (shifted) window only, never with the other side of the map."""
    attention = kind(8, 2, 4, 2).eval()
    x = torch.randn(1, 8, 8, 8)
    other = x.clone()
    other[:, 0, 0] += 1.0
    with torch.inference_mode():
        changed = (attention(other) - attention(x)).abs().sum(-1)[0] > 1e-6
    assert changed[:2, :2].all()
    assert not changed[2:].any()
    assert not changed[:, 2:].any()


def test_bias_of_another_window():
    """Version 2 measures offsets in the window that it was trained with: common offsets get the bias they had."""
    torch.manual_seed(0)
    small = CosineWindowAttention(8, 2, 4, 0)
    large = CosineWindowAttention(8, 2, 6, 0, trained_window=4)
    large.load_state_dict(small.state_dict())
    near = [0, 1, 6, 7]  # the upper left 2x2 pixels of a window of 6
    torch.testing.assert_close(large.bias()[:, near][:, :, near], small.bias()[:, [0, 1, 4, 5]][:, :, [0, 1, 4, 5]])


def test_branches_are_left_out_more_with_depth():
    rates = [part.drop.p for part in build_backbone("swin_t", drop=0.22).modules() if hasattr(part, "drop")]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
