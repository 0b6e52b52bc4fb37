"""`masklet weights ...`: weights by name, on this machine and on one without a network; their licences; conversion."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from masklet.cli.group import Group, Mistake, options
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.words import choices, settings_of

app = typer.Typer(cls=Group, help="Find, fetch, check, carry and convert weights; say their licences.", **options())

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names from masklet weights list.")]


@app.command("list")
def list_weights(
    here: Annotated[bool, typer.Option("--here", help="Only those that are on this machine.")] = False,
    json: Json = False,
) -> Report:
    """List the weights that `masklet predict --model NAME` takes, with where they are and their scores."""
    from masklet.weights import CATALOG, cache, read_note
    from masklet.weights.bundle import preprocessing

    more, lines = {}, []
    for name, entry in CATALOG.items():
        there = entry.path.exists()
        note = (read_note(entry.path) or {}) if entry.bundled and there else {}
        scores = note.get("scores", {}) if entry.bundled else dict(entry.scores)
        classes = entry.classes.names if entry.classes is not None else note.get("classes", {}).get("names", [])
        if here and not there:
            continue
        more[name] = {
            "about": entry.about,
            "data": entry.data,
            "licence": entry.licence,
            "objections": entry.kinds,
            "model": entry.model or note.get("model"),
            "options": dict(entry.options) or note.get("options", {}),
            "classes": classes,
            "preprocessing": preprocessing(entry.pixels),
            "scores": scores,
            "source": entry.source,
            "path": entry.path if there else None,
            "url": entry.url or None,
            "sha256": entry.sha256 or None,
            "mib": entry.size,
        }
        size = "" if entry.size is None else f", {entry.size:.0f} MiB"
        where = "here" if there else "to fetch" + size
        missing = entry.bundled and not there
        score = "not in this copy; run: make train-bundled" if missing else _score(scores, entry.data)
        lines.append(f"{name:<38}{'' if missing else where:<19}{entry.about}  [{score}]")
    for name, path in cache.carried().items():
        if name not in CATALOG:
            more[name] = {**cache.known(path), "path": path}
            lines.append(f"{name:<38}{'here':<19}{more[name].get('model')}, from a bundle")
    return Report("weights list", more={"weights": more}, text="\n".join(lines) or "no weights on this machine")


@app.command()
def fetch(
    names: Names = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Fetch anew what is here but wrong.")] = False,
    json: Json = False,
) -> Report:
    """Download weights from their publishers into the cache; broken downloads go on where they stopped.

    MASKLET_CACHE names the folder, MASKLET_MIRROR a server with copies, MASKLET_OFFLINE=1 forbids it.
    """
    from masklet.weights import CATALOG
    from masklet.weights import fetch as get

    files = {}
    for entry in _entries(names, CATALOG):
        with progress_bar(f"fetching {entry.name}, MiB") as progress:
            files[entry.name] = get(entry, _in_mib(progress), again)
    text = "\n".join(f"{name}: {path}" for name, path in files.items())
    return Report("weights fetch", more={"weights": files}, text=text)


@app.command()
def verify(names: Names = None, *, json: Json = False) -> Report:
    """Hash the weights in the cache (all, or these) and compare; exit code 1 if one is not what it should be."""
    from masklet.weights import CATALOG, cache, download

    there = {name: e.path for name, e in CATALOG.items() if e.path.exists() and e.path.parent == cache.folder()}
    there |= cache.carried()
    if missing := [name for name in names or () if name not in there]:
        raise Mistake(f"{missing[0]} is not in the cache", f"there: {', '.join(there) or 'nothing'}")
    found = {}
    for name in names or there:
        entry = CATALOG.get(name)
        wrong = cache.changed(there[name]) if entry is None else download.why_wrong(entry, there[name], thorough=True)
        found[name] = {"path": there[name], "right": wrong is None, "problem": wrong}
    lines = [f"{name}: {state['problem'] or 'right'}" for name, state in found.items()]
    bad = any(not state["right"] for state in found.values())
    text = "\n".join(lines) or f"no weights in {cache.folder()}"
    return Report("weights verify", more={"weights": found}, text=text, exit_code=int(bad))


@app.command()
def licences(
    names: Names = None,
    *,
    fail_on: Annotated[
        str | None,
        typer.Option(help="Exit code 1 if any is so: non-commercial, copyleft, non-commercial-data, unknown."),
    ] = None,
    json: Json = False,
) -> Report:
    """Say under which licences weights are (all, or these) and what data they learned from.

    non-commercial-data: the owners of the training pictures gave them for research and teaching only.
    """
    from masklet.weights import CATALOG, cache
    from masklet.weights.licences import KINDS, LICENCES

    refused = set() if fail_on is None else set(choices(fail_on, "--fail-on", KINDS))
    carried = {name: path for name, path in cache.carried().items() if name not in CATALOG}
    found: dict[str, dict[str, Any]] = {
        entry.name: {
            "licence": entry.licence,
            "text": LICENCES[entry.licence].text,
            "objections": entry.kinds,
            "data": [data for data in (entry.started_from, entry.data) if data],
        }
        for entry in _entries([name for name in names or CATALOG if name not in carried], CATALOG, carried)
    }
    for name in (name for name in carried if names is None or name in names):
        known = cache.known(carried[name])
        said = {"licence": known.get("licence"), "text": None, "objections": tuple(known.get("objections", ()))}
        found[name] = said | {"data": [known["data"]] if known.get("data") else []}
    bad = [name for name, facts in found.items() if refused & set(facts["objections"])]
    lines = [
        f"{name:<38}{facts['licence'] or 'not stated':<15}{' + '.join(dict.fromkeys(facts['data']))}"
        + (f"  ({', '.join(facts['objections'])})" if facts["objections"] else "")
        for name, facts in found.items()
    ]
    lines += [f"refused: {', '.join(bad)}"] if bad else []
    return Report(
        "weights licences",
        more={"weights": found, "refused": bad},
        text="\n".join(lines),
        exit_code=int(bool(bad)),
    )


@app.command()
def bundle(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from the list, or your checkpoints.")],
    *,
    out: Annotated[Path, typer.Option(help="The file to write, a zip.")],
    json: Json = False,
) -> Report:
    """Pack weights for a machine without a network: tensors, hashes, licences, preprocessing, and no pickle."""
    from masklet.weights import cache
    from masklet.weights.bundle import write_bundle

    with progress_bar("fetching, MiB") as progress:
        manifest = write_bundle(names, out, _in_mib(progress))
    digest = cache.sha256_of(out)
    return Report(
        "weights bundle",
        files=[out],
        more={"sha256": digest, "weights": manifest["weights"]},
        text=f"{len(names)} sets of weights; there: masklet weights import {out.name} --sha256 {digest}",
    )


@app.command("import")
def import_bundle(
    bundle: Annotated[Path, typer.Argument(help="What masklet weights bundle wrote.")],
    *,
    sha256: Annotated[str | None, typer.Option(help="Of the bundle, as it was printed there.")] = None,
    json: Json = False,
) -> Report:
    """Bring the weights of a bundle into the cache, each checked; masklet.load(NAME) finds them from then on."""
    from masklet.weights.bundle import read_bundle

    items = read_bundle(bundle, sha256)
    lines = [f"{item['name']}: {item['model']}, licence {item['licence'] or 'not stated'}" for item in items]
    files = [item["path"] for item in items]
    return Report("weights import", files=files, more={"weights": items}, text="\n".join(lines))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Weight file: .pth, .pt, .pkl, .safetensors.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Options of the system as key=value: backbone=resnet50 num_classes=19")
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="The system that it is for (see masklet models).")] = "",
    out: Annotated[Path, typer.Option(help="The file to write.")],
    origin: Annotated[str | None, typer.Option(help="The code base it comes from; recognised if left out.")] = None,
    to: Annotated[str | None, typer.Option(help="Write it under the names of this code base: torchvision, ...")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes, with commas.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store kernels as 16-bit floats.")] = False,
    json: Json = False,
) -> Report:
    """Turn a weight file of another project into one that says itself what it is; with --to the other way round."""
    from masklet.structures import Classes
    from masklet.weights import CATALOG, load, save_checkpoint
    from masklet.weights.files import save_plain
    from masklet.weights.way_back import named_as

    plain = (".safetensors", ".pth")
    if to is None and out.suffix != ".safetensors":
        raise Mistake(f"--out is {out}, but checkpoints are safetensors files", f"write {out.stem}.safetensors")
    if to is not None and (out.suffix not in plain or half):
        raise Mistake(f"--to {to} writes {' or '.join(plain)}, in 32 bits", f"write --out {out.stem}.pth")
    taken = settings_of(settings, "")
    if classes is not None:
        taken["classes"] = Classes(choices(classes, "--classes"))
    note: dict[str, Any] = {"converted": {"file": source.name, "origin": origin}}
    published = next((entry for entry in CATALOG.values() if entry.url and entry.file == source.name), None)
    if published is not None:  # what the catalog knows of the file stays known
        note |= {"licence": published.licence, "objections": list(published.kinds), "source": published.source}
        if published.classes is not None and not {"classes", "num_classes"} & taken.keys():
            taken["classes"] = published.classes
    loaded: Any = load(model or source, source if model else None, origin=origin, **taken)
    if to is None:
        path = save_checkpoint(out, loaded, note, half=half)
    else:
        path = save_plain(out, named_as(loaded, to))
    count = sum(p.numel() for p in loaded.parameters())
    name = loaded.spec["model"]
    return Report("weights convert", model=name, files=[path], more={"parameters": count}, text=f"{count:,} parameters")


def _entries(names: Sequence[str] | None, catalog: Mapping[str, Any], besides: Sequence[str] | Any = ()) -> list[Any]:
    """The entries with these names, or the mistake in one of them."""
    if names is None:
        raise Mistake("no weights were named", "see masklet weights list")
    for name in names:
        if name not in catalog:
            near = difflib.get_close_matches(name, [*catalog, *besides], n=1, cutoff=0.5)
            raise Mistake(f"unknown weights {name!r}", f"did you mean {near[0]}?" if near else "masklet weights list")
    return [catalog[name] for name in names]


def _in_mib(progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda done, total: progress(done >> 20, total >> 20)


def _score(scores: Mapping[str, float], data: str) -> str:
    named = {"miou": "mIoU", "top1": "top-1", "dice/vessel": "Dice of vessels", "iou@3": "IoU at 3 clicks"}
    key = next((key for key in named if key in scores), None)
    return data if key is None else f"{named[key]} {scores[key]:.3f} on {data}"
