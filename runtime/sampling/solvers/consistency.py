"""Solvers for distilled models: LCM and TCD jump to the clean sample and go back up with fresh noise."""

import math

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps, deterministic_step

_SIGMA_DATA = 0.5  # Luo et al. 2023, arXiv 2310.04378, section 4.3


def lcm(x: Array, schedule: Schedule, noise: NoiseSource, *, timestep_scaling: float = 10.0) -> Steps:
    """Multistep consistency sampling (Luo et al. 2023, arXiv 2310.04378, algorithm 3)."""
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        scaled = step.level.timestep * timestep_scaling
        skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        out = scaled / math.hypot(scaled, _SIGMA_DATA)
        x = out * denoised + skip * x
        if step.index + 1 < schedule.total_steps:
            x = step.target.noised(x, noise(step.level, step.target))
    return x


def tcd(x: Array, schedule: Schedule, noise: NoiseSource, *, eta: float = 0.0) -> Steps:
    """Strategic stochastic sampling (Zheng et al. 2024, arXiv 2402.19159, algorithm 4).

    ``eta`` is the paper's γ: how far below the target the deterministic jump goes before noise leads back up.
    """
    if not 0.0 <= eta <= 1.0:
        raise RequestError(f"got eta {eta!r}, expected 0 to 1; 0.3 is the paper's")
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        below = schedule.trained_level(math.floor((1.0 - eta) * step.target.timestep))
        x = deterministic_step(x, denoised, step.level, below)
        if eta > 0.0 and step.index + 1 < schedule.total_steps:
            kept = step.target.alpha / below.alpha
            x = kept * x + math.sqrt(1.0 - kept**2) * noise(step.level, step.target)
    return x
