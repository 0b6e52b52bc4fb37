"""Clips of anything that has masks, for promptable models: videos as they are, and photographs that are made to move.

    mixture = Mixture([Share(open_source("davis:DAVIS")), Share(open_source("pets:pets"), 0.5)], size=(512, 512))
    clip = mixture.draw(frames=8, generator=torch.Generator().manual_seed(0))

What counts as an object says `masklet.data.objects`. A window onto the picture, sometimes all of it and sometimes close
around an object, drifts, turns and zooms from frame to frame; objects cut from other pictures move in front of it on
ways of their own (pseudo-motion as Perazzi et al., MaskTrack, 2017, and Oh et al., STM, 2019, train on). Windows are
stretched to the size of the clip, as SAM 2 sees its images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from masklet.data.objects import objects_in
from masklet.data.transforms import adjust_color, draw
from masklet.data.videos import Videos
from masklet.structures import Classes, Clip, Instances, Masks, Sample
from masklet.structures.errors import UserError

__all__ = ["Mixture", "Share"]

if TYPE_CHECKING:
    Data = Sequence[Sample]
else:
    Data = Sequence  # the bare class: run-time type checks would open a random sample to see what it is

TINY = 36  # pixels of an object in the first frame of a clip
TRIES = 20
FILL = (124, 116, 104)  # what lies outside a picture: ImageNet's mean colour


@dataclass(frozen=True)
class Share:
    """One data set of a mixture; `weight` says how often it is drawn, `whole` how often pictures are seen whole."""

    data: Data
    weight: int | float = 1.0
    whole: int | float = 0.5


@dataclass(frozen=True)
class Window:
    """A rotated rectangle of a picture: its middle, half extents (negative: mirrored) and angle."""

    x: int | float
    y: int | float
    half_width: int | float
    half_height: int | float
    angle: int | float = 0.0

    def corners(self) -> Float[Tensor, "2 3"]:
        """From output coordinates in [-1, 1] to pixels."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return torch.tensor(
            [
                [c * self.half_width, -s * self.half_height, self.x],
                [s * self.half_width, c * self.half_height, self.y],
            ]
        )


