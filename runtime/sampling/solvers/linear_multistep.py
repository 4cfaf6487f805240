"""Multistep solvers that integrate a polynomial through earlier noise predictions: LMS, DEIS and PNDM."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps, deterministic_step

_ADAMS_BASHFORTH = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
_FEW_STEPS = 15


def lms(x: Array, schedule: Schedule, noise: NoiseSource, *, order: int = 4) -> Steps:
    """Linear multistep on dx/dσ (Katherine Crowson's variable-step Adams-Bashforth), alpha = 1."""
    slopes: list[Array] = []
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        slopes = [step.level.noise(x, denoised), *slopes[: order - 1]]
        # A run that starts in the middle takes its weights from levels before the start, as the reference does,
        # although the slopes there are missing.
        known = [schedule.all_steps[step.index - k].level.sigma for k in range(min(step.index + 1, order))]
        weights = _integrated_basis(known, step.level.sigma, step.target.sigma)
        x = x + _weighted(weights, slopes)
    return x


def deis(
    x: Array, schedule: Schedule, noise: NoiseSource, *, solver_order: int = 2, lower_order_final: bool = True
) -> Steps:
    """DEIS in log ρ (Zhang and Chen 2022, arXiv 2204.13902): x/alpha moves along ρ = sigma/alpha with slope ε."""
    if not 1 <= solver_order <= 3:
        raise RequestError(f"got solver_order {solver_order!r}, expected 1, 2 or 3; 2 is common")
    few = lower_order_final and schedule.total_steps < _FEW_STEPS
    slopes: list[Array] = []
    ratios: list[float] = []
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        if step.target.sigma == 0.0:  # only custom sigmas end there
            return step.target.alpha * denoised
        slopes = [step.level.noise(x, denoised), *slopes[: solver_order - 1]]
        ratios = [step.level.ratio, *ratios[: solver_order - 1]]
        order = min(len(slopes), schedule.total_steps - step.index) if few else len(slopes)
        logs = [math.log(ratio) for ratio in ratios[:order]]
        weights = _integrated_basis(logs, logs[0], math.log(step.target.ratio), growth=1.0)
        x = (step.target.alpha / step.level.alpha) * x + step.target.alpha * _weighted(weights, slopes)
    return x


def pndm(x: Array, schedule: Schedule, noise: NoiseSource, *, skip_prk_steps: bool = False) -> Steps:
    """PNDM (Liu et al. 2022, arXiv 2202.09778): Adams-Bashforth on the model's output, then DDIM's transfer.

    The first three steps are Runge-Kutta's, of four model calls each. With ``skip_prk_steps`` Heun's method makes
    the first step instead: its second call is a step of the grid, which visits that timestep twice.
    """

    def output_of(x: Array, denoised: Array, level: Level) -> Array:
        return level.output(schedule.prediction_type, denoised, x)

    def transfer(x: Array, output: Array, level: Level, target: Level) -> Array:
        return deterministic_step(x, level.denoised(schedule.prediction_type, output, x), level, target)

    stride = float(schedule.timesteps[0] - schedule.target_timesteps[0])
    outputs: list[Array] = []
    start = x
    for count, step in enumerate(schedule.steps):
        level = step.level
        x, denoised = yield Evaluate(x, level)
        output = output_of(x, denoised, level)
        if skip_prk_steps and count == 1:
            mean = 0.5 * (output + outputs[0])
            x = transfer(start, mean, schedule.trained_level(level.timestep + stride), level)
            continue
        start, outputs = x, [output, *outputs[:3]]
        if skip_prk_steps or count >= 3 or step.index + 1 == schedule.total_steps:
            x = transfer(x, _weighted(_ADAMS_BASHFORTH[len(outputs) - 1], outputs), level, step.target)
            continue
        following = schedule.all_steps[step.index + 1].level
        half = stride // 2
        middle = schedule.trained_level(following.timestep + half)
        # The two middles agree where the timesteps are even; the reference tells the model the second.
        x, denoised = yield Evaluate(transfer(x, output, level, schedule.trained_level(level.timestep - half)), middle)
        second = output_of(x, denoised, middle)
        x, denoised = yield Evaluate(transfer(start, second, level, middle), middle)
        third = output_of(x, denoised, middle)
        x, denoised = yield Evaluate(transfer(start, third, level, following), following)
        fourth = output_of(x, denoised, following)
        x = transfer(start, (output + 2.0 * second + 2.0 * third + fourth) / 6.0, level, following)
    return x


def _weighted(weights: Sequence[float], slopes: Sequence[Array]) -> Array:
    """The weighted sum of the slopes at hand; weights may be more."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=False):
        total = total + weight * slope
    return total


def _integrated_basis(nodes: Sequence[float], start: float, stop: float, growth: float = 0.0) -> list[float]:
    """∫ L_k(s) e^{growth · s} ds from start to stop for each Lagrange polynomial L_k on the nodes."""
    points, weights = _gauss_legendre()
    s = start + (stop - start) * (points + 1.0) / 2.0
    measure = weights * np.exp(growth * s) * (stop - start) / 2.0
    basis = []
    for k, node in enumerate(nodes):
        others = [other for j, other in enumerate(nodes) if j != k]
        polynomial = np.prod([(s - other) / (node - other) for other in others], axis=0)
        basis.append(float((measure * polynomial).sum()))
    return basis


@cache
def _gauss_legendre() -> tuple[Array, Array]:
    """Sixteen nodes: exact for LMS's cubics, and to 1e-15 with the exponential over a whole schedule in one step."""
    points, weights = np.polynomial.legendre.leggauss(16)
    return points, weights
