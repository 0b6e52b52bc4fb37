"""A training small enough for tests: coloured squares, a net with batch norm and dropout. Also a program:

python toy.py OUT --epochs 5 --kill-at 10    trains into OUT and kills itself (SIGKILL) after that step; again: resumes
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from masklet.data.collate import collate_semantic
from masklet.data.transforms import RandomFlip
from masklet.structures import Sample
from masklet.train.checkpoint import load_last, save_last
from masklet.train.distributed import Team, team
from masklet.train.ema import Ema
from masklet.train.feed import Feed
from masklet.train.log import StepLog
from masklet.train.loop import Training, fit
from masklet.train.optim import build_optimizer
from masklet.train.schedule import build_schedule


class Squares(Sequence):
    def __init__(self, count: int = 24, size: int = 16):
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        g = torch.Generator().manual_seed(index)
        image, target = torch.rand(3, self.size, self.size, generator=g) / 2, torch.zeros(self.size, self.size).long()
        y, x = torch.randint(0, self.size // 2, (2,), generator=g).tolist()
        image[:, y : y + 6, x : x + 6] += 0.5
        target[y : y + 6, x : x + 6] = 1
        return Sample(image, f"square{index}", target)


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    noise = torch.rand(sample.image.shape, generator=generator) / 10
    return RandomFlip()(replace(sample, image=sample.image + noise), generator)


def net(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1)] if norm else [nn.Tanh()]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, nn.Conv2d(8, 2, 1)).to(
        memory_format=torch.channels_last
    )


class Step(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.model(images), targets)}


def pixel_accuracy(model: nn.Module) -> dict[str, float]:
    images, targets = collate_semantic(list(Squares(6)))
    with torch.inference_mode():
        return {"accuracy": (model.eval()(images).argmax(1) == targets).float().mean().item()}


def make(
    epochs: int = 5,
    batch: int = 6,
    workers: int = 2,
    optimizer: str = "adamw",
    ema: float = 0.9,
    norm: bool = True,
    crew: Team | None = None,
    lr: float = 0.02,
) -> Training:
    crew, model = crew or Team(), net(norm)
    feed = Feed(Squares(), collate_semantic, augment, batch=batch, workers=workers, rank=crew.rank, size=crew.size)
    return Training(
        model,
        crew.wrap(Step(model)),
        feed,
        build_optimizer(optimizer, model, lr, weight_decay=0.01),
        build_schedule("poly", epochs * len(feed), warm_up_steps=3),
        ema=Ema(model, ema) if ema else None,
        team=crew,
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--gradients", action="store_true", help="one step without norm; write the gradients")
    arguments = parser.parse_args(words)
    with team("cpu") as crew:
        arguments.out.mkdir(parents=True, exist_ok=True)
        if arguments.gradients:
            t = make(crew=crew, norm=False, ema=0, lr=0.1, optimizer="sgd")
            for _kind, record in fit(t, epochs=1, validate=pixel_accuracy, monitor="accuracy"):
                if record["step"] == 2:
                    break
            if crew.leads:
                save_file(
                    {n: p.grad.contiguous() for n, p in t.model.named_parameters()}, arguments.out / "grad.safetensors"
                )
                save_file(
                    {n: p.detach().contiguous() for n, p in t.model.named_parameters()},
                    arguments.out / "weights.safetensors",
                )
            return
        t, last = make(arguments.epochs, crew=crew), arguments.out / "last.safetensors"
        if last.exists():
            t.progress = load_last(last, t.model, t.optimizer, t.ema)
        log = StepLog(arguments.out / "steps.csv", t.progress.step)
        for kind, record in fit(
            t,
            epochs=arguments.epochs,
            validate=pixel_accuracy,
            monitor="accuracy",
            save_every=3,
            accumulate=1,
            clip=1.0,
            save_last=lambda: save_last(last, t.model, t.optimizer, t.progress, t.ema),
        ):
            if kind == "step":
                log.write(record)
                if record["step"] == arguments.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        log.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
