from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def lakes(tmp_path_factory) -> Path:
    """A data set in the flood layout under `flood_area`: 20 pictures of 24x32, a blue half plane in each is flooded."""
    root = tmp_path_factory.mktemp("data") / "flood_area"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        labels = np.zeros((24, 32), np.uint8)
        labels[:, rng.integers(8, 24) :] = 1
        labels = labels if n % 2 else 1 - labels
        image = rng.integers(0, 60, (24, 32, 3)) + np.where(labels[..., None] == 1, (40, 90, 180), (150, 120, 60))
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{n}.jpg", quality=95)
        Image.fromarray(labels).save(root / "labels" / f"{n}.png")
    return root
