"""How far apart two pictures are."""

from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.spec import Array

EXACT = 99.0  # dB of equal pictures: JSON has no infinity


def picture_psnr(picture: Array, reference: Array) -> float:
    """PSNR in dB of pictures in [0, 1]; 99 for equal ones."""
    return min(psnr(picture, reference, peak=1.0), EXACT)
