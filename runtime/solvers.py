"""The solvers. Each is one generator that reads like its paper.

A solver yields an ``Evaluate`` where it wants the model and receives ``(x, denoised)``: x again, because a
callback or an inpaint blend may have replaced it, and the model's prediction of the clean sample. What it
returns is the final x. It does to arrays nothing but linear combinations with coefficients that are known
before the first step; noise comes from a callable. There is no other state than its local variables.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

from latentrt.engines.schedule_config import FinalSigma
from latentrt.engines.spec import Array
from latentrt.runtime.schedule import Level, Schedule


@dataclass(frozen=True, slots=True)
class Evaluate:
    """A solver's request: the model's prediction for ``x`` at ``level``."""

    x: Array
    level: Level


NoiseSource = Callable[[], Array]
Run = Generator[Evaluate, tuple[Array, Array], Array]
Solver = Callable[[Array, Schedule, NoiseSource], Run]


def ddim(x: Array, schedule: Schedule, noise: NoiseSource) -> Run:
    """DDIM (Song et al. 2021, eq. 12 with η = 0).

    In the coordinates of a k-diffusion schedule (alpha = 1) the same update is Euler's method on the
    probability-flow ODE (Karras et al. 2022, algorithm 1 without churn).
    """
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        x = _deterministic_step(x, denoised, step.level, step.target)
    return x


def euler_ancestral(x: Array, schedule: Schedule, noise: NoiseSource) -> Run:
    """Euler with ancestral noise: a step down to σ_down, then noise σ_up back to the target's level.

    The split is DDPM's posterior (Song et al. 2021, eq. 16 with η = 1), written in σ.
    """
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        here, there = step.level.sigma, step.target.sigma
        up = math.sqrt(there**2 * (here**2 - there**2) / here**2)
        down = math.sqrt(max(there**2 - up**2, 0.0))
        x = _deterministic_step(x, denoised, step.level, Level(step.target.timestep, 1.0, down)) + up * noise()
    return x


def dpmpp_2m(x: Array, schedule: Schedule, noise: NoiseSource) -> Run:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), in λ = log(alpha/sigma).

    First order where there is no earlier prediction, at a last step that ends without noise, and at the last
    of fewer than 15 steps.
    """
    previous, before = None, None
    final = schedule.total_steps < 15 or schedule.final_sigmas_type is FinalSigma.ZERO
    for remaining, step in zip(range(len(schedule) - 1, -1, -1), schedule.steps, strict=True):
        x, denoised = yield Evaluate(x, step.level)
        if previous is None or before is None or (final and remaining == 0):
            direction = denoised
        else:
            ratio = _lambda_gap(before, step.level) / _lambda_gap(step.level, step.target)
            direction = denoised + (0.5 / ratio) * (denoised - previous)
        x = _deterministic_step(x, direction, step.level, step.target)
        previous, before = denoised, step.level
    return x


def _deterministic_step(x: Array, denoised: Array, level: Level, target: Level) -> Array:
    """Keeps the noise that ``denoised`` implies in x and rescales it to the target's level.

    With h = λ_target − λ_level this is (σ'/σ) x − α' (e^{−h} − 1) x₀, the first-order DPM-Solver++ step.
    """
    kept = target.sigma / level.sigma
    return kept * x + (target.alpha - kept * level.alpha) * denoised


def _lambda_gap(start: Level, end: Level) -> float:
    """λ_end − λ_start, infinite where the end has no noise."""
    if end.sigma == 0.0:
        return math.inf
    return math.log(end.alpha * start.sigma / (end.sigma * start.alpha))
