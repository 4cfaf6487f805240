"""First-order solvers: DDIM with its stochastic relatives, and Euler with churn."""

import math

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps, ancestral_split, deterministic_step

_LARGEST_CHURN = math.sqrt(2.0) - 1.0  # Karras et al. 2022, algorithm 2


def ddim(x: Array, schedule: Schedule, noise: NoiseSource, *, eta: float = 0.0) -> Steps:
    """DDIM (Song et al. 2021, eq. 12); with eta = 1 the ancestral sampling of DDPM (Ho et al. 2020).

    In the coordinates of k-diffusion (alpha = 1) the same update with eta = 1 is Euler ancestral.
    """
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        down, fresh = ancestral_split(step.level, step.target, eta)
        x = deterministic_step(x, denoised, step.level, down)
        if eta > 0.0:
            x = x + fresh * noise(step.level, step.target)
    return x


def euler(
    x: Array,
    schedule: Schedule,
    noise: NoiseSource,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Steps:
    """Euler's method on the probability-flow ODE, with churn (Karras et al. 2022, algorithm 2, first order).

    The paper adds the churn before it asks the model. Here, as in the reference, the model is asked first and
    its output is carried over to the noisier sample.
    """
    gamma = min(s_churn / schedule.total_steps, _LARGEST_CHURN)
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        level = step.level
        if gamma > 0.0 and s_tmin <= level.sigma <= s_tmax:
            level = Level(level.timestep, level.alpha, level.sigma * (1.0 + gamma))
            output = step.level.output(schedule.prediction_type, denoised, x)
            x = x + s_noise * math.sqrt(level.sigma**2 - step.level.sigma**2) * noise(step.level, level)
            # the reference rescales a velocity by the σ before the churn, but not EDM's
            velocity = schedule.prediction_type is PredictionType.V_PREDICTION and not schedule.edm
            scaled = step.level if velocity else level
            denoised = scaled.denoised(schedule.prediction_type, output, x)
        x = deterministic_step(x, denoised, level, step.target)
    return x
