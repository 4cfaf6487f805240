"""Noise levels: what a model was trained on, and which of them a sampler visits.

A noisy sample is x = alpha · x₀ + sigma · noise. Samplers of the k-diffusion family keep alpha = 1
("variance exploding", σ = √((1−ᾱ)/ᾱ)); DDIM and DPM-Solver keep alpha² + sigma² = 1 ("variance preserving").
Everything here is a pure function of a `ScheduleConfig`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

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

_KARRAS_RHO = 7.0  # arXiv 2206.00364, section 3.2
_SMALLEST_ALPHA_CUMPROD = 2.0**-24  # keeps σ finite under zero terminal SNR, as the reference does


@dataclass(frozen=True)
class Level:
    """One noise level: x = alpha · x₀ + sigma · noise. ``timestep`` is what the model is told."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def input_scale(self) -> float:
        """What x is multiplied by for the model, which wants unit variance: 1/√(alpha² + sigma²)."""
        return float(1.0 / np.hypot(self.alpha, self.sigma))

    def noised(self, clean: Array, noise: Array) -> Array:
        """``clean`` brought to this level."""
        return self.alpha * clean + self.sigma * noise

    def denoised(self, prediction: PredictionType, output: Array, x: Array) -> Array:
        """The clean sample that a model output implies at x (Salimans and Ho 2022, appendix D)."""
        if prediction is PredictionType.EPSILON:
            return (x - self.sigma * output) / self.alpha
        if prediction is PredictionType.V_PREDICTION:
            scale = self.input_scale
            return (self.alpha * scale * scale) * x - (self.sigma * scale) * output
        return output


@dataclass(frozen=True)
class Step:
    """One step of a sampler: from the level at which the model is asked to the level it should reach."""

    level: Level
    target: Level


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The levels of one sampling run.

    All arrays are read-only float64 of length N, one entry per step. ``initial_scale`` is the standard
    deviation of the first x; ``total_steps`` counts the steps of the whole run, also where only the last of
    them are left (image-to-image).
    """

    timesteps: Array
    alphas: Array
    sigmas: Array
    target_alphas: Array
    target_sigmas: Array
    initial_scale: float
    total_steps: int
    prediction_type: PredictionType
    final_sigmas_type: FinalSigma

    def __post_init__(self) -> None:
        for array in (self.timesteps, self.alphas, self.sigmas, self.target_alphas, self.target_sigmas):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps in order."""
        columns = (self.timesteps, self.alphas, self.sigmas, self.target_alphas, self.target_sigmas)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(Step(Level(t, a, s), Level(t, ta, ts)) for t, a, s, ta, ts in rows)

    def last(self, count: int) -> "Schedule":
        """The schedule of only the last ``count`` steps, as image-to-image runs them."""
        start = len(self) - count
        return replace(
            self,
            timesteps=self.timesteps[start:],
            alphas=self.alphas[start:],
            sigmas=self.sigmas[start:],
            target_alphas=self.target_alphas[start:],
            target_sigmas=self.target_sigmas[start:],
        )


Grid = Callable[[ScheduleConfig, int], Schedule]


def linspace_float32(start: float, stop: float, count: int) -> Array:
    """Evenly spaced float32 values, counted from both ends with fused multiply-adds as torch.linspace does."""
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(count - 1))
    # float64 holds the product of two float32 values exactly, so one rounding is left: a fused multiply-add
    up = first + step * np.arange(count)
    down = last - step * np.arange(count)[::-1]
    return np.where(np.arange(count) < count // 2, up, down).astype(np.float32)


@lru_cache(maxsize=32)
def alphas_cumprod_from_config(config: ScheduleConfig) -> Array:
    """ᾱ of every training timestep, float32 (T,).

    Computed in float32 with torch's order of operations: in float64, σ at the smallest timesteps would differ
    from the reference by 1.3e-5, which shows in non-integer timesteps.
    """
    betas = _betas(config)
    if config.rescale_betas_zero_snr:
        betas = _with_zero_terminal_snr(betas)
    bar = _cumprod(np.float32(1.0) - betas)
    bar.setflags(write=False)  # the cache shares it
    return bar


def _betas(config: ScheduleConfig) -> Array:
    count = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.array(config.trained_betas, np.float32)
    if config.beta_schedule is BetaSchedule.LINEAR:
        return linspace_float32(config.beta_start, config.beta_end, count)
    if config.beta_schedule is BetaSchedule.SCALED_LINEAR:
        return linspace_float32(config.beta_start**0.5, config.beta_end**0.5, count) ** 2
    # Nichol and Dhariwal 2021, eq. 17, with their bound of 0.999
    bar: Array = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - bar[1:] / bar[:-1], 0.999).astype(np.float32)


