"""What SDXL is told of a picture's size, crop and looks, as one row of numbers."""

from collections.abc import Sequence

import numpy as np

from latentrt.runtime.denoiser.conditions.condition import FixedCondition
from latentrt.runtime.denoiser.guider import Side


def time_ids_condition(positive: Sequence[float], negative: Sequence[float], count: int) -> FixedCondition:
    """The same numbers for each of ``count`` pictures, by side."""
    return FixedCondition(
        {
            side: {"time_ids": np.tile(np.array(ids, np.float32), (count, 1))}
            for side, ids in ((Side.POSITIVE, positive), (Side.NEGATIVE, negative))
        }
    )
