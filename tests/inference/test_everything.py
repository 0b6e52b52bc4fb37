"""Objects found without a prompt: transformers' mask generation, the functions of SAM 2's generator, and by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import masklet
import sam_oracle
import sam_peers
from conftest import shared
from masklet.inference.everything import (
    SAM2,
    SMALL,
    Everything,
    crop_boxes,
    ends,
    everything,
    grid,
    tidied,
    usual,
    without_holes,
    without_islands,
)
from masklet.models import build
from masklet.parts.mask_decoder import Decoded, stability
from masklet.structures.errors import UserError


@pytest.fixture(scope="module")
def peer():
    made = sam_peers.peer()
    made.mask_decoder.iou_prediction_head.proj_out.bias.data += 2  # transformers takes no threshold below 0
    return made


@pytest.fixture(scope="module")
def ours(peer):
    return sam_peers.ours(peer)


@torch.inference_mode()
def generated(peer, image, points, score, steady, overlap):
    """What transformers' pipeline does for one picture, in its own words."""
    from transformers.models.sam.image_processing_sam import SamImageProcessor

    images: SamImageProcessor = sam_peers.processor().image_processor
    boxes, grid, cropped, labels = images.generate_crop_boxes(image, 64, points_per_crop=points)
    inputs = images(images=cropped, return_tensors="pt")
    features = peer.get_image_embeddings(inputs["pixel_values"])
    asked = {"input_points": grid.permute(0, 1, 2, 3).float(), "input_labels": labels}
    found = peer(image_embeddings=features, **asked, multimask_output=True)
    sizes = (inputs["original_sizes"], inputs["reshaped_input_sizes"])
    full = images.post_process_masks(found.pred_masks, *sizes, binarize=False)[0]
    size = inputs["original_sizes"][0].tolist()
    masks, scores, ends = images.filter_masks(
        full, found.iou_scores[0], size, boxes[0].tolist(), score, steady, stability_score_offset=0.05
    )
    return images.post_process_for_mask_generation(masks, scores, ends, overlap)


@pytest.mark.parametrize("size", [(64, 64), (40, 61)])
def test_transformers_finds_the_same(peer, ours, size):
    image = sam_peers.photo(*size, seed=3)
    for score, steady, overlap in ((1.2, 0.3, 0.99), (0.01, 0.7, 1.0)):  # random masks cover nearly all
        masks, scores, _, boxes = generated(peer, image, 5, score, steady, overlap)
        found = everything(ours, image, points=5, score=score, stability=steady, offset=0.05, overlap=overlap, batch=4)
        assert len(found) == len(masks) >= (1 if overlap < 1 else 2)
        torch.testing.assert_close(found.instances.scores, scores, rtol=1e-3, atol=1e-4)
        mine = found.instances.masks.dense().numpy()
        assert np.mean(mine != np.stack(masks)) < 1e-4
        torch.testing.assert_close(found.instances.boxes - torch.tensor([0, 0, 1, 1]), boxes.float(), atol=1.0, rtol=0)
        assert (found.stability >= steady).all()
        assert (found.instances.scores > score).all()


def test_pictures_together_are_what_they_are_alone(ours):
    images = [sam_peers.photo(48, 50, 1), sam_peers.photo(40, 61, 2), sam_peers.photo(48, 50, 3)]
    options = {"points": 4, "score": -1e9, "stability": 0.5, "offset": 0.05, "crops": 1, "crop_points": 2}
    options |= {"overlap": 1.0, "crop_nms": 1.0}
    together = everything(ours, images, **options)
    for image, found in zip(images, together, strict=True):
        alone = everything(ours, image, **options)
        assert len(alone) == len(found) > 0
        torch.testing.assert_close(alone.instances.scores, found.instances.scores, rtol=1e-3, atol=1e-4)
        assert (alone.instances.masks.dense() != found.instances.masks.dense()).float().mean() < 1e-4
        x0, y0, x1, y1 = found.crops.unbind(1)
        assert ((found.points[:, 0] > x0) & (found.points[:, 0] < x1)).all()
        assert ((found.points[:, 1] > y0) & (found.points[:, 1] < y1)).all()


