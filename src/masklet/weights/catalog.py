"""Weights by name: what masklet brings along, and what others publish on their own hosts.

Addresses and hashes are those that the publisher gives: torchvision in the metadata of its weights, OpenMMLab in the
names of its files (`...-<first digits of the sha256>.pth`); detectron2 gives no sha256, nor does SAM. An address on any
other host cannot be written here: one of OpenMMLab's own lists (metafile of PSPNet, r101 769x769 80k) names a host that
is not theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from masklet.data.ade20k import CLASSES as ADE20K
from masklet.data.categories import COCO
from masklet.data.cityscapes import CLASSES as CITYSCAPES
from masklet.data.voc import CLASSES as VOC
from masklet.models.faster_rcnn import MSRA, X101
from masklet.parts.backbones.efficientnet_lite import LITE
from masklet.parts.norm import IMAGENET, TENSORFLOW, Pixels
from masklet.structures import Classes
from masklet.weights import cache, licences

BUNDLED = Path(__file__).parent / "bundled"
BACKBONE = "backbone"  # what `Entry.model` says for weights of a body without a head

# Publishers' hosts, and the stores that they hand a download on to.
HOSTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "download.pytorch.org": (),
        "download.openmmlab.com": (),
        "dl.fbaipublicfiles.com": (),
        "github.com": ("objects.githubusercontent.com", "release-assets.githubusercontent.com"),
    }
)


def official(url: str) -> bool:
    """Whether `url` is an https address on a publisher's host, with nothing odd about it."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and parts.netloc in HOSTS and not parts.query and not parts.fragment
    except ValueError:
        return False


