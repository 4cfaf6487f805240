"""How far apart two pictures are."""

import numpy as np

from latentrt.engines.spec import Array

EXACT = 99.0  # dB of equal pictures


def picture_psnr(picture: Array, reference: Array) -> float:
    """PSNR in dB of pictures in [0, 1]; 99 for equal ones."""
    error = float(np.mean(np.square(picture.astype(np.float64) - reference)))
    return min(-10.0 * float(np.log10(error)), EXACT) if error else EXACT
