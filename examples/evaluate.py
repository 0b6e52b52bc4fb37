"""The scores of a model on data with truth, in Python: what `masklet evaluate` does.

python examples/evaluate.py --model flood --data flood:../shared/data/flood_area
"""

from __future__ import annotations

import argparse

import masklet
from masklet.data.sources import open_source
from masklet.inference.evaluate import evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="pets", help="a bundled model's name or the path of a checkpoint")
parser.add_argument("--data", default="pets:../shared/data/pets", help="kind:path")
parser.add_argument("--split", default="val")
args = parser.parse_args()

model = masklet.load(args.model)
data = open_source(args.data, split=args.split)
scores = evaluate(model, data)

print(f"{args.model} on {len(data)} images of {args.data} ({args.split})")
for name, value in scores.items():
    if "/" not in name or name.startswith("iou/"):
        print(f"{name:<20}{value:.4f}")
