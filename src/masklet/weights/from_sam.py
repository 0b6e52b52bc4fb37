"""Weights of the authors' code of SAM, and what its files share with those of SAM 2."""

from __future__ import annotations

from torch import Tensor

from masklet.weights.remap import Rule

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
