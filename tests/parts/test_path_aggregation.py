"""PANet's parts, followed by hand, and the size of the pyramid that mmdetection builds."""

from __future__ import annotations

import torch
from torch import nn

from masklet.models import build
from masklet.parts.path_aggregation import AllLevels, BestOfLevels, ConvsFC, FusionMaskHead, PathAggregation
from masklet.parts.pyramid import FPN, PyramidPooler, as_rois


def plain(conv: nn.Conv2d, value: float) -> None:
    """Only the middle of the filter, and of every input channel the same."""
    nn.init.zeros_(conv.weight)
    conv.weight.data[:, :, 1, 1] = value
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def test_each_level_knows_the_finer_ones():
    """One channel, constant maps 1, 10, 100: the new levels are 1, 3 (10 + 2 x 1) and 5 (100 + 2 x 30)."""
    fpn = FPN({"c3": 1, "c4": 1, "c5": 1}, {"c3": 8, "c4": 16, "c5": 32}, 1)
    paths = PathAggregation(fpn, norm=None)
    maps = {"p3": torch.full((1, 1, 8, 8), 1.0), "p4": torch.full((1, 1, 4, 4), 10.0)}
    maps |= {"p5": torch.full((1, 1, 2, 2), 100.0), "p6": torch.full((1, 1, 1, 1), 100.0)}
    paths.fpn.forward = lambda _: maps
    for down, output in zip(paths.down, paths.outputs, strict=True):
        plain(down.conv, 2.0)
        plain(output.conv, 3.0)
    out = paths({})
    assert list(out) == ["p3", "p4", "p5", "p6"]
    assert [tuple(x.shape[2:]) for x in out.values()] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert [x.unique().tolist() for x in out.values()] == [[1.0], [36.0], [516.0], [516.0]]
    for down in paths.down:
        plain(down.conv, -2.0)  # there is a ReLU behind each convolution
    assert [x.unique().tolist() for x in paths({}).values()] == [[1.0], [30.0], [300.0], [300.0]]


def test_every_box_is_read_off_every_level():
    torch.manual_seed(0)
    pyramid = {f"p{i + 2}": torch.rand(2, 3, 64 >> i, 64 >> i) for i in range(4)}
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    rois = as_rois([torch.tensor([[10.0, 20, 200, 180], [5, 5, 30, 40]]), torch.tensor([[0.0, 0, 256, 256]])])
    found = AllLevels(strides, 7)(pyramid, rois)
    assert found.shape == (3, 4, 3, 7, 7)
    one = PyramidPooler(strides, 7)
    level = one.levels(rois)
    assert level.unique().numel() > 1
    torch.testing.assert_close(found[torch.arange(3), level], one(pyramid, rois))


def test_the_largest_of_all_levels_goes_on():
    best = BestOfLevels(3, 32, 32)
    x = torch.randn(2, 3, 32, 5, 5)
    each = torch.stack([level(x[:, i]) for i, level in enumerate(best.levels)])
    torch.testing.assert_close(best(x), each.amax(0))
    alone = BestOfLevels(1, 32, 32)
    torch.testing.assert_close(alone(x[:, :1]), alone.levels[0](x[:, 0]))
    assert ConvsFC(3, 32, 5, hidden=7)(x).shape == (2, 7)


def test_masks_of_classes_and_of_any_object_are_added():
    torch.manual_seed(0)
    head, x = FusionMaskHead(2, 8, 3, width=8, side=4), torch.randn(5, 2, 8, 4, 4)
    both = head(x)
    assert both.shape == (5, 3, 8, 8)
    nn.init.zeros_(head.predictor.weight)
    of_object = head(x)
    assert torch.equal(of_object, of_object[:, :1].expand(-1, 3, -1, -1))
    nn.init.zeros_(head.fc.weight)
    assert not head(x).any()
    assert not torch.allclose(both, of_object)


def test_as_many_numbers_as_mmdetections_pafpn():
    """45,293,536 of its Faster R-CNN with PAFPN (no norms), 41,753,056 without; batch norms count there."""
    with torch.device("meta"):
        net = build("faster_rcnn", norm="batch")
        count = sum(p.numel() for p in net.parameters())
        paths = PathAggregation(net.fpn, norm=None)
    assert count == 41_753_056
    assert count + sum(p.numel() for part in (paths.down, paths.outputs) for p in part.parameters()) == 45_293_536