def _cumprod(values: Array) -> Array:
    """Cumulative product accumulated in float64 and rounded to float32 at each element, as torch does."""
    return np.cumprod(values.astype(np.float64)).astype(np.float32)


def _with_zero_terminal_snr(betas: Array) -> Array:
    """Shifts and scales √ᾱ so that it ends at zero (arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(_cumprod(np.float32(1.0) - betas))
    first, last = root[0], root[-1]
    bar = ((root - last) * (first / (first - last))) ** 2
    return np.float32(1.0) - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def training_sigmas(config: ScheduleConfig) -> Array:
    """σ = √((1−ᾱ)/ᾱ) of every training timestep, float32 (T,), ascending."""
    bar = alphas_cumprod_from_config(config)
    if config.rescale_betas_zero_snr:
        bar = np.append(bar[:-1], np.float32(_SMALLEST_ALPHA_CUMPROD))
    return np.sqrt((np.float32(1.0) - bar) / bar)


def check_steps(config: ScheduleConfig, steps: int) -> None:
    """Refuses a number of steps that no schedule has.

    Raises:
        RequestError: fewer than 1 or more than the training timesteps.
    """
    if not 1 <= steps <= config.num_train_timesteps:
        raise RequestError(
            f"got {steps} steps, expected 1 to {config.num_train_timesteps}; set num_inference_steps in this range"
        )


def ddim_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """DDIM's schedule: whole timesteps; each step aims T // N timesteps lower, whatever the next one is."""
    check_steps(config, steps)
    count = config.num_train_timesteps
    spacing = config.timestep_spacing or TimestepSpacing.LEADING
    if spacing is TimestepSpacing.LINSPACE:
        timesteps = np.linspace(0, count - 1, steps).round()[::-1]
    else:
        timesteps = _spaced(config, spacing, steps)
    bar = alphas_cumprod_from_config(config)
    here = timesteps.astype(np.int64)
    target = here - count // steps
    final = np.float32(1.0) if config.set_alpha_to_one else bar[0]
    # Offsets can point past the trained range for one step of "leading"; the reference fails there too.
    bar_here = bar[np.minimum(here, count - 1)].astype(np.float64)
    bar_target = np.where(target >= 0, bar[np.clip(target, 0, count - 1)], final).astype(np.float64)
    return Schedule(
        timesteps=timesteps.astype(np.float64),
        alphas=np.sqrt(bar_here),
        sigmas=np.sqrt(1.0 - bar_here),
        target_alphas=np.sqrt(bar_target),
        target_sigmas=np.sqrt(1.0 - bar_target),
        initial_scale=1.0,
        total_steps=steps,
        prediction_type=config.prediction_type,
        final_sigmas_type=config.final_sigmas_type,
    )


def euler_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """The k-diffusion schedule: σ interpolated at timesteps that need not be whole, ending at σ = 0."""
    check_steps(config, steps)
    trained = training_sigmas(config)
    spacing = config.timestep_spacing or TimestepSpacing.LINSPACE
    if spacing is TimestepSpacing.LINSPACE:
        timesteps = np.linspace(0, config.num_train_timesteps - 1, steps, dtype=np.float32)[::-1]
    else:
        timesteps = _spaced(config, spacing, steps).astype(np.float32)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    if config.sigma_spacing is SigmaSpacing.KARRAS:
        sigmas = karras_sigmas(sigmas[-1], sigmas[0], steps)
        timesteps = timesteps_from_sigmas(sigmas, trained).astype(np.float32)
    # The first x has the variance of the noised image at σ_max, unless the schedule starts below it.
    largest = float(np.float32(sigmas.max()))
    starts_at_top = spacing is not TimestepSpacing.LEADING
    scale = largest if starts_at_top else float(np.hypot(largest, 1.0))
    return _exploding(config, timesteps, sigmas, scale, final=_final_sigma(config))


