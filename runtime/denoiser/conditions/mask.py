"""A mask and the picture behind it, as further channels of the sample."""

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, FixedCondition
from latentrt.runtime.denoiser.guider import Side


def mask_condition(mask: Array, masked: Array) -> FixedCondition:
    """What a U-Net for inpainting sees behind the latents, the same in every pass.

    Args:
        mask: (N, 1, h, w): 1 is redrawn.
        masked: (N, C, h, w), latents of the picture without what is redrawn.
    """
    channels = {SAMPLE: np.concatenate([mask, masked], axis=1)}
    return FixedCondition(dict.fromkeys(Side, channels))
