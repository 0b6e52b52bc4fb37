"""An object by clicks or by a box, in Python.

python examples/click.py                                   # a box around the cat that scikit-image ships, by GrabCut
python examples/click.py photo.jpg --box 10,20,200,180
python examples/click.py photo.jpg --model sam_vit_b --weights sam_vit_b_01ec64.pth --point 320,240 --point 300,400,0
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image

import masklet
from masklet.data.images import read_image
from masklet.inference.click import ClickSession
from masklet.inference.cutting import cut_out
from masklet.inference.demo import sample_photographs
from masklet.structures import Classes, Instances, Masks, Prompt
from masklet.viz.overlay import overlay

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo", nargs="?", help="any picture; a sample photograph if left out")
parser.add_argument("--model", help="a promptable model; GrabCut, which needs no weights, if left out")
parser.add_argument("--weights", help="its file, where --model names a system")
parser.add_argument("--point", action="append", default=[], help="x,y of the object; x,y,0: not this")
parser.add_argument("--box", help="x0,y0,x1,y1 around it")
parser.add_argument("--out", default="clicked.png", help="the overlay to write")
args = parser.parse_args()

photo = read_image(args.photo or next(iter(sample_photographs().values())))
height, width = photo.shape[1:]
points = [tuple(map(float, point.split(","))) for point in args.point]
box = tuple(map(float, args.box.split(","))) if args.box else None
if not points and box is None:
    box = (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height)

if args.model is None:
    where = torch.tensor([point[:2] for point in points]) if points else None
    labels = torch.tensor([int(len(point) < 3 or point[2]) for point in points]) if points else None
    mask = cut_out(photo, Prompt(where, labels, None if box is None else torch.tensor([box])))
    found = Instances.from_masks(Masks.from_dense(mask[None]), torch.zeros(1, dtype=torch.int64), Classes(("object",)))
else:
    session = ClickSession(masklet.load(args.model, weights=args.weights), photo)
    if box is not None:
        session.box(*box)
    for x, y, *label in points:
        session.click(x, y, positive=not label or bool(label[0]))
    found = session.instances()

share = int(found.masks.areas()[0]) / (height * width)
print(f"the object covers {share:.1%}, predicted IoU {float(found.scores[0]):.2f}")
Image.fromarray(overlay(photo, found)).save(args.out)
print("wrote", args.out)
