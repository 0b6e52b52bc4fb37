"""`masklet demo` with untrained models: the page is complete, self-contained and right about its numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import run
from masklet.inference import demo
from masklet.models import build
from masklet.structures import Classes
from masklet.weights import save_checkpoint

PETS = Classes(("pet", "background", "border"), colors=((230, 120, 40), (0, 0, 0), (250, 220, 120)), unscored=(2,))
MODELS = {"pets": PETS, "flood": Classes(("dry", "flooded"))}


class Page(HTMLParser):
    """Sources and balance of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.open, self.seen = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("img", "meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Untrained models in the place of the bundled ones; street is missing, as in a fresh clone."""
    folder = tmp_path_factory.mktemp("bundled")
    for name, classes in MODELS.items():
        torch.manual_seed(0)
        model = build("unet", classes=classes, base=4, depth=1)
        save_checkpoint(folder / f"{name}.safetensors", model, {"scores": {"miou": 0.4321}})
    return folder


@pytest.fixture
def small(weights, monkeypatch, tmp_path):
    """Small photographs and the untrained models, for speed."""
    photographs = {}
    for title, name in list(demo.PHOTOGRAPHS.items())[:2]:
        photographs[title] = tmp_path / name
        with Image.open(demo.sample_photographs()[title]) as image:
            image.convert("RGB").resize((60, 40)).save(photographs[title])
    monkeypatch.setattr("masklet.weights.catalog.BUNDLED", weights)
    monkeypatch.setattr(demo, "sample_photographs", lambda wanted: photographs)
    return photographs


@pytest.fixture
def data(tmp_path) -> Path:
    """Five pets to validate on."""
    root = tmp_path / "data" / "pets"
    for part in ("images/val", "trimaps/val"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(root / "images/val" / f"cat_{i}.jpg")
        Image.fromarray(rng.integers(1, 4, (30, 40), dtype=np.uint8)).save(root / "trimaps/val" / f"cat_{i}.png")
    return root.parent


def test_photographs_are_those_inside_the_wheel():
    for wanted in (demo.PHOTOGRAPHS, demo.ROUND_THINGS):
        found = demo.sample_photographs(wanted)
        assert list(found) == list(wanted)
        assert all(path.is_file() for path in found.values())


def test_demo_makes_a_page_that_needs_no_other_file(small, data, tmp_path):
    out = tmp_path / "out"
    result = run("demo", "--out", str(out), "--data", str(data), "--examples", "3", "--json")
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert found["files"][0] == str(out / "index.html")
    assert all(Path(file).stat().st_size for file in found["files"])
    assert {f.name for f in out.iterdir()} == {"index.html", "pets.jpg", "flood.jpg", "pets", "flood"}
    assert len(list((out / "pets").iterdir())) == 2 * (2 + 3)
    assert list(found["metrics"]) == ["miou/pets"]
    text = (out / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert page.seen.count("img") == 2 * 2 * 2 + 3 * 3  # two models: photographs twice; three trios
    assert "0.432" in text
    assert f"{found['metrics']['miou/pets']:.3f}" in text
    assert "$" not in re.sub(r"base64,[^\"]*", "", text)
    assert "http" not in text


def test_scores_of_the_page_are_those_of_evaluate(small, data, tmp_path):
    from masklet import load
    from masklet.data.sources import open_source
    from masklet.inference.evaluate import evaluate

    models = {"pets": load("pets")}
    made = demo.run_demo(tmp_path / "out", models=models, data=data, examples=5)
    want = evaluate(models["pets"], open_source(f"pets:{data / 'pets'}", split="val"))
    assert made.metrics["miou/pets"] == pytest.approx(want["miou"])


def test_objects_are_counted_and_scored(small, tmp_path):
    root, rng = tmp_path / "data" / "nuclei", np.random.default_rng(0)
    for part in ("images", "instance_ids"):
        (root / part / "val").mkdir(parents=True)
    for i in range(2):
        ids = np.zeros((64, 64), np.uint8)
        ids[10:30, 10 + i : 30], ids[40:60, 30:50] = 1, 2
        picture = rng.integers(0, 40, (64, 64, 3)) + 180 * (ids > 0)[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(root / f"images/val/{i}.png")
        Image.fromarray(ids).save(root / f"instance_ids/val/{i}.png")
    torch.manual_seed(0)
    tiny = {"backbone": "resnet18", "channels": 8, "hidden": 8, "mask_channels": 4, "short_side": 64, "threshold": 0.0}
    model = build("mask_rcnn", classes=["nucleus"], **tiny)
    made = demo.run_demo(tmp_path / "out", models={"nuclei": model}, data=root.parent, examples=2)
    assert list(made.metrics) == ["ap50/nuclei"]
    assert 0 <= made.metrics["ap50/nuclei"] <= 1
    text = made.page.read_text()
    assert len(re.findall(r"nucleus: \d+ found, 2 there, AP at IoU .5 \d\.\d\d", text)) == 2
    assert len(re.findall(r"nucleus: \d+ found<", text)) == 2, "photographs have no truth"
    assert 'class="legend"' not in text
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"index.html", "nuclei.jpg", "nuclei"}


def test_without_data_there_are_only_photographs(small, tmp_path):
    result = run("demo", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "none"))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"open {tmp_path / 'out' / 'index.html'} in a browser\n")
    assert 'trio"' not in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("missing", ["weights", "scikit-image"])
def test_what_is_missing_is_said(small, monkeypatch, tmp_path, missing):
    if missing == "weights":
        monkeypatch.setattr("masklet.weights.catalog.BUNDLED", tmp_path)
        want = {"error": "this copy of masklet has no bundled weights", "hint": "run: make train-bundled"}
    else:
        monkeypatch.undo()
        monkeypatch.setattr(demo, "find_spec", lambda name: None)
        monkeypatch.setattr(demo, "_bundled", dict)
        want = {"error": "the sample photographs come with scikit-image", "hint": "pip install 'masklet[demo]'"}
    result = run("demo", "--out", str(tmp_path / "out"), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (2, want)
