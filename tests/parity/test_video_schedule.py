"""Stable Video Diffusion's noise levels: its scheduler's settings are EDM's, and nothing else is needed."""

from typing import Any

import numpy as np
import pytest
from parity.reference import reference_steps

from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Run, Update, denoise
from latentrt.runtime.sampling.samplers import Sampler

# As the model's folder has them
SETTINGS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
CONFIG = ScheduleConfig(
    edm=EdmLevels(sigma_min=0.002, sigma_max=700.0, sigma_data=1.0),
    prediction_type="v_prediction",  # type: ignore[arg-type]
)
CUSTOM = (700.0, 54.5, 15.886, 0.981, 0.034, 0.0)


def model(x: Array, timestep: float) -> Array:
    """A stand-in for the U-Net."""
    return np.tanh(0.8 * x + np.float32(timestep)).astype(np.float32)


SLOW = [pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 2, 7, 30)]


@pytest.mark.parametrize("steps", [25, CUSTOM, *SLOW])
def test_every_step(steps: int | tuple[float, ...]) -> None:
    """What the model is told, the levels, and the sample after each step: as diffusers' EulerDiscreteScheduler."""
    from diffusers import EulerDiscreteScheduler

    reference: Any = EulerDiscreteScheduler(**SETTINGS)
    if isinstance(steps, tuple):
        sampler = Sampler(name="euler", sigmas=steps)
        reference.set_timesteps(sigmas=list(steps))
        schedule = sampler.schedule(CONFIG, None)
    else:
        sampler = Sampler(name="euler")
        reference.set_timesteps(steps)
        schedule = sampler.schedule(CONFIG, steps)
    told = [step.level.timestep for step in schedule.all_steps]
    np.testing.assert_allclose(told, reference.timesteps.numpy(), rtol=0, atol=1.2e-7)
    np.testing.assert_array_equal(schedule.sigmas, reference.sigmas[:-1].numpy())
    assert schedule.initial_scale == pytest.approx(float(reference.init_noise_sigma), rel=1e-7)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 6, 5), np.float32) * np.float32(schedule.initial_scale)
    seen: list[Array] = []

    def keep(update: Update) -> Array:
        seen.append(update.x)
        return update.x

    run = Run(x, schedule, sampler.solver(CONFIG), Noise(3, x.shape).between, on_step=keep)
    denoise(run, lambda x, level: model(x, level.timestep))
    expected = reference_steps(reference, sampler, x, 0, model, seed=3)
    assert len(seen) == len(expected)
    for ours, theirs in zip(seen, expected, strict=True):
        # A run of few steps takes one from 700 to near 0, which cancels what float32 rounds at 700
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=5e-7 * 700 if len(seen) < 7 else 5e-6)
