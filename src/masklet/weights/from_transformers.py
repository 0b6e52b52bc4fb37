"""Weights of transformers: SAM; UPerNet on Swin V1 and V2, with the names of version 5 and those of older files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from masklet.weights import from_sam
from masklet.weights.from_openmmlab import swin_options, upernet, upernet_options
from masklet.weights.from_sam2 import TRANSFORMERS_LAYOUTS as SAM2
from masklet.weights.remap import Layout, Origin, Rule

BODY = r"backbone\.(?:swin\.)?"
BLOCK, OURS = rf"{BODY}encoder\.layers\.(\d)\.blocks\.(\d+)", r"backbone.layers.\1.blocks.\2"
PROJECTIONS = (r"(?:self\.query|q_proj)", r"(?:self\.key|k_proj)", r"(?:self\.value|v_proj)")
SWIN = (
    Rule(rf"{BODY}embeddings\.patch_embeddings\.projection\.(.+)", r"backbone.patch_embed.proj.\1"),
    Rule(rf"{BODY}embeddings\.norm\.(.+)", r"backbone.patch_embed.norm.\1"),
    *(
        Rule(rf"{BLOCK}\.attention\.{name}\.(weight|bias)", rf"{OURS}.attn.qkv.\3", part=i)
        for i, name in enumerate(PROJECTIONS)
    ),
    Rule(rf"{BLOCK}\.attention\.(?:output\.dense|o_proj)\.(.+)", rf"{OURS}.attn.proj.\3"),
    Rule(
        rf"{BLOCK}\.attention\.(?:self|relative_position_bias)\.relative_position_bias_table",
        rf"{OURS}.attn.relative_position_bias_table",
    ),
    Rule(rf"{BLOCK}\.attention\.(?:self|relative_position_bias)\.relative_(?:position_index|coords_table)", None),
    Rule(rf"{BLOCK}\.layernorm_before\.(.+)", rf"{OURS}.norm1.\3"),
    Rule(rf"{BLOCK}\.layernorm_after\.(.+)", rf"{OURS}.norm2.\3"),
    Rule(rf"{BLOCK}\.(?:intermediate\.dense|mlp\.fc1)\.(.+)", rf"{OURS}.mlp.fc1.\3"),
    Rule(rf"{BLOCK}\.(?:output\.dense|mlp\.fc2)\.(.+)", rf"{OURS}.mlp.fc2.\3"),
    Rule(rf"{BODY}encoder\.layers\.(\d)\.downsample\.(.+)", r"backbone.layers.\1.downsample.\2"),
    *(Rule(rf"backbone\.hidden_states_norms\.stage{i + 1}\.(.+)", rf"backbone.norm{i}.\1") for i in range(4)),
    Rule(rf"{BODY}layernorm\.(.+)", None),  # the classifier's
)


def _no_keys(bias: Tensor) -> Tensor:
    """The biases of the queries, and zeros for the keys, which have none in version 2."""
    return torch.cat([bias, torch.zeros_like(bias)])


SWIN_V2 = (
    Rule(rf"{BLOCK}\.attention\.self\.query\.bias", rf"{OURS}.attn.qkv.bias", _no_keys, part=0),
    Rule(rf"{BLOCK}\.attention\.self\.logit_scale", rf"{OURS}.attn.logit_scale"),
    Rule(rf"{BLOCK}\.attention\.self\.continuous_position_bias_mlp\.(.+)", rf"{OURS}.attn.cpb_mlp.\3"),
    *SWIN,
)
HEADS = upernet("batch_norm", "classifier")
MARKS = (r"decode_head\.fpn_bottleneck\.batch_norm\.weight", rf"{BODY}embeddings\.patch_embeddings\.projection\.weight")
V2_MARK = rf"{BODY}encoder\.layers\.0\.blocks\.0\.attention\.self\.logit_scale"


def _options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    table = next(key for key in tensors if "layers.0.blocks.0" in key and key.endswith("relative_position_bias_table"))
    sizes = swin_options(tensors, table, rf"{BODY}encoder\.layers\.2\.blocks\.(\d+)")
    return {**upernet_options(tensors, "classifier"), **sizes}


def _v2_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Nothing in the file says how large its windows are: 8, unless told otherwise."""
    scale = "backbone.encoder.layers.0.blocks.0.attention.self.logit_scale"
    heads, offsets = tensors[scale].shape[0], (2 * 8 - 1) ** 2
    like_v1 = {**tensors, "table": torch.empty(offsets, heads, device="meta")}
    sizes = swin_options(like_v1, "table", r"backbone\.encoder\.layers\.2\.blocks\.(\d+)")
    name = str(sizes["backbone"]).replace("swin_", "swin_v2_")
    return {**upernet_options(tensors, "classifier"), **sizes, "backbone": name, "norms": False}


ORIGIN = Origin(
    "transformers",
    (
        Layout(("upernet",), (*MARKS, V2_MARK), (*SWIN_V2, *HEADS), _v2_options),
        Layout(("upernet",), MARKS, (*SWIN, *HEADS), _options, without=(V2_MARK,)),
        *SAM2,
        *from_sam.TRANSFORMERS_LAYOUTS,
    ),
)
