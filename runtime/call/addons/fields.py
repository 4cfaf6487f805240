"""What control nets and image prompts have in common: a scale, and the steps in which they count."""

from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.runtime.call.sampling import Sampling
from latentrt.runtime.checks import number, share, warn_caller
from latentrt.runtime.denoiser.steps import ActiveSteps, active_steps

_LARGEST = float(np.finfo(np.float32).max)


def scale_from_argument(value: Any, what: str) -> float:
    """A scale.

    Args:
        value: what the caller gave.
        what: whose it is, for errors.

    Raises:
        RequestError: no number, or none that float32 holds.
    """
    scale = number(value, f"scale of {what}")
    if not abs(scale) <= _LARGEST:
        raise RequestError(f"got scale {scale} of {what}, expected a finite number; 1.0 is common")
    return scale


def steps_from_shares(start: Any, end: Any, sampling: Sampling, what: str) -> ActiveSteps:
    """The steps of the run between two shares: of image-to-image those that ``strength`` leaves.

    Args:
        start: the part of the steps, 0 to 1, that passes before.
        end: the part of the steps after which it is over.
        sampling: whose steps.
        what: whose they are, for errors.

    Raises:
        RequestError: a start or an end that is no share, or an end that is not later than the start.
    """
    start, end = share(start, f"start of {what}"), share(end, f"end of {what}")
    if start >= end:
        raise RequestError(f"got start {start:g} and end {end:g} of {what}, expected the end later; correct them")
    taken = [step for step in sampling.schedule.steps if step.level.timestep >= sampling.stop_below]
    steps = active_steps(taken, start, end)
    if not any(steps.active):
        warn_caller(
            f"none of the {len(steps.active)} steps lies between start {start:g} and end {end:g} of {what}, so it "
            "changes nothing; set them further apart"
        )
    return steps
