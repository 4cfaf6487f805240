"""Second-order solvers that ask the model twice a step: Heun, DPM2 and DPM++ SDE. All on one alpha."""

import math

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps, ancestral_split, deterministic_step


def heun(x: Array, schedule: Schedule, noise: NoiseSource) -> Steps:
    """Heun's method (Karras et al. 2022, algorithm 1): Euler's step, then the mean of the slopes at its ends."""
    for step in schedule.steps:
        start, denoised = yield Evaluate(x, step.level)
        if step.target.sigma == 0.0:
            return step.target.alpha * denoised
        width = step.target.sigma - step.level.sigma
        slope = step.level.noise(start, denoised)
        x, denoised = yield Evaluate(start + width * slope, step.target)
        x = start + width * (0.5 * slope + 0.5 * step.target.noise(x, denoised))
    return x


def dpm_2(x: Array, schedule: Schedule, noise: NoiseSource, *, eta: float = 0.0) -> Steps:
    """DPM-Solver-2 (Karras et al. 2022, algorithm 2 of their code): the slope at the middle of log σ.

    With eta = 1 the step goes to DDPM's σ_down and fresh noise leads back up.
    """
    for step in schedule.steps:
        start, denoised = yield Evaluate(x, step.level)
        if step.target.sigma == 0.0:
            return step.target.alpha * denoised
        down, fresh = ancestral_split(step.level, step.target, eta)
        middle = schedule.level_at(math.sqrt(step.level.sigma * down.sigma))
        x, denoised = yield Evaluate(deterministic_step(start, denoised, step.level, middle), middle)
        x = start + (down.sigma - step.level.sigma) * middle.noise(x, denoised)
        if eta > 0.0:
            x = x + fresh * noise(step.level, step.target)
    return x


def dpmpp_sde(x: Array, schedule: Schedule, noise: NoiseSource, *, s_noise: float = 1.0) -> Steps:
    """DPM-Solver++ (stochastic, r = 1/2): an ancestral step to the middle of log σ, then a whole one from the start.

    The whole step takes the prediction from the middle and walks the same Brownian path.
    """

    def ancestral_step(x: Array, denoised: Array, level: Level, target: Level) -> Array:
        down, fresh = ancestral_split(level, target, 1.0)
        return deterministic_step(x, denoised, level, down) + s_noise * fresh * noise(level, target)

    for step in schedule.steps:
        start, denoised = yield Evaluate(x, step.level)
        if step.target.sigma == 0.0:
            return step.target.alpha * denoised
        middle = schedule.level_at(math.sqrt(step.level.sigma * step.target.sigma))
        x, denoised = yield Evaluate(ancestral_step(start, denoised, step.level, middle), middle)
        x = ancestral_step(start, denoised, step.level, step.target)
    return x
