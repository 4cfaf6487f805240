"""The grids: which noise levels each sampler visits. All are pure functions of a config and a number of steps.

Timesteps are equal to those of the diffusers class that a sampler stands for, with the traps that this brings:
the families divide the training timesteps differently, and only some round timesteps found from σ.
"""

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from enum import StrEnum

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.schedule_config import (
    BetaSchedule,
    FinalSigma,
    PredictionType,
    ScheduleConfig,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.engines.spec import Array
from latentrt.runtime.schedule import (
    Schedule,
    alphas_cumprod_from_config,
    timesteps_from_sigmas,
    training_sigmas,
)
from latentrt.runtime.sigma_curves import spaced_sigmas

Grid = Callable[..., Schedule]
_SIGMA_BOUNDS = (1e-5, 1e5)  # trained models lie within 0.03 and 20,000


class InterpolationType(StrEnum):
    """Between the trained σ: linear in σ at the timesteps, or evenly from end to end in log σ."""

    LINEAR = "linear"
    LOG_LINEAR = "log_linear"


class TimestepType(StrEnum):
    """What the model is told: the training timestep, or log(σ)/4 (v-prediction models trained that way)."""

    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


def check_steps(config: ScheduleConfig, steps: int, largest: int | None = None, smallest: int = 1) -> None:
    """Refuses a number of steps that no schedule has.

    Raises:
        RequestError: outside ``smallest`` to ``largest``, by default the number of training timesteps.
    """
    largest = config.num_train_timesteps if largest is None else largest
    if not smallest <= steps <= largest:
        raise RequestError(
            f"got {steps} steps, expected {smallest} to {largest}; set num_inference_steps in this range"
        )


# --- DDIM, DDPM, PNDM: whole timesteps, variance preserving


def ddim_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """Each step aims T // N timesteps lower, whatever the next one is."""
    timesteps = _whole_timesteps(config, steps)
    return _preserving(config, timesteps, timesteps - config.num_train_timesteps // steps)


def pndm_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """DDIM's, with the second timestep twice where there are no Runge-Kutta steps: the warm-up asks there twice."""
    config = _without_zero_snr(config)
    timesteps = _whole_timesteps(config, steps)
    if config.skip_prk_steps:
        timesteps = np.concatenate([timesteps[:2], timesteps[1:]])
    else:
        check_steps(config, steps, smallest=4)  # three Runge-Kutta steps before the first multistep one
    return _preserving(config, timesteps, timesteps - config.num_train_timesteps // steps)


def ddpm_grid(config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None) -> Schedule:
    """Each step aims at the next timestep, the last one at no noise."""
    custom = _custom_timesteps(config, timesteps)
    visited = _whole_timesteps(config, steps) if custom is None else custom
    config = config.model_copy(update={"set_alpha_to_one": True})
    return _preserving(config, visited, np.append(visited[1:], -1.0))


def _whole_timesteps(config: ScheduleConfig, steps: int) -> Array:
    check_steps(config, steps)
    spacing = config.timestep_spacing or TimestepSpacing.LEADING
    if spacing is TimestepSpacing.LINSPACE:
        return np.linspace(0, config.num_train_timesteps - 1, steps).round()[::-1]
    return _spaced(config, spacing, steps)


def _preserving(config: ScheduleConfig, timesteps: Array, targets: Array) -> Schedule:
    """A schedule through whole timesteps; targets below 0 have no noise, or that of timestep 0."""
    bar = alphas_cumprod_from_config(config)
    final = np.float32(1.0) if config.set_alpha_to_one else bar[0]
    here = bar[timesteps.astype(np.int64)].astype(np.float64)
    there = np.where(targets >= 0, bar[np.maximum(targets, 0).astype(np.int64)], final).astype(np.float64)
    return Schedule(
        timesteps=timesteps.astype(np.float64),
        alphas=np.sqrt(here),
        sigmas=np.sqrt(1.0 - here),
        target_timesteps=targets.astype(np.float64),
        target_alphas=np.sqrt(there),
        target_sigmas=np.sqrt(1.0 - there),
        trained_sigmas=training_sigmas(config),
        initial_scale=1.0,
        prediction_type=config.prediction_type,
    )


# --- the k-diffusion family: fractional timesteps, alpha = 1


def k_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """σ interpolated at timesteps that need not be whole, ending without noise."""
    return _k_grid(_without_zero_snr(config), steps, timesteps, sigmas)


def k_rounded_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """The same for DPM2, which rounds the timesteps of Karras's σ."""
    return _k_grid(_without_zero_snr(config), steps, timesteps, sigmas, rounded={SigmaSpacing.KARRAS})


def euler_ancestral_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """The same for Euler ancestral, which knows zero terminal SNR."""
    return _k_grid(config, steps, timesteps, sigmas)


def euler_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    interpolation_type: InterpolationType = InterpolationType.LINEAR,
    timestep_type: TimestepType = TimestepType.DISCRETE,
) -> Schedule:
    """The same with Euler's wishes; ends at no noise, or at the smallest trained σ."""
    schedule = _k_grid(
        config,
        steps,
        timesteps,
        sigmas,
        final=_final_sigma(config),
        interpolation=InterpolationType(interpolation_type),
    )
    if timestep_type == TimestepType.CONTINUOUS and config.prediction_type is PredictionType.V_PREDICTION:
        return _told(schedule, np.log(schedule.sigmas) / 4)
    return schedule


def _k_grid(
    config: ScheduleConfig,
    steps: int,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    *,
    final: float = 0.0,
    rounded: AbstractSet[SigmaSpacing] = frozenset(),
    interpolation: InterpolationType = InterpolationType.LINEAR,
) -> Schedule:
    trained = training_sigmas(config)
    spacing = config.timestep_spacing or TimestepSpacing.LINSPACE
    custom = _custom_timesteps(config, timesteps)
    levels = _custom_sigmas(sigmas)
    if levels is not None:
        visited = timesteps_from_sigmas(levels[:-1], trained)
    else:
        if custom is not None:
            visited = custom.astype(np.float32)
        elif spacing is TimestepSpacing.LINSPACE:
            check_steps(config, steps)
            visited = np.linspace(0, config.num_train_timesteps - 1, steps, dtype=np.float32)[::-1]
        else:
            check_steps(config, steps)
            visited = _spaced(config, spacing, steps).astype(np.float32)
        if interpolation is InterpolationType.LOG_LINEAR:
            # one σ more than steps: the last step ends at the smallest, and `final` is never reached
            levels = spaced_sigmas(SigmaSpacing.EXPONENTIAL, trained[0], trained[-1], len(visited) + 1)
        else:
            levels = np.append(np.interp(visited, np.arange(len(trained)), trained), final)
        if config.sigma_spacing is not SigmaSpacing.TIMESTEPS:
            ends = levels[:-1] if interpolation is InterpolationType.LINEAR else levels
            curve = spaced_sigmas(config.sigma_spacing, ends[-1], ends[0], len(visited))
            visited = timesteps_from_sigmas(curve, trained)
            visited = visited.round() if config.sigma_spacing in rounded else visited
            levels = np.append(curve, final)
    # The first x has the variance of the noised image at σ_max, unless the schedule starts below it.
    largest = float(np.float32(levels.max()))
    scale = math.hypot(largest, 1.0) if spacing is TimestepSpacing.LEADING else largest
    return _exploding(config, visited.astype(np.float32), levels, scale)


# --- the DPM-Solver family: N + 1 timesteps of which the last is dropped


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
    return _dpm_grid(config, steps, timesteps, sigmas, lambda_min_clipped, rounded, _final_sigma(config))


def singlestep_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    lambda_min_clipped: float = -math.inf,
) -> Schedule:
    """DPM-Solver++ singlestep, which knows neither spacings nor offsets nor zero terminal SNR."""
    config = _without_zero_snr(config).model_copy(update={"timestep_spacing": TimestepSpacing.LINSPACE})
    rounded = {SigmaSpacing.KARRAS}
    return _dpm_grid(config, steps, timesteps, sigmas, lambda_min_clipped, rounded, _final_sigma(config))


def unipc_grid(
    config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None, sigmas: Sequence[float] | None = None
) -> Schedule:
    """UniPC; on a curve of σ, ``sigma_min`` ends at the curve's last σ again."""
    curved = config.sigma_spacing is not SigmaSpacing.TIMESTEPS
    repeats = curved and config.final_sigmas_type is FinalSigma.SIGMA_MIN
    final = None if repeats else _final_sigma(config)
    return _dpm_grid(config, steps, timesteps, sigmas, -math.inf, {SigmaSpacing.KARRAS}, final)


def deis_grid(
    config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None, sigmas: Sequence[float] | None = None
) -> Schedule:
    """DEIS, which never reaches σ = 0: its last σ is the smallest trained one, or the curve's last again."""
    config = _without_zero_snr(config)
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
    visited = _custom_timesteps(config, timesteps)
    levels = _custom_sigmas(sigmas)
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
    return _as_preserving(_exploding(config, np.trunc(visited), levels, 1.0))


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
        return _offset(config, (np.arange(steps + 1) * float(count // (steps + 1)))[::-1][:-1], steps)
    return np.round(np.arange(count, 0, -config.num_train_timesteps / steps)[:steps]) - 1.0


# --- consistency models and EDM


def consistency_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    original_inference_steps: int = 50,
) -> Schedule:
    """LCM's and TCD's: some of the timesteps that the model was distilled on."""
    original = original_inference_steps
    check_steps(config, original)
    visited = _custom_timesteps(config, timesteps)
    if visited is None:
        check_steps(config, steps, largest=original)
        distilled = np.arange(1, original + 1)[::-1] * (config.num_train_timesteps // original) - 1
        visited = distilled[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)]
    # LCM's last step aims at its own timestep again, but what it returns there is the clean sample.
    config = config.model_copy(update={"set_alpha_to_one": True})
    return _preserving(config, visited.astype(np.float64), np.append(visited[1:], -1.0))


def tcd_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    original_inference_steps: int = 50,
) -> Schedule:
    """LCM's timesteps; the last step aims at timestep 0."""
    schedule = consistency_grid(config, steps, timesteps=timesteps, original_inference_steps=original_inference_steps)
    return _preserving(config, schedule.timesteps, np.maximum(schedule.target_timesteps, 0.0))


def edm_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    rho: float = 7.0,
) -> Schedule:
    """EDM's own σ and preconditioning (arXiv 2206.00364, table 1); the model is told log(σ)/4.

    The data's deviation stands in alpha, so that the solver sees clean samples of unit variance.
    """
    check_steps(config, steps)
    if sigma_min >= sigma_max:
        raise RequestError(
            f"got sigma_min {sigma_min:g} and sigma_max {sigma_max:g}, expected the first lower; swap them"
        )
    spacing = SigmaSpacing.KARRAS if config.sigma_spacing is SigmaSpacing.TIMESTEPS else config.sigma_spacing
    curve = spaced_sigmas(spacing, sigma_min, sigma_max, steps, rho=rho).astype(np.float32)
    final = curve[-1] if config.final_sigmas_type is FinalSigma.SIGMA_MIN else 0.0
    schedule = _exploding(config, np.log(curve) / 4, np.append(curve, final), math.hypot(sigma_max, 1.0))
    prediction = config.prediction_type
    return replace(
        schedule,
        alphas=np.full(steps, sigma_data),
        target_alphas=np.full(steps, sigma_data),
        data_scale=sigma_data,
        prediction_type=PredictionType.EDM if prediction is PredictionType.EPSILON else prediction,
    )


# --- shared pieces


def _final_sigma(config: ScheduleConfig) -> float:
    """Where the last step ends: no noise, or the smallest trained noise."""
    return float(training_sigmas(config)[0]) if config.final_sigmas_type is FinalSigma.SIGMA_MIN else 0.0


def _without_zero_snr(config: ScheduleConfig) -> ScheduleConfig:
    """Some of the reference's classes do not know zero terminal SNR and leave the betas as they are."""
    return config.model_copy(update={"rescale_betas_zero_snr": False})


def _spaced(config: ScheduleConfig, spacing: TimestepSpacing, steps: int) -> Array:
    """Whole timesteps, descending, of "leading" and "trailing" spacing; float64."""
    count = config.num_train_timesteps
    if spacing is TimestepSpacing.LEADING:
        return _offset(config, np.arange(steps)[::-1] * float(count // steps), steps)
    # Rounding makes arange one longer for some counts (61, 103, …): a last step at timestep −1, which the
    # reference takes, from the index −1 of ᾱ, that is from pure noise. Nobody wants that picture.
    return np.round(np.arange(count, 0, -count / steps)[:steps]) - 1.0


def _offset(config: ScheduleConfig, timesteps: Array, steps: int) -> Array:
    """Timesteps moved by the schedule's offset."""
    moved = timesteps + config.steps_offset
    if moved[0] > config.num_train_timesteps - 1:
        raise RequestError(
            f"got {steps} steps with steps_offset {config.steps_offset}, whose first timestep {moved[0]:g} was never "
            f"trained, expected at most {config.num_train_timesteps - 1}; lower one of them"
        )
    return moved


def _custom_timesteps(config: ScheduleConfig, timesteps: Sequence[float] | None) -> Array | None:
    if timesteps is None:
        return None
    if config.sigma_spacing is not SigmaSpacing.TIMESTEPS:
        raise RequestError(
            f"got timesteps for a sampler with {config.sigma_spacing} sigmas, expected one or the other; "
            "leave timesteps out or choose the sampler without _k"
        )
    visited = np.asarray(timesteps, np.float64)
    if visited.ndim != 1 or not len(visited) or (np.diff(visited) >= 0).any():
        raise RequestError(f"got timesteps {list(timesteps)!r}, expected a descending list; sort them")
    if not (visited[-1] >= 0 and visited[0] < config.num_train_timesteps):
        raise RequestError(
            f"got timesteps {list(timesteps)!r}, expected them within 0 to {config.num_train_timesteps - 1}; "
            "leave out what is beyond"
        )
    return visited


def _custom_sigmas(sigmas: Sequence[float] | None) -> Array | None:
    """Custom σ with their last target, float64."""
    if sigmas is None:
        return None
    levels = np.asarray(sigmas, np.float32).astype(np.float64)
    if levels.ndim != 1 or len(levels) < 2 or (np.diff(levels) >= 0).any() or levels[-1] < 0:
        raise RequestError(
            f"got sigmas {list(sigmas)!r}, expected a descending list that ends where the last step should, "
            "usually at 0; sort them and append 0"
        )
    low, high = _SIGMA_BOUNDS
    if levels[0] > high or levels[-2] < low or 0 < levels[-1] < low:
        raise RequestError(f"got sigmas {list(sigmas)!r}, expected {low:g} to {high:g}, or 0 at the end; correct them")
    return levels


def _exploding(config: ScheduleConfig, timesteps: Array, levels: Array, initial_scale: float) -> Schedule:
    """A schedule with alpha = 1 through the N + 1 σ in ``levels``, rounded to float32 as in the reference."""
    rounded = levels.astype(np.float32).astype(np.float64)
    count = len(timesteps)
    told = timesteps.astype(np.float64)
    return Schedule(
        timesteps=told,
        alphas=np.ones(count),
        sigmas=rounded[:count],
        target_timesteps=np.append(told[1:], 0.0),
        target_alphas=np.ones(count),
        target_sigmas=rounded[1 : count + 1],
        trained_sigmas=training_sigmas(config),
        initial_scale=initial_scale,
        prediction_type=config.prediction_type,
    )


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


def _told(schedule: Schedule, timesteps: Array) -> Schedule:
    """The same levels under other timesteps."""
    told = timesteps.astype(np.float32).astype(np.float64)
    return replace(schedule, timesteps=told, target_timesteps=np.append(told[1:], 0.0))
