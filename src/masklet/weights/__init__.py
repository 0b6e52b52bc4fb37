"""A checkpoint of any known origin becomes a model with tensors in it, strictly, or one sentence that says why not."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from masklet.models import MODELS, build, unknown
from masklet.models.base import uninitialised
from masklet.parts.backbones import build_backbone
from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.weights import (
    cache,
    files,
    from_detectron2,
    from_keras,
    from_mmdet,
    from_pytorch_fcn,
    from_sam,
    from_sam2,
    from_semseg,
    from_timm,
    from_torchvision,
    from_transformers,
    remap,
)
from masklet.weights.catalog import BACKBONE, CATALOG, Entry
from masklet.weights.download import fetch, on_terminal
from masklet.weights.files import read_note, read_tensors, save_checkpoint
from masklet.weights.hdf5 import read_h5
from masklet.weights.remap import IDENTITY, Layout, Origin, Report, Rule

__all__ = [
    "CATALOG",
    "ORIGINS",
    "Entry",
    "Layout",
    "Origin",
    "Report",
    "Rule",
    "fetch",
    "fill",
    "load",
    "read_h5",
    "read_note",
    "read_tensors",
    "save_checkpoint",
]

ORIGINS: Mapping[str, Origin] = MappingProxyType(
    {
        origin.name: origin
        for origin in (
            from_pytorch_fcn.ORIGIN,
            from_semseg.ORIGIN,
            from_mmdet.ORIGIN,
            from_detectron2.ORIGIN,
            from_timm.ORIGIN,
            from_sam.ORIGIN,
            from_sam2.ORIGIN,
            from_torchvision.ORIGIN,
            from_transformers.ORIGIN,
            from_keras.ORIGIN,
        )
    }
)
OURS = "masklet"  # the origin whose names need no rules
Weights = str | os.PathLike[str] | Mapping[str, Any]


def load(
    name: str | os.PathLike[str],
    weights: Weights | None = None,
    *,
    origin: str | None = None,
    fresh: str | None = None,
    **options: Any,
) -> nn.Module:
    """A model with trained weights in it, in eval mode.

    `name` is a catalog name (`masklet weights list`), the path of a masklet checkpoint, or a system's name together
    with `weights`: a catalog name, or a file of ours or of another code base, whose origin is recognised from its keys
    (`origin` overrides). `options` go to `build` and win over what the file says. `fresh`, a regular expression, names
    tensors that may stay untrained. Published weights that are not in the cache are fetched, except when the
    environment variable MASKLET_OFFLINE is set.
    """
    entry = CATALOG.get(str(name)) if weights is None else None
    if entry is not None and not entry.bundled:
        return _published(entry, fresh, options)
    if weights is None:
        weights, name = _named(name), ""
    if isinstance(weights, str) and weights in CATALOG:
        weights = _named(weights)
    if isinstance(weights, Mapping):
        said, note, tensors = "the state dict", None, files.unwrap(weights, "the state dict")
    else:
        said, note, tensors = Path(weights).name, read_note(weights), read_tensors(weights)
    model_name = str(name) or _model_in(note, said, tensors)
    if model_name not in MODELS:
        raise unknown("model", model_name, MODELS)
    if note is None:
        model, rules = _foreign(model_name, tensors, origin, fresh, said, options)
    else:
        model, rules = _own(model_name, note, fresh, said, options), IDENTITY
    remap.fill(model, tensors, rules, fresh, said, model_name)
    return model.eval()


def fill(model: nn.Module, weights: Weights, *, origin: str | None = None, fresh: str | None = None) -> Report:
    """Puts weights into a model that exists, a backbone for instance, as strictly as `load`.

    `weights` is a catalog name, a file or a state dict: `fill(build_backbone("resnet50"), "resnet50_imagenet")`.
    """
    if isinstance(weights, str) and weights in CATALOG:
        weights = _named(weights)
    said = "the state dict" if isinstance(weights, Mapping) else Path(weights).name
    tensors = files.unwrap(weights, said) if isinstance(weights, Mapping) else read_tensors(weights)
    spec: Any = getattr(model, "spec", {"model": "backbone"})
    rules: tuple[Rule, ...] = IDENTITY
    if set(tensors) != set(model.state_dict()) and (found := recognise(tensors, spec["model"], origin)):
        rules = found[1].rules
    name = type(model).__name__ if spec["model"] == "backbone" else spec["model"]
    return remap.fill(model, tensors, rules, fresh, said, name)


def recognise(
    keys: Mapping[str, Tensor], model: str | None = None, origin: str | None = None
) -> tuple[str, Layout] | None:
    """The origin and the layout that these keys belong to; of several the one that fits `model`."""
    if origin is not None and origin not in (*ORIGINS, OURS):
        raise unknown("origin", origin, (*ORIGINS, OURS))
    asked = ORIGINS if origin is None else {name: ORIGINS[name] for name in ORIGINS if name == origin}
    found = [(name, layout) for name in asked if (layout := ORIGINS[name].find(keys, model))]
    return next((pair for pair in found if model in pair[1].models), found[0] if found else None)


def _named(name: str | os.PathLike[str]) -> Path:
    """The file of a catalog name or path."""
    if str(name) in CATALOG:
        path = fetch(CATALOG[str(name)], on_terminal(str(name)))
        if not path.exists():
            raise UserError(f"the weights of {name!r} are not in this copy of masklet", hint="run: make train-bundled")
        return path
    carried = cache.folder() / f"{name}.safetensors"
    if cache.known(carried).get("name") == str(name) and carried.exists():
        return carried
    path = Path(name).expanduser()
    if path.suffix in files.SUFFIXES or path.exists() or len(path.parts) > 1:
        return files.existing(path)
    if str(name) in MODELS:
        published = [f"load({entry.name!r})" for entry in CATALOG.values() if entry.model == name]
        ways = ", ".join([*published, f"give a file, load({str(name)!r}, weights=...)"])
        raise UserError(f"{name} comes without weights", hint=f"{ways}, or start with build")
    near = difflib.get_close_matches(str(name), CATALOG, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"unknown weights {str(name)!r}", hint=f"{guess}masklet weights list shows them all")


def _published(entry: Entry, fresh: str | None, options: dict[str, Any]) -> nn.Module:
    """The model of an entry that others publish; of a backbone just the body, which takes the backbone's options."""
    tensors = read_tensors(fetch(entry, on_terminal(entry.name)))
    if entry.model == BACKBONE:
        model = build_backbone(entry.options[BACKBONE], **options)
        fill(model, tensors, fresh=fresh or entry.fresh)
        return model.eval()
    theirs = {} if {"classes", "num_classes"} & options.keys() else {"classes": entry.classes}
    choices = {key: value for key, value in entry.options.items() if key != "num_classes"} | theirs | options
    model, rules = _foreign(entry.model, tensors, None, fresh, entry.name, choices)
    remap.fill(model, tensors, rules, fresh, entry.name, entry.model)
    return model.eval()


