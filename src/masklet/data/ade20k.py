"""ADE20K scene parsing (Zhou et al., 2017): 150 classes stored as 1..150, where 0 means "other" and is ignored.

    root/images/{training,validation}/*.jpg   root/annotations/{training,validation}/*.png

`root` may be `ADEChallengeData2016`, its parent, or a sample without split folders (then all of it is `val`).
"""

from __future__ import annotations

from pathlib import Path

from masklet.data.pairs import Coding, Listing, divided, divided_files, empty, existing, keep_split, keyed, subfolder
from masklet.structures import Classes

NAMES = tuple(
    """wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth;
    door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug;
    field; armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column;
    signboard; chest of drawers; counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs;
    runway; case; pool table; pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet;
    flower; book; hill; bench; countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar;
    arcade machine; hovel; bus; towel; light; truck; tower; chandelier; awning; streetlight; booth;
    television; airplane; dirt track; apparel; pole; land; bannister; escalator; ottoman; bottle; buffet;
    poster; stage; van; ship; fountain; conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel;
    basket; waterfall; tent; bag; minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal;
    bicycle; lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; pier;
    crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag""".replace("\n    ", " ").split(
        "; "
    )
)
STUFF = (
    0, 1, 2, 3, 5, 6, 9, 11, 13, 16, 21, 25, 26, 28, 29, 46, 48, 51, 52, 54, 59, 60, 61, 68, 79, 84, 91, 94, 96, 101,
    105, 109, 113, 128, 140,
)  # fmt: skip  # as objectInfo150.csv of the data set says
CLASSES = Classes(names=NAMES, things=tuple(i not in STUFF for i in range(150)), ids=tuple(range(1, 151)))


def list_ade20k(root: Path, split: str = "train") -> Listing:
    """The files of ADE20K scene parsing; 0 on disk is ignored, 1..150 become 0..149."""
    root = next((p for p in (root / "ADEChallengeData2016", root / "sampleData") if p.is_dir()), root)
    existing(root, split)
    folder = subfolder(root, ("images",), "image")
    if divided(folder):
        images, labels = divided_files(root, split, ("images",), ("annotations",))
    else:
        both = keyed(folder), keyed(subfolder(root, ("annotations",), "mask"))
        images, labels = (keep_split(entries, split, lambda key: True) for entries in both)
    if not images:
        raise empty(folder)
    return Listing("ade20k", split, root, tuple(images), tuple(labels), Coding(CLASSES, ignored=(0, 255)))
