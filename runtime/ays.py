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


def ays_timesteps(steps: int | None, family: str = "sd1") -> tuple[int, ...]:
    """The family's timesteps; for other than ten steps interpolated along the table.

    Raises:
        RequestError: fewer than one step, or more than there are whole timesteps to tell apart.
    """
    table = AYS_TIMESTEPS[_table(family)]
    return tuple(round(t) for t in _interpolated(table, steps))


def ays_sigmas(steps: int | None, family: str = "sd1") -> tuple[float, ...]:
    """The family's σ with the final 0; for other than ten steps interpolated in log σ, as the authors do.

    Raises:
        RequestError: as above.
    """
    *table, last = AYS_SIGMAS[_table(family)]
    return (*np.exp(_interpolated(np.log(table), steps)).tolist(), last)


def _table(family: str) -> str:
    return "sdxl" if family.startswith("sdxl") else "sd1"


def _interpolated(table: Sequence[float] | Array, steps: int | None) -> list[float]:
    count = len(table) if steps is None else steps
    if not 1 <= count <= _MOST_STEPS:
        raise RequestError(f"got {steps} steps with 'ays', expected 1 to {_MOST_STEPS}; lower it")
    found: list[float] = np.interp(np.linspace(0, len(table) - 1, count), np.arange(len(table)), table).tolist()
    return found
