"""The grids of the DPM-Solver family: N + 1 timesteps of which the last is dropped, variance preserving."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np

from latentrt.engines.bundle.records.schedule_config import (
    BetaSchedule,
    FinalSigma,
    ScheduleConfig,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.common import (
    check_steps,
    custom_sigmas,
    custom_timesteps,
    exploding_schedule,
    final_sigma,
    with_offset,
    without_zero_snr,
)
from latentrt.runtime.sampling.grids.sigma_curves import spaced_sigmas
from latentrt.runtime.sampling.schedule import Schedule, timesteps_from_sigmas, training_sigmas


def dpm_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    lambda_min_clipped: float = -math.inf,
) -> Schedule:
    """DPM-Solver++ multistep; timesteps of the cosine schedule's curves are cut, not rounded."""
    cosine = config.beta_schedule is BetaSchedule.SQUAREDCOS_CAP_V2
    rounded = set() if cosine else {SigmaSpacing.KARRAS, SigmaSpacing.LU}
    return _dpm_grid(config, steps, timesteps, sigmas, lambda_min_clipped, rounded, final_sigma(config))


def singlestep_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    lambda_min_clipped: float = -math.inf,
) -> Schedule:
    """DPM-Solver++ singlestep, which knows neither spacings nor offsets nor zero terminal SNR."""
    config = without_zero_snr(config).model_copy(update={"timestep_spacing": TimestepSpacing.LINSPACE})
    rounded = {SigmaSpacing.KARRAS}
    return _dpm_grid(config, steps, timesteps, sigmas, lambda_min_clipped, rounded, final_sigma(config))


def unipc_grid(
    config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None, sigmas: Sequence[float] | None = None
) -> Schedule:
    """UniPC; on a curve of σ, ``sigma_min`` ends at the curve's last σ again."""
    curved = config.sigma_spacing is not SigmaSpacing.TIMESTEPS
    repeats = curved and config.final_sigmas_type is FinalSigma.SIGMA_MIN
    final = None if repeats else final_sigma(config)
    return _dpm_grid(config, steps, timesteps, sigmas, -math.inf, {SigmaSpacing.KARRAS}, final)


def deis_grid(
    config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None, sigmas: Sequence[float] | None = None
) -> Schedule:
    """DEIS, which never reaches σ = 0: its last σ is the smallest trained one, or the curve's last again."""
    config = without_zero_snr(config)
    curved = config.sigma_spacing is not SigmaSpacing.TIMESTEPS
    final = None if curved else float(training_sigmas(config)[0])
    return _dpm_grid(config, steps, timesteps, sigmas, -math.inf, {SigmaSpacing.KARRAS}, final)


def _dpm_grid(
    config: ScheduleConfig,
    steps: int,
    timesteps: Sequence[int] | None,
    sigmas: Sequence[float] | None,
    lambda_min_clipped: float,
    rounded: AbstractSet[SigmaSpacing],
    final: float | None,
) -> Schedule:
    """The family's schedule, variance preserving; ``final`` None repeats the last σ."""
    trained = training_sigmas(config)
    visited = custom_timesteps(config, timesteps)
    levels = custom_sigmas(sigmas)
    if levels is not None:
        visited = timesteps_from_sigmas(levels[:-1], trained).round()
    else:
        if visited is None:
            visited = _dpm_timesteps(config, steps, trained, lambda_min_clipped)
        if config.sigma_spacing is SigmaSpacing.TIMESTEPS:
            curve = np.interp(visited, np.arange(len(trained)), trained)
        else:
            curve = spaced_sigmas(config.sigma_spacing, trained[0], trained[-1], steps)
            visited = timesteps_from_sigmas(curve, trained)
            visited = visited.round() if config.sigma_spacing in rounded else visited
        levels = np.append(curve, curve[-1] if final is None else final)
    return _as_preserving(exploding_schedule(config, np.trunc(visited), levels, 1.0))


def _dpm_timesteps(config: ScheduleConfig, steps: int, trained: Array, lambda_min_clipped: float) -> Array:
    # timesteps whose λ = −log σ lies below the bound are left out at the noisy end
    count = config.num_train_timesteps - int(np.searchsorted(-np.log(trained[::-1]), lambda_min_clipped))
    if count < 2:
        raise RequestError(f"got lambda_min_clipped {lambda_min_clipped:g}, which leaves no timesteps; lower it")
    check_steps(config, steps, largest=count - 1)  # with one more, two of the N + 1 would be the same
    spacing = config.timestep_spacing or TimestepSpacing.LINSPACE
    if spacing is TimestepSpacing.LINSPACE:
        return np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
    if spacing is TimestepSpacing.LEADING:
        return with_offset(config, (np.arange(steps + 1) * float(count // (steps + 1)))[::-1][:-1], steps)
    return np.round(np.arange(count, 0, -config.num_train_timesteps / steps)[:steps]) - 1.0


def _as_preserving(schedule: Schedule) -> Schedule:
    """The same levels with alpha² + sigma² = 1."""
    alphas = 1.0 / np.hypot(1.0, schedule.sigmas)
    target_alphas = 1.0 / np.hypot(1.0, schedule.target_sigmas)
    return replace(
        schedule,
        alphas=alphas,
        sigmas=schedule.sigmas * alphas,
        target_alphas=target_alphas,
        target_sigmas=schedule.target_sigmas * target_alphas,
    )
