"""Every transform moves the picture, the label map, the objects and the matte together, and only by its generator."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conftest import shared
from masklet.data import transforms as T
from masklet.data.collate import collate_semantic
from masklet.data.samplers import Augmented, Draw, ShuffledSampler, generator_of
from masklet.data.sources import open_source
from masklet.structures import Classes, Instances, Masks, Matte, Panoptic, Sample, Segment, UserError

CLASSES = Classes(("ground", "square"), things=(False, True))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marked(height: int = 40, width: int = 60, box: tuple[int, int, int, int] = (10, 5, 30, 17)) -> Sample:
    """White box on black, with a label map, a mask, a segment and a matte that all say the same."""
    x0, y0, x1, y1 = box
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    objects = Instances.from_masks(Masks.from_dense(mask[None]), torch.tensor([1]), CLASSES)
    panoptic = Panoptic(mask.long() * 7, (Segment(7, 1, True, area=int(mask.sum())),))
    return Sample(
        image=(mask * 255).to(torch.uint8).expand(3, -1, -1).contiguous(),
        name="marked",
        semantic=mask.to(torch.uint8),
        instances=objects,
        panoptic=panoptic,
        matte=Matte(mask[None].float(), mask.float().expand(3, -1, -1)),
        classes=CLASSES,
    )


def agree(sample: Sample, tolerance: float = 0.0) -> None:
    """The parts of a moved `marked` sample still describe one box."""
    assert sample.semantic is not None
    assert sample.panoptic is not None
    assert sample.matte is not None
    assert sample.instances is not None
    box = sample.semantic == 1
    limit = tolerance * max(int(box.sum()), 1)
    for other in (sample.image[0] > 127, sample.panoptic.ids == 7, sample.matte.alpha[0] > 0.5):
        valid = sample.semantic != 255
        assert int(((other != box) & valid).sum()) <= limit
    if box.any():
        dense = sample.instances.masks.dense()[0]
        assert torch.equal(dense, box)
        ys, xs = box.nonzero().unbind(1)
        edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert sample.instances.boxes[0].tolist() == [float(e) for e in edges]
        assert sample.panoptic.segments[0].area == int(box.sum())
    else:
        assert len(sample.instances) == 0
        assert sample.panoptic.segments == ()


ALL = [
    T.RandomScale((0.5, 2.0)),
    T.RandomCrop((32, 32)),
    T.RandomCrop((50, 80)),
    T.RandomFlip(1.0),
    T.RandomFlip(1.0, vertical=True),
    T.RandomRotate(20.0, p=1.0),
    T.ColorJitter(0.0, 0.0, 0.0, 0.0),
    T.RandomBlur((0.1, 0.4), p=1.0),
    T.Resize((80, 120)),
    T.Resize(20),
    T.Resize(90, side="long"),
    T.PadTo((64, 64)),
    T.PadTo(multiple=32),
    T.Compose([T.RandomScale((0.7, 1.5)), T.RandomCrop(36), T.RandomFlip(), T.ColorJitter()]),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: f"{type(t).__name__}")
@pytest.mark.parametrize("seed", range(3))
def test_parts_stay_together_and_chance_comes_from_the_generator(transform: T.Transform, seed: int):
    sample = marked()
    moved, again = transform(sample, gen(seed)), transform(sample, gen(seed))
    turned = isinstance(transform, T.RandomRotate | T.RandomScale | T.Compose | T.Resize)
    agree(moved, tolerance=0.2 if turned else 0.0)
    assert torch.equal(moved.image, again.image)
    assert torch.equal(moved.semantic, again.semantic)
    assert moved.image.dtype == torch.uint8
    assert moved.semantic.dtype == torch.uint8
    assert moved.original_size == (40, 60)
    assert moved.name == "marked"
    before = marked()
    assert torch.equal(sample.image, before.image), "the input must not change"
    assert torch.equal(sample.semantic, before.semantic)


@pytest.mark.parametrize("transform", [*ALL, T.ColorJitter(), T.RandomBlur(p=1.0)], ids=lambda t: type(t).__name__)
def test_float_pictures_stay_float_and_in_range(transform: T.Transform):
    sample = replace(marked(), image=torch.rand(3, 40, 60), semantic=marked().semantic.long())
    moved = transform(sample, gen(1))
    assert moved.image.dtype == torch.float32
    assert moved.semantic.dtype == torch.int64
    assert 0 <= float(moved.image.min()) <= float(moved.image.max()) <= 1
    whole = transform(replace(sample, image=(sample.image * 255).round().to(torch.uint8)), gen(1))
    assert (whole.image / 255 - moved.image).abs().max() < 0.03


def test_sizes():
    sample = marked()
    assert T.Resize((7, 9))(sample).size == (7, 9)
    assert T.Resize(20)(sample).size == (20, 30)
    assert T.Resize(30, side="long")(sample).size == (20, 30)
    assert T.PadTo(64)(sample).size == (64, 64)
    assert T.PadTo(multiple=32)(sample).size == (64, 64)
    assert T.PadTo((10, 70))(sample).size == (40, 70)
    assert T.RandomCrop((10, 90))(sample, gen()).size == (10, 90)
    assert T.RandomScale((0.5, 0.5))(sample, gen()).size == (20, 30)


def test_padding_is_ignored_in_labels_and_mean_colour_in_the_picture():
    padded = T.PadTo((50, 70))(marked())
    assert (padded.semantic[40:] == 255).all()
    assert (padded.semantic[:, 60:] == 255).all()
    assert padded.image[:, 49, 69].tolist() == list(T.MEAN_COLOR)
    assert padded.matte.alpha[0, 49, 69] == 0
    floating = T.PadTo((50, 70), fill=(255, 0, 51))(replace(marked(), image=torch.zeros(3, 40, 60)))
    assert floating.image[:, 49, 69].tolist() == pytest.approx([1, 0, 0.2])


def test_crops_reach_every_place():
    height, width, size = 6, 9, 4
    sample = Sample(torch.arange(54, dtype=torch.uint8).view(1, 6, 9).repeat(3, 1, 1))
    corners = {int(T.RandomCrop(size)(sample, gen(i)).image[0, 0, 0]) for i in range(400)}
    assert corners == {y * width + x for y in range(height - size + 1) for x in range(width - size + 1)}
    small = Sample(torch.ones(3, 2, 2, dtype=torch.uint8))
    starts = {tuple((T.RandomCrop(4)(small, gen(i)).image[0] == 1).nonzero()[0].tolist()) for i in range(200)}
    assert starts == {(y, x) for y in range(3) for x in range(3)}


def test_crop_avoids_windows_of_one_class():
    semantic = torch.zeros(64, 64, dtype=torch.uint8)
    semantic[:, :24] = 1
    sample = Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), semantic=semantic)
    plain = sum(len(T.RandomCrop(16)(sample, gen(i)).semantic.unique()) for i in range(60))
    varied = sum(len(T.RandomCrop(16, most=0.75)(sample, gen(i)).semantic.unique()) for i in range(60))
    assert varied > plain + 10
    ignored = replace(sample, semantic=torch.full_like(semantic, 255))
    assert T.RandomCrop(16, most=0.75)(ignored, gen()).size == (16, 16)


def test_nearest_labels_agree_with_torch_nearest_exact():
    labels = torch.randint(0, 200, (1, 37, 53), dtype=torch.uint8)
    for size in [(11, 20), (37, 53), (74, 106), (100, 31)]:
        expected = torch.nn.functional.interpolate(labels[None], size=size, mode="nearest-exact")[0]
        assert torch.equal(T.resize(size, (37, 53)).labels(labels, 255), expected)


def test_rotation_by_a_quarter_turn_is_exact():
    sample = Sample(
        torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8), semantic=torch.randint(0, 5, (12, 12), dtype=torch.uint8)
    )
    turned = T.rotate(90.0, (12, 12))(sample)
    assert torch.equal(turned.semantic, sample.semantic.rot90())
    assert torch.equal(turned.image, sample.image.rot90(dims=(1, 2)))
    assert (T.RandomRotate(45.0, p=1.0)(sample, gen(2)).semantic == 255).any()
    assert torch.equal(T.RandomRotate(45.0, p=0.0)(sample, gen(2)).semantic, sample.semantic)


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (T.flip((40, 60)), [30, 5, 50, 17]),
        (T.flip((40, 60), vertical=True), [10, 23, 30, 35]),
        (T.resize((80, 30), (40, 60)), [5, 10, 15, 34]),
        (T.window(6, 15, (20, 20), (40, 60)), [0, 0, 15, 11]),
        (T.rotate(180.0, (40, 60)), [30, 23, 50, 35]),
    ],
)
def test_boxes_without_masks_move_like_masks(move: T.Move, expected: list[float]):
    sample = marked()
    bare = replace(sample, instances=replace(sample.instances, masks=None))
    assert move(bare).instances.boxes[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert move(sample).instances.boxes[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_objects_that_leave_the_picture_are_dropped():
    sample = marked()
    away = T.window(20, 40, (20, 20), (40, 60))
    assert len(away(sample).instances) == 0
    assert len(away(replace(sample, instances=replace(sample.instances, masks=None))).instances) == 0
    assert away(sample).panoptic.segments == ()


def test_many_masks_move_in_small_portions():
    dense = torch.rand(40, 30, 30) > 0.5
    objects = Instances.from_masks(Masks.from_dense(dense), torch.ones(40, dtype=torch.int64), CLASSES)
    sample = Sample(torch.zeros(3, 30, 30, dtype=torch.uint8), instances=objects)
    assert torch.equal(T.flip((30, 30))(sample).instances.masks.dense(), dense.flip(-1))


def grey(image: Tensor) -> Tensor:
    return (image.float() * T.LUMA[:, None, None]).sum(0)


def test_colours():
    image = torch.randint(60, 190, (3, 20, 30), dtype=torch.uint8)
    same = T.adjust_color(image, 1.0, 1.0, 1.0, 0.0)
    assert torch.equal(same, image)
    assert torch.equal(
        T.adjust_color(image, 1.2, 1.0, 1.0, 0.0), (image.float() * 1.2).round().clamp(0, 255).to(torch.uint8)
    )
    flat = T.adjust_color(image, 1.0, 0.0, 1.0, 0.0).float()
    assert flat.std() < 0.01 + 1e-6
    assert abs(float(flat.mean()) - float(grey(image).mean())) < 1
    colourless = T.adjust_color(image, 1.0, 1.0, 0.0, 0.0)
    assert int(colourless.float().std(0).max()) == 0
    assert (grey(colourless) - grey(image)).abs().max() <= 1
    round_trip = T.adjust_color(T.adjust_color(image.float() / 255, 1.0, 1.0, 1.0, 0.1), 1.0, 1.0, 1.0, -0.1)
    assert (round_trip - image / 255).abs().max() < 0.05
    greys = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert torch.equal(T.adjust_color(greys, 1.0, 1.0, 1.3, 0.4), greys)


def test_hue_turns_red_towards_yellow_as_torchvision_does():
    from torchvision.transforms.v2.functional import adjust_hue

    image = torch.tensor([200, 90, 90], dtype=torch.uint8).view(3, 1, 1).repeat(1, 4, 4)
    ours, theirs = T.adjust_color(image, 1.0, 1.0, 1.0, 0.08), adjust_hue(image, 0.08)
    assert ours[1, 0, 0] > ours[2, 0, 0]
    assert theirs[1, 0, 0] > theirs[2, 0, 0]


def test_blur_agrees_with_torchvision():
    from torchvision.transforms.v2.functional import gaussian_blur

    image = torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8)
    expected = gaussian_blur(image, [5, 5], [1.0, 1.0])
    assert (T.blur(image, 1.0).int() - expected.int())[:, 4:-4, 4:-4].abs().max() <= 1
    assert torch.equal(T.RandomBlur(p=0.0)(Sample(image), gen()).image, image)
    assert torch.equal(T.ColorJitter(p=0.0)(Sample(image), gen()).image, image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.RandomScale((0.0, 1.0)), "scales is (0.0, 1.0); give two positive numbers, the smaller one first"),
        (lambda: T.RandomScale((2.0, 1.0)), "scales is (2.0, 1.0); give two positive numbers, the smaller one first"),
        (lambda: T.RandomBlur((0.0, 2.0)), "sigmas is (0.0, 2.0); give two positive numbers, the smaller one first"),
        (lambda: T.ColorJitter(contrast=1.5), "contrast is 1.5; give a number from 0 (no change) to 1"),
        (lambda: T.ColorJitter(hue=0.7), "hue is 0.7; give a number from 0 (no change) to 0.5 (any colour)"),
        (lambda: T.RandomCrop(0)(marked(), gen()), "size is 0x0; give at least 1x1 pixels"),
        (lambda: T.Resize((4, 0))(marked()), "size is 4x0; give at least 1x1 pixels"),
    ],
)
def test_wrong_settings(make, message: str):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == message


def test_collate():
    a = Sample(torch.full((3, 4, 5), 255, dtype=torch.uint8), semantic=torch.ones(4, 5, dtype=torch.uint8))
    b = Sample(torch.zeros(3, 6, 2, dtype=torch.uint8), semantic=torch.zeros(6, 2, dtype=torch.uint8))
    images, targets = collate_semantic([a, b])
    assert images.shape == (2, 3, 6, 5)
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert images[0, :, :4].eq(1).all()
    assert images[0, :, 4:].eq(0).all()
    assert (targets[0, 4:] == 255).all()
    assert (targets[1, :, 2:] == 255).all()
    floating = replace(b, image=torch.full((3, 6, 2), 0.5))
    assert collate_semantic([floating, a])[0][1, 0, 0, 0] == 1
    with pytest.raises(UserError, match="a batch without samples; check the length"):
        collate_semantic([])
    with pytest.raises(UserError, match="sample 'x' has no label map; train on a data set with masks"):
        collate_semantic([Sample(a.image, name="x")])


def test_sampler_sees_everything_once_and_resumes():
    sampler = ShuffledSampler(10, seed=3)
    first = list(sampler)
    assert sorted(d.index for d in first) == list(range(10))
    assert first == list(sampler), "iterating changes nothing"
    sampler.advance(4)
    assert list(sampler) == first[4:]
    assert len(sampler) == 6
    again = ShuffledSampler(10)
    again.load_state_dict(sampler.state_dict())
    assert list(again) == first[4:]
    again.advance(6)
    assert again.state_dict() == {"seed": 3, "epoch": 1, "position": 0, "length": 10}
    assert [d.index for d in again] != [d.index for d in first]
    assert {d.epoch for d in again} == {1}
    again.next_epoch()
    assert again.epoch == 2
    assert [d.index for d in ShuffledSampler(4, shuffle=False)] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="the state belongs to 10 samples but there are 9"):
        ShuffledSampler(9).load_state_dict(again.state_dict())
    with pytest.raises(UserError, match="there is no sample to draw from"):
        ShuffledSampler(0)
    with pytest.raises(UserError, match="rank is 2 but there are 2 processes"):
        ShuffledSampler(4, rank=2, world=2)


def test_processes_share_an_epoch():
    parts = [list(ShuffledSampler(7, rank=r, world=3)) for r in range(3)]
    assert [len(p) for p in parts] == [3, 3, 3]
    assert {d.index for part in parts for d in part} == set(range(7))
    one = ShuffledSampler(8, seed=5)
    two = ShuffledSampler(8, seed=5, rank=1, world=2)
    one.advance(4)
    two.load_state_dict(one.state_dict())
    assert list(two) == list(one)[1::2]


def test_augmentation_belongs_to_seed_epoch_and_index():
    samples = [replace(marked(), name=str(i)) for i in range(3)]
    data = Augmented(samples, T.RandomCrop(16), seed=1)
    assert len(data) == 3
    assert torch.equal(data[Draw(1, 4)].image, data[Draw(1, 4)].image)
    windows = {tuple(data[Draw(1, e)].instances.boxes.flatten().tolist()) for e in range(8)}
    assert len(windows) > 1
    assert torch.equal(data[2].image, data[Draw(2, 0)].image)
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, sampler=ShuffledSampler(3), collate_fn=lambda batch: collate_semantic(batch)
    )
    assert [b[0].shape[0] for b in loader] == [2, 1]
    assert generator_of(1, 2, 3).initial_seed() != generator_of(1, 3, 2).initial_seed()


def test_camvid_training_sample_is_cheap(single_thread: None):
    data = open_source(f"camvid:{shared('data', 'camvid')}", "train")
    train = T.Compose([T.RandomScale((0.5, 2.0)), T.RandomCrop((360, 480)), T.RandomFlip(), T.ColorJitter()])
    samples, seconds = [data[i] for i in range(4)], []
    for i in range(24):
        start = time.process_time()
        moved = train(samples[i % 4], generator_of(0, 0, i))
        seconds.append(time.process_time() - start)
        assert moved.size == (360, 480)
    median = sorted(seconds)[len(seconds) // 2]
    assert median < 0.025, f"{median * 1e3:.1f} ms"  # 3.5 ms where measured; run-time shape checks are in this figure
    assert math.isfinite(median)
