"""The training loop: one pass that yields its losses, and around it validation, checkpoints and stopping.

The loop knows no task. Things it needs come as arguments, things it makes it yields.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from masklet.data.samplers import generator_of
from masklet.structures.errors import UserError
from masklet.train.checkpoint import Progress, Record
from masklet.train.distributed import Team
from masklet.train.ema import Ema
from masklet.train.feed import Batches
from masklet.train.schedule import Schedule, set_lr

T = TypeVar("T")


@dataclass
class Training:
    """The parts that change while training. `step(*inputs)` returns named losses; their sum is minimised."""

    model: nn.Module
    step: nn.Module  # what runs the model on a batch; wrapped for several processes
    feed: Batches
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: Ema | None = None
    team: Team = field(default_factory=Team)
    progress: Progress = field(default_factory=Progress)

    @property
    def averaged(self) -> nn.Module:
        """The model to validate and to keep."""
        return self.model if self.ema is None else self.ema.model


def one_pass(
    t: Training,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[Record]:
    """The rest of the current epoch; yields losses, lr and gradient norm after every optimizer step.

    Randomness inside the model (dropout) depends on (seed, step, process) alone, as the batches do on the epoch.
    """
    done = t.progress
    parameters = [p for group in t.optimizer.param_groups for p in group["params"]]
    t.step.train()
    for batches in groups(t.feed.epoch(done.epoch, start=done.batch), accumulate):
        torch.manual_seed(generator_of(t.feed.seed, done.step, t.team.rank).initial_seed())
        t.optimizer.zero_grad(set_to_none=True)
        record: Record = {}
        for batch in batches:
            with autocast():
                losses = t.step(*(_moved(x, t.team.device) for x in batch.inputs))
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            if not total.isfinite():
                raise UserError(
                    f"the loss became {total.item()} at step {done.step + 1} on {', '.join(batch.names)}",
                    hint="check these files, lower the learning rate, or clip the gradients",
                )
            (total / len(batches)).backward()
            named = {"loss": total} | ({f"loss/{k}": v for k, v in losses.items()} if len(losses) > 1 else {})
            for name, loss in named.items():
                record[name] = record.get(name, 0.0) + loss.item() / len(batches)
        record["grad_norm"] = nn.utils.clip_grad_norm_(parameters, clip or math.inf).item()
        set_lr(t.optimizer, t.schedule(done.step))
        t.optimizer.step()
        if t.ema is not None:
            t.ema.update(t.model, done.step)
        done.step += 1
        done.batch += len(batches)
        for name, value in (*record.items(), ("steps", 1)):
            done.sums[name] = done.sums.get(name, 0) + value
        yield {"step": done.step, "epoch": done.epoch + 1, "lr": t.optimizer.param_groups[0]["lr"], **record}


def fit(
    t: Training,
    *,
    epochs: int,
    validate: Callable[[nn.Module], Mapping[str, int | float]] | None = None,
    save_last: Callable[[], None] = lambda: None,
    save_best: Callable[[Mapping[str, int | float]], None] = lambda scores: None,
    monitor: str = "miou",
    higher_is_better: bool = True,
    validate_every: int = 1,
    patience: int = 0,
    save_every: int = 0,
    save_seconds: float = 120.0,
    stop_seconds: float = math.inf,
    **options: Any,
) -> Iterator[tuple[Literal["step", "epoch"], Record]]:
    """Trains up to `epochs`, from wherever `t.progress` stands; yields ("step", losses) and ("epoch", record).

    `validate` scores the (averaged) model every `validate_every` epochs and after the last one; `save_best` is called
    when `monitor` improves, and after `patience` validations without improvement training ends (0: never).
    `save_last` is called after each epoch, every `save_every` steps and every `save_seconds`; and when `stop_seconds`
    of this sitting are over, before the function returns. `options` go to `one_pass`.
    """
    done, began = t.progress, time.monotonic()
    sitting = saved = began
    while done.epoch < epochs and not done.finished:
        for record in one_pass(t, **options):
            now = time.monotonic()
            done.seconds, began = done.seconds + now - began, now
            yield "step", record
            out_of_time = t.team.agree(float(now - sitting > stop_seconds)) > 0
            if t.team.leads and (
                out_of_time or now - saved > save_seconds or (save_every and done.step % save_every == 0)
            ):
                save_last()
                saved = now
            if out_of_time:
                return
        sums, steps = done.sums, done.sums.get("steps", 1)
        entry: Record = {"epoch": done.epoch + 1, "step": done.step, "lr": t.optimizer.param_groups[0]["lr"]}
        entry |= {name: value / steps for name, value in sums.items() if name != "steps"}
        done.epoch, done.batch, done.sums = done.epoch + 1, 0, {}
        if validate is not None and (done.epoch % validate_every == 0 or done.epoch == epochs):
            scores = dict(validate(t.averaged)) if t.team.leads else {}
            if t.team.leads and monitor not in scores:
                raise UserError(f"cannot monitor {monitor!r}", hint=f"choose from {', '.join(scores)}")
            score = t.team.agree(scores.get(monitor, 0.0))
            entry |= scores
            if done.best is None or (score > done.best if higher_is_better else score < done.best):
                done.best, done.best_epoch = score, done.epoch
                if t.team.leads:
                    save_best(scores)
            elif patience and done.epoch - done.best_epoch >= patience * validate_every:
                done.finished = f"{monitor} has not improved since epoch {done.best_epoch}"
        now = time.monotonic()
        done.seconds, began = done.seconds + now - began, now
        done.history.append({**entry, "seconds": round(done.seconds, 1)})
        if done.epoch == epochs:
            done.finished = done.finished or f"all {epochs} epochs are done"
        if t.team.leads:
            save_last()
            saved = now
        yield "epoch", done.history[-1]


def _moved(values: Any, device: torch.device) -> Any:
    """A tensor on the device; what is no tensor (lists of objects) stays, and the model moves what it needs of it."""
    return values.to(device, non_blocking=True) if isinstance(values, torch.Tensor) else values


def groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`; the last may be shorter."""
    items = iter(items)
    while group := list(islice(items, size)):
        yield group