@dataclass(frozen=True)
class Entry:
    """One name that `masklet.load` takes.

    A bundled file itself says which system it is, its classes and its scores; for a published one `model`, `options`,
    `classes` and `scores` (of `source`) do. `sha256` holds as many digits as the publisher gives, `size` is in MiB as
    published. `pixels` says what the network wants its input to look like; models see to it themselves.
    """

    name: str
    about: str
    data: str
    licence: str = "Apache-2.0"
    pixels: Pixels = IMAGENET
    url: str = ""
    sha256: str = ""
    size: float | None = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: Classes | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    started_from: str = "ImageNet"  # the data that its backbone learned from before
    fresh: str | None = None  # what the file does not have and a later training gives (a regular expression)

    def __post_init__(self) -> None:
        if self.url and not official(self.url):
            raise ValueError(f"{self.name}: {self.url} is not an address of a publisher of weights")

    @property
    def bundled(self) -> bool:
        return not self.url

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2] or f"{self.name}.safetensors"

    @property
    def path(self) -> Path:
        """Where the file is, or where it would be. What a bundle brought is safetensors, so it has another suffix."""
        published = (BUNDLED if self.bundled else cache.folder()) / self.file
        carried = (cache.folder() / self.file).with_suffix(".safetensors")
        return carried if carried.exists() and not published.exists() else published

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a gate may object to, of `licences.KINDS`."""
        return licences.kinds(self.licence, (self.data, self.started_from))


def _bundled() -> Iterator[Entry]:
    yield Entry("street", "Road scenes, 11 classes: road, car, pedestrian, tree, sky, ...", "CamVid", pixels=LITE)
    yield Entry("flood", "Flooded ground in photographs and aerial pictures", "Flood Area Segmentation", pixels=LITE)
    yield Entry("pets", "Cat or dog, its border, and the background", "Oxford-IIIT Pet", pixels=LITE)
    yield Entry("nuclei", "Nuclei of cells under microscopes, each for itself", "Data Science Bowl 2018", pixels=LITE)
    yield Entry("click", "What is clicked on, in pictures and videos", "DAVIS and others", pixels=LITE, model="sam2")


# torchvision: model, file, MiB, mIoU and pixel accuracy on the COCO val2017 pictures with VOC's 21 classes
TORCHVISION = "https://download.pytorch.org/models/"
SYSTEMS: tuple[tuple[Any, ...], ...] = (
    ("fcn_resnet50_coco", "fcn_resnet50", {}, "fcn_resnet50_coco-1167a1af.pth", 135.009, 60.5, 91.4),
    ("fcn_resnet101_coco", "fcn_resnet101", {}, "fcn_resnet101_coco-7ecb50ca.pth", 207.711, 63.7, 91.9),
    *(
        (f"deeplabv3_{backbone}_coco", "deeplabv3", {"backbone": backbone, "layout": "torchvision"}, file, *facts)
        for backbone, file, *facts in (
            ("resnet50", "deeplabv3_resnet50_coco-cd0a2569.pth", 160.515, 66.4, 92.4),
            ("resnet101", "deeplabv3_resnet101_coco-586e9e4e.pth", 233.217, 67.4, 92.4),
            ("mobilenet_v3_large", "deeplabv3_mobilenet_v3_large-fc3c493d.pth", 42.301, 60.3, 91.2),
        )
    ),
)
# torchvision: backbone, file, MiB, top-1 accuracy on ImageNet; of two files the second is the newer recipe ("_v2")
BACKBONES = (
    ("alexnet", "alexnet-owt-7be5be79.pth", 233.087, 56.522),
    ("googlenet", "googlenet-1378be20.pth", 49.731, 69.778),
    ("mobilenet_v2", "mobilenet_v2-b0353104.pth", 13.555, 71.878),
    ("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", 13.598, 72.154),
    ("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth", 21.114, 74.042),
    ("mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth", 21.107, 75.274),
    ("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", 9.829, 67.668),
    ("resnet18", "resnet18-f37072fd.pth", 44.661, 69.758),
    ("resnet34", "resnet34-b627a593.pth", 83.275, 73.314),
    ("resnet50", "resnet50-0676ba61.pth", 97.781, 76.13),
    ("resnet50", "resnet50-11ad3fa6.pth", 97.79, 80.858),
    ("resnet101", "resnet101-63fe2227.pth", 170.511, 77.374),
    ("resnet101", "resnet101-cd907fc2.pth", 170.53, 81.886),
    ("resnet152", "resnet152-394f9c45.pth", 230.434, 78.312),
    ("resnet152", "resnet152-f82ba261.pth", 230.474, 82.284),
    ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth", 95.789, 77.618),
    ("resnext50_32x4d", "resnext50_32x4d-1a0047aa.pth", 95.833, 81.198),
    ("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth", 339.586, 79.312),
    ("resnext101_32x8d", "resnext101_32x8d-110c445d.pth", 339.673, 82.834),
    ("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", 319.318, 83.246),
    ("swin_t", "swin_t-704ceda3.pth", 108.19, 81.474),
    ("swin_s", "swin_s-5e29d889.pth", 189.786, 83.196),
    ("swin_b", "swin_b-68c6b09e.pth", 335.364, 83.582),
    ("swin_v2_t", "swin_v2_t-b137f0e2.pth", 108.626, 82.072),
    ("swin_v2_s", "swin_v2_s-637d8ceb.pth", 190.675, 83.712),
    ("swin_v2_b", "swin_v2_b-781e5279.pth", 336.372, 84.112),
    ("vgg11", "vgg11-8a719046.pth", 506.84, 69.02),
    ("vgg13", "vgg13-19584684.pth", 507.545, 69.928),
    ("vgg16", "vgg16-397923af.pth", 527.796, 71.592),
    ("vgg19", "vgg19-dcbb9e9d.pth", 548.051, 72.376),
    ("vgg11_bn", "vgg11_bn-6002323d.pth", 506.881, 70.37),
    ("vgg13_bn", "vgg13_bn-abd245e5.pth", 507.59, 71.586),
    ("vgg16_bn", "vgg16_bn-6c64b313.pth", 527.866, 73.36),
    ("vgg19_bn", "vgg19_bn-c79401a0.pth", 548.143, 74.218),
    ("wide_resnet50_2", "wide_resnet50_2-95faca4d.pth", 131.82, 78.468),
    ("wide_resnet50_2", "wide_resnet50_2-9ba9bcbe.pth", 263.124, 81.602),
)


SWIN_NORMS = r"norm[012]\..*"  # a classifier normalises its last map only


def _torchvision() -> Iterator[Entry]:
    of: dict[str, Any] = {"licence": "BSD-3-Clause", "source": "torchvision, metadata of its weights"}
    for name, model, options, file, size, miou, accuracy in SYSTEMS:
        yield Entry(
            name,
            f"20 kinds of everyday objects and background, {model}",
            "COCO",
            url=TORCHVISION + file,
            sha256=_digits(file),
            size=size,
            model=model,
            options={**options, "num_classes": len(VOC)},
            classes=VOC,
            scores={"miou": miou / 100, "pixel_accuracy": accuracy / 100},
            **of,
        )
    seen: set[str] = set()
    for backbone, file, size, accuracy in BACKBONES:
        yield Entry(
            f"{backbone}_imagenet{'_v2' if backbone in seen else ''}",
            f"Backbone {backbone}, to start training from",
            "ImageNet",
            pixels=TENSORFLOW if backbone == "googlenet" else IMAGENET,
            url=TORCHVISION + file,
            sha256=_digits(file),
            size=size,
            model=BACKBONE,
            options={"backbone": backbone},
            scores={"top1": accuracy / 100},
            fresh=SWIN_NORMS if backbone.startswith("swin") else None,
            **of,
        )
        seen.add(backbone)


# mmsegmentation: name, system, options, data, classes, folder and file, score; one scale, not mirrored
OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5/"
VESSELS = Classes(("background", "vessel"))
MMSEG_UNET = {"up": "interp_conv", "head_channels": 64, "dropout": 0.1, "aux_weight": 0.4}


def _pspnet(depth: int) -> dict[str, Any]:
    return {"backbone": f"resnet{depth}", "layout": "mmseg", "aux_weight": 0.4}


def _deeplabv3plus(depth: int) -> dict[str, Any]:
    return {**_pspnet(depth), "output_stride": 8, "separable": True}


def _fcn() -> dict[str, Any]:
    return {"layout": "mmseg", "aux_weight": 0.4}


def _swin(size: str) -> dict[str, Any]:
    return {"backbone": f"swin_{size}", "window": 7, "channels": 512, "aux_channels": 256, "aux_weight": 0.4}


MMSEG = (
    *(
        (
            *(f"upernet_swin_{size}_ade20k", "upernet", _swin(size), "ADE20K", ADE20K, {"miou": miou}),
            f"swin/upernet_swin_{word}_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K/"
            f"upernet_swin_{word}_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_{end}.pth",
        )
        for size, word, miou, end in (
            ("t", "tiny", 0.4441, "20210531_112542-e380ad3e"),
            ("s", "small", 0.4772, "20210526_192015-ee2fff1c"),
            ("b", "base", 0.4799, "20210526_192340-593b0e13"),
        )
    ),
    (
        *("deeplabv3plus_resnet50_cityscapes", "deeplabv3plus", _deeplabv3plus(50), "Cityscapes", CITYSCAPES),
        {"miou": 0.8009},
        "deeplabv3plus/deeplabv3plus_r50-d8_512x1024_80k_cityscapes/"
        "deeplabv3plus_r50-d8_512x1024_80k_cityscapes_20200606_114049-f9fb496d.pth",
    ),
    (
        *("deeplabv3plus_resnet101_cityscapes", "deeplabv3plus", _deeplabv3plus(101), "Cityscapes", CITYSCAPES),
        {"miou": 0.8097},
        "deeplabv3plus/deeplabv3plus_r101-d8_512x1024_80k_cityscapes/"
        "deeplabv3plus_r101-d8_512x1024_80k_cityscapes_20200606_114143-068fcfe9.pth",
    ),
    (
        *("pspnet_resnet50_cityscapes", "pspnet", _pspnet(50), "Cityscapes", CITYSCAPES, {"miou": 0.7855}),
        "pspnet/pspnet_r50-d8_512x1024_80k_cityscapes/"
        "pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b.pth",
    ),
    (
        *("pspnet_resnet101_cityscapes", "pspnet", _pspnet(101), "Cityscapes", CITYSCAPES, {"miou": 0.7976}),
        "pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/"
        "pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth",
    ),
    (
        *("pspnet_resnet50_ade20k", "pspnet", _pspnet(50), "ADE20K", ADE20K, {"miou": 0.4248}),
        "pspnet/pspnet_r50-d8_512x512_160k_ade20k/pspnet_r50-d8_512x512_160k_ade20k_20200615_184358-1890b0bd.pth",
    ),
    (
        *("pspnet_resnet101_ade20k", "pspnet", _pspnet(101), "ADE20K", ADE20K, {"miou": 0.4439}),
        "pspnet/pspnet_r101-d8_512x512_160k_ade20k/pspnet_r101-d8_512x512_160k_ade20k_20200615_100650-967c316f.pth",
    ),
    (
        *("pspnet_resnet50_voc", "pspnet", _pspnet(50), "PASCAL VOC 2012", VOC, {"miou": 0.7729}),
        "pspnet/pspnet_r50-d8_512x512_40k_voc12aug/pspnet_r50-d8_512x512_40k_voc12aug_20200613_161222-ae9c1b8c.pth",
    ),
    (
        *("pspnet_resnet101_voc", "pspnet", _pspnet(101), "PASCAL VOC 2012", VOC, {"miou": 0.7852}),
        "pspnet/pspnet_r101-d8_512x512_40k_voc12aug/pspnet_r101-d8_512x512_40k_voc12aug_20200613_161222-bc933b18.pth",
    ),
    *(
        (
            *(f"fcn_resnet{depth}_cityscapes", f"fcn_resnet{depth}", _fcn(), "Cityscapes", CITYSCAPES, {"miou": miou}),
            f"fcn/fcn_r{depth}-d8_512x1024_{end.partition('_')[0]}_cityscapes/"
            f"fcn_r{depth}-d8_512x1024_{end.replace('_', '_cityscapes_', 1)}.pth",
        )
        for depth, miou, end in (
            (50, 0.7361, "80k_20200606_113019-03aa804d"),
            (101, 0.7513, "80k_20200606_113038-3fb937eb"),
        )
    ),
    (
        *("unet_cityscapes", "unet", MMSEG_UNET, "Cityscapes", CITYSCAPES, {"miou": 0.691}),
        "unet/fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes/"
        "fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes_20211210_145204-6860854e.pth",
    ),
    (
        *("unet_drive", "unet", MMSEG_UNET, "DRIVE", VESSELS, {"dice/vessel": 0.7867}),
        "unet/fcn_unet_s5-d16_64x64_40k_drive/fcn_unet_s5-d16_64x64_40k_drive_20201223_191051-5daf6d3b.pth",
    ),
    (
        *("unet_stare", "unet", MMSEG_UNET, "STARE", VESSELS, {"dice/vessel": 0.8102}),
        "unet/fcn_unet_s5-d16_128x128_40k_stare/fcn_unet_s5-d16_128x128_40k_stare_20201223_191051-7d77e78b.pth",
    ),
    (
        *("unet_chase_db1", "unet", MMSEG_UNET, "CHASE_DB1", VESSELS, {"dice/vessel": 0.8024}),
        "unet/fcn_unet_s5-d16_128x128_40k_chase_db1/fcn_unet_s5-d16_128x128_40k_chase_db1_20201223_191051-11543527.pth",
    ),
    (
        *("unet_hrf", "unet", MMSEG_UNET, "HRF", VESSELS, {"dice/vessel": 0.7945}),
        "unet/fcn_unet_s5-d16_256x256_40k_hrf/fcn_unet_s5-d16_256x256_40k_hrf_20201223_173724-d89cf1ed.pth",
    ),
)
SCENES = {
    "Cityscapes": "Road scenes, 19 classes",
    "ADE20K": "Rooms, streets and landscapes, 150 classes",
    "PASCAL VOC 2012": "20 kinds of everyday objects and background",
}


def _openmmlab() -> Iterator[Entry]:
    for name, model, options, data, classes, scores, file in MMSEG:
        yield Entry(
            name,
            f"{SCENES.get(data, 'Blood vessels of the retina')}, {model}",
            data,
            url=OPENMMLAB + file,
            sha256=_digits(file),
            model=model,
            options={**options, "num_classes": len(classes)},
            classes=classes,
            scores=scores,
            source=f"mmsegmentation, configs/{file.partition('/')[0]}/metafile.yaml",
            started_from="" if model == "unet" else "ImageNet",
        )


# mmdetection: name, system, further options, score of masks and boxes on COCO val2017, folder and file
MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/"
MMDET: tuple[tuple[Any, ...], ...] = (
    (
        *("cascade_mask_rcnn_resnet50_coco", "cascade_mask_rcnn", {}, 0.359, 0.412),
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco/cascade_mask_rcnn_r50_fpn_1x_coco_20200203-9d4dcb24.pth",
    ),
    (
        *("htc_resnet50_coco", "htc", {"stuff_classes": 183}, 0.374, 0.423),
        "htc/htc_r50_fpn_1x_coco/htc_r50_fpn_1x_coco_20200317-7332cf16.pth",
    ),
    (
        *("mask_rcnn_swin_t_coco", "mask_rcnn", {"backbone": "swin_t", "style": "mmdet"}, 0.393, 0.427),
        "swin/mask_rcnn_swin-t-p4-w7_fpn_1x_coco/mask_rcnn_swin-t-p4-w7_fpn_1x_coco_20210902_120937-9d6b7cfa.pth",
    ),
    (
        *("mask_scoring_rcnn_resnet50_coco", "mask_scoring_rcnn", {"style": "mmdet_caffe"}, None, None),
        "ms_rcnn/ms_rcnn_r50_caffe_fpn_1x_coco/ms_rcnn_r50_caffe_fpn_1x_coco_20200702_180848-61c9355e.pth",
    ),
    (
        *("point_rend_resnet50_coco_mmdet", "point_rend", {"style": "mmdet_caffe"}, None, None),
        "point_rend/point_rend_r50_caffe_fpn_mstrain_1x_coco/point_rend_r50_caffe_fpn_mstrain_1x_coco-1bcb5fb4.pth",
    ),
)


def _mmdet() -> Iterator[Entry]:
    for name, model, options, masks, boxes, file in MMDET:
        yield Entry(
            name,
            f"80 kinds of everyday objects with masks, {model}",
            "COCO",
            pixels=MSRA if options.get("style") == "mmdet_caffe" else IMAGENET,
            url=MMDETECTION + file,
            sha256=_digits(file),
            model=model,
            options={"backbone": "resnet50", "style": "mmdet_cascade", **options, "num_classes": len(COCO)},
            classes=COCO,
            scores={} if masks is None else {"ap": masks, "box_ap": boxes},
            source=f"mmdetection, configs/{file.partition('/')[0]}/README.md",
        )


FOLDER = "COCO-InstanceSegmentation/mask_rcnn_"
# detectron2: name, system, options, score ("ap" of masks, boxes or keypoints) and that of boxes, folder and file
RCNNS: tuple[tuple[Any, ...], ...] = (
    *(
        (
            f"mask_rcnn_{body}_coco{_3x}",
            "mask_rcnn",
            options,
            masks,
            boxes,
            f"COCO-InstanceSegmentation/mask_rcnn_{file}",
        )
        for body, _3x, options, masks, boxes, file in (
            ("resnet50", "", {}, 0.352, 0.386, "R_50_FPN_1x/137260431/model_final_a54504.pkl"),
            ("resnet50", "_3x", {}, 0.372, 0.410, "R_50_FPN_3x/137849600/model_final_f10217.pkl"),
            ("resnet50_c4", "_3x", {"levels": "c4"}, 0.344, 0.398, "R_50_C4_3x/137849525/model_final_4ce675.pkl"),
            (
                *("resnet101", "_3x", {"backbone": "resnet101"}, 0.386, 0.429),
                "R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
            ),
            (
                *("resnext101", "_3x", {"backbone": "resnext101_32x8d", "style": "detectron2_x101"}, 0.395, 0.443),
                "X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl",
            ),
        )
    ),
    (
        *("faster_rcnn_resnet50_coco_3x", "faster_rcnn", {}, 0.402, 0.402),
        "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
    ),
    (
        *("fast_rcnn_resnet50_coco", "fast_rcnn", {"levels": "fpn", "pool": "align", "hidden": 1024}, 0.378, 0.378),
        "COCO-Detection/fast_rcnn_R_50_FPN_1x/137635226/model_final_e5f7ce.pkl",
    ),
    (
        *("keypoint_rcnn_resnet50_coco_3x", "keypoint_rcnn"),
        *({"style": "detectron2_keypoints", "num_keypoints": 17}, 0.655, 0.554),
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl",
    ),
)


POINT_REND = "https://dl.fbaipublicfiles.com/detectron2/PointRend/"


def _point_rend() -> Iterator[Entry]:
    for name, file in (
        ("point_rend_resnet50_coco", "pointrend_rcnn_R_50_FPN_1x_coco/164254221/model_final_736f5a.pkl"),
        ("point_rend_resnet50_coco_3x", "pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl"),
    ):
        yield Entry(
            name,
            "80 kinds of everyday objects with masks, point_rend",
            "COCO",
            "CC-BY-SA-3.0",
            pixels=MSRA,
            url=f"{POINT_REND}InstanceSegmentation/{file}",
            model="point_rend",
            options={"backbone": "resnet50", "style": "detectron2", "num_classes": len(COCO)},
            classes=COCO,
            source="detectron2, projects/PointRend/README.md",
        )
    yield Entry(
        "point_rend_semantic_resnet101_cityscapes",
        f"{SCENES['Cityscapes']}, point_rend_semantic",
        "Cityscapes",
        "CC-BY-SA-3.0",
        pixels=MSRA,
        url=f"{POINT_REND}SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes/202576688/"
        "model_final_cf6ac1.pkl",
        model="point_rend_semantic",
        options={"backbone": "resnet101", "style": "detectron2", "num_classes": 19},
        classes=CITYSCAPES,
        source="detectron2, projects/PointRend/README.md",
    )


def _detectron2() -> Iterator[Entry]:
    yield from _point_rend()
    for name, model, options, score, boxes, file in RCNNS:
        people = model == "keypoint_rcnn"
        classes = Classes(("person",)) if people else COCO
        wide = "resnext101" in name
        yield Entry(
            name,
            f"{'People and their joints' if people else '80 kinds of everyday objects'}, {model}",
            "COCO",
            "CC-BY-SA-3.0",
            pixels=X101 if wide else MSRA,
            url=f"https://dl.fbaipublicfiles.com/detectron2/{file}",
            model=model,
            options={"backbone": "resnet50", "style": "detectron2", **options, "num_classes": len(classes)},
            classes=classes,
            scores={"ap": score, "box_ap": boxes},
            source="detectron2, MODEL_ZOO.md",
        )
    yield Entry(
        "cascade_mask_rcnn_resnet50_coco_3x",
        "80 kinds of everyday objects with masks, cascade_mask_rcnn",
        "COCO",
        "CC-BY-SA-3.0",
        pixels=MSRA,
        url="https://dl.fbaipublicfiles.com/detectron2/Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/"
        "model_final_480dd8.pkl",
        model="cascade_mask_rcnn",
        options={"backbone": "resnet50", "style": "detectron2", "num_classes": len(COCO)},
        classes=COCO,
        scores={"ap": 0.385, "box_ap": 0.443},
        source="detectron2, MODEL_ZOO.md",
    )
    yield Entry(
        "deeplabv3plus_resnet103_cityscapes",
        f"{SCENES['Cityscapes']}, deeplabv3plus with a deep stem",
        "Cityscapes",
        "CC-BY-SA-3.0",
        url="https://dl.fbaipublicfiles.com/detectron2/DeepLab/Cityscapes-SemanticSegmentation/"
        "deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16/28054032/model_final_a8a355.pkl",
        model="deeplabv3plus",
        options={
            "backbone": "resnet101",
            "layout": "detectron2",
            "multi_grid": (1, 2, 4),
            "window": (512, 1024),  # its pyramid averages over the training crop
            "num_classes": 19,
        },
        classes=CITYSCAPES,
        scores={"miou": 0.80},
        source="detectron2, projects/DeepLab/README.md",
    )


# SAM: name, file, sha256, MiB. Meta puts digits of the md5 into the names; the sha256 are those that micro-sam, 3D
# Slicer and others have computed and publish.
SAM = (
    (
        *("sam_vit_b", "sam_vit_b_01ec64.pth", 357.668),
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    (
        *("sam_vit_l", "sam_vit_l_0b3195.pth", 1191.640),
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    (
        *("sam_vit_h", "sam_vit_h_4b8939.pth", 2445.746),
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
)


def _sam() -> Iterator[Entry]:
    for model, file, size, digest in SAM:
        yield Entry(
            f"{model}_sa1b",
            "Anything that is clicked on, boxed or found on a grid",
            "SA-1B",
            url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
            sha256=digest,
            size=size,
            model=model,
            options={"num_classes": 1},
            classes=Classes(("object",)),
            source="segment-anything, README.md",
        )


# SAM 2: name of the size, J&F on SA-V test of version 2.1 and 2, sha256 of both files (as micro-sam publishes them)
SAM2 = (
    (
        *("tiny", 0.765, 0.750),
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    (
        *("small", 0.766, 0.749),
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    (
        *("base_plus", 0.782, 0.747),
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    (
        *("large", 0.795, 0.760),
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
)


def _sam2() -> Iterator[Entry]:
    for size, newer, older, *digests in SAM2:
        for version, day, score, digest in (
            ("2.1", "092824", newer, digests[0]),
            ("2", "072824", older, digests[1]),
        ):
            yield Entry(
                f"sam{float(version)}_hiera_{size}",  # 2.0: without it, it is a builder's name
                "Anything that is clicked on, boxed or drawn, in images and through videos",
                "SA-V",
                url=f"https://dl.fbaipublicfiles.com/segment_anything_2/{day}/sam{version}_hiera_{size}.pt",
                sha256=digest,
                model=f"sam2_hiera_{size}",
                options={"version": version, "num_classes": 1},
                classes=Classes(("object",)),
                scores={"jf": score},
                source="sam2, README.md",
                started_from="SA-1B",
            )


def _digits(file: str) -> str:
    """The first digits of the sha256, which the publisher puts at the end of the name."""
    return file.rpartition("-")[2].partition(".")[0]


CATALOG: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entries in (_bundled(), _torchvision(), _openmmlab(), _mmdet(), _detectron2(), _sam(), _sam2())
        for entry in entries
    }
)
