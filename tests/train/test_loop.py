from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from masklet.data.collate import collate_semantic
from masklet.structures import Sample
from masklet.train.checkpoint import Progress
from masklet.train.feed import Feed
from masklet.train.loop import fit, groups, one_pass
from toy import Squares, augment, make, pixel_accuracy


def losses(t, **options):
    return [r["loss"] for kind, r in fit(t, **options) if kind == "step"]


def test_learns_and_keeps_the_best():
    t, kept = make(epochs=8), []
    events = list(
        fit(
            t,
            epochs=8,
            validate=pixel_accuracy,
            monitor="accuracy",
            save_best=lambda s: kept.append((t.progress.epoch, s["accuracy"])),
        )
    )
    epochs = [r for kind, r in events if kind == "epoch"]
    assert len(epochs) == 8
    assert len(events) == 8 + 8 * 4
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    assert kept[-1] == (t.progress.best_epoch, max(r["accuracy"] for r in epochs))
    assert t.progress.finished == "all 8 epochs are done"
    steps = [r["loss"] for kind, r in events if kind == "step"]
    assert epochs[0]["loss"] == pytest.approx(sum(steps[:4]) / 4)
    assert not list(fit(t, epochs=8)), "a finished training does nothing"


def test_accumulation_is_the_bigger_batch():
    """Without norms, two batches of 3 give the gradient of one batch of 6 (equal numbers of pixels)."""
    one, two = make(norm=False, batch=6, ema=0), make(norm=False, batch=3, ema=0)
    a = next(iter(one_pass(one)))
    b = next(iter(one_pass(two, accumulate=2)))
    assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    assert (two.progress.step, two.progress.batch) == (1, 2)
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


def test_clip_bounds_the_gradient():
    t = make(ema=0)
    record = next(iter(one_pass(t, clip=1e-3)))
    assert record["grad_norm"] > 1e-2, "the norm is reported as it was"
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in t.model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_worker_count_changes_nothing():
    assert losses(make(workers=0), epochs=2) == losses(make(workers=3), epochs=2)


def test_nan_loss_names_the_files():
    def spoil(sample: Sample, generator: torch.Generator) -> Sample:
        return replace(sample, image=sample.image * (math.nan if sample.name == "square7" else 1))

    t = make()
    t.feed = Feed(Squares(), collate_semantic, spoil, batch=6, workers=0)
    with pytest.raises(ValueError, match=r"the loss became nan at step \d on (square\d+, )*square7") as error:
        losses(t, epochs=1)
    assert "lower the learning rate" in str(error.value)


def test_early_stop():
    t = make(epochs=50)
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    list(fit(t, epochs=50, validate=lambda m: {"miou": next(scores)}, patience=2))
    assert t.progress.epoch == 4
    assert (t.progress.best, t.progress.best_epoch) == (0.5, 2)
    assert t.progress.finished == "miou has not improved since epoch 2"


def test_lower_can_be_better_and_validation_can_be_rare():
    t, scores = make(epochs=5), iter([3.0, 2.0, 4.0])
    records = [
        r
        for kind, r in fit(
            t,
            epochs=5,
            validate=lambda m: {"error": next(scores)},
            monitor="error",
            higher_is_better=False,
            validate_every=2,
        )
        if kind == "epoch"
    ]
    assert [r.get("error") for r in records] == [None, 3.0, None, 2.0, 4.0]
    assert (t.progress.best, t.progress.best_epoch) == (2.0, 4)


def test_unknown_monitor():
    with pytest.raises(ValueError, match="cannot monitor 'miuo'; choose from accuracy"):
        list(fit(make(), epochs=1, validate=pixel_accuracy, monitor="miuo"))


def test_time_budget_saves_and_returns():
    t, saves = make(epochs=5), []
    events = list(fit(t, epochs=5, stop_seconds=0.0, save_last=lambda: saves.append(t.progress.step)))
    assert [kind for kind, _ in events] == ["step"]
    assert saves == [1]
    assert t.progress == Progress(batch=1, step=1, seconds=t.progress.seconds, sums=t.progress.sums)


def test_groups():
    assert list(groups(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_augmentation_sees_each_epoch_differently():
    feed = Feed(Squares(), collate_semantic, augment, batch=6, workers=0)
    first, again, second = (list(feed.epoch(e)) for e in (0, 0, 1))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(first, again, strict=True))
    assert [b.names for b in first] != [b.names for b in second]