def _model_in(note: Mapping[str, Any] | None, said: str, tensors: Mapping[str, Tensor]) -> str:
    """The system that a file without a name beside it is for."""
    if note is not None:
        return note["model"]
    found = recognise(tensors)
    guess = repr(found[1].models[0]) if found else "'unet'"
    raise UserError(
        f"{said} does not say which model it is for", hint=f"name it, for instance load({guess}, weights=...)"
    )


def _own(name: str, note: Mapping[str, Any], fresh: str | None, said: str, options: dict[str, Any]) -> nn.Module:
    if note["model"] != name:
        raise UserError(f"{said} holds a {note['model']}, not a {name}", hint=f"load({note['model']!r}, weights=...)")
    choices = {**note["options"], **options}
    if "classes" in options:
        choices["num_classes"] = options.get("num_classes", len(options["classes"]))
    elif choices.get("num_classes") == note["options"].get("num_classes") and "classes" in note:
        choices["classes"] = Classes.from_dict(note["classes"])
    _same_count(choices, note["options"], fresh, said)
    return _made(name, choices, fresh)


def _foreign(
    name: str, tensors: Mapping[str, Tensor], origin: str | None, fresh: str | None, said: str, options: dict[str, Any]
) -> tuple[nn.Module, tuple[Rule, ...]]:
    found = recognise(tensors, name, origin)
    if found is None and origin not in (None, OURS):
        raise UserError(f"{said} is not of origin {origin!r}: its keys begin {next(iter(tensors))!r}")
    if found is None:
        return _made(name, options, fresh), IDENTITY
    whose, layout = found
    if name not in layout.models:
        fits = " or ".join(layout.models)
        raise UserError(
            f"{said} holds weights of {whose} for {fits}, not for {name}",
            hint="load the model it is for; if its names are ours, say origin='masklet'",
        )
    if layout.partial is not None and fresh is None:
        raise UserError(f"{said} is {layout.partial[0]}", hint=layout.partial[1])
    implied = layout.options(tensors)
    choices = {**implied, **options}
    if "classes" in options:
        choices["num_classes"] = options.get("num_classes", len(options["classes"]))
    _same_count(choices, implied, fresh, said)
    model = _made(name, choices, fresh)
    return model, IDENTITY if set(tensors) == set(model.state_dict()) else layout.rules


def _made(name: str, choices: dict[str, Any], fresh: str | None) -> nn.Module:
    if fresh is not None:
        return build(name, **choices)
    with uninitialised():
        return build(name, **choices)


def _same_count(choices: Mapping[str, Any], stored: Mapping[str, Any], fresh: str | None, said: str) -> None:
    asked, there = choices.get("num_classes"), stored.get("num_classes")
    if fresh is None and asked is not None and there is not None and asked != there:
        raise UserError(
            f"{said} knows {there} classes but {asked} were asked for",
            hint="leave num_classes and classes out, or name the layers to train anew with fresh=",
        )
