from __future__ import annotations

import pytest
import torch
from torch import nn

from masklet.data.collate import collate_semantic
from masklet.train.ema import Ema
from masklet.train.optim import build_optimizer, parameter_groups
from masklet.train.schedule import build_schedule, constant, cosine, one_cycle, poly, set_lr, warm_up
from toy import Squares, Step, net


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)


def test_groups_by_learning_rate_and_decay():
    model = Net()
    groups = parameter_groups(model, 1.0, 0.1, {r"backbone\.": 0.1})
    found = {(g["lr"], g["weight_decay"]): [p.shape for p in g["params"]] for g in groups}
    assert found == {
        (0.1, 0.1): [model.backbone.weight.shape],
        (0.1, 0.0): [model.backbone.bias.shape],
        (1.0, 0.0): [model.norm.weight.shape, model.norm.bias.shape, model.head.bias.shape],
        (1.0, 0.1): [model.head.weight.shape],
    }


def test_factor_zero_freezes():
    model = Net()
    groups = parameter_groups(model, 1.0, 0.0, {"backbone": 0.0})
    assert not model.backbone.weight.requires_grad
    assert sum(len(g["params"]) for g in groups) == 4


def test_mistakes():
    with pytest.raises(ValueError, match="no parameter matches the lr factor 'bakbone'; names look like backbone"):
        parameter_groups(Net(), 1.0, 0.0, {"bakbone": 0.1})
    with pytest.raises(ValueError, match="no parameter is left to train"):
        parameter_groups(Net(), 1.0, 0.0, {".*": 0.0})
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamww'; did you mean 'adamw'\?"):
        build_optimizer("adamww", Net(), 1.0)
    with pytest.raises(ValueError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        build_schedule("cosin", 10)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_channels_last_weights_train_like_plain_ones(name):
    """The fused kernels walk memory in order; states and gradients must lie as the weights do."""
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = net(norm=False).to(memory_format=memory_format)
        step, optimizer = Step(model), build_optimizer(name, model, 0.01, 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step(*collate_semantic(list(Squares(4))))["loss"].backward()
            optimizer.step()
        results.append(list(model.parameters()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_schedules_by_hand():
    assert [constant(4)(s) for s in (0, 9)] == [1, 1]
    assert poly(100)(0) == 1
    assert poly(100)(50) == pytest.approx(0.5**0.9)
    assert poly(100)(100) == 0
    assert [cosine(100)(s) for s in (0, 50, 100, 200)] == pytest.approx([1, 0.5, 0, 0])
    assert [cosine(100, floor=0.2)(s) for s in (0, 50, 100)] == pytest.approx([1, 0.6, 0.2])
    warm = warm_up(constant(10), 4, start=0.2)
    assert [warm(s) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_one_cycle_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=101, cycle_momentum=False)
    ours = one_cycle(100)
    for step in range(100):
        # torch's rise ends at step 0.3 * 101 - 1 = 29.3, ours at 30: equal at the same phase
        reference_factor = optimizer.param_groups[0]["lr"]
        assert ours(step) == pytest.approx(reference_factor, abs=0.04)
        optimizer.step()
        reference.step()
    assert ours(0) == pytest.approx(1 / 25)
    assert ours(30) == pytest.approx(1)
    assert ours(100) == pytest.approx(1e-4 / 25)


def test_set_lr_keeps_the_ratio_of_groups():
    optimizer = build_optimizer("sgd", Net(), 0.1, 0.0, factors={"backbone": 0.5})
    set_lr(optimizer, build_schedule("cosine", 10, warm_up_steps=2)(5))
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.05])


def test_ema_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 0.0)
    ema = Ema(model, decay=0.5)
    nn.init.constant_(model[0].weight, 1.0)
    model[1].running_mean.fill_(2.0)
    model[1].num_batches_tracked.fill_(7)
    ema.update(model, step=0)  # decay (1 + 0) / (10 + 0) = 0.1
    assert ema.model[0].weight.item() == pytest.approx(0.9)
    assert ema.model[1].running_mean.item() == pytest.approx(1.8)
    assert ema.model[1].num_batches_tracked.item() == 7
    ema.update(model, step=1000)  # decay 0.5
    assert ema.model[0].weight.item() == pytest.approx(0.95)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
