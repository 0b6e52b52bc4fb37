"""The order in which samples are seen: shuffled by seed and epoch, resumable in the middle, shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from masklet.data.transforms import Transform
from masklet.structures import Sample
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Draw:
    """Which sample, and in which epoch: together they decide its augmentation."""

    index: int
    epoch: int


def generator_of(*key: int) -> torch.Generator:
    """A random generator that belongs to some whole numbers, e.g. (seed, epoch, index), and to nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class ShuffledSampler(Sampler[Draw]):
    """Every sample once per epoch, in an order that depends only on (seed, epoch).

    Iterating starts at `position` and changes nothing, for a loader reads ahead of training; the loop calls
    `advance(n)` with the samples it has really used, of all processes together. `state_dict` is then exact.
    """

    def __init__(self, length: int, seed: int = 0, rank: int = 0, world: int = 1, shuffle: bool = True):
        if length < 1:
            raise UserError("there is no sample to draw from", hint="check the data set and its split")
        if not 0 <= rank < world:
            raise UserError(f"rank is {rank} but there are {world} processes", hint="ranks count from 0")
        self.length, self.seed, self.rank, self.world, self.shuffle = length, seed, rank, world, shuffle
        self.epoch = self.position = 0

    @property
    def total(self) -> int:
        """Draws of all processes in one epoch: the length, made divisible by repeating the first samples."""
        return -(-self.length // self.world) * self.world

    def order(self) -> list[int]:
        """The sample numbers of this epoch for all processes."""
        if self.shuffle:
            order = torch.randperm(self.length, generator=generator_of(self.seed, self.epoch)).tolist()
        else:
            order = list(range(self.length))
        return [order[i % self.length] for i in range(self.total)]

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch
        return iter([Draw(i, epoch) for i in self.order()[self.position + self.rank :: self.world]])

    def __len__(self) -> int:
        return (self.total - self.position) // self.world

    def advance(self, samples: int) -> None:
        """Note that `samples` more were used, by all processes together; the epoch changes when none is left."""
        self.position += samples
        if self.position >= self.total:
            self.next_epoch()

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch (what is left of this one is dropped)."""
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where we are; enough to go on from here."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position, "length": self.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state of `state_dict`, even with another number of processes."""
        if state["length"] != self.length:
            raise UserError(
                f"the state belongs to {state['length']} samples but there are {self.length}",
                hint="resume with the data set that the run began with",
            )
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]


@dataclass(frozen=True)
class Augmented(Dataset[Sample]):
    """A data set whose samples pass through a transform; the chance belongs to (seed, epoch, index).

    So neither the number of workers nor a resume changes what is drawn. Index with a `Draw`, or a number for epoch 0.
    """

    samples: Sequence[Sample]
    transform: Transform
    seed: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw | int) -> Sample:
        index, epoch = (draw.index, draw.epoch) if isinstance(draw, Draw) else (draw, 0)
        return self.transform(self.samples[index], generator_of(self.seed, epoch, index))
