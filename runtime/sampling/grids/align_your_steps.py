"""Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): timesteps optimised for a model family."""

from collections.abc import Sequence

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

# The authors' ten-step tables for Stable Diffusion 1.x and SDXL
AYS_TIMESTEPS = {
    "sd1": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}
AYS_SIGMAS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.0),
}

_MOST_STEPS = 400  # beyond, neighbours round to the same timestep


def ays_timesteps(steps: int | None, table: str = "sd1") -> tuple[int, ...]:
    """A table's timesteps; for other than ten steps interpolated along the table.

    Raises:
        RequestError: fewer than one step, or more than there are whole timesteps to tell apart.
    """
    return tuple(round(t) for t in _interpolated(AYS_TIMESTEPS[table], steps))


def ays_sigmas(steps: int | None, table: str = "sd1") -> tuple[float, ...]:
    """A table's σ with the final 0; for other than ten steps interpolated in log σ, as the authors do.

    Raises:
        RequestError: as above.
    """
    *sigmas, last = AYS_SIGMAS[table]
    return (*np.exp(_interpolated(np.log(sigmas), steps)).tolist(), last)


def _interpolated(table: Sequence[float] | Array, steps: int | None) -> list[float]:
    count = len(table) if steps is None else steps
    if not 1 <= count <= _MOST_STEPS:
        raise RequestError(f"got {steps} steps with 'ays', expected 1 to {_MOST_STEPS}; lower it")
    found: list[float] = np.interp(np.linspace(0, len(table) - 1, count), np.arange(len(table)), table).tolist()
    return found
