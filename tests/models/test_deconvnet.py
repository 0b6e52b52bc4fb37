"""DeconvNet: the layer table of the published net, switches, and proposals that vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import masklet
from masklet.metrics.semantic import SemanticScore
from masklet.models import build
from masklet.models.deconvnet import DeconvNormAct, largest_proposals, whole_pixels
from masklet.structures.errors import UserError


@pytest.fixture(scope="module")
def small():
    return build("deconvnet", num_classes=3, side=32, hidden=8).eval()


def test_layer_table():
    """Noh et al. 2015, table 2 of the supplement: kernels and channels of the mirrored half, and all parameters."""
    with torch.device("meta"):
        net = build("deconvnet")
    assert sum(p.numel() for p in net.parameters()) == 251_805_653
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert 251_805_653 - norms == 251_772_245
    table = [
        (m.conv.in_channels, m.conv.out_channels, m.conv.kernel_size[0])
        for m in net.modules()
        if isinstance(m, DeconvNormAct)
    ]
    assert table == [
        (4096, 512, 7),
        *[(512, 512, 3)] * 3,
        *[(512, 512, 3)] * 2,
        (512, 256, 3),
        *[(256, 256, 3)] * 2,
        (256, 128, 3),
        (128, 128, 3),
        (128, 64, 3),
        *[(64, 64, 3)] * 2,
    ]


def test_the_way_back_is_torchs(small):
    """Against nn.MaxUnpool2d with the indices of F.max_pool2d, layer by layer."""
    x = torch.randn(2, 3, 40, 50)
    with torch.inference_mode():
        got = small.scores(x)
        y, kept = F.interpolate(small.normalize(x), (32, 32), mode="bilinear"), []
        for layer in small.encoder.features:
            if isinstance(layer, nn.MaxPool2d):
                y, where = F.max_pool2d(y, 2, return_indices=True)
                kept.append(where)
            else:
                y = layer(y)
        y = small.unfc(small.fc(y))
        assert y.shape == (2, 512, 1, 1)
        for stage, where in zip(small.decoder, reversed(kept), strict=True):
            y = stage(F.max_unpool2d(y, where, 2))
        torch.testing.assert_close(small.classifier(y), got)
    assert got.shape == (2, 3, 32, 32)


def test_highest_score_wins_by_hand(small, monkeypatch):
    monkeypatch.setattr(small, "scores", lambda crops: crops - 0.5)  # stands for the net: colours are scores
    monkeypatch.setattr(small, "side", 4)  # so that boxes of 4x4 are neither stretched nor squeezed
    image = torch.full((1, 3, 8, 8), 0.6)
    image[:, 1, :, 4:] = 0.9
    image[:, 2] = 0.1
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [4.0, 0.0, 8.0, 4.0]])
    scores = small.aggregate(image, boxes)[0]
    torch.testing.assert_close(scores[:, 0, 0], torch.tensor([0.1, 0.1, 0.0]))  # the other boxes say 0 here
    torch.testing.assert_close(scores[:, 0, 5], torch.tensor([0.1, 0.4, 0.0]))
    assert not scores[:, 4:].any()  # no box at all
    alone = small.aggregate(image, boxes[:1] + torch.tensor([0.0, 0.0, 4.0, 4.0]))[0]  # one box over everything
    assert alone[2].max() < 0
    assert not small.aggregate(image, boxes[:0]).any()
    assert small.predict(image, boxes).labels[0].tolist() == [0] * 4 + [1] * 4


def test_proposals_are_the_loop_over_them(small):
    """Many overlapping boxes, more than one batch of them, against one pasted map after the other."""
    rng = np.random.default_rng(0)
    corner = torch.from_numpy(rng.uniform(-4, 30, (11, 2))).float()
    boxes = torch.cat([corner, corner + torch.from_numpy(rng.uniform(3, 30, (11, 2))).float()], 1)
    image = torch.rand(1, 3, 37, 45)
    pasted = []
    with torch.inference_mode():
        for x0, y0, x1, y1 in whole_pixels(boxes, 37, 45):
            crop = F.interpolate(image[:, :, y0:y1, x0:x1], (32, 32), mode="bilinear")
            mine = torch.zeros(1, 3, 37, 45)
            mine[:, :, y0:y1, x0:x1] = F.interpolate(small.scores(crop), (y1 - y0, x1 - x0), mode="bilinear")
            pasted.append(mine)
        want = torch.cat(pasted).amax(0)
        torch.testing.assert_close(small.aggregate(image, boxes)[0], want)
        both = small.predict([image[0], image[0]], [boxes, boxes[:1]])
        assert (both[0].labels.long() == want.argmax(0)).float().mean() > 0.999
    assert len(both) == 2
    with pytest.raises(UserError, match="1 sets of proposals for 2 images; give one set for each"):
        small.predict([image[0], image[0]], boxes)


def test_boxes():
    boxes = torch.tensor([[1.2, 2.0, 3.1, 4.0], [-5.0, -5.0, -1.0, -1.0], [8.0, 8.0, 99.0, 99.0]])
    assert whole_pixels(boxes, 10, 12) == [[1, 2, 4, 4], [8, 8, 12, 10]]
    sizes = torch.tensor([[0, 0, 200, 111], [0, 0, 112, 112], [5, 5, 300, 300], [0, 0, 400, 400]]).float()
    assert torch.equal(largest_proposals(sizes, most=2), sizes[1:3])
    with pytest.raises(UserError, match="side is 100; give a multiple of 32, as 224"):
        build("deconvnet", side=100)


def test_starts_from_torchvisions_vgg():
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn(weights=None).state_dict()
        net = masklet.load("deconvnet", weights=theirs, fresh=r"fc\.fc.\.norm.*|unfc.*|decoder.*|classifier.*")
        assert net.fc.fc6.conv.weight.shape == (4096, 512, 7, 7)
        with pytest.raises(UserError, match=r"the state dict is not a deconvnet|the state dict lacks \d+ tensors"):
            masklet.load("deconvnet", weights=theirs)


@pytest.mark.slow
def test_learns_two_crops():
    """Two drinks, 64x64: mIoU over .98 in at most 150 steps."""
    from masklet.data.synthetic import synthetic

    torch.manual_seed(0)
    samples = synthetic("drinks", size=64)[:2]
    images = torch.stack([sample.image for sample in samples]) / 255
    targets = torch.stack([sample.semantic for sample in samples]).long()
    net = build("deconvnet", classes=list(samples.classes.names), side=64, hidden=64)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _step in range(150):
        loss = sum(net.train().loss(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    score = SemanticScore(net.classes)
    for result, target in zip(net.predict(images), targets, strict=True):
        score.update(result.labels, target)
    assert score.compute()["miou"] > 0.98
