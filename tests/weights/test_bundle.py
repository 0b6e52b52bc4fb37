"""One file carries weights to a machine without a network; whatever is wrong with it is said and nothing is kept."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import masklet
from masklet.models import build
from masklet.parts.backbones import build_backbone
from masklet.structures.errors import UserError
from masklet.weights import CATALOG, bundle, cache, catalog, read_tensors, save_checkpoint
from masklet.weights.bundle import MANIFEST, README, read_bundle, write_bundle
from masklet.weights.catalog import Entry

NAME = "mobilenet_v3_small_imagenet"
FILE = "mobilenet_v3_small-047dcff4"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """What torchvision might have published."""
    file = tmp_path_factory.mktemp("published") / f"{FILE}.pth"
    body = build_backbone("mobilenet_v3_small").state_dict()
    torch.save({**body, "classifier.3.weight": torch.zeros(1000, 1024), "classifier.3.bias": torch.ones(1000)}, file)
    return file


@pytest.fixture
def here(tmp_path, monkeypatch, published) -> Path:
    """A machine with one published file in its cache, one checkpoint of its own, and no network."""
    monkeypatch.setenv("MASKLET_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("MASKLET_OFFLINE", "1")
    cache.folder().mkdir(parents=True)
    (cache.folder() / published.name).symlink_to(published)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    ours = Entry(**{**vars(CATALOG[NAME]), "sha256": digest[:8]})
    for module in (catalog, bundle, sys.modules["masklet.weights"]):
        monkeypatch.setattr(module, "CATALOG", {**CATALOG, NAME: ours})
    note = {"licence": "CC-BY-NC-4.0", "recipe": {"data": "folder:lakes"}, "scores": {"miou": 0.5}}
    save_checkpoint(tmp_path / "lakes.safetensors", build("unet", classes=["dry", "wet"], base=2, depth=1), note)
    return tmp_path


@pytest.fixture
def there(here, monkeypatch) -> Path:
    """A bundle of the published weights and our own; from now on the cache is that of a machine that has nothing."""
    path = here / "stick" / "air.zip"
    write_bundle([NAME, here / "lakes.safetensors"], path)
    monkeypatch.setenv("MASKLET_CACHE", str(here / "there"))
    return path


@pytest.fixture
def small(here, monkeypatch) -> Path:
    """A bundle of our own weights alone."""
    path = here / "air.zip"
    write_bundle([here / "lakes.safetensors"], path)
    monkeypatch.setenv("MASKLET_CACHE", str(here / "there"))
    return path


def message(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_what_is_in_a_bundle(there, here):
    with zipfile.ZipFile(there) as file:
        assert file.namelist() == [MANIFEST, README, f"weights/{NAME}.safetensors", "weights/lakes.safetensors"]
        manifest, readme = json.loads(file.read(MANIFEST)), file.read(README).decode()
        for item in manifest["weights"]:
            content = file.read(item["file"])
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (item["sha256"], item["size"])
            assert b"cposix" not in content
    body, lakes = manifest["weights"]
    assert body["url"] == "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth"
    assert (body["licence"], body["objections"]) == ("BSD-3-Clause", ["non-commercial-data"])
    assert len(body["published_sha256"]) == 64
    assert body["preprocessing"] == {
        "colours": "RGB",
        "range": [0, 1.0],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "formula": "(pixel - mean) / std",
        "done": "inside the model, which takes RGB in 0..1",
    }
    assert (lakes["licence"], lakes["data"], lakes["classes"]) == ("CC-BY-NC-4.0", "folder:lakes", ["dry", "wet"])
    assert lakes["preprocessing"] == body["preprocessing"]
    assert (
        f"{NAME}: Backbone mobilenet_v3_small, to start training from\n  licence BSD-3-Clause; learned from ImageNet"
        in readme
    )
    assert lakes["sha256"] in readme


def test_the_same_weights_give_the_same_file(here, monkeypatch):
    for name in ("a.zip", "b.zip"):
        write_bundle([NAME, here / "lakes.safetensors"], here / name)
    assert (here / "a.zip").read_bytes() == (here / "b.zip").read_bytes()
    assert sorted(p.name for p in here.iterdir() if p.is_file()) == ["a.zip", "b.zip", "lakes.safetensors"]


def test_another_machine_loads_what_came(there, here):
    with pytest.raises(UserError, match="is not on this machine and MASKLET_OFFLINE is set"):
        masklet.load(NAME)
    with pytest.raises(UserError, match="unknown weights 'lakes'"):
        masklet.load("lakes")
    items = read_bundle(there, cache.sha256_of(there).upper())
    assert [item["path"].name for item in items] == [f"{FILE}.safetensors", "lakes.safetensors"]
    body = masklet.load(NAME)
    want = read_tensors(here / "here" / "weights" / CATALOG[NAME].file)
    assert all(torch.equal(value, want[key]) for key, value in body.state_dict().items())
    lakes = masklet.load("lakes")
    assert lakes.classes.names == ("dry", "wet")
    assert cache.carried().keys() == {NAME, "lakes"}
    assert read_bundle(there) == items, "a second time changes nothing"
    onwards = write_bundle([NAME], here / "onwards.zip")
    assert onwards["weights"][0]["sha256"] == items[0]["sha256"]


def rewrite(path: Path, **changes: bytes | None) -> None:
    """The bundle with members replaced, added or (None) taken out, as somebody with a zip program would."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()} | changes
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)


