"""Oxford-IIIT Pets trimaps (Parkhi et al., 2012): the animal, the ground, and a border that nobody can draw exactly.

    root/images/<split>/*.jpg   root/trimaps/<split>/*.png     values 1 = pet, 2 = background, 3 = border

The original folders (`images`, `annotations/trimaps`, `annotations/trainval.txt`, `annotations/test.txt`) are read too;
there `test` is also what `val` means. The border is learnt as a class of its own and left out of scores.
"""

from __future__ import annotations

from pathlib import Path

from masklet.data.pairs import Coding, Listing, broken, divided_files, empty, existing, keyed, subfolder
from masklet.structures import Classes

CLASSES = Classes(
    names=("pet", "background", "border"),
    colors=((238, 122, 55), (52, 70, 92), (250, 220, 120)),
    things=(True, False, False),
    ids=(1, 2, 3),
    unscored=(2,),
)


def list_pets(root: Path, split: str = "train") -> Listing:
    """The files of Oxford-IIIT Pets."""
    existing(root, split)
    if (root / "annotations" / "trimaps").is_dir():
        images, labels = _official(root, split)
    else:
        images, labels = divided_files(root, split, ("images",), ("trimaps",))
    return Listing("pets", split, root, tuple(images), tuple(labels), Coding(CLASSES, ignored=(255,)))


def _official(root: Path, split: str) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    images, labels = dict(keyed(subfolder(root, ("images",), "image"))), dict(keyed(root / "annotations" / "trimaps"))
    files = {"train": ["trainval"], "val": ["test"], "test": ["test"], "all": ["trainval", "test"]}[split]
    wanted: list[str] = []
    for name in files:
        path = root / "annotations" / f"{name}.txt"
        if not path.is_file():
            raise broken(
                path, "no_split_list", "the list of this split is missing", "copy it from the original data set"
            )
        wanted += [line.split()[0] for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    if not wanted:
        raise empty(root / "images")
    return [(k, images.get(k, root / "images" / f"{k}.jpg")) for k in wanted], [
        (k, labels[k]) for k in wanted if k in labels
    ]
