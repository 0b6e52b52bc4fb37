"""Drawn clips: the same for the same number, moving, and masked where they are."""

from __future__ import annotations

import re

import pytest
import torch

from masklet.data.moving import MovingShapes
from masklet.structures.errors import UserError


def test_clips_are_drawn_from_their_number() -> None:
    data = MovingShapes(clips=12)
    clips = [data[i] for i in range(len(data))]
    assert all(clip.frames.shape == (8, 3, 64, 64) and clip.masks.shape[1:] == (8, 64, 64) for clip in clips)
    again = MovingShapes(clips=3)[2]
    assert torch.equal(again.frames, clips[2].frames)
    assert torch.equal(again.masks, clips[2].masks)
    assert not torch.equal(MovingShapes(split="val")[2].frames, again.frames)
    assert sum(bool((clip.masks[:, 0] != clip.masks[:, -1]).any()) for clip in clips) > 8  # most of them move
    assert all(clip.masks[:, 0].flatten(1).any(1).all() for clip in clips)
    assert all((clip.masks.sum(0) <= 1).all() for clip in clips)  # what is in front hides what is behind
    assert len(data[:5]) == 5
    with pytest.raises(IndexError):
        data[12]


def test_mistakes() -> None:
    with pytest.raises(UserError, match="^" + re.escape("unknown split 'tests'; choose from train, val, test") + "$"):
        MovingShapes(split="tests")
    with pytest.raises(UserError, match="^" + re.escape("clips are cut off at the end only; use [:count]") + "$"):
        MovingShapes()[2:5]