def euler_ancestral_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """The k-diffusion schedule for ancestral noise, which always ends at σ = 0."""
    return euler_grid(config.model_copy(update={"final_sigmas_type": FinalSigma.ZERO}), steps)


def dpm_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """The DPM-Solver schedule: whole timesteps, of N + 1 the last is dropped; Karras timesteps are rounded."""
    check_steps(config, steps)
    trained = training_sigmas(config)
    count = config.num_train_timesteps
    spacing = config.timestep_spacing or TimestepSpacing.LINSPACE
    timesteps: Array
    if spacing is TimestepSpacing.LINSPACE:
        timesteps = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
    elif spacing is TimestepSpacing.LEADING:
        ratio = count // (steps + 1)
        timesteps = (np.arange(steps + 1) * float(ratio))[::-1][:-1] + config.steps_offset
    else:
        timesteps = _spaced(config, spacing, steps)
    if config.sigma_spacing is SigmaSpacing.KARRAS:
        sigmas = karras_sigmas(trained[0], trained[-1], steps)
        timesteps = timesteps_from_sigmas(sigmas, trained)
        if config.beta_schedule is not BetaSchedule.SQUAREDCOS_CAP_V2:
            timesteps = timesteps.round()
    else:
        sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    exploding = _exploding(config, np.trunc(timesteps), sigmas, 1.0, final=_final_sigma(config))
    alphas = 1.0 / np.hypot(1.0, exploding.sigmas)
    target_alphas = 1.0 / np.hypot(1.0, exploding.target_sigmas)
    return replace(
        exploding,
        alphas=alphas,
        sigmas=exploding.sigmas * alphas,
        target_alphas=target_alphas,
        target_sigmas=exploding.target_sigmas * target_alphas,
    )


def _final_sigma(config: ScheduleConfig) -> float:
    """Where the last step ends: no noise, or the smallest trained noise."""
    return float(training_sigmas(config)[0]) if config.final_sigmas_type is FinalSigma.SIGMA_MIN else 0.0


def karras_sigmas(smallest: float, largest: float, steps: int) -> Array:
    """Descending σ, float64 (N,), evenly spaced in σ^(1/7) (arXiv 2206.00364, eq. 5)."""
    top, bottom = float(largest) ** (1 / _KARRAS_RHO), float(smallest) ** (1 / _KARRAS_RHO)
    return np.asarray((top + np.linspace(0, 1, steps) * (bottom - top)) ** _KARRAS_RHO)


def timesteps_from_sigmas(sigmas: Array, trained: Array) -> Array:
    """The timesteps, float64 and not whole, at which log σ has these values by linear interpolation."""
    logs = np.log(trained)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    low = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    # the width of a bracket is rounded to float32, as in the reference
    weight = np.clip((logs[low] - wanted) / (logs[low] - logs[low + 1]), 0.0, 1.0)
    return np.asarray((1.0 - weight) * low + weight * (low + 1))


def _spaced(config: ScheduleConfig, spacing: TimestepSpacing, steps: int) -> Array:
    """Whole timesteps, descending, of "leading" and "trailing" spacing; float64."""
    count = config.num_train_timesteps
    if spacing is TimestepSpacing.LEADING:
        return np.arange(steps)[::-1] * float(count // steps) + config.steps_offset
    # Rounding makes arange one longer for some counts (61, 103, …): a last step at timestep −1, which the
    # reference takes, from the index −1 of ᾱ, that is from pure noise. Nobody wants that picture.
    return np.round(np.arange(count, 0, -count / steps)[:steps]) - 1.0


def _exploding(
    config: ScheduleConfig, timesteps: Array, sigmas: Array, initial_scale: float, final: float = 0.0
) -> Schedule:
    """A schedule with alpha = 1 through ``sigmas`` to ``final``."""
    levels = np.append(sigmas, final).astype(np.float32).astype(np.float64)
    ones = np.ones(len(sigmas))
    return Schedule(
        timesteps=timesteps.astype(np.float64),
        alphas=ones,
        sigmas=levels[:-1],
        target_alphas=ones,
        target_sigmas=levels[1:],
        initial_scale=initial_scale,
        total_steps=len(sigmas),
        prediction_type=config.prediction_type,
        final_sigmas_type=config.final_sigmas_type,
    )
