"""Weights of the authors' code of SAM, and what its files share with those of SAM 2."""

from __future__ import annotations

from torch import Tensor

from masklet.weights.remap import Layout, Origin, Rule

DEPTH = 6  # layers that a perceptron may have


def _alone(value: Tensor) -> Tensor:
    """One of several perceptrons that we keep as one."""
    return value[None]


def perceptron(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Linear layers, between which ours have an activation that counts."""
    return tuple(Rule(rf"{theirs}\.layers\.{i}\.(.+)", rf"{ours}.{2 * i}.\1") for i in range(DEPTH))


def prompt_rules(prefix: str) -> tuple[Rule, ...]:
    """Points, boxes and masks; `prefix` as in "prompt_encoder"."""
    p = rf"{prefix}\."
    return (
        Rule(rf"{p}pe_layer\.positional_encoding_gaussian_matrix", "prompts.positions.frequencies"),
        *(Rule(rf"{p}point_embeddings\.{i}\.weight", "prompts.kinds", part=i) for i in range(4)),
        Rule(rf"{p}not_a_point_embed\.weight", "prompts.padding"),
        Rule(rf"{p}no_mask_embed\.weight", "prompts.no_mask"),
        Rule(rf"{p}mask_downscaling\.(.+)", r"prompts.masks.\1"),
    )


def decoder_rules(prefix: str) -> tuple[Rule, ...]:
    """The two-way transformer and what is around it; `prefix` as in "mask_decoder"."""
    block, ours = rf"{prefix}\.transformer\.layers\.(\d+)\.", r"decoder.transformer.blocks.\1."
    final, p = rf"{prefix}\.transformer\.final_attn_token_to_image\.", rf"{prefix}\."
    return (
        Rule(rf"{block}self_attn\.(q|k|v|out)_proj\.(.+)", rf"{ours}tokens.\2.\3"),
        Rule(rf"{block}cross_attn_token_to_image\.(q|k|v|out)_proj\.(.+)", rf"{ours}to_pixels.\2.\3"),
        Rule(rf"{block}cross_attn_image_to_token\.(q|k|v|out)_proj\.(.+)", rf"{ours}to_tokens.\2.\3"),
        Rule(rf"{block}(norm\d)\.(.+)", rf"{ours}\2.\3"),
        Rule(rf"{block}mlp\.(?:lin1|layers\.0)\.(.+)", rf"{ours}mlp.0.\2"),
        Rule(rf"{block}mlp\.(?:lin2|layers\.1)\.(.+)", rf"{ours}mlp.2.\2"),
        Rule(rf"{final}(q|k|v|out)_proj\.(.+)", r"decoder.transformer.final.\1.\2"),
        Rule(rf"{p}transformer\.norm_final_attn\.(.+)", r"decoder.transformer.norm.\1"),
        Rule(rf"{p}obj_score_token\.weight", "decoder.tokens", part=0),
        Rule(rf"{p}iou_token\.weight", "decoder.tokens", part=1),
        Rule(rf"{p}mask_tokens\.weight", "decoder.tokens", part=2),
        Rule(rf"{p}output_upscaling\.0\.(.+)", r"decoder.up1.\1"),
        Rule(rf"{p}output_upscaling\.1\.(.+)", r"decoder.norm.\1"),
        Rule(rf"{p}output_upscaling\.3\.(.+)", r"decoder.up2.\1"),
        *(
            Rule(rf"{p}output_hypernetworks_mlps\.{i}\.layers\.(\d)\.{theirs}", rf"decoder.hyper.{mine}.\1", _alone, i)
            for i in range(DEPTH)
            for theirs, mine in (("weight", "weights"), ("bias", "biases"))
        ),
        *perceptron(rf"{p}iou_prediction_head", "decoder.iou"),
        *perceptron(rf"{p}pred_obj_score_head", "decoder.object"),
        Rule(rf"{p}conv_s([01])\.(.+)", r"decoder.skips.\1.\2"),
    )


BLOCK, BODY = r"image_encoder\.blocks\.(\d+)\.", r"backbone.blocks.\1."
ENCODER = (
    Rule(r"image_encoder\.pos_embed", "backbone.positions"),
    Rule(r"image_encoder\.patch_embed\.proj\.(.+)", r"backbone.patch.\1"),
    Rule(rf"{BLOCK}attn\.rel_pos_h", rf"{BODY}attn.rows"),
    Rule(rf"{BLOCK}attn\.rel_pos_w", rf"{BODY}attn.columns"),
    Rule(rf"{BLOCK}attn\.(qkv|proj)\.(.+)", rf"{BODY}attn.\2.\3"),
    Rule(rf"{BLOCK}norm(\d)\.(.+)", rf"{BODY}norm\2.\3"),
    Rule(rf"{BLOCK}mlp\.lin([12])\.(.+)", rf"{BODY}fc\2.\3"),
    Rule(r"image_encoder\.neck\.(.+)", r"neck.\1"),
)
RULES = (*ENCODER, *prompt_rules("prompt_encoder"), *decoder_rules("mask_decoder"))
SYSTEMS = ("sam_vit_b", "sam_vit_l", "sam_vit_h")


def _layout(system: str, blocks: int) -> Layout:
    last, more = (rf"image_encoder\.blocks\.{i}\.norm1\.weight" for i in (blocks - 1, blocks))
    return Layout((system,), (last, r"mask_decoder\.iou_token\.weight"), RULES, without=(more,))


ORIGIN = Origin("sam", tuple(_layout(system, blocks) for system, blocks in zip(SYSTEMS, (12, 24, 32), strict=True)))


PROJECTIONS = (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("(?:out|o)_proj", "out"))


def transformers_perceptron(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Three linear layers as transformers calls them."""
    names = (r"proj_in", r"layers\.0", r"proj_out")
    return tuple(Rule(rf"{theirs}\.{name}\.(.+)", rf"{ours}.{2 * i}.\1") for i, name in enumerate(names))


def transformers_prompt_rules() -> tuple[Rule, ...]:
    """Points, boxes and masks as transformers calls them, for SAM and SAM 2."""
    p = r"prompt_encoder\."
    layers = {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}
    return (
        Rule(r"shared_image_embedding\.positional_embedding", "prompts.positions.frequencies"),
        Rule(rf"{p}shared_embedding\.positional_embedding", None),  # the same again
        *(Rule(rf"{p}point_embed\.{i}\.weight", "prompts.kinds", part=i) for i in range(4)),
        Rule(rf"{p}point_embed\.weight", "prompts.kinds"),
        Rule(rf"{p}not_a_point_embed\.weight", "prompts.padding"),
        Rule(rf"{p}no_mask_embed\.weight", "prompts.no_mask"),
        *(Rule(rf"{p}mask_embed\.{theirs}\.(.+)", rf"prompts.masks.{i}.\1") for theirs, i in layers.items()),
    )


def transformers_decoder_rules() -> tuple[Rule, ...]:
    """The two-way transformer and what is around it as transformers calls them, for SAM and SAM 2."""
    p = r"mask_decoder\."
    block, ours = rf"{p}transformer\.layers\.(\d+)\.", r"decoder.transformer.blocks.\1."
    return (
        *(
            Rule(rf"{block}{theirs}\.{name}\.(.+)", rf"{ours}{mine}.{short}.\2")
            for theirs, mine in (
                ("self_attn", "tokens"),
                ("cross_attn_token_to_image", "to_pixels"),
                ("cross_attn_image_to_token", "to_tokens"),
            )
            for name, short in PROJECTIONS
        ),
        Rule(rf"{block}layer_norm(\d)\.(.+)", rf"{ours}norm\2.\3"),
        Rule(rf"{block}mlp\.(?:lin1|proj_in)\.(.+)", rf"{ours}mlp.0.\2"),
        Rule(rf"{block}mlp\.(?:lin2|proj_out)\.(.+)", rf"{ours}mlp.2.\2"),
        *(
            Rule(rf"{p}transformer\.final_attn_token_to_image\.{name}\.(.+)", rf"decoder.transformer.final.{short}.\1")
            for name, short in PROJECTIONS
        ),
        Rule(rf"{p}transformer\.layer_norm_final_attn\.(.+)", r"decoder.transformer.norm.\1"),
        Rule(rf"{p}obj_score_token\.weight", "decoder.tokens", part=0),
        Rule(rf"{p}iou_token\.weight", "decoder.tokens", part=1),
        Rule(rf"{p}mask_tokens\.weight", "decoder.tokens", part=2),
        Rule(rf"{p}upscale_conv([12])\.(.+)", r"decoder.up\1.\2"),
        Rule(rf"{p}upscale_layer_norm\.(.+)", r"decoder.norm.\1"),
        *(
            Rule(
                rf"{p}output_hypernetworks_mlps\.{i}\.{theirs}\.{leaf}", f"decoder.hyper.{mine}.{layer}", _alone, part=i
            )
            for i in range(DEPTH)
            for layer, theirs in enumerate((r"proj_in", r"layers\.0", r"proj_out"))
            for leaf, mine in (("weight", "weights"), ("bias", "biases"))
        ),
        *transformers_perceptron(rf"{p}iou_prediction_head", "decoder.iou"),
        *transformers_perceptron(rf"{p}pred_obj_score_head", "decoder.object"),
        Rule(rf"{p}conv_s([01])\.(.+)", r"decoder.skips.\1.\2"),
    )


THEIRS = r"vision_encoder\.layers\.(\d+)\."
TRANSFORMERS = (
    Rule(r"vision_encoder\.pos_embed", "backbone.positions"),
    Rule(r"vision_encoder\.patch_embed\.projection\.(.+)", r"backbone.patch.\1"),
    Rule(rf"{THEIRS}attn\.rel_pos_h", rf"{BODY}attn.rows"),
    Rule(rf"{THEIRS}attn\.rel_pos_w", rf"{BODY}attn.columns"),
    Rule(rf"{THEIRS}attn\.(qkv|proj)\.(.+)", rf"{BODY}attn.\2.\3"),
    Rule(rf"{THEIRS}layer_norm(\d)\.(.+)", rf"{BODY}norm\2.\3"),
    Rule(rf"{THEIRS}mlp\.lin([12])\.(.+)", rf"{BODY}fc\2.\3"),
    Rule(r"vision_encoder\.neck\.conv1\.(.+)", r"neck.0.\1"),
    Rule(r"vision_encoder\.neck\.layer_norm1\.(.+)", r"neck.1.\1"),
    Rule(r"vision_encoder\.neck\.conv2\.(.+)", r"neck.2.\1"),
    Rule(r"vision_encoder\.neck\.layer_norm2\.(.+)", r"neck.3.\1"),
    *transformers_prompt_rules(),
    *transformers_decoder_rules(),
)


def _transformers_layout(system: str, blocks: int) -> Layout:
    last, more = (rf"vision_encoder\.layers\.{i}\.layer_norm1\.weight" for i in (blocks - 1, blocks))
    return Layout((system,), (last, r"vision_encoder\.neck\.conv1\.weight"), TRANSFORMERS, without=(more,))


TRANSFORMERS_LAYOUTS = tuple(_transformers_layout(s, n) for s, n in zip(SYSTEMS, (12, 24, 32), strict=True))
