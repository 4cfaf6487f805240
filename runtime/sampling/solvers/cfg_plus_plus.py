"""CFG++ (Chung et al. 2024, arXiv 2406.08070): towards the guided clean sample, with the noise of the unguided one.

Where nothing guides, both predictions are the same, and these are the solvers that they are made of.
"""

import math

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.solver import EvaluateBoth, NoiseSource, Steps, ancestral_split


def ddim_cfg_plus_plus(x: Array, schedule: Schedule, noise: NoiseSource, *, eta: float = 0.0) -> Steps:
    """DDIM with CFG++ (the paper's algorithm 2); with eta > 0 part of the noise is fresh.

    On one alpha this is Euler's method, and with eta = 1 Euler ancestral: ComfyUI's ``euler_cfg_pp`` and
    ``euler_ancestral_cfg_pp``.
    """
    for step in schedule.steps:
        x, denoised, unguided = yield EvaluateBoth(x, step.level)
        down, fresh = ancestral_split(step.level, step.target, eta)
        x = step.target.alpha * denoised + down.sigma * step.level.noise(x, unguided)
        if eta > 0.0:
            x = x + fresh * noise(step.level, step.target)
    return x


def dpmpp_2m_cfg_plus_plus(x: Array, schedule: Schedule, noise: NoiseSource) -> Steps:
    """DPM-Solver++(2M) with CFG++, as in the authors' code (``dpm++_2m_cfg++``) and in ComfyUI.

    The slope is the difference of the guided prediction to the unguided one of the step before. There is none in the
    first step, nor in a last one that ends without noise.
    """
    earlier: tuple[Array, float] | None = None  # the unguided prediction, and its λ
    for step in schedule.steps:
        x, denoised, unguided = yield EvaluateBoth(x, step.level)
        level, target = step.level, step.target
        moved = target.alpha * denoised + target.sigma * level.noise(x, unguided)
        h = target.half_log_snr - level.half_log_snr
        if earlier is not None and target.sigma > 0.0 and h > 0.0:
            slope = (denoised - earlier[0]) / (level.half_log_snr - earlier[1])
            moved = moved - (target.alpha * math.expm1(-h) * h / 2.0) * slope
        x, earlier = moved, (unguided, level.half_log_snr)
    return x
