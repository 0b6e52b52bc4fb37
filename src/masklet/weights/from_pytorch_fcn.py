"""Weights of wkentaro/pytorch-fcn (FCN-32s, 16s, 8s, at once; VGG16), which also ports the published Caffe nets."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from masklet.weights.remap import Layout, Origin, Rule

# conv1_1 ... conv5_3 in the numbering of torchvision's VGG16, where ReLU and pooling count as well
VGG16 = {
    f"{block}_{i + 1}": first + 2 * i
    for block, (first, count) in enumerate(((0, 2), (5, 2), (10, 3), (17, 3), (24, 3)), start=1)
    for i in range(count)
}
COARSE = (
    *(Rule(rf"conv{name}\.(weight|bias)", rf"backbone.features.{index}.\1") for name, index in VGG16.items()),
    Rule(r"(fc[67])\.(weight|bias)", r"tail.\1.\2"),
    Rule(r"score_fr\.(weight|bias)", r"score.\1"),
)
POOL4 = (Rule(r"score_pool4\.(weight|bias)", r"skips.0.score.\1"), Rule(r"upscore2\.weight", r"skips.0.upscore.weight"))
POOL3 = (
    Rule(r"score_pool3\.(weight|bias)", r"skips.1.score.\1"),
    Rule(r"upscore_pool4\.weight", r"skips.1.upscore.weight"),
)


def _options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {"num_classes": len(tensors["score_fr.weight"])}


def _layout(models: tuple[str, ...], last: str, *more: Rule) -> Layout:
    marks = (r"conv1_1\.weight", r"score_fr\.weight", rf"{last}\.weight")
    return Layout(models, marks, (*COARSE, *more, Rule(rf"{last}\.weight", r"upscore.weight")), _options)


ORIGIN = Origin(
    "pytorch_fcn",
    (
        _layout(("fcn32s",), "upscore"),
        _layout(("fcn16s",), "upscore16", *POOL4),
        _layout(("fcn8s", "fcn8s_at_once"), "upscore8", *POOL4, *POOL3),
    ),
)