def manifest_with(path: Path, **changes) -> bytes:
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read(MANIFEST))
    manifest["weights"][0] |= changes
    return json.dumps(manifest).encode()


def weights_in(path: Path) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read("weights/lakes.safetensors")


LAKES = "weights/lakes.safetensors"
FLAWS = {
    "tampered": (
        lambda p: rewrite(p, **{LAKES: weights_in(p)[:-1] + b"?"}),
        "weights/lakes.safetensors in {path} is not what its manifest says; copy the bundle again",
    ),
    "shorter": (
        lambda p: rewrite(p, **{LAKES: weights_in(p)[:-1]}),
        "weights/lakes.safetensors in {path} is not what its manifest says; copy the bundle again",
    ),
    "lacking": (
        lambda p: rewrite(p, **{LAKES: None}),
        "{path} holds other files than its manifest says; make the bundle again",
    ),
    "smuggled": (
        lambda p: rewrite(p, **{"../../evil.pth": b"x"}),
        "{path} holds other files than its manifest says; make the bundle again",
    ),
    "out of the folder": (
        lambda p: rewrite(p, **{MANIFEST: manifest_with(p, name="../lakes", file="weights/../lakes.safetensors")}),
        "{path} holds other files than its manifest says; make the bundle again",
    ),
    "no manifest": (
        lambda p: rewrite(p, **{MANIFEST: None}),
        "{path} is not a bundle of masklet; make one with masklet weights bundle",
    ),
    "nonsense": (
        lambda p: rewrite(p, **{MANIFEST: b"{}"}),
        "the manifest of {path} makes no sense; make the bundle again",
    ),
    "newer": (
        lambda p: rewrite(p, **{MANIFEST: b'{"masklet_bundle": 2, "weights": []}'}),
        "{path} was written by another masklet (bundle format 2); upgrade masklet",
    ),
    "half copied": (
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        "{path} is cut short or damaged; copy the bundle again",
    ),
    "a bit flipped": (
        lambda p: p.write_bytes(p.read_bytes()[:-3000] + b"!" + p.read_bytes()[-2999:]),
        "{path} is cut short or damaged; copy the bundle again",
    ),
    "not a zip": (lambda p: p.write_bytes(b"hello"), "{path} is cut short or damaged; copy the bundle again"),
    "empty": (lambda p: p.write_bytes(b""), "{path} is empty (0 bytes); copy or download it again"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_flaws(flaw, small, here):
    spoil, sentence = FLAWS[flaw]
    spoil(small)
    assert message(read_bundle, small) == sentence.format(path=small)
    assert not list((here / "there").rglob("*"))
    assert not list(here.rglob("evil*"))


def test_a_bundle_by_its_hash(small):
    digest = cache.sha256_of(small)
    rewrite(small, **{README: b"forged, hashes and all"})
    assert message(read_bundle, small, digest) == (
        f"{small} is not the bundle with that sha256 (its own is {cache.sha256_of(small)}); fetch it again"
    )


def test_other_weights_of_that_name(small):
    place = cache.folder() / "lakes.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert message(read_bundle, small) == f"the cache holds other weights called lakes; delete {place}"
    assert place.read_bytes() == b"mine"


def test_what_cannot_be_packed(here, monkeypatch):
    out = here / "air.zip"
    assert message(write_bundle, [], out) == ("a bundle of nothing was asked for; name weights: masklet weights list")
    lakes = here / "lakes.safetensors"
    assert message(write_bundle, [lakes, lakes], out) == (
        "'lakes' was asked for twice; give each name once; rename one of the files"
    )
    torch.save({"a": torch.ones(1)}, here / "plain.pth")
    assert message(write_bundle, [here / "plain.pth"], out) == (
        f"{here / 'plain.pth'} does not say what it is; masklet weights convert makes a checkpoint of it"
    )
    lakes.rename(here / "unet.safetensors")
    assert message(write_bundle, [here / "unet.safetensors"], out) == (
        "'unet' cannot be a name of weights; rename the file: letters, digits, _ . -"
    )
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", here)
    assert message(write_bundle, ["flood"], out) == "the weights of 'flood' are not here; run: make train-bundled"
    assert message(write_bundle, ["resnet34_imagenet"], out).startswith("resnet34_imagenet is not on this machine and")
    with pytest.raises(FileNotFoundError, match="no weight file at"):
        write_bundle([here / "gone.safetensors"], out)
    assert not out.exists()


def test_a_bundled_model_goes_to_a_copy_without_it(here, monkeypatch):
    if not CATALOG["flood"].path.exists():
        pytest.skip("this copy has no bundled weights")
    write_bundle(["flood"], here / "air.zip")
    monkeypatch.setenv("MASKLET_CACHE", str(here / "there"))
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", here / "none")
    with pytest.raises(UserError, match="the weights of 'flood' are not in this copy"):
        masklet.load("flood")
    read_bundle(here / "air.zip")
    assert masklet.load("flood").classes.names == ("dry", "flooded")
