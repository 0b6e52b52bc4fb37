"""The bundled `nuclei` finds nuclei, and cuts and seams do not change how many."""

from __future__ import annotations

import pytest
import torch

from conftest import shared
from masklet.data.framing import Chosen
from masklet.data.sources import open_source
from masklet.inference.evaluate import evaluate
from masklet.models.base import ShorterSide
from masklet.weights import CATALOG, load


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    if not CATALOG["nuclei"].path.exists():
        pytest.skip("this copy has no bundled weights")
    return load("nuclei")


@pytest.mark.usefixtures("single_thread")
def test_nuclei_are_found(model):
    data = open_source(f"nuclei:{shared('data', 'nuclei')}", "val")
    assert evaluate(model, Chosen(data, (0, 4, 7)))["ap50"] > 0.9


def test_it_fits_the_wheel_and_sees_large_pictures_in_tiles(model):
    assert CATALOG["nuclei"].path.stat().st_size <= 16 * 2**20
    assert model.resize == ShorterSide(512, 1333, tile=256)
    assert model.classes.names == ("nucleus",)
