"""What Mask R-CNN does with a picture while it trains: anchors, proposals, samples, moved boxes and masks, drawn.

python examples/show_anchors.py --model nuclei --data nuclei:../shared/data/nuclei --split val
python examples/show_anchors.py --model runs/last.safetensors --data coco:instances.json --images images --index 3
"""

from __future__ import annotations

import argparse

from PIL import Image

import masklet
from masklet.data.images import to_float
from masklet.data.sources import open_source
from masklet.data.transforms import window
from masklet.inference.inside import look_inside
from masklet.ops.boxes import iou
from masklet.viz.anchors import training_sheet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="nuclei", help="a two-stage model: a bundled one's name or a checkpoint's path")
parser.add_argument("--data", required=True, help="kind:path, as everywhere")
parser.add_argument("--images", help="the folder of pictures, where the kind of data wants one")
parser.add_argument("--split", default="val")
parser.add_argument("--index", type=int, default=0, help="which picture")
parser.add_argument("--crop", type=int, default=0, help="only the middle of it, so many pixels wide and high")
parser.add_argument("--seed", type=int, default=0, help="of the sample")
parser.add_argument("--width", type=int, default=1600, help="of the picture to write")
parser.add_argument("--out", default="anchors.png", help="the picture to write")
args = parser.parse_args()

source = open_source(args.data, args.split, **({"images": args.images} if args.images else {}))
sample = source[args.index]
if args.crop:
    height, width = sample.image.shape[1:]
    side = min(args.crop, height, width)
    sample = window((height - side) // 2, (width - side) // 2, (side, side), (height, width))(sample)
if sample.instances is None:
    raise SystemExit(f"{sample.name} has no objects to learn from")

model = masklet.load(args.model)
image = to_float(sample.image)
inside = look_inside(model, image, sample.instances, args.seed)
print(f"{sample.name}: {len(inside.truth)} objects")
print(f"anchors    {len(inside.positive):4} for objects, {len(inside.negative)} of background")
print(f"proposals  {int((inside.labels >= 0).sum()):4} for objects, {int((inside.labels < 0).sum())} of background")
for i, boxes in enumerate(inside.steps):
    overlap = iou(boxes, inside.truth[inside.of])
    print(
        f"stage {i}    IoU {overlap.mean():.3f} with their objects" if len(overlap) else "no proposal is for an object"
    )

sheet = training_sheet((image * 255).round().byte(), inside, args.width)
Image.fromarray(sheet).save(args.out, optimize=True)
print("wrote", args.out)
