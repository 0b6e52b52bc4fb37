"""Weights for machines without a network: one zip with tensors, hashes, licences and preprocessing, and no pickle.

manifest.json             what is in it, with the sha256 of each file
README.txt                the same for a person
weights/<name>.safetensors

Members are stored without compression and without dates: the same weights give the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from masklet.models import MODELS
from masklet.parts.norm import Normalize, Pixels
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.weights import cache, files, load
from masklet.weights.catalog import CATALOG, Entry
from masklet.weights.download import Progress, fetch

VERSION = 1
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
MANIFEST, README = "manifest.json", "README.txt"
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows
LARGEST = 1 << 24  # bytes of a manifest


def preprocessing(pixels: Pixels) -> dict[str, Any]:
    """What a network wants its pixels to look like, in words that need no library."""
    return {
        "colours": "BGR" if pixels.bgr else "RGB",
        "range": [0, pixels.scale],
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "formula": "(pixel - mean) / std",
        "done": "inside the model, which takes RGB in 0..1",
    }


def write_bundle(
    names: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str], progress: Progress | None = None
) -> dict[str, Any]:
    """Puts weights into one file at `path` and returns its manifest.

    `names` are catalog names, fetched if need be, or paths of masklet checkpoints, which then go by their file's name.
    """
    if not names:
        raise UserError("a bundle of nothing was asked for", hint="name weights: masklet weights list")
    with TemporaryDirectory(dir=_made(Path(path).parent)) as scratch, replacing(path) as unfinished:
        items = [_item(name, Path(scratch), progress) for name in names]
        if twice := [a["name"] for i, (a, _) in enumerate(items) if a["name"] in [b["name"] for b, _ in items[:i]]]:
            raise UserError(f"{twice[0]!r} was asked for twice", hint="give each name once; rename one of the files")
        manifest = {"masklet_bundle": VERSION, "weights": [facts for facts, _ in items]}
        with zipfile.ZipFile(unfinished, "w") as out:
            _put(out, MANIFEST, json.dumps(manifest, indent=1).encode())
            _put(out, README, _readme(manifest).encode())
            for facts, file in items:
                with open(file, "rb") as source, out.open(_member(facts["file"]), "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    return manifest


def read_bundle(path: str | os.PathLike[str], sha256: str | None = None) -> list[dict[str, Any]]:
    """Brings the weights of a bundle into the cache, each checked against the manifest; returns what came, with "path".

    From then on `masklet.load(name)` finds them. `sha256`, as `masklet weights bundle` printed it, checks the whole
    file first: the manifest inside can only tell damage, not a forger. Nothing is kept of a bundle with a flaw.
    """
    path = files.existing(path)
    if sha256 is not None and (digest := cache.sha256_of(path)) != sha256.lower():
        raise UserError(f"{path} is not the bundle with that sha256 (its own is {digest})", hint="fetch it again")
    with _opened(path) as bundle:
        items = _manifest(bundle, path)
        for item in items:
            with bundle.open(item["file"]) as source:
                if _hash(source) != item["sha256"]:
                    raise UserError(
                        f"{item['file']} in {path} is not what its manifest says", hint="copy the bundle again"
                    )
        for item in items:
            place = _place(item)
            if place.exists() and cache.sha256_of(place) != item["sha256"]:
                raise UserError(f"the cache holds other weights called {item['name']}", hint=f"delete {place}")
        for item in items:
            place = _place(item)
            with (
                cache.locked(place),
                bundle.open(item["file"]) as source,
                replacing(place) as unfinished,
                open(unfinished, "wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
            cache.remember(place, item["sha256"], item)
            item["path"] = place
    return items


def _item(name: str | os.PathLike[str], scratch: Path, progress: Progress | None) -> tuple[dict[str, Any], Path]:
    """What the manifest says of one set of weights, and the file that goes into the bundle."""
    entry = CATALOG.get(str(name))
    facts, file = _own(Path(name)) if entry is None else _known(entry, scratch, progress)
    facts |= {"sha256": cache.sha256_of(file), "size": file.stat().st_size}
    return facts | {"file": f"weights/{facts['name']}.safetensors"}, file


def _known(entry: Entry, scratch: Path, progress: Progress | None) -> tuple[dict[str, Any], Path]:
    file = fetch(entry, progress)
    if not file.exists():
        raise UserError(f"the weights of {entry.name!r} are not here", hint="run: make train-bundled")
    note = files.read_note(file) or {}
    published = cache.known(file).get("sha256", "") if entry.url else ""
    if file.suffix != ".safetensors":
        tensors = {key: value.clone().contiguous() for key, value in files.read_tensors(file).items()}
        file = scratch / f"{entry.name}.safetensors"
        save_file(tensors, file, metadata={"format": "pt"})
    return {
        "name": entry.name,
        "about": entry.about,
        "model": entry.model or note.get("model"),
        "options": dict(entry.options) or note.get("options", {}),
        "classes": list(entry.classes.names) if entry.classes else note.get("classes", {}).get("names", []),
        "preprocessing": preprocessing(entry.pixels),
        "licence": entry.licence,
        "objections": list(entry.kinds),
        "data": entry.data,
        "scores": dict(entry.scores) or note.get("scores", {}),
        "source": entry.source,
        "url": entry.url,
        "published_sha256": published,
    }, file


def _own(file: Path) -> tuple[dict[str, Any], Path]:
    """A checkpoint that somebody trained here; it must load, and a note must say what it is."""
    note = files.read_note(file)
    if note is None:
        raise UserError(f"{file} does not say what it is", hint="masklet weights convert makes a checkpoint of it")
    if not NAME.fullmatch(file.stem) or file.stem in CATALOG or file.stem in MODELS:
        raise UserError(f"{file.stem!r} cannot be a name of weights", hint="rename the file: letters, digits, _ . -")
    normalize = next((m for m in load(file).modules() if isinstance(m, Normalize)), None)
    return {
        "name": file.stem,
        "about": "",
        "model": note["model"],
        "options": note["options"],
        "classes": note.get("classes", {}).get("names", []),
        "preprocessing": {} if normalize is None else preprocessing(normalize.pixels),
        "licence": note.get("licence"),
        "objections": note.get("objections", [] if "licence" in note else ["unknown"]),
        "data": note.get("recipe", {}).get("data", ""),
        "scores": note.get("scores", {}),
        "source": note.get("source", ""),
        "url": "",
        "published_sha256": "",
    }, file


def _readme(manifest: Mapping[str, Any]) -> str:
    lines = ["Weights for masklet. On the other machine: masklet weights import THIS_FILE", ""]
    for item in manifest["weights"]:
        lines += [
            f"{item['name']}: {item['about'] or item['model']}",
            f"  licence {item['licence'] or 'not stated'}; learned from {item['data'] or 'data not stated'}"
            + (f"; mind: {', '.join(item['objections'])}" if item["objections"] else ""),
            f"  from {item['url'] or 'masklet itself or its user'}",
            f"  sha256 {item['sha256']}  {item['file']}",
        ]
    return "\n".join(lines) + "\n"


def _put(out: zipfile.ZipFile, name: str, content: bytes) -> None:
    out.writestr(_member(name), content)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr = 0o644 << 16
    return info


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as bundle:
            yield bundle
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is cut short or damaged", hint="copy the bundle again") from error


def _manifest(bundle: zipfile.ZipFile, path: Path) -> list[dict[str, Any]]:
    """The items of the manifest, each of which names a member; no other member may be there."""
    members = {info.filename: info for info in bundle.infolist()}
    if MANIFEST not in members or members[MANIFEST].file_size > LARGEST:
        raise UserError(f"{path} is not a bundle of masklet", hint="make one with masklet weights bundle")
    try:
        content = json.loads(bundle.read(MANIFEST))
        version, items = content["masklet_bundle"], content["weights"]
        named = {f"weights/{item['name']}.safetensors": item for item in items}
        right = len(named) == len(items) and all(
            NAME.fullmatch(item["name"]) and item["file"] == file and len(item["sha256"]) == 64
            for file, item in named.items()
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the manifest of {path} makes no sense", hint="make the bundle again") from error
    if version != VERSION:
        raise UserError(f"{path} was written by another masklet (bundle format {version})", hint="upgrade masklet")
    if not right or set(members) != {MANIFEST, README, *named}:
        raise UserError(f"{path} holds other files than its manifest says", hint="make the bundle again")
    for file, info in members.items():
        if info.compress_type != zipfile.ZIP_STORED or (file in named and info.file_size != named[file]["size"]):
            raise UserError(f"{file} in {path} is not what its manifest says", hint="copy the bundle again")
    return items


def _place(item: Mapping[str, Any]) -> Path:
    """Where the weights of an item go: beside or in place of the published file, else under their own name."""
    entry = CATALOG.get(item["name"])
    name = f"{item['name']}.safetensors" if entry is None else Path(entry.file).with_suffix(".safetensors").name
    return cache.folder() / name


def _hash(source: Any) -> str:
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
