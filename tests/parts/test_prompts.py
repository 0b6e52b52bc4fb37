"""Prompts as vectors and as drawings."""

from __future__ import annotations

import pytest
import torch

from masklet.parts.mask_decoder import MaskDecoder, TwoWayTransformer
from masklet.parts.prompts import PADDING, PromptEncoder, drawings


def test_drawings_by_hand() -> None:
    places = torch.tensor([[[2.5, 1.5], [5.5, 3.5], [0.0, 0.0]], [[1.0, 1.0], [4.0, 3.0], [0.5, 0.5]]])
    labels = torch.tensor([[1, 0, PADDING], [2, 3, 1]])
    planes = drawings(places, labels, (5, 8), 1.0)
    assert planes.shape == (2, 5, 5, 8)
    on, beside, around, _, box = planes[0]
    assert on[1, 2] == 1
    torch.testing.assert_close(on[1, 3], torch.tensor(-0.5).exp())
    torch.testing.assert_close(on[3, 4], torch.tensor(-4.0).exp())  # two columns and two rows away
    assert beside[3, 5] == 1
    torch.testing.assert_close(around[3, 4], torch.tensor(-4.0 / 9).exp())  # three times as wide
    assert not box.any()
    inside = torch.zeros(5, 8)
    inside[1:3, 1:4] = 1  # the cells whose centres lie between the corners
    torch.testing.assert_close(planes[1, 4], inside)
    assert planes[1, 0, 0, 0] == 1
    assert not planes[1, 1].any()


def test_spots_that_meet_are_no_brighter_than_one() -> None:
    places = torch.tensor([[[2.5, 2.5], [2.5, 2.5], [3.5, 2.5]]])
    planes = drawings(places, torch.ones(1, 3, dtype=torch.int64), (5, 5), 1.5)
    assert planes.max() == 1


def test_what_is_drawn_is_seen_where_it_is() -> None:
    """The map changes around the click and nowhere else; a rough mask joins it."""
    torch.manual_seed(0)
    encoder = PromptEncoder(32, 16, drawn=1.0)
    points, labels = torch.tensor([[[40.0, 24.0]]]), torch.tensor([[1]])
    none = encoder.dense(None, (8, 8), points[:, :0], labels[:, :0], (128, 128))
    one = encoder.dense(None, (8, 8), points, labels, (128, 128))
    changed = (one - none).abs().amax(1)[0] > 1e-3
    rows, columns = changed.nonzero().T
    assert changed[1, 2]
    assert rows.max() <= 5
    assert columns.max() <= 6
    other = encoder.dense(None, (8, 8), points, torch.tensor([[0]]), (128, 128))
    assert (one - other).abs().max() > 1e-2  # a click beside the object is something else
    rough = encoder.dense(torch.zeros(1, 1, 32, 32), (8, 8), points, labels, (128, 128))
    torch.testing.assert_close(rough + encoder.no_mask[..., None, None], one)  # nothing is known of either
    sure = encoder.dense(torch.full((1, 1, 32, 32), 20.0), (8, 8), points, labels, (128, 128))
    assert (sure - rough).abs().max() > 1e-2


@pytest.mark.parametrize("where", [(1, 0), (0, 1)])
def test_pixels_mix_before_or_after_the_transformer(where: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = MaskDecoder(32, transformer=TwoWayTransformer(32, 1, 4, 16))
    mixing = MaskDecoder(32, transformer=TwoWayTransformer(32, 1, 4, 16), mixing=where)
    mixing.load_state_dict(plain.state_dict(), strict=False)
    image, positions = torch.randn(1, 32, 8, 8), torch.randn(32, 8, 8)
    sparse, dense = torch.randn(2, 3, 32), torch.randn(2, 32, 8, 8)
    one, other = (m(image, positions, sparse, dense)[0] for m in (plain, mixing))
    assert one.shape == other.shape == (2, 4, 32, 32)
    assert (one - other).abs().max() > 1e-3
    torch.nn.init.zeros_([*mixing.before, *mixing.after][0].gamma)
    torch.testing.assert_close(mixing(image, positions, sparse, dense)[0], one)
