"""DPM-Solver and DPM-Solver++ (Lu et al. 2022), deterministic and stochastic, multistep and singlestep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps

_FEW_STEPS = 15  # below, the last steps fall back to lower orders


class AlgorithmType(StrEnum):
    """DPM-Solver integrates the predicted noise, DPM-Solver++ the predicted data; sde adds noise on the way."""

    DPMSOLVER = "dpmsolver"
    DPMSOLVERPP = "dpmsolver++"
    SDE_DPMSOLVER = "sde-dpmsolver"
    SDE_DPMSOLVERPP = "sde-dpmsolver++"

    @property
    def stochastic(self) -> bool:
        """Whether noise is added in every step."""
        return self in (AlgorithmType.SDE_DPMSOLVER, AlgorithmType.SDE_DPMSOLVERPP)

    @property
    def predicts_data(self) -> bool:
        """Whether the predicted data is integrated, else the predicted noise."""
        return self in (AlgorithmType.DPMSOLVERPP, AlgorithmType.SDE_DPMSOLVERPP)


class SolverType(StrEnum):
    """How the second-order term is weighted."""

    MIDPOINT = "midpoint"
    HEUN = "heun"


@dataclass(frozen=True, slots=True)
class _Prediction:
    """What the model said at one level: the data or the noise, as the algorithm integrates it."""

    value: Array
    level: Level


def dpm_multistep(
    x: Array,
    schedule: Schedule,
    noise: NoiseSource,
    *,
    solver_order: int = 2,
    algorithm_type: AlgorithmType = AlgorithmType.DPMSOLVERPP,
    solver_type: SolverType = SolverType.MIDPOINT,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Steps:
    """DPM-Solver(++) from the predictions of earlier steps (arXiv 2211.01095, algorithm 2).

    First order where there is no earlier prediction and at a last step that ends without noise; with
    ``lower_order_final`` and fewer than 15 steps the last two are of first and second order.
    """
    algorithm, few = AlgorithmType(algorithm_type), lower_order_final and schedule.total_steps < _FEW_STEPS
    _check_algorithm(algorithm, schedule, solver_order)
    history: list[_Prediction] = []
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        history = [_prediction(algorithm, x, denoised, step.level), *history[: solver_order - 1]]
        remaining = schedule.total_steps - step.index
        order = len(history)
        if remaining == 1 and (euler_at_final or few or step.target.sigma == 0.0):
            order = 1
        elif remaining == 2 and few:
            order = min(order, 2)
        x = _expanded_step(x, history[:order], step.level, step.target, noise, algorithm, SolverType(solver_type))
    return x


def dpm_singlestep(
    x: Array,
    schedule: Schedule,
    noise: NoiseSource,
    *,
    algorithm_type: AlgorithmType = AlgorithmType.DPMSOLVERPP,
    solver_type: SolverType = SolverType.MIDPOINT,
    lower_order_final: bool = False,
) -> Steps:
    """DPM-Solver(++) of second order in pairs of steps (arXiv 2211.01095, algorithm 1).

    The first step of a pair is of first order; the second starts again where the pair began, with both
    predictions. With ``lower_order_final``, an odd number of steps or an end without noise, the last step
    is of first order.
    """
    algorithm, total = AlgorithmType(algorithm_type), schedule.total_steps
    lower = lower_order_final or total % 2 == 1 or schedule.all_steps[-1].target.sigma == 0.0
    _check_algorithm(algorithm, schedule, 2)
    start, first = x, None
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        current = _prediction(algorithm, x, denoised, step.level)
        second_of_pair = step.index % 2 == 1 and not (lower and step.index == total - 1)
        if second_of_pair and first is not None:
            history, base = [current, first], first.level
        else:
            history, base, start, first = [current], step.level, x, current
        x = _expanded_step(
            start, history, base, step.target, noise, algorithm, SolverType(solver_type), around=len(history) - 1
        )
    return x


def _prediction(algorithm: AlgorithmType, x: Array, denoised: Array, level: Level) -> _Prediction:
    return _Prediction(denoised if algorithm.predicts_data else level.noise(x, denoised), level)


def _expanded_step(
    x: Array,
    history: Sequence[_Prediction],
    level: Level,
    target: Level,
    noise: NoiseSource,
    algorithm: AlgorithmType,
    solver_type: SolverType,
    around: int = 0,
) -> Array:
    """One step from ``level`` to ``target`` with the prediction expanded in λ around ``history[around]``.

    arXiv 2211.01095, section 4, and arXiv 2206.00927, appendix B, written once: with h = λ_target − λ_level, the
    exponent z is −h where data is integrated, −2h where noise is added on the way too, and h for the noise
    prediction. ``history`` is newest first; its length is the order.
    """
    h = target.half_log_snr - level.half_log_snr
    if h == 0.0:  # Karras's last σ, where the run ends at sigma_min, which it is already
        return x
    kept, weight = target.alpha / level.alpha, -target.alpha
    if algorithm.predicts_data:
        z = -2.0 * h if algorithm.stochastic else -h
        kept *= math.exp(z)
    else:
        z = h
        weight = -target.sigma * (2.0 if algorithm.stochastic else 1.0)
    growth = math.expm1(z)
    x = kept * x + (weight * growth) * history[around].value
    if len(history) > 1:
        slope, curvature = _differences(history, h)
        midpoint = solver_type is SolverType.MIDPOINT and len(history) == 2
        x = x + weight * (0.5 * growth if midpoint else growth / z - 1.0) * slope
        if curvature is not None:
            # As published and in the reference: half of what the expansion's second-order term should weigh, so
            # that the order stays two; and the stochastic algorithm adds the ½ that the expansion takes off.
            half = -0.5 if algorithm.stochastic else 0.5
            x = x + weight * ((growth - z) / (z * z) - half) * curvature
    if algorithm.stochastic:
        spread = -math.expm1(-2.0 * h) if algorithm.predicts_data else math.expm1(2.0 * h)
        x = x + (target.sigma * math.sqrt(spread)) * noise(history[0].level, target)
    return x


def _differences(history: Sequence[_Prediction], h: float) -> tuple[Array, Array | None]:
    """First and, of three predictions, second derivative in λ at the newest, times h and h²/2."""
    values, lambdas = [p.value for p in history], [p.level.half_log_snr for p in history]
    near = (lambdas[0] - lambdas[1]) / h
    slope = (values[0] - values[1]) / near
    if len(history) == 2:
        return slope, None
    far = (lambdas[1] - lambdas[2]) / h
    change = slope - (values[1] - values[2]) / far
    return slope + (near / (near + far)) * change, change / (near + far)


def _check_algorithm(algorithm: AlgorithmType, schedule: Schedule, order: int) -> None:
    if not 1 <= order <= 3:
        raise RequestError(f"got solver_order {order!r}, expected 1, 2 or 3; 2 is common")
    if not algorithm.predicts_data and schedule.all_steps[-1].target.sigma == 0.0:
        raise RequestError(
            f"got algorithm_type {str(algorithm)!r} with a schedule that ends without noise, where it has no "
            "limit; set final_sigmas_type='sigma_min', or choose dpmsolver++"
        )
    if algorithm is AlgorithmType.SDE_DPMSOLVER and order == 3:
        raise RequestError("got algorithm_type 'sde-dpmsolver' of order 3, expected order 1 or 2; choose dpmpp_2m")
