"""Solvers converge at their order on a problem with a closed-form answer.

The data is a Gaussian N(μ, s²). Its ideal denoiser at x = α x₀ + σ n is E[x₀ | x] = μ + α s² (x − α μ) / (α² s² + σ²),
and along the probability-flow ODE (x − α μ) / √(α² s² + σ²) is constant, so the exact answer is known at any level.
"""

import numpy as np
import pytest

from latentrt.engines.schedule_config import FinalSigma, PredictionType
from latentrt.engines.spec import Array
from latentrt.runtime.loop import denoise
from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers import SAMPLERS
from latentrt.runtime.schedule import Schedule, karras_sigmas
from latentrt.runtime.solvers import Solver

MEAN, DEVIATION = 0.7, 0.4
LARGEST, SMALLEST = 10.0, 0.1
DETERMINISTIC = [row for row in SAMPLERS.values() if not row.stochastic]


def smooth_schedule(steps: int, *, preserving: bool) -> Schedule:
    """Levels from σ = 10 to σ = 0.1 on a smooth curve, so that N steps halve exactly at 2N."""
    ratio = karras_sigmas(SMALLEST, LARGEST, steps + 1)
    alphas = 1.0 / np.hypot(1.0, ratio) if preserving else np.ones_like(ratio)
    sigmas = ratio * alphas
    return Schedule(
        timesteps=np.arange(steps, 0.0, -1.0),
        alphas=alphas[:-1],
        sigmas=sigmas[:-1],
        target_alphas=alphas[1:],
        target_sigmas=sigmas[1:],
        initial_scale=1.0,
        total_steps=max(steps, 15),
        prediction_type=PredictionType.SAMPLE,
        final_sigmas_type=FinalSigma.SIGMA_MIN,
    )


def error_after(solver: Solver, steps: int, *, preserving: bool) -> float:
    """Largest distance to the exact answer after ``steps`` steps."""
    schedule = smooth_schedule(steps, preserving=preserving)
    first, last = schedule.steps[0].level, schedule.steps[-1].target
    points = np.linspace(-2.0, 2.0, 9)

    def exact(alpha: float, sigma: float) -> Array:
        return np.asarray(alpha * MEAN + points * np.hypot(alpha * DEVIATION, sigma))

    def ideal(scaled: Array, timestep: float) -> Array:
        level = schedule.steps[steps - round(timestep)].level
        x = scaled / level.input_scale
        gain = level.alpha * DEVIATION**2 / ((level.alpha * DEVIATION) ** 2 + level.sigma**2)
        return np.asarray(MEAN + gain * (x - level.alpha * MEAN))

    result = denoise(exact(first.alpha, first.sigma), schedule, solver, ideal, Noise(0, (1,)))
    return float(np.abs(result - exact(last.alpha, last.sigma)).max())


@pytest.mark.parametrize("preserving", [False, True])
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=lambda row: row.name)
def test_halving_the_step_divides_the_error_by_two_to_the_order(sampler: "object", preserving: bool) -> None:
    """The measured order, log₂ of the ratio of errors, is the declared one to 0.15."""
    row = SAMPLERS[sampler.name]  # type: ignore[attr-defined]
    coarse, fine = (error_after(row.solver, steps, preserving=preserving) for steps in (160, 320))
    assert np.log2(coarse / fine) == pytest.approx(row.order, abs=0.15)


def test_ancestral_noise_keeps_the_distribution() -> None:
    """Euler ancestral on the ideal denoiser ends in the data's Gaussian: mean and deviation to 2 %."""
    steps = 200
    schedule = smooth_schedule(steps, preserving=False)
    start = Noise(1, (20000,))() * np.float32(np.hypot(DEVIATION, LARGEST)) + np.float32(MEAN)

    def ideal(scaled: Array, timestep: float) -> Array:
        level = schedule.steps[steps - round(timestep)].level
        x = scaled / level.input_scale
        return np.asarray(MEAN + DEVIATION**2 / (DEVIATION**2 + level.sigma**2) * (x - MEAN))

    result = denoise(start, schedule, SAMPLERS["euler_a"].solver, ideal, Noise(2, (20000,)))
    assert float(result.mean()) == pytest.approx(MEAN, rel=0.02)
    assert float(result.std()) == pytest.approx(np.hypot(DEVIATION, SMALLEST), rel=0.02)
