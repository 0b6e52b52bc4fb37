"""Every mistake at the door of a structure, with the exact words that meet it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from masklet.ops import rle
from masklet.structures import (
    Classes,
    Instances,
    Masklets,
    Masks,
    Matte,
    Panoptic,
    Prompt,
    Sample,
    Segment,
    SemanticMap,
    UserError,
)

TWO = Classes(("ground", "figure"))
BYTES = torch.zeros(3, 4, dtype=torch.uint8)
LONGS = torch.zeros(3, 4, dtype=torch.int64)
MASK = rle.encode(np.ones((3, 4), bool))
MASKS = Masks(3, 4, (MASK,))
NO_LABELS, ONE_LABEL = torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
BOX, IMAGE = torch.tensor([[0.0, 0, 4, 3]]), torch.zeros(3, 3, 4)
CLICK = torch.tensor([[1.0, 2]])


def instances(boxes=BOX, labels=ONE_LABEL, scores=None, masks=None, size=(3, 4)):
    scores = torch.ones(len(labels)) if scores is None else scores
    return Instances(boxes, labels, scores, masks, size, TWO)


TABLE = {
    # Classes
    "no classes": (lambda: Classes(()), "there are no classes; name at least one"),
    "names as one text": (lambda: Classes("abc"), "class names came as one text 'abc'; give a list of names"),
    "too few colours": (
        lambda: Classes(("a", "b"), colors=((0, 0, 0),)),
        "2 classes but 1 colors; give one for each class",
    ),
    "too many things": (
        lambda: Classes(("a",), things=(True, False)),
        "1 classes but 2 things; give one for each class",
    ),
    "too few ids": (lambda: Classes(("a", "b"), ids=(7,)), "2 classes but 1 ids; give one for each class"),
    "a name twice": (
        lambda: Classes(("a", "b", "a")),
        "two classes have the name 'a'; every name must be different",
    ),
    "an empty name twice": (lambda: Classes(("", "")), "two classes have the name ''; every name must be different"),
    "an id twice": (lambda: Classes(("a", "b"), ids=(0, 0)), "two classes have the id 0; every id must be different"),
    "colour outside a byte": (
        lambda: Classes(("a",), colors=((0, 256, 0),)),
        "the colour (0, 256, 0) of class 'a' is not in 0..255; use 8-bit RGB",
    ),
    "colour not RGB": (
        lambda: Classes(("a",), colors=((0, 256),)),
        "the colour (0, 256) is not R, G, B; give three numbers in 0..255",
    ),
    "ignore is a class": (
        lambda: Classes(("a", "b"), ignore=1),
        "ignore=1 is also the class 'b'; choose a number that is not a class, such as 255",
    ),
    "256 classes and ignore 255": (
        lambda: Classes(tuple(map(str, range(256)))),
        "ignore=255 is also the class '255'; use 65535 or -1",
    ),
    "a keypoint twice": (
        lambda: Classes(("person",), keypoints=("nose", "nose")),
        "two keypoints have the name 'nose'; every name must be different",
    ),
    "unscored class": (lambda: Classes(("a",), unscored=(1,)), "unscored class 1 does not exist; classes are 0..0"),
    "unknown name": (lambda: TWO.index("grond"), "no class is called 'grond'; did you mean ground?"),
    "unknown label": (lambda: TWO.index(2), "class 2 does not exist; classes are 0..1"),
    "unknown field": (
        lambda: Classes.from_dict({"names": ["a"], "colours": []}),
        "classes have no field 'colours'; the fields are colors, ids, ignore, keypoints, names, things, unscored",
    ),
    "no names": (lambda: Classes.from_dict({"ids": [1]}), 'the classes have no names; give {"names": [...]}'),
    # SemanticMap
    "label map with channels": (
        lambda: SemanticMap(BYTES[None], TWO),
        "a label map has two axes, this one has shape (1, 3, 4)",
    ),
    "float label map": (
        lambda: SemanticMap(BYTES.float(), TWO),
        "a label map is uint8 or int64, this one is torch.float32; convert it first",
    ),
    "label outside the classes": (
        lambda: SemanticMap(BYTES + 7, TWO),
        "the label map contains the label 7, but there are 2 classes; labels are 0..1, and 255 for pixels to ignore",
    ),
    "negative label": (
        lambda: SemanticMap(LONGS - 1, TWO),
        "the label map contains the label -1, but there are 2 classes; labels are 0..1, and 255 for pixels to ignore",
    ),
    "probs of another size": (
        lambda: SemanticMap(BYTES, TWO, torch.zeros(2, 4, 3)),
        "probs have shape (2, 4, 3), expected (2, 3, 4); give K, H, W",
    ),
    # Masks
    "id map with channels": (
        lambda: Masks.from_ids(BYTES[None]),
        "an id map has the shape (h, w), this one has (1, 3, 4)",
    ),
    "negative id": (lambda: Masks.from_ids(LONGS - 1), "an id map holds -1; ids are 0 (background) and above"),
    "negative size": (lambda: Masks(-1, 4), "masks cannot be -1x4; give height and width in pixels"),
    "mask of another size": (
        lambda: Masks(480, 640, (MASK,)),
        "mask 0 is 3x4 but the image is 480x640; resize the mask or use the original image",
    ),
    "one mask for a stack": (
        lambda: Masks.from_dense(torch.ones(3, 4, dtype=torch.bool)),
        "masks need the shape (n, h, w), these have (3, 4)",
    ),
    "float masks": (
        lambda: Masks.from_dense(torch.ones(1, 3, 4)),
        "masks are bool, this one is float32; threshold it first",
    ),
    "crops without corners": (
        lambda: Masks.from_crops([np.ones((2, 2), bool)], [], 3, 4),
        "1 crops but 0 corners; give one (x0, y0) for each crop",
    ),
    "crop outside": (
        lambda: Masks.from_crops([np.ones((2, 2), bool)], [(3, 0)], 3, 4),
        "a 2x2 crop at x=3, y=0 leaves the 3x4 image; clip it first",
    ),
    "no run lengths, no size": (
        lambda: Masks.from_rle([]),
        "no masks, so their size is unknown; give height and width",
    ),
    "broken run lengths": (
        lambda: Masks.from_rle([{"size": [3, 4], "counts": "5"}]),
        "RLE counts add up to 5 pixels, but 3x4 has 12",
    ),
    "overlap of two sizes": (
        lambda: MASKS.iou(Masks(4, 3)),
        "masks of 3x4 and of 4x3 do not overlay; resize one of them",
    ),
    # choosing objects
    "choose by words": (
        lambda: MASKS["first"],
        "cannot choose objects with 'first'; "
        "choose objects with a number, a slice, a list of numbers, or a tensor of numbers or bools",
    ),
    "choose by floats": (
        lambda: MASKS[torch.tensor([0.5])],
        "cannot choose objects with a torch.float32 of shape (1,); "
        "choose objects with a number, a slice, a list of numbers, or a tensor of numbers or bools",
    ),
    "too many bools": (
        lambda: MASKS[[True, False]],
        "a bool choice of 2 does not fit 1 objects; give one bool each",
    ),
    # Instances, what only some tasks know
    "crowd as numbers": (
        lambda: replace(instances(), crowd=torch.zeros(1)),
        "crowd is bool (n,), this is torch.float32 of shape (1,); give True or False for each object",
    ),
    "crowd of another length": (
        lambda: replace(instances(), crowd=torch.zeros(2, dtype=torch.bool)),
        "every field of Instances needs one entry per object, but there are 1 boxes, 1 labels, 1 scores, 2 crowd",
    ),
    "keypoints without visibility": (
        lambda: replace(instances(), keypoints=torch.zeros(1, 17, 2)),
        "keypoints are float (n, k, 3), these are torch.float32 of shape (1, 17, 2); give x y visible for each point",
    ),
    "keypoint at nan": (
        lambda: replace(instances(), keypoints=torch.full((1, 17, 3), torch.nan)),
        "the keypoints have a number that is not finite",
    ),
    "rotated boxes without an angle": (
        lambda: replace(instances(), rotated=torch.zeros(1, 4)),
        "rotated boxes are float (n, 5), these are torch.float32 of shape (1, 4); give cx cy w h degrees",
    ),
    # Instances
    "boxes of integers": (
        lambda: instances(boxes=BOX.long()),
        "boxes are float (n, 4), these are torch.int64 of shape (1, 4); give x0 y0 x1 y1 for each object",
    ),
    "labels in bytes": (
        lambda: instances(labels=ONE_LABEL.byte()),
        "labels are int64, these are torch.uint8; convert them with .long()",
    ),
    "one label short": (
        lambda: instances(labels=NO_LABELS, scores=torch.ones(1), masks=MASKS),
        "every field of Instances needs one entry per object, but there are 1 boxes, 0 labels, 1 scores, 1 masks",
    ),
    "box without numbers": (lambda: instances(boxes=BOX / 0), "a box has a coordinate that is not a number"),
    "box as xywh": (
        lambda: instances(boxes=torch.tensor([[9.0, 9, 4, 3]])),
        "box 0 ends before it begins: [9.0, 9.0, 4.0, 3.0]; boxes are x0 y0 x1 y1, not x y width height",
    ),
    "masks of another image": (
        lambda: instances(masks=MASKS, size=(960, 1280)),
        "masks are 3x4 but image is 960x1280; resize the masks or use the original image",
    ),
    "label of no class": (lambda: instances(labels=ONE_LABEL + 2), "label 2 does not exist; classes are 0..1"),
    # Panoptic
    "ids in bytes": (
        lambda: Panoptic(BYTES),
        "panoptic ids are int64 (h, w), these are torch.uint8 of shape (3, 4); convert them with .long()",
    ),
    "an id of two segments": (
        lambda: Panoptic(LONGS, (Segment(3, 0, True), Segment(3, 1, True))),
        "two segments have the id 3; ids are unique within one image",
    ),
    "a void segment": (
        lambda: Panoptic(LONGS, (Segment(0, 0, True),)),
        "a segment has the id 0; 0 is void; count segments from 1",
    ),
    "an unknown id": (
        lambda: Panoptic(LONGS + 5),
        "the map contains id 5, which no segment describes; 0 means void",
    ),
    "an unseen segment": (
        lambda: Panoptic(LONGS, (Segment(5, 0, True),)),
        "segment 5 has no pixel in the map; leave empty segments out",
    ),
    "mask of no segment": (
        lambda: Panoptic(LONGS + 5, (Segment(5, 0, True),)).mask(6),
        "no segment has the id 6; the ids are 5",
    ),
    # Masklets
    "negative frame": (
        lambda: Masklets(3, 4, {1: {-1: MASK}}),
        "object 1 has a mask in frame -1; frames count from 0",
    ),
    "frame of another size": (
        lambda: Masklets(4, 3, {1: {0: MASK}}),
        "object 1 in frame 0 is 3x4 but the video is 4x3; resize the mask",
    ),
    "score of nobody": (
        lambda: Masklets(3, 4, {1: {0: MASK}}, scores={2: 0.5}),
        "scores name object 2, which has no masks; give its masks as well",
    ),
    # Matte
    "alpha in bytes": (
        lambda: Matte(BYTES[None]),
        "alpha is float (1, h, w), this is torch.uint8 of shape (1, 3, 4); divide 8-bit alpha by 255",
    ),
    "alpha to 255": (
        lambda: Matte(torch.full((1, 3, 4), 255.0)),
        "alpha must be in 0..1, this one is in 255..255; divide 8-bit alpha by 255",
    ),
    "alpha without numbers": (
        lambda: Matte(torch.full((1, 3, 4), torch.nan)),
        "alpha must be in 0..1, this one is in nan..nan; divide 8-bit alpha by 255",
    ),
    "foreground of another size": (
        lambda: Matte(torch.zeros(1, 3, 4), torch.zeros(3, 4, 4)),
        "foreground is 3x4x4, but alpha needs 3x3x4",
    ),
    "nothing to composite": (
        lambda: Matte(torch.zeros(1, 3, 4)).over(IMAGE),
        "this matte has no foreground colours; use Matte(alpha, foreground=image)",
    ),
    "background of another size": (
        lambda: Matte(torch.zeros(1, 3, 4), IMAGE).over(torch.zeros(3, 5, 4)),
        "the background is 5x4 but the matte is 3x4; resize it first",
    ),
    # Prompt
    "empty prompt": (lambda: Prompt(), "the prompt is empty; give points, boxes or masks"),
    "labels without points": (
        lambda: Prompt(point_labels=ONE_LABEL, boxes=BOX),
        "1 point labels but no points; give the points as well",
    ),
    "points in 3D": (
        lambda: Prompt(torch.zeros(1, 3)),
        "points are float (p, 2), these are torch.float32 of shape (1, 3); give x y for each point",
    ),
    "too many point labels": (
        lambda: Prompt(CLICK, torch.ones(2, dtype=torch.int64)),
        "1 points but 2 point labels; give one for each",
    ),
    "point label 2": (
        lambda: Prompt(CLICK, ONE_LABEL + 2),
        "point label 2 is neither 1 (this) nor 0 (not this)",
    ),
    "prompt boxes flat": (
        lambda: Prompt(boxes=BOX[0]),
        "boxes are float (b, 4), these are torch.float32 of shape (4,); give x0 y0 x1 y1 for each box",
    ),
    "prompt box as xywh": (
        lambda: Prompt(boxes=torch.tensor([[9.0, 9, 4, 3]])),
        "a box ends before it begins; boxes are x0 y0 x1 y1, not x y width height",
    ),
    "prompt mask of floats": (
        lambda: Prompt(masks=torch.zeros(3, 4)),
        "mask prompts are bool (m, h, w), these are torch.float32 of shape (3, 4); threshold and stack them",
    ),
    # Sample
    "grey image": (
        lambda: Sample(torch.zeros(1, 3, 4)),
        "the image has shape (1, 3, 4); images are RGB, (3, H, W)",
    ),
    "HWC image": (
        lambda: Sample(torch.zeros(3, 4, 3).permute(1, 2, 0)[:2], "cat.jpg"),
        "the image of cat.jpg has shape (2, 3, 3); images are RGB, (3, H, W)",
    ),
    "double image": (
        lambda: Sample(IMAGE.double(), "cat.jpg"),
        "the image of cat.jpg is torch.float64; give float32 in 0..1 or uint8",
    ),
    "label map of floats": (
        lambda: Sample(IMAGE, "cat.jpg", semantic=IMAGE[0]),
        "the label map of cat.jpg is torch.float32 of shape (3, 4); label maps are uint8 or int64, (H, W)",
    ),
    "label map of another size": (
        lambda: Sample(IMAGE, "cat.jpg", semantic=BYTES.T),
        "the label map of cat.jpg is 4x3 but the image is 3x4; "
        "resize one to the other, or check that the files belong together",
    ),
    "matte of another size": (
        lambda: Sample(IMAGE, matte=Matte(torch.zeros(1, 4, 4))),
        "the matte is 4x4 but the image is 3x4; resize one to the other, or check that the files belong together",
    ),
    "label map beyond the classes": (
        lambda: Sample(IMAGE, "cat.jpg", semantic=BYTES + 9, classes=TWO),
        "the label map of cat.jpg contains the label 9, but there are 2 classes; "
        "labels are 0..1, and 255 for pixels to ignore",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_input(case, as_user):
    call, message = TABLE[case]
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == message


def test_an_object_that_does_not_exist_is_an_index_error():
    """IndexError, so that a plain `for` over masks or instances comes to its end."""
    with pytest.raises(IndexError, match="object 1 does not exist; there are 1"):
        MASKS[1]
    with pytest.raises(IndexError, match="object -2 does not exist; there are 1"):
        instances()[[-2]]
