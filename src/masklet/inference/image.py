"""Predictions for pictures of any size: one call from a path, a folder or an array to label maps."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from masklet.data.images import SUFFIXES, as_batch, list_images, natural_key, read_image, to_float
from masklet.data.rgbd import RGBDPhoto, read_rgbd, with_depth
from masklet.inference import tiles
from masklet.inference.folding import folded
from masklet.inference.tta import Looks, View, look, views
from masklet.models.base import channels, evaluating, narrow
from masklet.models.seams import find_in_tiles
from masklet.ops.hha import Camera
from masklet.parts import precision as formats
from masklet.parts.crf import DenseCRF
from masklet.structures import SemanticMap
from masklet.structures.errors import UserError

Picture = UInt8[Tensor, "3 h w"] | Float[Tensor, "c h w"]  # more channels where a model looks at depth
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
MANY = 8  # pictures from which on folding pays
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """How pictures are predicted. Every door takes these by name: predict, predict_video, predict_files, evaluate.

    `tile`: side of overlapping tiles, for pictures too large to be seen at once; None sees each whole.
    `overlap`: the share of a tile that its neighbour also sees.
    `flip`, `scales`: average the probabilities over mirrored and resized looks at the picture.
    `long_side`: shrink larger pictures to this side before the model sees them; results keep the full size. None is
    what the model was trained for.
    `precision`: "auto" is bf16 where the processor computes in it and fp32 elsewhere; or "fp32", "bf16".
    `device`: "auto" is an accelerator if there is one; a model that is passed in stays where it is.
    `threshold`: leave out objects with a lower score; None gives all that the model gives, as average precision wants.
    `probs`: keep the probabilities too, K floats a pixel. `batch`: how many pictures or tiles of one size go together.
    `crf`: sharpen the edges by a dense CRF with DeepLab v2's parameters, or by the `DenseCRF` that is given.
    """

    tile: int | None = None
    overlap: float = 0.25
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    long_side: int | None = None
    precision: str = "auto"
    device: str = "auto"
    probs: bool = False
    batch: int = 1
    crf: bool | DenseCRF = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        views(self.scales, self.flip)
        if self.tile is not None:
            tiles.check(self.tile, self.overlap)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold!r}", hint="give a score from 0 to 1")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}", hint=f"choose from {', '.join(PRECISIONS)}")
        for name in ("batch", "long_side"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"{name} is {value!r}", hint="give a whole number from 1 up")


@dataclass(frozen=True)
class Prediction:
    """What came of one picture of many."""

    name: str
    image: Picture  # its colours
    result: Any
    seconds: float
    source: Any = None  # the path, where it came from a file


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and why."""

    source: Any
    error: Exception


def predict(
    model: Any,
    inputs: Any,
    *,
    tile: int | None = None,
    overlap: float = 0.25,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    long_side: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    probs: bool = False,
    batch: int = 1,
    crf: bool | DenseCRF = False,
    threshold: float | None = None,
    depth: str | Path | None = None,
    camera: Camera | None = None,
) -> Any:
    """The result for one picture, or a list of results for several: `predict("street", "photo.jpg")`.

    `model` is a model or whatever `masklet.load` takes. `inputs` is a path, PIL image, HWC array or CHW tensor; a
    folder, a glob ("photos/*.jpg"), a list or a batch gives a list. `Settings` explains the options. `depth` is for
    models that look at depth: the depth image of the picture, or a folder of them, taken with `camera`.
    """
    settings = Settings(tile, overlap, flip, scales, long_side, precision, device, probs, batch, crf, threshold)
    sources, many = collect(inputs)
    sources = sources if depth is None else with_depth(sources, depth, camera)
    predictor = Predictor(model, settings, many=len(sources) >= MANY)
    results = [found.result for found in predictor.each(sources)]
    return results if many else results[0]


