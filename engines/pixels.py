"""Pixels as networks take them."""

import numpy as np

from latentrt.engines.spec import Array


def normalized(array: Array) -> Array:
    """A picture (H, W, 3) in [0, 1] as (3, H, W) in [−1, 1]."""
    return np.ascontiguousarray((2.0 * array - 1.0).transpose(2, 0, 1))
