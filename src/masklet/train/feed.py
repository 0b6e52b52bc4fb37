"""Batches that depend only on (seed, epoch, position): any number of workers, and a resumed run, see the same ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch

from masklet.data.samplers import Augmented, Draw, ShuffledSampler
from masklet.structures import Sample
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What one training step needs: tensors, lists of what has no common shape, and for messages the samples' names."""

    inputs: tuple[Any, ...]
    names: tuple[str, ...]


@runtime_checkable
class Batches(Protocol):
    """What the loop asks of what feeds it: the batches of an epoch from number `start` on, always the same ones."""

    @property
    def seed(self) -> int: ...
    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Feed:
    """A shuffled, augmented pass over `samples` per epoch, prepared ahead by `workers` threads.

    With `size` processes each batch of `batch` samples is dealt out by `rank`, so the processes together see
    exactly what one process would. The incomplete batch at the end is left out. Threads suffice: decoding and
    tensor operations release Python's lock.
    """

    samples: Sequence[Sample]
    collate: Callable[[list[Sample]], tuple[Any, ...]]
    transform: Callable[[Sample, torch.Generator], Sample] = lambda sample, generator: sample
    batch: int = 8
    seed: int = 0
    workers: int = 1
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= len(self.samples):
            raise UserError(
                f"batch is {self.batch} but there are {len(self.samples)} training samples",
                hint=f"choose a batch from 1 to {len(self.samples)}" if len(self.samples) else "check the data path",
            )
        if self.batch % self.size:
            raise UserError(
                f"batch {self.batch} cannot be divided among {self.size} processes",
                hint="make it a multiple of their number",
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.samples) // self.batch

    def order(self, epoch: int) -> list[list[int]]:
        """The sample numbers of every batch of `epoch`, as this process sees them."""
        sampler = ShuffledSampler(len(self.samples), self.seed)
        sampler.epoch = epoch
        order = sampler.order()
        return [order[i * self.batch : (i + 1) * self.batch][self.rank :: self.size] for i in range(len(self))]

    def load(self, epoch: int, indices: list[int]) -> Batch:
        """Reads, augments and collates one batch; sample `i` uses the generator (seed, epoch, i)."""
        augmented = Augmented(self.samples, self.transform, self.seed)
        samples = [augmented[Draw(i, epoch)] for i in indices]
        return Batch(tuple(self.collate(samples)), tuple(s.name for s in samples))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""
        yield from ahead_of(lambda indices: self.load(epoch, indices), self.order(epoch)[start:], self.workers)


def ahead_of(load: Callable[[Any], Batch], items: Iterable[Any], workers: int) -> Iterator[Batch]:
    """`load(item)` of each item in order, prepared ahead by `workers` threads; without any, when it is asked for."""
    todo = iter(items)
    if not workers:
        yield from map(load, todo)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "masklet-feed", initializer=torch.set_num_threads, initargs=(1,))
    try:
        ahead: deque[Future[Batch]] = deque(pool.submit(load, item) for item in islice(todo, workers + 1))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(pool.submit(load, item) for item in islice(todo, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the workers' 1 is also what new threads of this process would start with
