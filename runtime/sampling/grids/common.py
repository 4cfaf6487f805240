"""What the grids share: checks, spacings, a caller's own levels, and the two kinds of schedule."""

from collections.abc import Callable, Sequence

import numpy as np

from latentrt.engines.bundle.noise_schedule import alphas_cumprod_from_config
from latentrt.engines.bundle.records.schedule_config import FinalSigma, ScheduleConfig, SigmaSpacing, TimestepSpacing
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Schedule, training_sigmas

Grid = Callable[..., Schedule]
_SIGMA_BOUNDS = (1e-5, 1e5)  # trained models lie within 0.03 and 20,000


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


def final_sigma(config: ScheduleConfig) -> float:
    """Where the last step ends: no noise, or the smallest trained noise."""
    return float(training_sigmas(config)[0]) if config.final_sigmas_type is FinalSigma.SIGMA_MIN else 0.0


def without_zero_snr(config: ScheduleConfig) -> ScheduleConfig:
    """Some of the reference's classes do not know zero terminal SNR and leave the betas as they are."""
    return config.model_copy(update={"rescale_betas_zero_snr": False})


def spaced_timesteps(config: ScheduleConfig, spacing: TimestepSpacing, steps: int) -> Array:
    """Whole timesteps, descending, of "leading" and "trailing" spacing; float64."""
    count = config.num_train_timesteps
    if spacing is TimestepSpacing.LEADING:
        return with_offset(config, np.arange(steps)[::-1] * float(count // steps), steps)
    # Rounding makes arange one longer for some counts (61, 103, …): a last step at timestep −1, which the
    # reference takes, from the index −1 of ᾱ, that is from pure noise. Nobody wants that picture.
    return np.round(np.arange(count, 0, -count / steps)[:steps]) - 1.0


def with_offset(config: ScheduleConfig, timesteps: Array, steps: int) -> Array:
    """Timesteps moved by the schedule's offset."""
    moved = timesteps + config.steps_offset
    if moved[0] > config.num_train_timesteps - 1:
        raise RequestError(
            f"got {steps} steps with steps_offset {config.steps_offset}, whose first timestep {moved[0]:g} was never "
            f"trained, expected at most {config.num_train_timesteps - 1}; lower one of them"
        )
    return moved


def custom_timesteps(config: ScheduleConfig, timesteps: Sequence[float] | None) -> Array | None:
    """A caller's timesteps, float64.

    Raises:
        RequestError: not descending, beyond the trained range, or beside a curve of sigmas.
    """
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


def custom_sigmas(sigmas: Sequence[float] | None) -> Array | None:
    """A caller's σ with their last target, float64.

    Raises:
        RequestError: not descending, or beyond what any model was trained on.
    """
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


def exploding_schedule(config: ScheduleConfig, timesteps: Array, levels: Array, initial_scale: float) -> Schedule:
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


def preserving_schedule(config: ScheduleConfig, timesteps: Array, targets: Array) -> Schedule:
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
