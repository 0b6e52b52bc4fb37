"""Segmentation, from FCN to SAM 2, behind one small vocabulary.

>>> import masklet
>>> result = masklet.predict("street", "photo.jpg")    # one line to a mask

Nothing heavy is imported until the first call: `import masklet` costs milliseconds, torch costs seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"
__all__ = ["__version__", "build", "list_models", "load", "predict"]


def list_models(task: str | None = None) -> dict[str, tuple[str, ...]]:
    """Every system that `build` knows, with the tasks it serves; `task="semantic"` keeps those that serve it."""
    from masklet.models import list_models as _list_models

    return _list_models(task)


def build(name: str, **options: Any) -> nn.Module:
    """A model with fresh weights: `build("pspnet", backbone="resnet50", num_classes=21)`.

    Raises ValueError that names the accepted choices when the name or an option is unknown.
    """
    from masklet.models import build as _build

    return _build(name, **options)


def load(name: str | os.PathLike[str], weights: Any = None, **options: Any) -> nn.Module:
    """A model with trained weights in it, in eval mode.

    `name` is a catalog name (`"street"`), the path of a masklet checkpoint, or a builder name together with
    `weights=`, a file of ours or of another framework, whose origin is recognised from its keys.
    """
    from masklet.weights import load as _load

    return _load(name, weights, **options)


def predict(model: Any, inputs: Any, **options: Any) -> Any:
    """Masks for a photograph in one line: `predict("street", "photo.jpg")`.

    `model` is a model or anything that `load` takes; `inputs` a path, PIL image, HWC uint8 array or (3, H, W) tensor,
    or a list of them (then a list of results comes back). Options: see `masklet.inference.image.predict`.
    """
    from masklet.inference.image import predict as _predict

    return _predict(model, inputs, **options)