class Blobs(torch.nn.Module):
    """Knows three discs: whoever clicks on one gets it in full, its middle, and a blurred one, with scores to match."""

    fallback = None

    def __init__(self):
        super().__init__()
        real = build("sam_vit_b", **sam_peers.TINY)
        self.embed, self.classes, self.spec = real.embed, real.classes, real.spec
        self.weight = torch.nn.Parameter(torch.zeros(1))
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        centres = torch.tensor([[14.0, 14.0], [46.0, 20.0], [28.0, 47.0]])
        self.away = ((x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2).sqrt()

    def answer(self, embedding, queries):
        x, y = queries.points[:, 0].long().unbind(1)
        nearest = self.away[:, y, x].min(0)
        hit = nearest.values < 9
        ious = torch.where(hit[:, None], torch.tensor([0.0, 0.95, 0.9, 0.99]), 0.1)
        tokens = nearest.indices[:, None, None].float().expand(-1, 4, 1)
        return Decoded(tokens, ious, torch.zeros(len(x), 1, 1), None, (16, 16))

    def masks(self, embedding, decoded, which=slice(None)):
        away = self.away[decoded.tokens[:, 0, 0].long()]
        sharp, small, blurred = 20 * (9 - away), 20 * (4 - away), 0.05 * (9 - away)
        return torch.stack([sharp, sharp, small, blurred], 1)[:, which]


def test_three_discs_are_three_objects():
    image = np.zeros((64, 64, 3), np.uint8)
    found = everything(Blobs(), image, points=16, score=0.92)
    assert len(found) == 3
    assert found.instances.scores.tolist() == pytest.approx([0.95] * 3)  # the blurred ones score .99, and go
    assert found.instances.masks.areas().tolist() == pytest.approx([np.pi * 81] * 3, rel=0.05)
    assert (found.crops == torch.tensor([0.0, 0.0, 64.0, 64.0])).all()
    both = everything(Blobs(), image, points=16)
    assert len(both) == 6  # discs and their middles, whose boxes overlap too little
    assert len(everything(Blobs(), image, points=16, score=0.999)) == 0


def test_only_the_best_few_are_enlarged_where_that_is_asked_for():
    image = np.zeros((640, 480, 3), np.uint8)
    want = everything(Blobs(), image, points=16)
    found = everything(Blobs(), image, points=16, most=6)  # one click of the many on each disc, and on each middle
    assert len(found) == len(want) == 6
    assert (found.instances.masks.dense() == want.instances.masks.dense()).all()
    torch.testing.assert_close(found.stability, want.stability)
    few = everything(Blobs(), image, points=16, most=2)
    assert few.instances.scores.tolist() == pytest.approx([0.95] * 2)
    assert len(everything(Blobs(), image, points=16, score=0.999, most=2)) == 0
    both = everything(Blobs(), [image, image], points=8, most=1)
    assert [len(one) for one in both] == [1, 1]


def test_small_models_are_asked_less(ours):
    assert usual(ours) == Everything()
    model = Blobs()
    model.spec = {"model": "sam2_hiera_tiny"}
    assert usual(model) == SAM2
    model.spec = {"model": "sam2"}
    assert usual(model) == SMALL
    image = np.zeros((64, 64, 3), np.uint8)
    assert len(everything(model, image)) == 6
    assert len(everything(model, image, score=0.92)) == 3  # what else is usual stays


def test_boxes_of_crops():
    want = [[(0, 0, 150, 100)], [(0, 0, 92, 67), (0, 33, 92, 100), (58, 0, 150, 67), (58, 33, 150, 100)]]
    assert list(crop_boxes((100, 150), 1, 512 / 1500)) == want


def recorded(name: str, fixture: str = "mask_generator_functions") -> np.ndarray:
    with np.load(shared("oracles", "sam2", fixture) / "outputs.npz") as arrays:
        return arrays[name]


def test_functions_are_those_of_the_authors():
    crops = [crop for layer in crop_boxes((480, 640), 2, 512 / 1500) for crop in layer]
    assert crops == [tuple(crop) for crop in recorded("crop_boxes").tolist()]
    assert np.array_equal(grid(4).numpy(), recorded("point_grid"))
    logits = torch.stack([6 * (sam_oracle.image(f"sam2_predictor_s{i}", 120, 160, 1)[0] - 0.5) for i in range(4)])
    logits += torch.tensor([0.0, 0.5, -1.0, -9.0])[:, None, None]
    for threshold, offset in ((0.0, 1.0), (0.2, 0.5)):
        want = recorded(f"stability_{threshold}_{offset}")
        found = stability(logits, offset, threshold).numpy()
        assert np.allclose(found[:3], want[:3])
        assert np.isnan(want[3])
        assert found[3] == 1  # 0 / 0; such a mask is empty and goes for that reason
    assert np.array_equal(ends(logits > 0).numpy(), recorded("mask_boxes"))
    mask = (logits[0] > 0).numpy()
    area, changed = recorded("remove_holes_area")
    rows = recorded("remove_holes_rows")
    filled = without_holes(mask, 60)
    assert (filled.sum(), np.array_equal(filled, mask)) == (area, not changed)
    assert np.array_equal(filled.sum(1), rows)
    area, changed = recorded("remove_islands_area")
    alone = without_islands(mask, 60)
    assert (alone.sum(), np.array_equal(alone, mask)) == (area, not changed)
    assert np.array_equal(alone.sum(1), recorded("remove_islands_rows"))


@pytest.mark.slow
def test_sam2s_own_generator_finds_the_same():
    weights = dict(sam_oracle.state_dict("sam2", "keys_sam2.1_hiera_tiny.json"))
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 3
    model = masklet.load("sam2_hiera_tiny", weights=weights)
    image = (sam_oracle.image("sam2_predictor_amg", 240, 320) * 255).round() / 255
    options = {"points": 4, "score": 0.3, "stability": 0.5, "offset": 0.1, "overlap": 0.99}
    found = everything(model, image, **options, crops=1, crop_nms=0.99, crop_points=2)
    want = {name: recorded(name, "tiny_automatic_mask_generator") for name in ("area", "predicted_iou", "crop_box")}
    assert len(found) == 2
    assert found.instances.scores.numpy() == pytest.approx(want["predicted_iou"], abs=2e-3)
    assert found.instances.masks.areas().numpy() == pytest.approx(want["area"], rel=5e-3)
    x0, y0, x1, y1 = found.crops.unbind(1)
    assert torch.equal(torch.stack([x0, y0, x1 - x0, y1 - y0], 1), torch.from_numpy(want["crop_box"]).float())


def test_islands_and_holes_by_hand():
    mask = np.zeros((7, 9), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a hole of one
    mask[0, 6] = True  # touches at a corner: no island
    mask[6, 8] = True  # an island of one
    found, changed = tidied(mask, 2)
    assert changed
    want = mask.copy()
    want[3, 3], want[6, 8] = True, False
    assert np.array_equal(found, want)
    again, changed = tidied(found, 2)
    assert not changed
    assert np.array_equal(again, found)
    only = np.zeros((3, 3), bool)
    only[1, 1] = True
    kept, _ = tidied(only, 5)
    assert kept[1, 1]  # the largest stays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points is 0; give a whole number from 1 up"),
        ({"crops": -1}, "crops is -1; give a whole number from 0 up"),
        ({"most": 0}, "most is 0; give a whole number from 1 up"),
        ({"stability": 1.5}, "stability is 1.5; give a number from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        Everything(**options)


def test_doors(ours):
    with pytest.raises(UserError, match=r"settings and single options were given"):
        everything(ours, sam_peers.photo(8, 8), Everything(), points=3)
    with pytest.raises(UserError, match=r"^fcn8s takes no prompts; models that do: "):
        everything(build("fcn8s", backbone="vgg11"), sam_peers.photo(8, 8))
