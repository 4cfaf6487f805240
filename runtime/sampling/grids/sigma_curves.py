"""Curves of σ from the largest to the smallest, whatever the timesteps."""

import math

import numpy as np

from latentrt.engines.bundle.records.schedule_config import SigmaSpacing
from latentrt.engines.spec import Array

_KARRAS_RHO = 7.0  # arXiv 2206.00364, section 3.2
_BETA = 0.6  # arXiv 2407.12173, section 4: α = β = 0.6
_SERIES_TERMS, _BISECTIONS = 60, 60  # each leaves less than 2^-52


def spaced_sigmas(
    spacing: SigmaSpacing, smallest: float, largest: float, count: int, rho: float = _KARRAS_RHO
) -> Array:
    """``count`` descending σ, float64, from ``largest`` to ``smallest``; one alone is the largest."""
    low, high = float(smallest), float(largest)
    ramp = np.linspace(0.0, 1.0, count)
    if spacing is SigmaSpacing.KARRAS:
        top, bottom = high ** (1 / rho), low ** (1 / rho)
        return np.asarray((top + ramp * (bottom - top)) ** rho)
    if spacing is SigmaSpacing.BETA:
        return np.asarray(low + beta_quantiles(1.0 - ramp) * (high - low))
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), count)))


def beta_quantiles(probabilities: Array, shape: float = _BETA) -> Array:
    """Quantiles of the symmetric Beta(shape, shape) distribution, float64.

    By bisection on its cumulative distribution, whose power series (Abramowitz and Stegun 26.5.4) converges like
    2^-n on the lower half; the upper half is its mirror image.
    """
    lower = np.minimum(probabilities, 1.0 - probabilities)
    low, high = np.zeros_like(lower), np.full_like(lower, 0.5)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = _beta_cdf(middle, shape) < lower
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(probabilities > 0.5, 1.0 - high, low)


def _beta_cdf(x: Array, shape: float) -> Array:
    """P(X ≤ x) of Beta(shape, shape) for x ≤ 1/2."""
    term = np.ones_like(x)
    total = term / shape
    for n in range(1, _SERIES_TERMS):
        term = term * x * (n - shape) / n
        total = total + term / (shape + n)
    return np.asarray(total * x**shape * math.gamma(2 * shape) / math.gamma(shape) ** 2)
