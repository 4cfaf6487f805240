"""The signal that training timesteps keep, ᾱ, from a schedule's config."""

import math
from functools import lru_cache

import numpy as np

from latentrt.engines.bundle.records.schedule_config import BetaSchedule, ScheduleConfig
from latentrt.engines.spec import Array


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


def alpha_cumprod_at(config: ScheduleConfig, timestep: float) -> float:
    """ᾱ where the model is told ``timestep``; EDM's is that of data divided by its deviation."""
    if config.edm is not None:
        return 1.0 / (1.0 + (math.exp(4.0 * timestep) / config.edm.sigma_data) ** 2)
    bar = alphas_cumprod_from_config(config)
    return float(bar[min(max(round(timestep), 0), len(bar) - 1)])


def timestep_at(config: ScheduleConfig, share: float) -> float:
    """What the model is told at a share of its schedule, from no noise (0) to the most (1)."""
    if config.edm is not None:
        low, high = edm_timestep(config.edm.sigma_min), edm_timestep(config.edm.sigma_max)
        return low + share * (high - low)
    return float(round(share * (config.num_train_timesteps - 1)))


def edm_timestep(sigma: float) -> float:
    """c_noise of arXiv 2206.00364, table 1: what an EDM model is told of σ."""
    return math.log(sigma) / 4.0


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
    """The variances of a schedule whose last level has no signal."""
    bar = zero_terminal_snr(_cumprod(np.float32(1.0) - betas))
    return np.float32(1.0) - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def zero_terminal_snr(bar: Array) -> Array:
    """ᾱ (T,), shifted and scaled in its root so that it ends at zero (arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(bar)
    first, last = root[0], root[-1]
    return np.asarray(((root - last) * (first / (first - last))) ** 2)
