"""Every name in the catalog: a host that may be named, a hash, a licence, and a model that is built as it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from masklet.models import MODELS, build
from masklet.parts.backbones import BACKBONES, build_backbone
from masklet.parts.norm import Normalize
from masklet.weights import CATALOG, catalog, fill, licences, recognise
from masklet.weights.catalog import BACKBONE, HOSTS, official

PUBLISHED = [name for name, entry in CATALOG.items() if not entry.bundled]
WITHOUT_HASH = {name for name in PUBLISHED if "/detectron2/" in CATALOG[name].url}  # it publishes none


def test_names_are_where_others_expect_them():
    assert {name for name, entry in CATALOG.items() if entry.bundled} == {"street", "flood", "pets", "nuclei", "click"}
    assert all(CATALOG[name].name == name for name in CATALOG)
    files = [CATALOG[name].file for name in PUBLISHED]
    assert len(set(files)) == len(files)
    assert len({Path(file).stem for file in files}) == len(files), "bundles call them all .safetensors"
    assert not set(CATALOG) & set(MODELS), "a name is that of a system or of weights"
    bodies = {entry.options["backbone"] for entry in CATALOG.values() if entry.model == BACKBONE}
    assert bodies <= set(BACKBONES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_address_is_a_publishers(name):
    entry = CATALOG[name]
    assert official(entry.url)
    assert re.fullmatch(r"https://[\w.]+/[\w./+-]+", entry.url)
    assert entry.url.split("/")[2] in HOSTS
    assert "" not in entry.url.split("/")[3:]
    assert entry.licence in licences.LICENCES
    assert entry.source
    assert all(0 < score < 1 for score in entry.scores.values())
    if name in WITHOUT_HASH:
        assert entry.sha256 == ""
    elif name.startswith("sam"):  # the digits in a file's name are those of its md5, if there are any
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    else:
        assert re.fullmatch(r"[0-9a-f]{8}", entry.sha256)
        assert entry.file.endswith(f"-{entry.sha256}.pth")


@pytest.mark.parametrize(
    "url",
    [
        # what OpenMMLab's metafile of PSPNet says for r101 769x769 80k
        "https://download.oz1z1penmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_769x769_80k_cityscapes/"
        "pspnet_r101-d8_769x769_80k_cityscapes_20200606_225055-dba412fa.pth",
        "http://download.openmmlab.com/x.pth",
        "https://download.openmmlab.com.evil.org/x.pth",
        "https://download.openmmlab.com@evil.org/x.pth",
        "https://evil.org/download.openmmlab.com/x.pth",
        "https://download.openmmlab.com:8443/x.pth",
        "https://download.pytorch.org/x.pth?to=evil.org",
        "https://download.pytorch.org/x.pth#y",
        "file:///etc/passwd",
        "https://[download.pytorch.org/x.pth",
        "",
    ],
)
def test_no_other_address_can_be_written_down(url):
    assert not official(url)
    if url:
        with pytest.raises(ValueError, match="is not an address of a publisher of weights"):
            replace(CATALOG["resnet18_imagenet"], url=url)


def test_facts_of_torchvision_are_torchvisions():
    for name in PUBLISHED:
        entry = CATALOG[name]
        if not entry.url.startswith(catalog.TORCHVISION):
            continue
        theirs = name.removesuffix("_v2").removesuffix("_imagenet").removesuffix("_coco")
        version = {"COCO": "COCO_WITH_VOC_LABELS_V1", "ImageNet": "IMAGENET1K_V1"}[entry.data]
        version = version.replace("V1", "V2") if name.endswith("_v2") else version
        version = "IMAGENET1K_V1" if theirs == "resnext101_64x4d" else version
        weights = torchvision.models.get_model_weights(theirs)[version]
        assert entry.url == weights.url
        assert entry.size == weights.meta["_file_size"]
        (scores,) = weights.meta["_metrics"].values()
        want = [scores["acc@1"]] if entry.data == "ImageNet" else [scores["miou"], scores["pixel_acc"]]
        assert [100 * score for score in entry.scores.values()] == pytest.approx(want)
        seen = weights.transforms()
        if theirs != "googlenet":  # which shifts to -1..1 inside
            assert (list(entry.pixels.mean), list(entry.pixels.std)) == (seen.mean, seen.std)
        if entry.classes is not None:
            assert ("__background__", *entry.classes.names[1:]) == tuple(weights.meta["categories"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_are_built_as_the_catalog_says(name):
    entry = CATALOG[name]
    with torch.device("meta"):
        if entry.model == BACKBONE:
            assert build_backbone(entry.options[BACKBONE]).pixels == entry.pixels
            return
        model = build(entry.model, **entry.options)
    normalize = next(m for m in model.modules() if isinstance(m, Normalize))
    assert normalize.pixels == entry.pixels
    assert len(entry.classes) == entry.options["num_classes"]
    assert model.spec["options"] == dict(entry.options)


@pytest.mark.parametrize("name", sorted({e.options["backbone"] for e in CATALOG.values() if e.model == BACKBONE}))
def test_backbones_take_what_torchvision_publishes(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None, **options).state_dict()
        report = fill(build_backbone(name), theirs, fresh=CATALOG[f"{name}_imagenet"].fresh)
    assert len(report.loaded) + len(report.dropped) == len(theirs)


def test_licences_say_what_a_gate_asks_for():
    assert CATALOG["unet_drive"].kinds == ()
    assert CATALOG["flood"].kinds == ("non-commercial-data",)
    assert CATALOG["deeplabv3plus_resnet103_cityscapes"].kinds == ("copyleft", "non-commercial-data")
    assert licences.kinds("CC-BY-NC-4.0") == ("non-commercial",)
    assert licences.kinds("GPL-3.0-only") == ("copyleft",)
    assert licences.kinds(None) == licences.kinds("my own words") == ("unknown",)
    for spdx, licence in licences.LICENCES.items():
        assert licence.spdx == spdx
        assert set(licence.kinds) <= set(licences.KINDS)
    assert recognise({"nothing": torch.ones(1)}) is None
