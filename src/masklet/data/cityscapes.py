"""Cityscapes street scenes (Cordts et al., 2016): the 19 classes of the benchmark, everything else ignored.

    root/leftImg8bit/<split>/<city>/*_leftImg8bit.png   root/gtFine/<split>/<city>/*_gtFine_labelIds.png

Where `labelIds` are missing, `labelTrainIds` are read. Exports give the official ids (7 road, 8 sidewalk, ...).
"""

from __future__ import annotations

from pathlib import Path

from masklet.data.pairs import Coding, Listing, empty, existing, keyed, split_folders, subfolder
from masklet.structures import Classes

CLASSES = Classes(
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    colors=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    things=(False,) * 11 + (True,) * 8,
    ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)  # fmt: skip
TRAIN_IDS = Classes(names=CLASSES.names, colors=CLASSES.colors, things=CLASSES.things)


def list_cityscapes(root: Path, split: str = "train") -> Listing:
    """The finely annotated files of Cityscapes; `all` is train and val."""
    existing(root, split)
    folders = subfolder(root, ("leftImg8bit",), "image"), subfolder(root, ("gtFine",), "mask")
    images = _files(folders[0], split, "_leftImg8bit")
    labels, coding = _files(folders[1], split, "_gtFine_labelIds"), Coding(CLASSES, rest="ignore")
    if not labels and (train_ids := _files(folders[1], split, "_gtFine_labelTrainIds")):
        labels, coding = train_ids, Coding(TRAIN_IDS)
    if not images:
        raise empty(folders[0])
    return Listing("cityscapes", split, root, tuple(images), tuple(labels), coding)


def _files(folder: Path, split: str, suffix: str) -> list[tuple[str, Path]]:
    """(split/city/name, path); the test split carries no annotation and is left out of `all`."""
    parts = [f for f in split_folders(folder, split) if split != "all" or f.name != "test"]
    return [(f"{part.name}/{key}", path) for part in parts for key, path in keyed(part, suffix)]
