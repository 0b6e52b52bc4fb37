"""PASCAL VOC 2012 (Everingham et al.): 20 kinds of objects and background; 255 is the white border around them.

    root/JPEGImages   root/SegmentationClass   root/ImageSets/Segmentation/{train,val,trainval,test}.txt

`root` may also be the folder that holds `VOC2012` or `VOCdevkit/VOC2012`. With `extra=True` the labels come from
`SegmentationClassAug` (Hariharan et al., 2011) and the training list from `trainaug.txt`.
"""

from __future__ import annotations

from pathlib import Path

from masklet.data.pairs import Coding, Listing, broken, empty, existing, keyed
from masklet.structures import Classes

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_color(index: int) -> tuple[int, int, int]:
    """The colour that VOC gives to a label: its bits, dealt out to red, green and blue from the highest bit down."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return color[0], color[1], color[2]


CLASSES = Classes(names=NAMES, colors=tuple(voc_color(i) for i in range(21)), things=(False,) + (True,) * 20)


def list_voc(root: Path, split: str = "train", extra: bool = False) -> Listing:
    """The files of VOC segmentation; `all` is trainval."""
    root = next(
        (p for p in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012") if (p / "JPEGImages").is_dir()), root
    )
    existing(root, split)
    name = {"all": "trainval", "train": "trainaug" if extra else "train"}.get(split, split)
    listed = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not listed.is_file():
        raise broken(
            listed, "no_split_list", "the list of this split is missing", "name the folder with JPEGImages in it"
        )
    wanted = listed.read_text().split()
    if not wanted:
        raise empty(root / "JPEGImages")
    folder = root / ("SegmentationClassAug" if extra else "SegmentationClass")
    labels = dict(keyed(folder)) if folder.is_dir() else {}
    return Listing(
        "voc",
        split,
        root,
        tuple((key, root / "JPEGImages" / f"{key}.jpg") for key in wanted),
        tuple((key, labels[key]) for key in wanted if key in labels),
        Coding(CLASSES, by_color=True),
    )
