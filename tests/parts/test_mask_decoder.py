"""Prompts and masks against the numbers of SAM's and SAM 2's own code; many prompts against one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sam_oracle
from conftest import shared
from masklet.parts.mask_decoder import MaskDecoder, Projections, TwoWayTransformer, stability, steady
from masklet.parts.prompts import PADDING, FourierPositions, PromptEncoder
from masklet.weights import remap
from masklet.weights.from_sam import decoder_rules, prompt_rules

SIZE = (1024, 1024)
CLICKS = torch.tensor([[[500.0, 375.0], [820.5, 610.25]]])
CORNERS = torch.tensor([[[220.0, 180.0], [760.0, 700.0]]])
NOTHING = torch.zeros(1, 1, 2)


def loaded(system: str, keys: str, prefix: str, decoder: MaskDecoder) -> nn.ModuleDict:
    parts = nn.ModuleDict({"prompts": PromptEncoder(), "decoder": decoder}).eval()
    p, d = f"{prefix}prompt_encoder", f"{prefix}mask_decoder"
    tensors = sam_oracle.state_dict(system, keys, rf"({p}|{d})\..+")
    remap.fill(parts, tensors, (*prompt_rules(p), *decoder_rules(d)))
    return parts


@pytest.fixture(scope="module")
def sam():
    return loaded("sam", "keys_sam_vit_b.json", "", MaskDecoder())


@pytest.fixture(scope="module")
def sam2():
    decoder = MaskDecoder(finer=(256, 256), object_score=True, sigmoid=True)
    return loaded("sam2", "keys_sam2.1_hiera_tiny.json", "sam_", decoder)


def sparse(parts, points, labels):
    return parts["prompts"](points, torch.tensor([labels]), SIZE)


@torch.inference_mode()
def test_sam_gives_the_recorded_numbers(sam):
    folder = shared("oracles", "sam", "vit_b_prompt_and_mask")
    image, rough = sam_oracle.uniform("sam_made_emb", 1, 256, 64, 64), sam_oracle.image("sam_made_mask", 256, 256, 1)
    positions = sam["prompts"].positions.grid(64, 64)
    sam_oracle.check("dense_pe", positions[None], folder)
    masks = {True: 12 * (rough[None] - 0.5), False: None}
    cases = {
        "point1": (torch.cat([CLICKS[:, :1], NOTHING], 1), [1, PADDING], False),
        "points2": (torch.cat([CLICKS, NOTHING], 1), [1, 0, PADDING], False),
        "box": (CORNERS, [2, 3], False),
        "box_point": (torch.cat([CLICKS[:, :1], CORNERS], 1), [1, 2, 3], False),
        "mask": (CLICKS[:, :0], [], True),
        "point_mask": (torch.cat([CLICKS[:, :1], NOTHING], 1), [1, PADDING], True),
    }
    for name, (points, labels, rough_given) in cases.items():
        tokens = sam["prompts"](points, torch.tensor([labels], dtype=torch.int64), SIZE)
        dense = sam["prompts"].dense(masks[rough_given], (64, 64))
        if tokens.shape[1]:
            sam_oracle.check(f"made.{name}.sparse", tokens, folder)
        logits, decoded = sam["decoder"](image, positions, tokens, dense)
        sam_oracle.check(f"made.{name}.all_logits", logits, folder)
        sam_oracle.check(f"made.{name}.all_iou", decoded.ious, folder)
        if name in ("box", "mask"):
            sam_oracle.check(f"made.{name}.dense", dense.expand(1, 256, 64, 64), folder)
    # the control: without half a pixel, or with the corners exchanged, nothing agrees
    wrong = sparse(sam, CLICKS - 0.5, [1, 0])
    assert sam_oracle.difference("made.points2.sparse", torch.cat([wrong, wrong[:, :1]], 1), folder) > 1e-2
    logits, _ = sam["decoder"](image, positions, sparse(sam, CORNERS, [3, 2]), sam["prompts"].dense(None, (64, 64)))
    assert sam_oracle.difference("made.box.all_logits", logits, folder) > 1e-2


@torch.inference_mode()
def test_sam2_gives_the_recorded_numbers(sam2):
    folder = shared("oracles", "sam2", "tiny_mask_decoder")
    image = sam_oracle.uniform("sam2_dec_emb", 1, 256, 64, 64)
    skips = [sam_oracle.uniform("sam2_dec_hr0", 1, 32, 256, 256), sam_oracle.uniform("sam2_dec_hr1", 1, 64, 128, 128)]
    positions = sam2["prompts"].positions.grid(64, 64)
    rough = 12 * (sam_oracle.image("mask_prompt", 256, 256, 1)[None] - 0.5)
    cases = {
        "point": (torch.cat([torch.tensor([[[500.0, 375.0]]]), NOTHING], 1), [1, PADDING], None),
        "pos_neg": (torch.cat([CLICKS, NOTHING], 1), [1, 0, PADDING], None),
        "box": (torch.cat([CORNERS, NOTHING], 1), [2, 3, PADDING], None),
        "mask": (torch.cat([NOTHING, NOTHING], 1), [PADDING, PADDING], rough),  # the encoder pads a padding point too
    }
    for name, (points, labels, mask) in cases.items():
        dense = sam2["prompts"].dense(mask, (64, 64))
        logits, decoded = sam2["decoder"](image, positions, sparse(sam2, points, labels), dense, skips)
        sam_oracle.check(f"{name}.all_logits", logits, folder)
        sam_oracle.check(f"{name}.all_iou", decoded.ious, folder)
        sam_oracle.check(f"{name}.tokens", decoded.tokens, folder)
        assert decoded.object_logits is not None
        sam_oracle.check(f"{name}.object_score", decoded.object_logits[:, None], folder)
        sam_oracle.check(f"{name}.single_stability", stability(logits[:, :1], 0.05), folder)
        which = int(steady(logits, decoded.ious))
        sam_oracle.check(f"{name}.single.logits", logits[:, which : which + 1], folder)
        sam_oracle.check(f"{name}.single.iou", decoded.ious[:, which : which + 1], folder)
    without, _ = sam2["decoder"](image, positions, sparse(sam2, points, labels), dense, [0 * s for s in skips])
    assert sam_oracle.difference("mask.all_logits", without, folder) > 1e-2


def small() -> tuple[PromptEncoder, MaskDecoder]:
    decoder = MaskDecoder(32, 2, TwoWayTransformer(32, 2, 4, 64), 16, finer=(8, 8), object_score=True)
    return PromptEncoder(32, 8).eval(), decoder.eval()


@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("count", [2, 9])
@torch.inference_mode()
def test_prompts_of_several_images_together_are_what_they_are_alone(count, rough):
    """With few tokens the pixels' projections go through the tokens, with many they do not."""
    prompts, decoder = small()
    image, finer = torch.randn(2, 32, 5, 6), (torch.randn(2, 8, 20, 24), torch.randn(2, 8, 10, 12))
    points, labels = 90 * torch.rand(6, count, 2), torch.randint(-1, 4, (6, count))
    masks = torch.randn(6, 1, 20, 24) if rough else None
    positions = prompts.positions.grid(5, 6)
    tokens, dense = prompts(points, labels, (80, 96)), prompts.dense(masks, (5, 6))
    together, decoded = decoder(image, positions, tokens, dense, decoder.refine(finer))
    assert together.shape == (6, 3, 20, 24)
    for i in range(6):
        own = slice(i // 3, i // 3 + 1)
        one = prompts.dense(None if masks is None else masks[i : i + 1], (5, 6))
        alone, told = decoder(image[own], positions, tokens[i : i + 1], one, decoder.refine([f[own] for f in finer]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoded.ious[i : i + 1], told.ious, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoded.object_logits[i : i + 1], told.object_logits, rtol=1e-4, atol=1e-5)
    kept = torch.tensor([4, 1])
    some = decoder.masks(decoded[kept], [f[[1, 0]] for f in decoder.refine(finer)], slice(1, None))
    torch.testing.assert_close(some, together[kept, 1:], rtol=1e-4, atol=1e-5)


def test_both_ways_of_attention_are_the_same_to_gradients(monkeypatch):
    prompts, decoder = small()
    image, finer = torch.randn(1, 32, 4, 4), (torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8))
    points, labels = 64 * torch.rand(2, 1, 2), torch.tensor([[1], [0]])
    gradients = []
    for through in (True, False):
        monkeypatch.setattr(Projections, "cheaper_by_tokens", lambda self, tokens, through=through: through)
        tokens, dense = prompts(points, labels, (64, 64)), prompts.dense(None, (4, 4))
        logits, decoded = decoder(image, prompts.positions.grid(4, 4), tokens, dense, decoder.refine(finer))
        total = logits.square().mean() + decoded.ious.sum() + decoded.object_logits.sum()
        names, params = zip(*decoder.named_parameters(), strict=True)
        found = torch.autograd.grad(total, params, allow_unused=True)
        gradients.append(dict(zip(names, found, strict=True)))
    for name, value in gradients[0].items():
        if not name.endswith("k.bias"):  # softmax does not see it: rounding noise, or not computed at all
            torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_positions_by_hand():
    positions = FourierPositions(4)
    positions.frequencies.copy_(torch.tensor([[0.25, 0.0], [0.0, 0.5]]))
    # x = 1 is +1 -> a quarter of 2 pi; y = 0.5 is 0
    found = positions(torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    grid = positions.grid(2, 1)
    assert grid.shape == (4, 2, 1)
    torch.testing.assert_close(grid[:, 1, 0], positions(torch.tensor([0.5, 0.75])))


def test_stability_by_hand():
    logits = torch.tensor([[[-2.0, -0.5], [0.5, 2.0]], [[-9.0, -9.0], [-9.0, -9.0]]])
    assert stability(logits, 1.0).tolist() == pytest.approx([1 / 3, 1.0])
    three = torch.stack([logits[:1], logits[:1] * 10, logits[:1]], 1)
    ious = torch.tensor([[0.9, 0.2, 0.1]])
    assert steady(three, ious, offset=1.0).tolist() == [1]  # the first is unstable: the best of the others
    assert steady(three.flip(1)[:, [1, 0, 2]], ious, offset=1.0).tolist() == [0]
