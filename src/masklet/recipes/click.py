"""How the bundled model `click` was trained: `python -m masklet.recipes.click --data-root DIR --out DIR`.

A small SAM 2 on an EfficientNet-Lite0 learns from everything that has masks: first at 256 pixels, which is cheap, then
at the size that it is used at. Running the command again continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from masklet.recipes import plans
from masklet.recipes.promptable import PromptableRecipe, run
from masklet.recipes.running import Result

__all__ = ["DATA", "OPTIONS", "STAGES", "train"]

# The three held-out sequences are in the first frames of DAVIS 2017 too. Of the small COCO sets all pictures are for
# training, for no score is taken on them.
DATA: Mapping[str, float] = MappingProxyType(
    {
        "davis:davis2016": 1.6,
        "davis:davis2017_first_frames?split=all&without=dog,libby,car-shadow": 1.0,
        "pets:pets": 0.7,
        "nuclei:nuclei": 0.7,
        "camvid:camvid": 0.9,
        "flood:flood_area": 0.5,
        "coco:coco_instances_mini?split=all": 1.2,
        "coco:coco_keypoints_mini?split=all": 1.0,
        "labelme:labelme_examples/instance_segmentation/data_annotated?split=all": 0.2,
    }
)
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "norm": "frozen",
        "side": 256,
        "channels": 128,
        "decoder_heads": 4,
        "decoder_hidden": 512,
        "mask_channels": 32,
        "memory_channels": 32,
        "own_layers": 1,
        "memory_layers": 2,
        "memory_hidden": 512,
        "enriched": ["c2", "c3", "c4"],
        "drawn": 2.0,
        "mixing": [2, 1],
        "level_norm": True,
        "follow": True,
        "dropout": 0.0,
    }
)
SMALL = PromptableRecipe(
    data=dict(DATA),
    val_data="davis:davis2016",
    options=dict(OPTIONS),
    epochs=9,
    steps=100,
    images=10,
    clips=0,  # a network that cannot see objects yet has nothing to remember
    frames=4,
    objects=4,
    prompted=1,
    corrected=1,
    rounds=3,
    lr=1e-3,
    lr_factors={r"encoder\.backbone\.": 0.2},
    ema=0.998,
    validate_every=9,  # at the end only: nothing is chosen by what is held out
    monitor="iou@3",
    val_limit=24,
)
LARGE = replace(
    SMALL,
    data={**DATA, "camvid:camvid": 2.0, "flood:flood_area": 1.2},
    options={**OPTIONS, "weights": None, "side": 384},
    epochs=6,
    validate_every=6,
    images=6,
    clips=2,
    boxes=0.35,
    central=0.6,
    lr=6e-4,
)
STAGES: Mapping[str, PromptableRecipe] = MappingProxyType(
    {
        "small": SMALL,
        "large": LARGE,
        # What still lacked most when half of that was done were nuclei, which are tiny in most pictures, and floods.
        "last": replace(
            LARGE,
            data={
                **{k: v for k, v in LARGE.data.items() if not k.startswith("nuclei:")},
                "nuclei:nuclei?whole=0.3": 1.8,
                "flood:flood_area": 1.6,
                "pets:pets": 0.4,
                "coco:coco_keypoints_mini?split=all": 0.8,
            },
            epochs=6,
            validate_every=6,
            images=8,
            frames=3,
            lr=3e-4,
            warm_up_steps=20,
        ),
    }
)


def train(data_root: Path, out: Path, words: Sequence[str] = (), progress: bool = True) -> Result:
    """Trains (or continues) the stages in folders of `out`, each from the best of the one before.

    `words` are `stage.key=value` changes.
    """
    start: str | None = None
    for name, stage in STAGES.items():
        own = [word.removeprefix(f"{name}.") for word in words if word.startswith(f"{name}.")]
        placed = {_placed(text, data_root): weight for text, weight in stage.data.items()}
        recipe = plans.override(
            replace(stage, data=placed, val_data=_placed(stage.val_data, data_root), start=start), own
        )
        folder = out / name
        result = run(recipe, folder, resume=(folder / "last.safetensors").exists(), progress=progress)
        if not result.finished:
            return result
        start = str(result.best)
    return result


def _placed(text: str, root: Path) -> str:
    kind, _, path = text.partition(":")
    return f"{kind}:{root / path}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; says what came out."""
    parser = argparse.ArgumentParser(prog="python -m masklet.recipes.click", description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder that the data sets are in")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("words", nargs="*", help="changes, such as large.epochs=12")
    asked = parser.parse_args(argv)
    result = train(asked.data_root, asked.out, asked.words)
    print(f"{result.out}: {result.finished or 'time is up'}; {result.scores}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
