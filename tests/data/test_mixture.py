"""Clips from videos and from photographs that are made to move: masks stay on their objects."""

import numpy as np
import pytest
import torch
from tests.conftest import shared

from masklet.data.mixture import Mixture, Share, Window, _through, divided
from masklet.data.synthetic import synthetic
from masklet.data.videos import OBJECT, davis
from masklet.structures import Classes, Instances, Masks, Sample, UserError


def red_disc(size: tuple[int, int] = (90, 120)) -> Sample:
    """A red disc on blue: the mask can be read off the picture."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    mask = (y - 40) ** 2 + (x - 70) ** 2 < 25**2
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[2] = 200
    image[:, mask] = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None]
    masks = Masks.from_dense(mask[None])
    return Sample(image, name="disc", instances=Instances.from_masks(masks, torch.zeros(1, dtype=torch.int64), OBJECT))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(8))
def test_masks_stay_on_their_objects_in_every_frame(seed):
    mixture = Mixture([Share([red_disc()])], size=(64, 80), pasted=0.0, jitter=0.0)
    clip = mixture.draw(5, generator(seed))
    assert clip.frames.shape == (5, 3, 64, 80)
    red = (clip.frames[:, 0] > 100) & (clip.frames[:, 2] < 100)
    wrong = (clip.masks[0] != red).sum((1, 2))
    assert (wrong <= 0.08 * red.sum((1, 2)) + 12).all()  # pixels of the rim
    if seed == 0:  # the picture moves
        assert (clip.frames[0] != clip.frames[4]).float().mean() > 0.02


def test_the_same_generator_gives_the_same_clip_and_another_seed_another():
    data = synthetic("shapes3", "train")
    mixture = Mixture([Share(data, 2.0), Share([red_disc()])], size=(48, 48))
    one, two, other = (mixture.draw(3, generator(s)) for s in (1, 1, 2))
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.masks, two.masks)
    assert not torch.equal(one.frames, other.frames)


def test_the_whole_picture_comes_back_through_a_window_on_all_of_it():
    sample = red_disc((60, 80))
    masks = sample.instances.masks.dense()
    frames, moved = _through(sample.image, masks, [Window(40, 30, 40, 30)], (60, 80))
    assert torch.equal(frames[0], sample.image)
    assert torch.equal(moved[:, 0], masks)
    frames, moved = _through(sample.image, masks, [Window(40, 30, -40, 30)], (60, 80))
    assert torch.equal(frames[0], sample.image.flip(2))  # mirrored
    assert torch.equal(moved[:, 0], masks.flip(2))
    frames, moved = _through(sample.image, masks, [Window(40, 30, 40, 30)], (30, 40))  # averaged two by two
    assert (frames[0].float() - torch.nn.functional.avg_pool2d(sample.image.float(), 2)).abs().max() <= 1
    frames, moved = _through(sample.image, masks, [Window(-200, -200, 40, 30)], (60, 80))  # beside the picture
    assert (frames[0].float().mean((1, 2)) - torch.tensor([124.0, 116, 104])).abs().max() < 1
    assert not moved.any()


def test_a_pasted_object_moves_in_front():
    plain = Mixture([Share([red_disc()])], size=(96, 96), pasted=0.0, jitter=0.0)
    crowded = Mixture([Share([red_disc()])], size=(96, 96), pasted=1.0, jitter=0.0)
    found = [crowded.draw(4, generator(seed)) for seed in range(6)]
    assert any(len(clip.masks) == 2 for clip in found)
    for clip in found:
        assert not (clip.masks.sum(0) > 1).any()  # what is behind is cut out of the masks behind
    assert all(len(plain.draw(2, generator(seed)).masks) == 1 for seed in range(3))


def test_nothing_to_draw_from_is_said():
    with pytest.raises(UserError, match="a mixture of nothing"):
        Mixture([])
    with pytest.raises(UserError, match="share 1 of the mixture is empty"):
        Mixture([Share([red_disc()]), Share([])])
    with pytest.raises(UserError, match="no object in 20 pictures; do the data sets have masks"):
        Mixture([Share([Sample(torch.zeros(3, 8, 8))])]).draw(1, generator())


def test_real_videos_move_by_themselves():
    mixture = Mixture([Share(davis(shared("data/davis2016"), named="dog,libby"), 1.0, 1.0)], (96, 160), pasted=0.0)
    clip = mixture.draw(4, generator(5))
    assert clip.masks.shape[1:] == (4, 96, 160)
    areas = clip.masks.sum((0, 2, 3)).float()
    assert (areas > 0).all()
    assert np.ptp(areas.numpy()) > 0
    still = Mixture([Share(davis(shared("data/davis2017_first_frames"), "all"))], (96, 160)).draw(3, generator(1))
    assert len(still) == 3  # one frame is made to move


def test_a_border_is_divided_in_the_middle():
    classes = Classes(("pet", "background", "border"), unscored=(2,))
    labels = torch.tensor([[0, 2, 2, 2, 2, 1]] * 3)
    sample = Sample(torch.zeros(3, 3, 6, dtype=torch.uint8), semantic=labels, classes=classes)
    assert divided(sample).semantic.tolist() == [[0, 0, 0, 1, 1, 1]] * 3
    plain = Sample(sample.image, semantic=labels, classes=Classes(("a", "b", "c")))
    assert divided(plain) is plain
    assert divided(red_disc()).semantic is None