class Predictor:
    """A model made ready: loaded, on its device, in its precision. Calling it with pictures gives their results.

    `many` pays a little at first to be faster afterwards: it computes with a `folded` copy, so later changes of the
    model's weights do not count.
    """

    def __init__(self, model: Any, settings: Settings | None = None, many: bool = False, barred: Sequence[int] = ()):
        self.settings, self.barred = settings or Settings(), tuple(barred)
        self.name = str(model) if isinstance(model, str | Path) else getattr(model, "spec", {}).get("model", "model")
        self.model, self.device = placed(model, self.settings.device)
        self.model = folded(self.model) if many else self.model
        self.semantic = hasattr(self.model, "scores")
        self.crf = DenseCRF() if self.settings.crf is True else self.settings.crf or None
        if self.crf is not None and not self.semantic:
            raise UserError(f"{self.name} does not give one class per pixel", hint="leave out the CRF")
        chosen = {"auto": formats.automatic(self.device), "fp32": torch.float32, "bf16": torch.bfloat16}
        self.dtype = chosen[self.settings.precision]
        if not self.semantic and len(views(self.settings.scales, self.settings.flip)) > 1:
            raise UserError(
                f"{self.name} does not give one class per pixel", hint="leave out flip and scales, which average"
            )

    def __call__(self, images: Sequence[Picture]) -> list[Any]:
        """Results of pictures that are already uint8 or float RGB tensors (3, H, W), in their order.

        For a model that looks at depth they are float tensors with the channels of the depth after the colours.
        """
        for image in images:
            self._check_channels(len(image))
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            stack.enter_context(torch.inference_mode())
            stack.enter_context(formats.autocast(self.device, self.dtype))
            if not self.semantic:
                return [self._objects(image) for image in images]
            return [result for group in _alike(images, self.settings.batch) for result in self._predict(group)]

    def each(self, sources: Iterable[Any], unreadable: list[Unreadable] | None = None) -> Iterator[Prediction]:
        """Prediction after prediction; only `batch` pictures are in memory at a time.

        A picture that cannot be read ends it with an error, unless there is a list, which then names it.
        """
        for group in _alike(self._readable(sources, unreadable), self.settings.batch, lambda named: named[1]):
            start = time.perf_counter()
            results = self([image for _, image, _ in group])
            seconds = (time.perf_counter() - start) / len(group)
            for (name, image, source), result in zip(group, results, strict=True):
                yield Prediction(name, image[:3], result, seconds, source)

    def _readable(
        self, sources: Iterable[Any], unreadable: list[Unreadable] | None
    ) -> Iterator[tuple[str, Picture, Path | None]]:
        for source in sources:
            try:
                read = _read(source, self.model)
            except (UserError, OSError) as error:
                if unreadable is None:
                    raise
                unreadable.append(Unreadable(source, error))
            else:
                yield read

    def _check_channels(self, came: int) -> None:
        wanted = channels(self.model)
        if came < wanted:
            hint = "pass depth=... (masklet predict --depth), or an RGBDPhoto"
            raise UserError(f"{self.name} looks at depth, and the picture has none", hint=hint)
        if came > wanted:
            raise UserError(f"{self.name} does not look at depth", hint="leave the depth out")

    def _objects(self, image: Picture) -> Any:
        """Objects of one picture; those that borders of tiles cut are joined."""
        tile, least = self.settings.tile, self.settings.threshold
        if not tile or max(image.shape[1:]) <= tile:
            found = self.model.predict(image)
        else:
            found = find_in_tiles(self.model.predict, image, tile, self.settings.overlap)
        return found if least is None else found[found.scores >= least]

    def _predict(self, images: Sequence[Picture]) -> list[SemanticMap]:
        """Pictures of one size."""
        if self.settings.tile and max(images[0].shape[1:]) > self.settings.tile:
            return [self._tiled(image) for image in images]
        fed = self._fed(torch.stack(list(images)))
        seen = look(self.model, fed, self._views(images[0].shape), self.barred)
        if not self.settings.probs and self.crf is None:
            return [SemanticMap(labels, self.model.classes) for labels in seen.labels().cpu()]
        chances = self._chances(seen, fed).cpu()
        if not self.settings.probs:
            return [SemanticMap(narrow(p.argmax(0), len(p)), self.model.classes) for p in chances]
        return [SemanticMap(narrow(p.argmax(0), len(p)), self.model.classes, p) for p in chances]

    def _tiled(self, image: Picture) -> SemanticMap:
        count, (height, width) = len(self.model.classes), image.shape[1:]
        seen = self._views(image.shape)

        def chances(parts: Tensor) -> Tensor:
            fed = self._fed(parts)
            return self._chances(look(self.model, fed, seen, self.barred), fed)

        labels = torch.empty(height, width, dtype=torch.uint8 if count <= 256 else torch.int64)
        probs = torch.empty(count, height, width) if self.settings.probs else None
        assert self.settings.tile
        for y, x, part in tiles.blocks(chances, image, self.settings.tile, self.settings.overlap, self.settings.batch):
            where = (slice(y, y + part.shape[1]), slice(x, x + part.shape[2]))
            labels[where] = narrow(part.argmax(0), count).cpu()
            if probs is not None:
                probs[:, *where] = part.cpu()
        return SemanticMap(labels, self.model.classes, probs)

    def _chances(self, seen: Looks, fed: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Probabilities at the size of the pictures, sharpened where that is wanted."""
        chances = seen.chances()
        return chances if self.crf is None else self.crf(fed[:, :3], chances)

    def _views(self, shape: Sequence[int]) -> tuple[View, ...]:
        """The looks at a picture of this shape: all of them smaller where `long_side` says so."""
        side = self.settings.long_side or getattr(self.model, "long_side", None)
        shrink = 1.0 if side is None else min(1.0, side / max(shape[-2:]))
        return tuple(View(view.scale * shrink, view.flip) for view in views(self.settings.scales, self.settings.flip))

    def _fed(self, images: Tensor) -> Float[Tensor, "b c h w"]:
        """A batch as the model eats it."""
        return formats.arranged(to_float(images.to(self.device)), self.model)


def collect(inputs: Any, videos: bool = False) -> tuple[list[Any], bool]:
    """Every picture that `inputs` names, and whether it may name more than one.

    Folders give their pictures in natural order, globs their matches. `videos` lets video files through.
    """
    if isinstance(inputs, list | tuple):
        return [source for one in inputs for source in collect(one, videos)[0]], True
    if isinstance(inputs, Tensor | np.ndarray) and inputs.ndim == 4:
        return list(inputs), True
    if not isinstance(inputs, str | Path):
        return [inputs], False
    path = Path(inputs).expanduser()
    if path.is_dir():
        found = list_images(path)
        found += [p for p in path.iterdir() if videos and is_video(p)]
        if not found:
            raise UserError(
                f"there are no pictures in {path}", hint=f"it looks for {', '.join(SUFFIXES)}; or use a glob"
            )
        return sorted(found, key=natural_key), True
    if not path.exists() and glob.has_magic(str(path)):
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural_key)
        found = [p for p in matches if p.suffix.lower() in SUFFIXES or (videos and is_video(p))]
        if not found:
            raise UserError(f"no picture matches {str(inputs)!r}", hint="check the folder and the pattern")
        return found, True
    if is_video(path) and not videos:
        raise UserError(f"{path} is a video", hint="use masklet.inference.video.predict_video, or `masklet predict`")
    return [path], False


def is_video(path: Path) -> bool:
    """Whether the name of a file is that of a video."""
    return path.suffix.lower() in VIDEOS and not path.name.startswith(".")


def _read(source: Any, model: Any) -> tuple[str, Picture, Path | None]:
    """Name, pixels and path of anything that is a picture; float pictures keep their precision."""
    if isinstance(source, RGBDPhoto):
        depth_as = getattr(model, "depth_as", "metres")
        name, _, path = _read(source.image, None)
        return name, read_rgbd(source.image, source.depth, depth_as, source.camera), path
    if isinstance(source, Path):
        return source.name, read_image(source), source
    if isinstance(source, Tensor) and source.is_floating_point():
        return "image", as_batch([source], channels(model))[0], None
    name = getattr(source, "filename", "") if isinstance(source, Image.Image) else ""
    return Path(name).name or "image", read_image(source), None


def _alike(items: Iterable[Any], most: int, image: Any = lambda item: item) -> Iterator[list[Any]]:
    """Runs of up to `most` neighbours whose pictures have one size and type."""
    group: list[Any] = []
    for item in items:
        first = image(group[0]) if group else image(item)
        if group and (len(group) == most or (first.shape, first.dtype) != (image(item).shape, image(item).dtype)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def placed(model: Any, device: str) -> tuple[Any, torch.device]:
    """The model, loaded if it was named, and the device it computes on."""
    named = isinstance(model, str | Path)
    if named:
        from masklet.weights import load

        model = load(str(model))
    if device != "auto":
        try:
            chosen = torch.device(device)
            return model.to(chosen), chosen
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"cannot use device {device!r}", hint=str(error).splitlines()[0]) from error
    if named and (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        return model.to(accelerator), accelerator
    tensor = next(model.parameters(), None)
    return model, torch.device("cpu") if tensor is None else tensor.device
