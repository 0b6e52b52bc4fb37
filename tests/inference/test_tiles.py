from __future__ import annotations

import pytest
import torch

from masklet.inference.tiles import blocks
from masklet.structures.errors import UserError
from semantic_toys import Toy


@pytest.mark.parametrize("size", [(1, 1), (33, 500), (64, 64), (65, 64), (131, 257), (200, 40)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.25, 1), (0.5, 3), (0.0, 2)])
def test_blocks_cover_every_pixel_once(size, overlap, batch):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    seen, out = torch.zeros(size), torch.zeros(1, *size)
    for y, x, part in blocks(lambda t: t[:, :1].float(), image, 64, overlap, batch):
        seen[y : y + part.shape[1], x : x + part.shape[2]] += 1
        out[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    assert (seen == 1).all()
    torch.testing.assert_close(out, image[:1].float(), atol=1e-3, rtol=1e-5)  # what all tiles agree on is unchanged


@torch.inference_mode()
@pytest.mark.parametrize("size", [(150, 211), (64, 300), (97, 64)])
def test_tiles_give_the_result_of_the_whole_picture_when_the_model_sees_little(size):
    model = Toy().eval()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

    def chances(images):
        return model(images.float() / 255).softmax(1)

    whole = chances(image[None])[0]
    tiled = torch.empty_like(whole)
    for y, x, part in blocks(chances, image, 64, 0.25, 2):
        tiled[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_without_an_overlap_the_cuts_show():
    """The negative control of the test above."""
    model = Toy().eval()
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    whole = model(image[None].float() / 255).softmax(1)[0]
    for y, x, part in blocks(lambda t: model(t.float() / 255).softmax(1), image, 64, 0.0):
        difference = (part - whole[:, y : y + 64, x : x + 64]).abs()
        assert difference.max() > 1e-3
        assert difference[:, 2:-2, 2:-2].max() < 1e-6


def test_only_what_later_tiles_still_need_is_kept():
    """100 classes at 2048 x 2048 would be 1.7 GB; kept are a strip below the row of tiles and one beside the tile."""
    parts = blocks(lambda t: torch.zeros(len(t), 100, 128, 128), torch.zeros(3, 2048, 2048, dtype=torch.uint8), 128)
    most = 0
    for _ in parts:
        below, right = (parts.gi_frame.f_locals[name] for name in ("below", "right"))
        most = max(most, sum(t.untyped_storage().nbytes() for t in (*below, right) if t is not None))
    assert 100 * 4 * 2000 * 32 < most < 100 * 4 * (2048 * 64 + 128 * 64)


@pytest.mark.parametrize("tile", [0, 31, -512, True])
def test_bad_tiles(tile):
    with pytest.raises(UserError, match="give the side of a tile in pixels, 32 or more"):
        next(blocks(lambda t: t, torch.zeros(3, 8, 8, dtype=torch.uint8), tile))


@pytest.mark.parametrize("overlap", [-0.1, 0.8])
def test_bad_overlap(overlap):
    with pytest.raises(UserError, match=r"overlap is .*; give a share of the tile from 0 to 0\.75"):
        next(blocks(lambda t: t, torch.zeros(3, 8, 8, dtype=torch.uint8), 64, overlap))
