"""The one sampler that all contenders share."""

from typing import Any


def with_sampler(pipe: Any) -> Any:
    """A pipeline of diffusers, or one made after it, with DPM++ 2M on Karras's sigmas."""
    from diffusers import DPMSolverMultistepScheduler

    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    return pipe
