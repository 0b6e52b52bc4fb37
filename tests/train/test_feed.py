from __future__ import annotations

import pytest
import torch

from masklet.data.collate import collate_semantic
from masklet.train.feed import Feed
from toy import Squares, augment


def feed(**options) -> Feed:
    return Feed(Squares(), collate_semantic, augment, **{"batch": 6, "workers": 2, **options})


def test_every_sample_once_an_epoch():
    names = [n for b in feed().epoch(0) for n in b.names]
    assert sorted(names) == sorted(f"square{i}" for i in range(24))


def test_starting_in_the_middle_gives_the_same_batches():
    whole, rest = list(feed().epoch(3)), list(feed(workers=0).epoch(3, start=2))
    assert len(whole) == len(feed()) == 4
    for a, b in zip(whole[2:], rest, strict=True):
        assert a.names == b.names
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


def test_processes_share_a_batch():
    whole = feed(workers=0).order(1)
    parts = [feed(workers=0, rank=r, size=2).order(1) for r in range(2)]
    for batch, a, b in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(a + b)
        assert len(a) == len(b) == 3


def test_an_error_in_a_thread_arrives():
    def broken(sample, generator):
        raise ValueError(f"{sample.name} is damaged")

    with pytest.raises(ValueError, match=r"square\d+ is damaged"):
        list(Feed(Squares(), collate_semantic, broken, batch=4).epoch(0))


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    batches = feed().epoch(0)
    next(batches)
    batches.close()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 25}, "batch is 25 but there are 24 training samples; choose a batch from 1 to 24"),
        ({"batch": 0}, "batch is 0 but there are 24 training samples; choose a batch from 1 to 24"),
        ({"samples": [], "batch": 1}, "batch is 1 but there are 0 training samples; check the data path"),
        ({"batch": 5, "size": 2}, "batch 5 cannot be divided among 2 processes; make it a multiple of their number"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Feed(**{"samples": Squares(), "collate": collate_semantic, **options})
