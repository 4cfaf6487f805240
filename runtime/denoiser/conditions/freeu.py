"""FreeU: stronger features of the first two up blocks, and weaker low frequencies of what is joined to them."""

from functools import cache

import numpy as np

from latentrt.engines.bundle.added_inputs import FREEU_MODES
from latentrt.engines.spec import Array


@cache
def low_frequencies(height: int, width: int) -> Array:
    """The lowest frequencies of planes as rows Φ (7, h · w) float32, read-only: low = (x · Φᵀ) · Φ.

    FreeU multiplies the middle of the shifted spectrum, from one before its centre to the centre: the frequencies −1
    and 0 along each side, whether it is odd or even. Of a real plane, the real part of what mode (k, l) gives back is
    Σ x′ · cos(2π(k(h − h′)/H + l(w − w′)/W)) / HW, and cos(a − a′) = cos a · cos a′ + sin a · sin a′. A side of one
    place has no frequency −1 beside 0.
    """
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    down, across = 2.0 * np.pi * rows / height, 2.0 * np.pi * columns / width
    phases = [down * (height > 1), across * (width > 1), down + across]
    there = [height > 1, width > 1, height > 1 and width > 1]
    modes = np.zeros((FREEU_MODES, height * width))
    modes[0] = 1.0
    for index, (phase, exists) in enumerate(zip(phases, there, strict=True)):
        if exists:
            modes[1 + 2 * index], modes[2 + 2 * index] = np.cos(phase), np.sin(phase)
    found = np.asarray(modes / np.sqrt(height * width), np.float32)
    found.flags.writeable = False
    return found
