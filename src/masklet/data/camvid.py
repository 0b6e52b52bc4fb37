"""CamVid road scenes (Brostow et al., 2008) as distributed with the SegNet tutorial: 11 classes and void.

    root/images/train/*.jpg   root/labels/train/*.png      values 0..10, 11 = void
    root/images/val/*.jpg     root/labels/val/*.png

The tutorial's own folders (`train` beside `trainannot`) are read too.
"""

from __future__ import annotations

from pathlib import Path

from masklet.data.pairs import Coding, Listing, divided_files, empty, existing, keyed, prefixed
from masklet.structures import Classes

CLASSES = Classes(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    colors=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    things=(False,) * 8 + (True,) * 3,
)  # fmt: skip


def list_camvid(root: Path, split: str = "train") -> Listing:
    """The files of CamVid; void (11) is ignored."""
    existing(root, split)
    if (root / "trainannot").is_dir():
        names = [n for n in ("train", "val", "test") if split in (n, "all") and (root / n).is_dir()]
        images = [entry for n in names for entry in prefixed(n, keyed(root / n), split)]
        labels = [entry for n in names for entry in prefixed(n, keyed(root / f"{n}annot"), split)]
        if not images:
            raise empty(root / split)
    else:
        images, labels = divided_files(root, split, ("images",), ("labels",))
    return Listing("camvid", split, root, tuple(images), tuple(labels), Coding(CLASSES, ignored=(11, 255)))
