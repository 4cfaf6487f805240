"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a predictor and a corrector of one form."""

import math
from collections.abc import Collection, Sequence
from enum import StrEnum

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps


class BFunction(StrEnum):
    """B(h) of the paper: h, or e^h − 1."""

    BH1 = "bh1"
    BH2 = "bh2"


def unipc(
    x: Array,
    schedule: Schedule,
    noise: NoiseSource,
    *,
    solver_order: int = 2,
    solver_type: BFunction = BFunction.BH2,
    predict_x0: bool = True,
    lower_order_final: bool = True,
    disable_corrector: Collection[int] = (),
) -> Steps:
    """UniPC-p: each step is predicted from earlier predictions and, once the model has seen it, corrected.

    Predictor and corrector share their term in x, so the correction is a combination of predictions that is added
    to whatever x the caller hands back. ``disable_corrector`` lists steps that are not corrected.
    """
    if not 1 <= solver_order <= 3:
        raise RequestError(f"got solver_order {solver_order!r}, expected 1, 2 or 3; 2 is common")
    if not predict_x0 and schedule.all_steps[-1].target.sigma == 0.0:
        raise RequestError(
            "got predict_x0=False with a schedule that ends without noise, where it has no limit; "
            "set final_sigmas_type='sigma_min', or leave predict_x0 True"
        )
    kind = BFunction(solver_type)
    values: list[Array] = []
    levels: list[Level] = []
    order = 0
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        value = denoised if predict_x0 else step.level.noise(x, denoised)
        if order and step.index - 1 not in disable_corrector:
            before = levels[1:order]
            predicted = _weights(levels[0], step.level, before, kind, predict_x0)
            corrected = _weights(levels[0], step.level, [*before, step.level], kind, predict_x0)
            for new, old, known in zip(corrected, [*predicted, 0.0], [*values[1:order], value], strict=True):
                x = x + (new - old) * (known - values[0])
        values, levels = [value, *values[: solver_order - 1]], [step.level, *levels[: solver_order - 1]]
        # there is no higher order to an end without noise, or where Karras's last σ is the end already
        ends = step.target.sigma == 0.0 or step.target.ratio == step.level.ratio
        remaining = 1 if ends else schedule.total_steps - step.index
        order = min(len(values), remaining) if lower_order_final or remaining == 1 else len(values)
        kept, scale, z = _exponents(step.level, step.target, predict_x0)
        x = kept * x + (scale * math.expm1(z)) * value
        weights = _weights(step.level, step.target, levels[1:order], kind, predict_x0)
        for weight, known in zip(weights, values[1:], strict=False):
            x = x + weight * (known - value)
    return x


def _exponents(level: Level, target: Level, predict_x0: bool) -> tuple[float, float, float]:
    """What is kept of x, the scale of the predictions, and the exponent: −h for data, h for noise."""
    h = target.half_log_snr - level.half_log_snr
    if predict_x0:
        return target.sigma / level.sigma, -target.alpha, -h
    return target.alpha / level.alpha, -target.sigma, h


def _weights(level: Level, target: Level, others: Sequence[Level], kind: BFunction, predict_x0: bool) -> list[float]:
    """The weights of the other predictions' differences to the one at ``level`` (eqs. 5 and 9).

    They make the expansion in λ exact to as many orders as there are others; one alone has the paper's ½.
    """
    if not others:
        return []
    _, scale, z = _exponents(level, target, predict_x0)
    growth = math.expm1(z)
    b = z if kind is BFunction.BH1 else growth
    nodes = [(o.half_log_snr - level.half_log_snr) / (target.half_log_snr - level.half_log_snr) for o in others]
    if len(nodes) == 1:
        rhos = [0.5]
    else:
        phi, moments = growth / z - 1.0, []
        for k in range(1, len(nodes) + 1):
            moments.append(phi * math.factorial(k) / b)
            phi = phi / z - 1.0 / math.factorial(k + 1)
        rhos = np.linalg.solve(np.vander(nodes, increasing=True).T, moments).tolist()
    return [scale * b * rho / node for rho, node in zip(rhos, nodes, strict=True)]
