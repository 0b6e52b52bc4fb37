"""Save a model as a torch.export program, and run that file with torch alone.

python examples/export.py --model street --size 360x480
"""

from __future__ import annotations

import argparse
import json

import torch

import masklet
from masklet.export import export_program

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="pets", help="a bundled model's name or the path of a checkpoint")
parser.add_argument("--size", default="256x256", help="height x width of the images")
parser.add_argument("--out", default="model.pt2")
args = parser.parse_args()

height, width = map(int, args.size.split("x"))
written = export_program(masklet.load(args.model), args.out, size=(height, width), outputs="labels")
print(f"wrote {written.path}; it differs from the model by {written.difference:.1e}")

# From here on no masklet: this is what the other machine runs.
note = {"masklet.json": ""}
program = torch.export.load(args.out, extra_files=note).module()
labels = program(torch.rand(1, 3, height, width))  # RGB in 0..1; the program normalises it
print("labels", tuple(labels.shape), "of", json.loads(note["masklet.json"])["classes"]["names"])
