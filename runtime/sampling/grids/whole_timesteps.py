"""The grids on whole timesteps: DDIM, DDPM, PNDM and the consistency models.

A grid says which noise levels a sampler visits, as a pure function of a config and a number of steps. Timesteps are
equal to those of the diffusers class that a sampler stands for. Those classes differ: each family (here,
`k_diffusion`, `dpm`) divides the training timesteps in its own way, and only some round the timesteps found from σ.
"""

from collections.abc import Sequence

import numpy as np

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig, TimestepSpacing
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.common import (
    check_steps,
    custom_timesteps,
    preserving_schedule,
    spaced_timesteps,
    without_zero_snr,
)
from latentrt.runtime.sampling.schedule import Schedule


def ddim_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """Each step aims T // N timesteps lower, whatever the next one is."""
    timesteps = _whole_timesteps(config, steps)
    return preserving_schedule(config, timesteps, timesteps - config.num_train_timesteps // steps)


def pndm_grid(config: ScheduleConfig, steps: int) -> Schedule:
    """DDIM's, with the second timestep twice where there are no Runge-Kutta steps: the warm-up asks there twice."""
    config = without_zero_snr(config)
    timesteps = _whole_timesteps(config, steps)
    if config.skip_prk_steps:
        timesteps = np.concatenate([timesteps[:2], timesteps[1:]])
    else:
        check_steps(config, steps, smallest=4)  # three Runge-Kutta steps before the first multistep one
    return preserving_schedule(config, timesteps, timesteps - config.num_train_timesteps // steps)


def ddpm_grid(config: ScheduleConfig, steps: int, *, timesteps: Sequence[int] | None = None) -> Schedule:
    """Each step aims at the next timestep, the last one at no noise."""
    custom = custom_timesteps(config, timesteps)
    visited = _whole_timesteps(config, steps) if custom is None else custom
    config = config.model_copy(update={"set_alpha_to_one": True})
    return preserving_schedule(config, visited, np.append(visited[1:], -1.0))


def _whole_timesteps(config: ScheduleConfig, steps: int) -> Array:
    check_steps(config, steps)
    spacing = config.timestep_spacing or TimestepSpacing.LEADING
    if spacing is TimestepSpacing.LINSPACE:
        return np.linspace(0, config.num_train_timesteps - 1, steps).round()[::-1]
    return spaced_timesteps(config, spacing, steps)


def consistency_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    original_inference_steps: int = 50,
    strength: float = 1.0,
) -> Schedule:
    """LCM's and TCD's: some of the timesteps that the model was distilled on, ``strength`` of them from the clean end.

    Raises:
        RequestError: fewer distilled timesteps than steps.
    """
    original = original_inference_steps
    check_steps(config, original)
    visited = custom_timesteps(config, timesteps)
    if visited is None:
        check_steps(config, steps, largest=original)
        count = int(original * strength)
        if steps > count:
            raise RequestError(
                f"got strength {strength:g} with {steps} steps, of which {count} of the {original} distilled timesteps "
                f"are left, expected at least {steps}; raise strength above {steps / original:g} or take fewer steps"
            )
        distilled = np.arange(1, count + 1)[::-1] * (config.num_train_timesteps // original) - 1
        visited = distilled[np.floor(np.linspace(0, count, steps, endpoint=False)).astype(np.int64)]
    # LCM's last step aims at its own timestep again, but what it returns there is the clean sample.
    config = config.model_copy(update={"set_alpha_to_one": True})
    return preserving_schedule(config, visited.astype(np.float64), np.append(visited[1:], -1.0))


def tcd_grid(
    config: ScheduleConfig,
    steps: int,
    *,
    timesteps: Sequence[int] | None = None,
    original_inference_steps: int = 50,
) -> Schedule:
    """LCM's timesteps; the last step aims at timestep 0."""
    schedule = consistency_grid(config, steps, timesteps=timesteps, original_inference_steps=original_inference_steps)
    return preserving_schedule(config, schedule.timesteps, np.maximum(schedule.target_timesteps, 0.0))
