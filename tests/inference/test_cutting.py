"""GrabCut from prompts and strokes, at any size; borders of masks drawn anew; what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from masklet.inference.clicking import simulate
from masklet.inference.cutting import Cutter, cut_out, read_scribble, refine
from masklet.structures import Prompt
from masklet.structures.errors import UserError


def scene(height: int = 60, width: int = 80) -> tuple[np.ndarray, torch.Tensor]:
    """A blue disc on sand, a little noisy, and its mask."""
    y, x = np.mgrid[:height, :width]
    mask = (y - 0.5 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.3 * height) ** 2
    color = np.where(mask[..., None], [40, 60, 190], [190, 170, 120])
    noisy = color + np.random.default_rng(1).normal(0, 15, color.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), torch.from_numpy(mask)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


BOX = Prompt(boxes=torch.tensor([[10.0, 8.0, 54.0, 52.0]]))
CLICKS = Prompt(torch.tensor([[32.0, 30.0], [70.0, 10.0]]), torch.tensor([1, 0]))


@pytest.mark.parametrize("prompt", [BOX, CLICKS])
def test_a_disc_is_cut_out(prompt):
    image, mask = scene()
    found = cut_out(image, prompt)
    assert found.shape == mask.shape
    assert iou(found, mask) > 0.95
    assert torch.equal(found, cut_out(image, prompt))


def test_large_windows_are_shrunk_first():
    image, mask = scene(180, 240)
    prompt = Prompt(boxes=BOX.boxes * 3)
    assert iou(cut_out(image, prompt, cutter=Cutter(pixels=3000)), mask) > 0.95
    strokes = torch.zeros(180, 240, dtype=torch.uint8)
    strokes[90, 80:110], strokes[10, 20:200] = 1, 2  # one pixel thin: lost if it were shrunk as a picture
    found = cut_out(image, None, strokes, Cutter(pixels=3000))
    assert iou(found, mask) > 0.95
    assert found[90, 80:110].all()
    assert not found[10, 20:200].any()


def test_a_mask_is_drawn_to_the_pixel():
    image, mask = scene()
    rough = torch.zeros_like(mask)
    rough[2:, 2:] = mask[:-2, :-2]  # off by two pixels
    found = refine(image, rough)
    assert iou(rough, mask) < 0.88
    assert iou(found, mask) > 0.96
    assert not refine(image, torch.zeros_like(mask)).any()
    far = torch.zeros_like(mask)
    far[:, 60:] = True
    assert not (refine(image, far, band=3) & mask).any()  # never further than the band


def test_it_is_a_baseline_for_clicks():
    image, mask = scene()
    found = simulate(Cutter(), image, mask, 3)
    assert found.ious[-1] > 0.9


def test_strokes_in_a_file(tmp_path):
    path = tmp_path / "strokes.png"
    drawn = np.zeros((4, 5), np.uint8)
    drawn[0], drawn[1] = 255, 128
    drawn[2, 0], drawn[2, 1] = 1, 2
    Image.fromarray(drawn).save(path)
    assert read_scribble(path, (4, 5)).tolist() == [[1] * 5, [2] * 5, [1, 2, 0, 0, 0], [0] * 5]
    for values, message in (
        (np.full((3, 3), 1, np.uint8), f"{path} is 3x3 but the image is 4x5; draw on a copy of the image"),
        (
            np.full((4, 5), 7, np.uint8),
            f"{path} has pixels of value 7; 1 or 255 marks the object, 2 or 128 the background, 0 nothing",
        ),
        (np.full((4, 5), 2, np.uint8), f"{path} marks no object; draw on the object with the value 1 or 255"),
    ):
        Image.fromarray(values).save(path)
        with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
            read_scribble(path, (4, 5))


def test_what_is_refused():
    image, mask = scene()
    nothing = Prompt(torch.tensor([[5.0, 5.0]]), torch.tensor([0]))
    with pytest.raises(UserError, match=r"^nothing says what the object is; give a box, a click on it or a stroke"):
        cut_out(image, nothing)
    with pytest.raises(UserError, match=r"^the point 99,2 lies outside the image, which is 80 wide and 60 high; "):
        cut_out(image, Prompt(torch.tensor([[99.0, 2.0]])))
    with pytest.raises(UserError, match=r"^the mask is 3x3 but the image is 60x80; resize it to the image$"):
        refine(image, torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(UserError, match=r"^band is 0; give at least 1 pixel$"):
        refine(image, mask, band=0)
