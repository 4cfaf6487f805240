"""A problem with a closed-form answer, on which solvers can be measured.

The data is a Gaussian N(μ, s²). Its ideal denoiser at x = α x₀ + σ n is E[x₀ | x] = μ + α s² (x − α μ) / (α² s² + σ²),
and along the probability-flow ODE (x − α μ) / √(α² s² + σ²) is constant, so the exact answer is known at any level.
"""

import numpy as np

from latentrt.engines.bundle.records.schedule_config import PredictionType, SigmaSpacing
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.sigma_curves import spaced_sigmas
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Model, Run, denoise
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Solver

MEAN, DEVIATION = 0.7, 0.4
LARGEST, SMALLEST = 10.0, 0.1
TIMESTEPS = 20480
# noise-to-signal ratios of training timesteps, ascending and smooth, so that N steps halve exactly at 2N
TRAINED = spaced_sigmas(SigmaSpacing.KARRAS, SMALLEST, LARGEST, TIMESTEPS + 1)[::-1]


def schedule_through(timesteps: Array, *, preserving: bool) -> Schedule:
    """Levels at whole training timesteps, the last of which is only a target."""
    ratios = TRAINED[timesteps.astype(int)]
    alphas = 1.0 / np.hypot(1.0, ratios) if preserving else np.ones_like(ratios)
    return Schedule(
        timesteps=timesteps[:-1],
        alphas=alphas[:-1],
        sigmas=(ratios * alphas)[:-1],
        target_timesteps=timesteps[1:],
        target_alphas=alphas[1:],
        target_sigmas=(ratios * alphas)[1:],
        trained_sigmas=TRAINED,
        initial_scale=1.0,
        prediction_type=PredictionType.EPSILON,
    )


def uniform(steps: int, *, preserving: bool, tiny_start: bool = False) -> Schedule:
    """Even steps from σ = 10 to σ = 0.1; ``tiny_start`` puts three tiny ones before, for the warm-up."""
    timesteps = np.arange(steps, -1, -1) * float(TIMESTEPS // steps)
    if tiny_start:
        timesteps = np.concatenate([timesteps[:1], timesteps[0] - np.array([1.0, 2.0, 3.0]), timesteps[1:]])
    return schedule_through(timesteps, preserving=preserving)


def ideal_model(schedule: Schedule) -> Model:
    """The ideal denoiser, in the schedule's own prediction type."""

    def model(scaled: Array, level: Level) -> Array:
        x = scaled / level.input_scale
        gain = level.alpha * DEVIATION**2 / ((level.alpha * DEVIATION) ** 2 + level.sigma**2)
        return level.output(schedule.prediction_type, MEAN + gain * (x - level.alpha * MEAN), x)

    return model


def exact(points: Array, level: Level) -> Array:
    """Where the ODE has brought points that began as so many deviations from the mean."""
    return np.asarray(level.alpha * MEAN + points * np.hypot(level.alpha * DEVIATION, level.sigma))


def error_of(solver: Solver, schedule: Schedule) -> float:
    """Largest distance to the exact answer after a deterministic run."""
    points = np.linspace(-2.0, 2.0, 9)
    first, last = schedule.steps[0].level, schedule.steps[-1].target
    result = denoise(Run(exact(points, first), schedule, solver, lambda *_: np.zeros(9)), ideal_model(schedule))
    return float(np.abs(result - exact(points, last)).max())


class Impulses(Noise):
    """Noise whose n-th draw is the n-th unit vector, behind two places without noise."""

    def __init__(self, draws: int) -> None:
        super().__init__(0, (draws + 2,))
        self._draws = draws
        self._next = 2

    def __call__(self, count: int | None = None) -> Array:
        """The next unit vector."""
        unit = np.zeros(self._draws + 2)
        unit[self._next] = 1.0
        self._next += 1
        return unit


def distribution_after(solver: Solver, schedule: Schedule, draws: int) -> tuple[float, float]:
    """Mean and deviation of the result of a stochastic run, exactly: it is affine in the start and every draw."""
    start, end = schedule.steps[0].level, schedule.steps[-1].target
    x = np.zeros(draws + 2)
    x[1] = 1.0
    noise = Impulses(draws)
    result = denoise(Run(x, schedule, solver, noise.between), ideal_model(schedule))
    offset, gain, weights = result[0], result[1] - result[0], result[2:] - result[0]
    mean = offset + gain * start.alpha * MEAN
    deviation = np.hypot(gain * np.hypot(start.alpha * DEVIATION, start.sigma), np.linalg.norm(weights))
    return float(abs(mean - end.alpha * MEAN)), float(abs(deviation - np.hypot(end.alpha * DEVIATION, end.sigma)))
