"""Noise levels: what a model was trained on, and what one sampling run visits.

A noisy sample is x = alpha · x₀ + sigma · noise. Samplers of the k-diffusion family keep alpha = 1
("variance exploding", σ = √((1−ᾱ)/ᾱ)); DDIM and DPM-Solver keep alpha² + sigma² = 1 ("variance preserving").
Everything here is a pure function of a `ScheduleConfig`; which levels a sampler visits is said in `grids`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from latentrt.engines.bundle.noise_schedule import alphas_cumprod_from_config, edm_timestep
from latentrt.engines.bundle.records.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.spec import Array

_SMALLEST_ALPHA_CUMPROD = 2.0**-24  # keeps σ finite under zero terminal SNR, as the reference does


@dataclass(frozen=True)
class Level:
    """One noise level: x = alpha · x₀ + sigma · noise. ``timestep`` is what the model is told."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise against signal, sigma / alpha; infinite where there is no signal."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def half_log_snr(self) -> float:
        """λ = log(alpha / sigma) of the DPM-Solver papers; infinite where there is no noise."""
        return -math.log(self.ratio) if self.sigma else math.inf

    @property
    def input_scale(self) -> float:
        """What x is multiplied by for the model, which wants unit variance: 1/√(alpha² + sigma²)."""
        return 1.0 / math.hypot(self.alpha, self.sigma)

    def noised(self, clean: Array, noise: Array) -> Array:
        """``clean`` brought to this level."""
        return self.alpha * clean + self.sigma * noise

    def noise(self, x: Array, denoised: Array) -> Array:
        """The noise that x holds if ``denoised`` is what it was made from."""
        return (x - self.alpha * denoised) / self.sigma

    def denoised(self, prediction: PredictionType, output: Array, x: Array) -> Array:
        """The clean sample that a model output implies at x (Salimans and Ho 2022, appendix D)."""
        if prediction is PredictionType.EPSILON:
            return (x - self.sigma * output) / self.alpha
        if prediction is PredictionType.SAMPLE:
            return output
        scale = self.input_scale
        velocity = -scale if prediction is PredictionType.EDM else scale
        return (self.alpha * scale * scale) * x - (self.sigma * velocity) * output

    def output(self, prediction: PredictionType, denoised: Array, x: Array) -> Array:
        """The model output that implies ``denoised`` at x: the inverse of ``denoised``."""
        if prediction is PredictionType.EPSILON:
            return self.noise(x, denoised)
        if prediction is PredictionType.SAMPLE:
            return denoised
        scale = self.input_scale
        velocity = -scale if prediction is PredictionType.EDM else scale
        return ((self.alpha * scale * scale) * x - denoised) / (self.sigma * velocity)


@dataclass(frozen=True)
class Step:
    """One step of a sampler: from the level at which the model is asked to the level it should reach.

    ``index`` counts from the first step of the whole run, also where a run starts in the middle.
    """

    index: int
    level: Level
    target: Level


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The levels of one sampling run.

    All arrays are read-only float64 of length N, one entry per step of the whole run; ``start`` is the first
    step that is taken (image-to-image starts in the middle). ``initial_scale`` is the standard deviation of the
    first x. ``data_scale`` times the solver's clean sample is the latent: 1 but for EDM, whose solver works on
    data of unit variance. ``trained_sigmas`` are the (T,) noise-to-signal ratios of the training timesteps. With
    ``edm`` there are none: the model is told ln(σ)/4, and alpha is ``data_scale`` everywhere.
    """

    timesteps: Array
    alphas: Array
    sigmas: Array
    target_timesteps: Array
    target_alphas: Array
    target_sigmas: Array
    trained_sigmas: Array
    initial_scale: float
    prediction_type: PredictionType
    data_scale: float = 1.0
    edm: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.timesteps) - self.start

    @property
    def total_steps(self) -> int:
        """The steps of the whole run, wherever it starts."""
        return len(self.timesteps)

    @cached_property
    def all_steps(self) -> tuple[Step, ...]:
        """Every step of the whole run."""
        here = zip(self.timesteps.tolist(), self.alphas.tolist(), self.sigmas.tolist(), strict=True)
        there = zip(
            self.target_timesteps.tolist(), self.target_alphas.tolist(), self.target_sigmas.tolist(), strict=True
        )
        return tuple(Step(index, Level(*a), Level(*b)) for index, (a, b) in enumerate(zip(here, there, strict=True)))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that are taken, in order."""
        return self.all_steps[self.start :]

    def started_at(self, start: int) -> "Schedule":
        """The same run without its first ``start`` steps."""
        return replace(self, start=start)

    def level_at(self, sigma: float) -> Level:
        """The level of this σ in a schedule of one alpha, under what the model was trained to be told there."""
        if self.edm:
            return Level(edm_timestep(sigma), self.data_scale, sigma)
        timestep = float(timesteps_from_sigmas(np.array([sigma]), self.trained_sigmas)[0])
        return Level(timestep, 1.0, sigma)

    def trained_level(self, timestep: float) -> Level:
        """The variance-preserving level of a whole training timestep."""
        ratio = float(self.trained_sigmas[round(timestep)])
        alpha = 1.0 / math.hypot(1.0, ratio)
        return Level(timestep, alpha, ratio * alpha)


def training_sigmas(config: ScheduleConfig) -> Array:
    """σ = √((1−ᾱ)/ᾱ) of every training timestep, float32 (T,), ascending."""
    bar = alphas_cumprod_from_config(config)
    if config.rescale_betas_zero_snr:
        bar = np.append(bar[:-1], np.float32(_SMALLEST_ALPHA_CUMPROD))
    return np.sqrt((np.float32(1.0) - bar) / bar)


def timesteps_from_sigmas(sigmas: Array, trained: Array) -> Array:
    """The timesteps, float64 and not whole, at which log σ has these values by linear interpolation."""
    logs = np.log(trained)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    low = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    # the width of a bracket is rounded to float32, as in the reference
    weight = np.clip((logs[low] - wanted) / (logs[low] - logs[low + 1]), 0.0, 1.0)
    return np.asarray((1.0 - weight) * low + weight * (low + 1))
