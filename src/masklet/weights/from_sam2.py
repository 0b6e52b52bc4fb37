"""Weights of the authors' code of SAM 2 and 2.1, and of transformers' Sam2 and Sam2Video."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from masklet.weights.from_sam import (
    PROJECTIONS,
    decoder_rules,
    perceptron,
    prompt_rules,
    transformers_decoder_rules,
    transformers_perceptron,
    transformers_prompt_rules,
)
from masklet.weights.remap import Layout, Origin, Rule

SYSTEMS = ("sam2_hiera_tiny", "sam2_hiera_small", "sam2_hiera_base_plus", "sam2_hiera_large")
BLOCKS = (12, 16, 24, 48)
LEVELS = 4


def _flat(value: Tensor) -> Tensor:
    """Without the axes of length 1."""
    return value.flatten()


def _rows(value: Tensor) -> Tensor:
    """One row for each entry of the first axis."""
    return value.flatten(1)


TRUNK, OURS = r"image_encoder\.trunk\.", r"encoder.backbone."
LAYER, MINE = r"memory_attention\.layers\.(\d+)\.", r"attention.layers.\1."
FUSER, FUSED = r"memory_encoder\.fuser\.layers\.(\d+)\.", r"writer.fuser.\1."
RULES = (
    Rule(rf"{TRUNK}(pos_embed|pos_embed_window)", rf"{OURS}\1"),
    Rule(rf"{TRUNK}patch_embed\.proj\.(.+)", rf"{OURS}patch_embed.\1"),
    Rule(rf"{TRUNK}blocks\.(\d+)\.mlp\.layers\.0\.(.+)", rf"{OURS}blocks.\1.mlp.fc1.\2"),
    Rule(rf"{TRUNK}blocks\.(\d+)\.mlp\.layers\.1\.(.+)", rf"{OURS}blocks.\1.mlp.fc2.\2"),
    Rule(rf"{TRUNK}blocks\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|proj)\.(.+)", rf"{OURS}blocks.\1.\2.\3"),
    *(
        Rule(rf"image_encoder\.neck\.convs\.{i}\.conv\.(.+)", rf"encoder.neck.laterals.{LEVELS - 1 - i}.\1")
        for i in range(LEVELS)
    ),
    *prompt_rules("sam_prompt_encoder"),
    *decoder_rules("sam_mask_decoder"),
    Rule(rf"{LAYER}self_attn\.(q|k|v|out)_proj\.(.+)", rf"{MINE}own.\2.\3"),
    Rule(rf"{LAYER}cross_attn_image\.(q|k|v|out)_proj\.(.+)", rf"{MINE}memory.\2.\3"),
    Rule(rf"{LAYER}(linear[12]|norm[123])\.(.+)", rf"{MINE}\2.\3"),
    Rule(r"memory_attention\.norm\.(.+)", r"attention.norm.\1"),
    Rule(r"memory_encoder\.mask_downsampler\.encoder\.(.+)", r"writer.masks.\1"),
    Rule(r"memory_encoder\.pix_feat_proj\.(.+)", r"writer.pixels.\1"),
    Rule(rf"{FUSER}gamma", rf"{FUSED}gamma"),
    Rule(rf"{FUSER}dwconv\.(.+)", rf"{FUSED}depthwise.\2"),
    Rule(rf"{FUSER}norm\.(.+)", rf"{FUSED}norm.\2"),
    Rule(rf"{FUSER}pwconv([12])\.(.+)", rf"{FUSED}linear\2.\3"),
    Rule(r"memory_encoder\.out_proj\.(.+)", r"writer.out.\1"),
    Rule(r"maskmem_tpos_enc", "bank.places", _rows),
    Rule(r"obj_ptr_tpos_proj\.(.+)", r"bank.age.\1"),
    *perceptron(r"obj_ptr_proj", "pointer.project"),
    Rule(r"no_obj_ptr", "pointer.nothing"),
    Rule(r"no_obj_embed_spatial", "absence.vector"),
    Rule(r"no_mem_embed", "no_memory", _flat),
    Rule(r"no_mem_pos_enc", "no_memory_position", _flat),
    Rule(r"mask_downsample\.(.+)", r"shrink.\1"),
)


def options(system: str) -> Callable[[Mapping[str, Tensor]], dict[str, object]]:
    """Its backbone; and its version, for SAM 2.1 knows how old pointers are and the first one does not."""

    def read(tensors: Mapping[str, Tensor]) -> dict[str, object]:
        aged = any(key.startswith(("obj_ptr_tpos_proj", "temporal_positional_encoding_projection")) for key in tensors)
        return {"backbone": system.removeprefix("sam2_"), "version": "2.1" if aged else "2"}

    return read


def _layout(system: str, blocks: int) -> Layout:
    last, more = (rf"{TRUNK}blocks\.{i}\.norm1\.weight" for i in (blocks - 1, blocks))
    return Layout((system, "sam2"), (last, "maskmem_tpos_enc"), RULES, options(system), without=(more,))


ORIGIN = Origin("sam2", tuple(_layout(system, blocks) for system, blocks in zip(SYSTEMS, BLOCKS, strict=True)))

# transformers: `Sam2VideoModel`
VISION, BODY = r"vision_encoder\.backbone\.", r"vision_encoder\.backbone\.blocks\.(\d+)\."
READER, FUSION = r"memory_attention\.layers\.(\d+)\.", r"memory_encoder\.memory_fuser\.layers\.(\d+)\."
DOWN = r"memory_encoder\.mask_downsampler\."


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(Rule(rf"{theirs}\.{name}\.(?P<what>.+)", rf"{ours}.{mine}.\g<what>") for name, mine in PROJECTIONS)


TRANSFORMERS = (
    Rule(rf"{VISION}(pos_embed|pos_embed_window)", r"encoder.backbone.\1"),
    Rule(rf"{VISION}patch_embed\.projection\.(.+)", r"encoder.backbone.patch_embed.\1"),
    Rule(rf"{BODY}mlp\.proj_in\.(.+)", r"encoder.backbone.blocks.\1.mlp.fc1.\2"),
    Rule(rf"{BODY}mlp\.proj_out\.(.+)", r"encoder.backbone.blocks.\1.mlp.fc2.\2"),
    Rule(rf"{BODY}layer_norm([12])\.(.+)", r"encoder.backbone.blocks.\1.norm\2.\3"),
    Rule(rf"{BODY}(attn\.qkv|attn\.proj|proj)\.(.+)", r"encoder.backbone.blocks.\1.\2.\3"),
    *(
        Rule(rf"vision_encoder\.neck\.convs\.{i}\.(.+)", rf"encoder.neck.laterals.{LEVELS - 1 - i}.\1")
        for i in range(LEVELS)
    ),
    *transformers_prompt_rules(),
    *transformers_decoder_rules(),
    *_attention(rf"{READER}self_attn", r"attention.layers.\1.own"),
    *_attention(rf"{READER}cross_attn_image", r"attention.layers.\1.memory"),
    Rule(rf"{READER}layer_norm(\d)\.(.+)", r"attention.layers.\1.norm\2.\3"),
    Rule(rf"{READER}(linear[12])\.(.+)", r"attention.layers.\1.\2.\3"),
    Rule(r"memory_attention\.layer_norm\.(.+)", r"attention.norm.\1"),
    *(
        Rule(rf"{DOWN}layers\.{i}\.{name}\.(.+)", rf"writer.masks.{3 * i + j}.\1")
        for i in range(LEVELS)
        for j, name in enumerate(("conv", "layer_norm"))
    ),
    Rule(rf"{DOWN}final_conv\.(.+)", rf"writer.masks.{3 * LEVELS}.\1"),
    Rule(r"memory_encoder\.feature_projection\.(.+)", r"writer.pixels.\1"),
    Rule(rf"{FUSION}scale", r"writer.fuser.\1.gamma"),
    Rule(rf"{FUSION}depthwise_conv\.(.+)", r"writer.fuser.\1.depthwise.\2"),
    Rule(rf"{FUSION}layer_norm\.(.+)", r"writer.fuser.\1.norm.\2"),
    Rule(rf"{FUSION}pointwise_conv([12])\.(.+)", r"writer.fuser.\1.linear\2.\3"),
    Rule(r"memory_encoder\.projection\.(.+)", r"writer.out.\1"),
    Rule(r"memory_temporal_positional_encoding", "bank.places", _rows),
    Rule(r"temporal_positional_encoding_projection_layer\.(.+)", r"bank.age.\1"),
    *transformers_perceptron(r"object_pointer_proj", "pointer.project"),
    Rule(r"no_object_pointer", "pointer.nothing"),
    Rule(r"occlusion_spatial_embedding_parameter", "absence.vector"),
    Rule(r"no_memory_embedding", "no_memory", _flat),
    Rule(r"no_memory_positional_encoding", "no_memory_position", _flat),
    Rule(r"mask_downsample\.(.+)", r"shrink.\1"),
)


MEMORY = "memory_temporal_positional_encoding"


def _video(system: str, blocks: int) -> Layout:
    last, more = (rf"{VISION}blocks\.{i}\.layer_norm1\.weight" for i in (blocks - 1, blocks))
    marks = (last, MEMORY)
    return Layout((system, "sam2"), marks, TRANSFORMERS, options(system), without=(more,))


# `Sam2Model` has the parts that look at images. What it lacks does not show in its answers to prompts.
FRESH = r"(attention|writer|bank|pointer|absence|shrink)\..*|no_memory_position"
IMAGES = (
    "transformers' Sam2Model, which answers prompts on images and has no memory",
    f"take the file of Sam2VideoModel to follow objects; for images alone say fresh=r'{FRESH}'",
)


def _image(system: str, blocks: int) -> Layout:
    last, more = (rf"{VISION}blocks\.{i}\.layer_norm1\.weight" for i in (blocks - 1, blocks))
    backbone: dict[str, object] = {"backbone": system.removeprefix("sam2_")}
    marks = (last, "no_memory_embedding")
    return Layout((system, "sam2"), marks, TRANSFORMERS, lambda tensors: backbone, (more, MEMORY), IMAGES)


TRANSFORMERS_LAYOUTS = tuple(
    layout(system, blocks) for layout in (_video, _image) for system, blocks in zip(SYSTEMS, BLOCKS, strict=True)
)
