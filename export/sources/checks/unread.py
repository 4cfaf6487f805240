"""Tensors that files carry and no model computes with: those that are known, so that only the others are listed."""

import re

_IDLE = re.compile(
    r"(^|\.)position_ids$"  # the positions' numbers, which transformers stored once
    r"|(^|\.)(logit_scale|attn_mask)$"  # what CLIP compares texts with pictures by; a causal mask
    r"|^model_ema\."  # averaged weights, of which another decision tells
    # Lightning's models store their schedules, and a loss of the autoencoder's training
    r"|^(betas|alphas_cumprod|alphas_cumprod_prev|logvar|lvlb_weights|scale_factor)$"
    r"|^(sqrt_|log_one_minus_|posterior_)\w+$|^denoiser\.sigmas$|^(first_stage_model\.)?loss\."
    # The half of a CLIP that takes texts, beside that which takes pictures; and a second autoencoder's decoder
    r"|^(conditioner\.embedders\.0\.open_clip|cond_stage_model)\.model\."
    r"(positional_embedding|text_projection|token_embedding\.weight|ln_final\.\w+)$"
    r"|^conditioner\.embedders\.3\.encoder\.(decoder|post_quant_conv|loss)\."
    # Marks of how a model was trained
    r"|^(v_pred|ztsnr|global_step|iteration|epoch)$"
)


def is_idle(name: str) -> bool:
    """Whether a tensor is known to be of no use to drawing, by its name in a file."""
    return _IDLE.search(name) is not None
