"""The grids of the k-diffusion family and of EDM: fractional timesteps, x = x₀ + σ · noise."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from enum import StrEnum

import numpy as np

from latentrt.engines.bundle.records.schedule_config import (
    FinalSigma,
    PredictionType,
    ScheduleConfig,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.common import (
    Grid,
    check_steps,
    custom_sigmas,
    custom_timesteps,
    exploding_schedule,
    final_sigma,
    spaced_timesteps,
    without_zero_snr,
)
from latentrt.runtime.sampling.grids.sigma_curves import spaced_sigmas
from latentrt.runtime.sampling.schedule import Schedule, timesteps_from_sigmas, training_sigmas


class InterpolationType(StrEnum):
    """Between the trained σ: linear in σ at the timesteps, or evenly from end to end in log σ."""

    LINEAR = "linear"
    LOG_LINEAR = "log_linear"


class TimestepType(StrEnum):
    """What the model is told: the training timestep, or log(σ)/4 (v-prediction models trained that way)."""

    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


def _k_family(*, knows_zero_snr: bool = False, rounded: AbstractSet[SigmaSpacing] = frozenset()) -> Grid:
    """A grid of σ interpolated at timesteps that need not be whole, ending without noise.

    ``rounded`` are the curves of σ whose timesteps are rounded.
    """

    def grid(
        config: ScheduleConfig,
        steps: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Schedule:
        config = config if knows_zero_snr else without_zero_snr(config)
        return _k_grid(config, steps, timesteps, sigmas, rounded=rounded)

    return grid


def euler_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    interpolation_type: InterpolationType = InterpolationType.LINEAR,
    timestep_type: TimestepType = TimestepType.DISCRETE,
) -> Schedule:
    """Euler's: linear, or even in log σ, between the trained σ; timesteps of either type; ends as the config says."""
    schedule = _k_grid(
        config,
        steps,
        timesteps,
        sigmas,
        final=final_sigma(config),
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
    custom = custom_timesteps(config, timesteps)
    levels = custom_sigmas(sigmas)
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
            visited = spaced_timesteps(config, spacing, steps).astype(np.float32)
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
    return exploding_schedule(config, visited.astype(np.float32), levels, scale)


k_grid = _k_family()
k_rounded_grid = _k_family(rounded={SigmaSpacing.KARRAS})  # DPM2's
euler_ancestral_grid = _k_family(knows_zero_snr=True)


def edm_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    sigmas: Sequence[float] | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    rho: float = 7.0,
) -> Schedule:
    """EDM's own σ and preconditioning (arXiv 2206.00364, table 1); the model is told log(σ)/4.

    The data's deviation stands in alpha, so that the solver sees clean samples of unit variance: c_in is then the
    level's ``input_scale``, and c_skip and c_out are those of a velocity. The curve of σ is the model's own where
    neither sampler nor caller chose one; ``sigmas`` takes its place.
    """
    custom = custom_sigmas(sigmas)
    if custom is not None:
        return _edm_schedule(config, custom[:-1], float(custom[-1]), sigma_data, largest=float(custom[0]))
    check_steps(config, steps)
    if sigma_min >= sigma_max:
        raise RequestError(
            f"got sigma_min {sigma_min:g} and sigma_max {sigma_max:g}, expected the first lower; swap them"
        )
    spacing = config.sigma_spacing
    if spacing is SigmaSpacing.TIMESTEPS:
        spacing = SigmaSpacing.KARRAS if config.edm is None else config.edm.sigma_spacing
    curve = spaced_sigmas(spacing, sigma_min, sigma_max, steps, rho=rho).astype(np.float32)
    final = 0.0
    if config.final_sigmas_type is FinalSigma.SIGMA_MIN:  # which a single step is far from
        final = curve[-1] if steps > 1 or config.edm is None else sigma_min
    return _edm_schedule(config, curve, final, sigma_data, largest=sigma_max)


def _edm_schedule(config: ScheduleConfig, curve: Array, final: float, sigma_data: float, *, largest: float) -> Schedule:
    """EDM's schedule through a curve of σ; the first x has the variance of data noised to the largest one."""
    schedule = exploding_schedule(config, np.log(curve) / 4, np.append(curve, final), math.hypot(largest, 1.0))
    prediction = config.prediction_type
    return replace(
        schedule,
        alphas=np.full(len(curve), sigma_data),
        target_alphas=np.full(len(curve), sigma_data),
        data_scale=sigma_data,
        edm=True,
        prediction_type=PredictionType.EDM if prediction is PredictionType.EPSILON else prediction,
    )


def _told(schedule: Schedule, timesteps: Array) -> Schedule:
    """The same levels under other timesteps."""
    told = timesteps.astype(np.float32).astype(np.float64)
    return replace(schedule, timesteps=told, target_timesteps=np.append(told[1:], 0.0))
