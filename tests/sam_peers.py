"""A tiny SAM of transformers with random weights, and ours with the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from masklet.models import build
from masklet.weights import remap
from masklet.weights.from_sam import TRANSFORMERS

TINY = {
    **{"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 48, "iou_hidden": 24, "mask_channels": 8},
    **{"width": 24, "depth": 3, "heads": 2, "patch": 4, "window": 5, "whole": (1,)},
}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture of bytes (H, W, 3)."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (fine.permute(1, 2, 0) * 255).round().byte().numpy()


def peer() -> Any:
    """transformers' model."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    torch.manual_seed(0)
    vision = SamVisionConfig(
        **{"hidden_size": 24, "output_channels": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 96},
        **{"image_size": 64, "patch_size": 4, "window_size": 5, "global_attn_indexes": [1], "num_pos_feats": 16},
    )
    prompts = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=4, mask_input_channels=8)
    decoder = SamMaskDecoderConfig(
        **{"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 24},
        layer_norm_eps=1e-5,  # that of the authors; transformers' 1e-6 is another network
    )
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    for name, value in model.named_parameters():
        if value.ndim < 2 and "norm" in name and name.endswith("weight"):
            nn.init.uniform_(value, 0.7, 1.3)
        else:
            nn.init.normal_(value, std=0.2 if value.ndim > 1 else 0.1)
    model.shared_image_embedding.positional_embedding.data.normal_()
    return model.eval()


def ours(theirs: Any) -> Any:
    """Our model with the weights of theirs."""
    model = build("sam_vit_b", **TINY)
    remap.fill(model, theirs.state_dict(), TRANSFORMERS)
    return model.eval()


def processor() -> Any:
    """transformers' way into the model and out of it."""
    from transformers import SamImageProcessor, SamProcessor

    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    masks = {"mask_size": {"longest_edge": 16}, "mask_pad_size": {"height": 16, "width": 16}}
    return SamProcessor(SamImageProcessor(**sizes, **masks))
