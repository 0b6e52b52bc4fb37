"""COCO's list of categories and our `Classes`: numbers on disk, names, colours, things or stuff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masklet.data.images import BadFile
from masklet.structures import Classes
from masklet.structures.errors import UserError

COCO = Classes(
    (
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
        "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
        "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
        "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
        "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
        "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
        "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
        "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
        "hair drier", "toothbrush",
    ),
    things=(True,) * 80,
    ids=tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)),  # its files skip these
)  # fmt: skip
PERSON = (  # COCO's 17 keypoints
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
SKELETON = (  # which of them COCO joins, counted from 1
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


def coco_categories(classes: Classes) -> list[dict[str, Any]]:
    """COCO's list of categories, with colours and things as in COCO panoptic, and the names of keypoints."""
    skeleton = {"skeleton": [[*pair] for pair in SKELETON]} if classes.keypoints == PERSON else {}
    points = {"keypoints": [*classes.keypoints], **skeleton} if classes.keypoints else {}
    return [
        {
            "id": i,
            "name": name,
            "supercategory": "thing" if thing else "stuff",
            "isthing": int(thing),
            "color": [*color],
            **points,
        }
        for i, name, thing, color in zip(classes.ids, classes.names, classes.things, classes.colors, strict=True)
    ]


def read_categories(categories: Any, path: Path) -> Classes:
    """The classes of a COCO file in its order; categories are things unless they say `"isthing": 0`."""
    try:
        colors = tuple(tuple(map(int, c["color"])) for c in categories if "color" in c)
        ids = tuple(int(c["id"]) for c in categories)
        names = tuple(str(c["name"]) for c in categories)
        things = tuple(bool(c.get("isthing", 1)) for c in categories)
        return Classes(
            names,
            colors if len(colors) == len(names) else (),  # type: ignore[arg-type] # Classes checks that there are three
            things,
            ids,
            ignore=255 if len(ids) <= 255 else 65535,
        )
    except UserError as error:
        raise BadFile(path, "bad_table", error.message, error.hint or "") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        fault = "its categories cannot be read"
        raise BadFile(path, "bad_table", fault, 'each is {"id": 1, "name": "person", "isthing": 1}') from None
