"""ER-SDE: a stochastic solver whose noise is chosen freely along the way."""

import math

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps

_POINTS = 64  # Gauss-Legendre; in log ratio the integrands are smooth over any step


def er_sde(x: Array, schedule: Schedule, noise: NoiseSource, *, solver_order: int = 3, s_noise: float = 1.0) -> Steps:
    """ER-SDE-Solver-3 (Cui et al. 2023, arXiv 2309.06169, algorithms 1 to 3) in x/alpha along r = sigma/alpha.

    φ(r) of eq. 22 ("ER SDE 5") says how much of the noise in x survives a step; the difference to the target's
    level is fresh. The prediction is expanded in r through up to two earlier ones. A last step that ends without
    noise returns the prediction.
    """
    if not 1 <= solver_order <= 3:
        raise RequestError(f"got solver_order {solver_order!r}, expected 1, 2 or 3; 3 is the paper's best")
    history: list[tuple[float, Array]] = []  # ratios and predictions, newest first
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        if step.target.sigma == 0.0:
            return step.target.alpha * denoised
        here, there = step.level.ratio, step.target.ratio
        history = [(here, denoised), *history[: solver_order - 1]]
        kept = _noise_scale(there) / _noise_scale(here)
        y = (kept / step.level.alpha) * x + (1.0 - kept) * denoised
        if len(history) > 1:
            linear, quadratic = _moments(here, there)
            slope = _difference(history[0], history[1])
            y = y + (there - here + linear) * slope
            if len(history) > 2:
                earlier = _difference(history[1], history[2])
                curvature = (slope - earlier) / ((history[0][0] - history[2][0]) / 2.0)
                y = y + ((there - here) ** 2 / 2.0 + quadratic) * curvature
        fresh = math.sqrt(max(there**2 - (here * kept) ** 2, 0.0))
        x = step.target.alpha * (y + (s_noise * fresh) * noise(step.level, step.target))
    return x


def _noise_scale(ratio: float) -> float:
    """φ(r) = r (e^{r^0.3} + 10)."""
    return ratio * (math.exp(ratio**0.3) + 10.0)


def _difference(near: tuple[float, Array], far: tuple[float, Array]) -> Array:
    return (near[1] - far[1]) / (near[0] - far[0])


def _moments(here: float, there: float) -> tuple[float, float]:
    """φ(there) ∫ dr/φ(r) and φ(there) ∫ (r − here)/φ(r) dr, both from there to here."""
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    span = math.log(here / there)
    r = there * np.exp(span * (points + 1.0) / 2.0)
    measure = weights * (span / 2.0) * r * _noise_scale(there) / (r * (np.exp(r**0.3) + 10.0))
    return float(measure.sum()), float((measure * (r - here)).sum())
