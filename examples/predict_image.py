"""Masks for one photograph, in Python.

python examples/predict_image.py                              # the cat that scikit-image ships
python examples/predict_image.py photo.jpg --model street
"""

from __future__ import annotations

import argparse

from PIL import Image

import masklet
from masklet.data.images import read_image
from masklet.inference.demo import sample_photographs
from masklet.viz.overlay import overlay

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo", nargs="?", help="any picture; a sample photograph if left out")
parser.add_argument("--model", default="pets", help="a bundled model's name or the path of a checkpoint")
parser.add_argument("--out", default="masks.png", help="the overlay to write")
args = parser.parse_args()

photo = args.photo or next(iter(sample_photographs().values()))
result = masklet.predict(args.model, photo)  # a SemanticMap: labels (H, W), and classes that know their names

for name, share in result.area().items():
    print(f"{name:<12}{share:7.1%}")
first = result.classes.names[0]
print(f"{first} covers {int(result.mask(first).sum())} of {result.labels.numel()} pixels")

Image.fromarray(overlay(read_image(photo), result, names=True)).save(args.out)
print("wrote", args.out)