class Mixture:
    """Clips drawn at random from several data sets.

    `size` is (height, width) of the clips, `objects` the most that one has. `pasted` is the probability that objects of
    another picture move in front, `close` the range of window sides around an object in terms of its own.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        size: tuple[int, int] = (512, 512),
        objects: int = 3,
        pasted: float = 0.4,
        close: tuple[float, float] = (1.2, 5.0),
        jitter: float = 0.3,
    ) -> None:
        if not shares or not all(share.data for share in shares):  # to count a film's frames takes reading its masks
            empty = [i for i, share in enumerate(shares) if not share.data]
            message = f"share {empty[0]} of the mixture is empty" if empty else "a mixture of nothing"
            raise UserError(message, hint="check paths and splits")
        self.shares, self.size, self.objects = tuple(shares), size, objects
        self.pasted, self.close, self.jitter = pasted, close, jitter
        self.weights = torch.tensor([share.weight for share in shares])
        self.stills = [i for i, share in enumerate(self.shares) if not isinstance(share.data, Videos)]

    def draw(self, frames: int, generator: torch.Generator) -> Clip:
        """A clip of `frames` frames whose objects are all to be seen in the first one."""
        for _ in range(TRIES):
            share = self.shares[int(torch.multinomial(self.weights, 1, generator=generator))]
            moving = isinstance(share.data, Videos) and frames > 1
            clip = self._of_video(share, frames, generator) if moving else self._of_still(share, frames, generator)
            if clip is None:
                continue
            if self.stills and draw(generator) < self.pasted:
                clip = self._with_mover(clip, generator)
            clip = _visible(clip, self.objects)
            if len(clip.masks):
                return Clip(self._coloured(clip.frames, generator), clip.masks, clip.name, clip.known)
        raise UserError(f"no object in {TRIES} pictures", hint="do the data sets have masks?")

    def _of_still(self, share: Share, frames: int, generator: torch.Generator) -> Clip | None:
        sample = share.data[_below(len(share.data), generator)]
        found = objects_in(divided(sample), generator)
        if not len(found):
            return None
        first = found[[_below(len(found), generator)]]
        start = self._window(first.boxes()[0], sample.size, share.whole, generator)
        seen = [i for i, box in enumerate(found.boxes()) if _meets(start, box)]
        order = torch.randperm(len(seen), generator=generator).tolist()
        masks = found[[seen[i] for i in order[: 2 * self.objects]]].dense()
        track = _track(start, frames, generator)
        images, moved = _through(_bytes(sample.image), torch.cat([first.dense(), masks]), track, self.size)
        return Clip(images, moved, sample.name)

    def _of_video(self, share: Share, frames: int, generator: torch.Generator) -> Clip | None:
        assert isinstance(share.data, Videos)
        video = share.data.videos[_below(len(share.data.videos), generator)]
        numbers = video.annotated
        if len(numbers) < 2:
            clip = video.clip(numbers)
            still = Sample(clip.frames[0], instances=_alone(clip.masks[:, 0], share.data.classes), name=clip.name)
            return self._of_still(Share([still], 1.0, share.whole), frames, generator)
        stride = 1 + _below(max(1, min(4, (len(numbers) - 1) // max(frames - 1, 1))), generator)
        span = min((frames - 1) * stride, len(numbers) - 1)
        begin = _below(len(numbers) - span, generator)
        places = [min(begin + i * stride, len(numbers) - 1) for i in range(frames)]
        clip = video.clip([numbers[i] for i in (places[::-1] if draw(generator) < 0.5 else places)])
        if not (here := clip.masks[:, 0].flatten(1).any(1)).any():
            return None
        masks = clip.masks[here]
        around = Masks.from_dense(masks[:, :: max(frames - 1, 1)].any(1)).boxes()
        start = self._window(around[_below(len(around), generator)], clip.size, share.whole, generator)
        track = _track(start, frames, generator, calm=0.25)
        moved = [_through(clip.frames[t], masks[:, t], [track[t]], self.size) for t in range(frames)]
        return Clip(torch.cat([i for i, _ in moved]), torch.cat([m for _, m in moved], 1), clip.name)

    def _with_mover(self, clip: Clip, generator: torch.Generator) -> Clip:
        """The clip with an object of another picture in front, on a way of its own."""
        share = self.shares[self.stills[_below(len(self.stills), generator)]]
        sample = share.data[_below(len(share.data), generator)]
        found = objects_in(divided(sample), generator)
        if not len(found):
            return clip
        one = found[[_below(len(found), generator)]]
        x0, y0, x1, y1 = one.boxes()[0].tolist()
        longest = max(x1 - x0, y1 - y0)
        if longest < 16:
            return clip
        half = longest / (2 * draw(generator, 0.15, 0.6))  # so that the object takes 15 to 60 % of a side
        mirror = 1 if draw(generator) < 0.5 else -1
        x, y = ((a + b) / 2 + half * draw(generator, -0.8, 0.8) for a, b in ((x0, x1), (y0, y1)))
        track = _track(Window(x, y, mirror * half, half, draw(generator, -0.3, 0.3)), len(clip), generator, calm=2.0)
        images, mask = _through(_bytes(sample.image), one.dense(), track, self.size)
        soft = F.avg_pool2d(mask[0].float()[:, None], 3, 1, 1)  # a hard edge would give the object away
        frames = torch.lerp(clip.frames.float(), images.float(), soft).round_().to(torch.uint8)
        return Clip(frames, torch.cat([mask, clip.masks & ~mask]), clip.name)

    def _window(
        self, box: Float[Tensor, " 4"], size: tuple[int, int], whole: float, generator: torch.Generator
    ) -> Window:
        """All of the picture, or a part around an object."""
        height, width = size
        mirror = 1 if draw(generator) < 0.5 else -1
        angle = draw(generator, -0.3, 0.3) if draw(generator) < 0.3 else 0.0
        if draw(generator) < whole:
            return Window(width / 2, height / 2, mirror * width / 2, height / 2, angle / 4)
        x0, y0, x1, y1 = box.tolist()
        low, high = (math.log(v) for v in self.close)
        side = max(math.sqrt((x1 - x0) * (y1 - y0)), (x1 - x0) / 2, (y1 - y0) / 2) * math.exp(
            draw(generator, low, high)
        )
        aspect = math.exp(draw(generator, -0.35, 0.35)) * math.sqrt(width / height)
        w, h = (min(max(side * a, 48.0), float(full)) for a, full in ((aspect, width), (1 / aspect, height)))
        x = _inside((x0 + x1) / 2 + draw(generator, -0.35, 0.35) * w, w, width)
        y = _inside((y0 + y1) / 2 + draw(generator, -0.35, 0.35) * h, h, height)
        return Window(x, y, mirror * w / 2, h / 2, angle)

    def _coloured(self, frames: UInt8[Tensor, "t 3 h w"], generator: torch.Generator) -> UInt8[Tensor, "t 3 h w"]:
        """All frames in the same other light; now and then without colour."""
        bright, contrast, saturation = (1 + draw(generator, -self.jitter, self.jitter) for _ in range(3))
        saturation = 0.0 if draw(generator) < 0.05 else saturation
        t, _, h, w = frames.shape
        wide = frames.transpose(0, 1).reshape(3, t * h, w)
        turned = adjust_color(wide, bright, contrast, saturation, draw(generator, -self.jitter / 10, self.jitter / 10))
        return turned.view(3, t, h, w).transpose(0, 1).contiguous()


def divided(sample: Sample) -> Sample:
    """A label map whose unscored pixels (the border of a pet, which nobody can draw exactly) go to the nearest class.

    The truth then ends in the middle of the border; to leave it out would teach masks that are too small.
    """
    if sample.semantic is None or sample.classes is None or not sample.classes.unscored:
        return sample
    labels = sample.semantic.numpy()
    border = np.isin(labels, sample.classes.unscored)
    if not border.any() or border.all():
        return sample
    rows, columns = ndimage.distance_transform_edt(border, return_distances=False, return_indices=True)
    return replace(sample, semantic=torch.from_numpy(labels[rows, columns]))


def _alone(masks: Bool[Tensor, "k h w"], classes: Classes) -> Instances:
    return Instances.from_masks(Masks.from_dense(masks), torch.zeros(len(masks), dtype=torch.int64), classes)


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _bytes(image: Tensor) -> UInt8[Tensor, "3 h w"]:
    return image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)


def _inside(middle: float, side: float, full: int) -> float:
    """The middle moved so that the side stays in the picture."""
    return min(max(middle, side / 2), full - side / 2)


def _meets(window: Window, box: Float[Tensor, " 4"]) -> bool:
    """Whether the middle of a box lies in a window, its rotation left aside."""
    x, y = ((box[:2] + box[2:]) / 2).tolist()
    return abs(x - window.x) < abs(window.half_width) and abs(y - window.y) < window.half_height


def _track(start: Window, frames: int, generator: torch.Generator, calm: float = 1.0) -> list[Window]:
    """Where the window is in each frame: a steady drift, turn and zoom, and a little trembling; `calm` scales them."""
    drift = [draw(generator, -0.08, 0.08) * calm for _ in range(2)]
    zoom, turn = draw(generator, -0.04, 0.04) * calm, draw(generator, -0.05, 0.05) * calm
    out = []
    for t in range(frames):
        tremble = [draw(generator, -0.01, 0.01) * calm if t else 0.0 for _ in range(2)]
        grown = math.exp(zoom * t)
        out.append(
            Window(
                start.x + (drift[0] * t + tremble[0]) * abs(start.half_width),
                start.y + (drift[1] * t + tremble[1]) * start.half_height,
                start.half_width * grown,
                start.half_height * grown,
                start.angle + turn * t,
            )
        )
    return out


def _through(
    image: UInt8[Tensor, "3 h w"], masks: Bool[Tensor, "k h w"], track: Sequence[Window], size: tuple[int, int]
) -> tuple[UInt8[Tensor, "t 3 h2 w2"], Bool[Tensor, "k t h2 w2"]]:
    """A picture and its masks as each window shows them."""
    maps = torch.stack([window.corners() for window in track])
    reach = maps[:, :, :2].abs().sum(2)  # of each window from its middle
    low = (maps[:, :, 2] - reach).amin(0).floor().clamp(min=0).long().tolist()
    high = (maps[:, :, 2] + reach).amax(0).ceil().long().tolist()
    x0, y0 = min(low[0], image.shape[2] - 1), min(low[1], image.shape[1] - 1)
    x1, y1 = max(x0 + 1, min(high[0], image.shape[2])), max(y0 + 1, min(high[1], image.shape[1]))
    part, own = image[:, y0:y1, x0:x1], masks[:, y0:y1, x0:x1]
    # Where a window is much larger than the clip, average first: sampling alone would skip pixels.
    fine = min(float(reach[:, 0].amin() * 2) / size[1], float(reach[:, 1].amin() * 2) / size[0])
    step = max(1, int(fine))
    layers = torch.cat([part.float() - torch.tensor(FILL).view(3, 1, 1), own.float()])[None]
    if step > 1:
        layers = F.avg_pool2d(layers, step, ceil_mode=True, count_include_pad=False)
    middle = torch.tensor([x0, y0]).view(1, 2, 1)
    extent = torch.tensor([layers.shape[3] * step, layers.shape[2] * step]).view(1, 2, 1)
    scaled = torch.cat([maps[:, :, :2], maps[:, :, 2:] - middle], 2)
    theta = scaled * 2 / extent
    theta[:, :, 2] -= 1
    grid = F.affine_grid(theta, [len(track), 1, *size], align_corners=False)
    out = F.grid_sample(layers.expand(len(track), -1, -1, -1), grid, align_corners=False)
    colours = (out[:, :3] + torch.tensor(FILL).view(3, 1, 1)).round_().clamp_(0, 255).to(torch.uint8)
    return colours, (out[:, 3:] > 0.5).transpose(0, 1).contiguous()


def _visible(clip: Clip, most: int) -> Clip:
    """The first `most` objects that the first frame shows well; none twice."""
    area = clip.masks[:, 0].flatten(1).sum(1)
    chosen: list[int] = []
    for i in (area >= TINY).nonzero()[:, 0].tolist():
        if len(chosen) < most and not any(torch.equal(clip.masks[i], clip.masks[j]) for j in chosen):
            chosen.append(i)
    return Clip(clip.frames, clip.masks[chosen], clip.name)
