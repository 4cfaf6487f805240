"""The samplers by name: which solver walks which grid."""

from dataclasses import dataclass

from latentrt.engines.errors import RequestError
from latentrt.engines.schedule_config import (
    PredictionType,
    ScheduleConfig,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.runtime.schedule import Grid, Schedule, ddim_grid, dpm_grid, euler_ancestral_grid, euler_grid
from latentrt.runtime.solvers import Solver, ddim, dpmpp_2m, euler_ancestral


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """One row of the table of samplers.

    ``order`` is the order of convergence, ``stochastic`` whether noise is added on the way, and
    ``calls_per_step`` how often the model is asked in each step.
    """

    name: str
    label: str
    order: int
    stochastic: bool
    calls_per_step: int
    solver: Solver
    grid: Grid
    sigma_spacing: SigmaSpacing | None = None


_KARRAS = SigmaSpacing.KARRAS
_PLAIN = SigmaSpacing.TIMESTEPS


def _row(
    name: str,
    label: str,
    order: int,
    solver: Solver,
    grid: Grid,
    spacing: SigmaSpacing | None,
    stochastic: bool,
) -> SamplerInfo:
    return SamplerInfo(
        name=name,
        label=label,
        order=order,
        stochastic=stochastic,
        calls_per_step=1,
        solver=solver,
        grid=grid,
        sigma_spacing=spacing,
    )


SAMPLERS: dict[str, SamplerInfo] = {
    row.name: row
    for row in (
        _row("ddim", "DDIM", 1, ddim, ddim_grid, None, False),
        _row("euler", "Euler", 1, ddim, euler_grid, _PLAIN, False),
        _row("euler_k", "Euler Karras", 1, ddim, euler_grid, _KARRAS, False),
        _row("euler_a", "Euler Ancestral", 1, euler_ancestral, euler_ancestral_grid, _PLAIN, True),
        _row("dpmpp_2m", "DPM++ 2M", 2, dpmpp_2m, dpm_grid, _PLAIN, False),
        _row("dpmpp_2m_k", "DPM++ 2M Karras", 2, dpmpp_2m, dpm_grid, _KARRAS, False),
    )
}


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler's name and what of the model's schedule the caller wants otherwise; None keeps the model's.

    The wishes are checked when the sampler is made; their names are diffusers' own.

    Raises:
        RequestError: an unknown name or value; the known ones are listed.
    """

    name: str
    timestep_spacing: str | None = None
    prediction_type: str | None = None
    steps_offset: int | None = None

    def __post_init__(self) -> None:
        known = {
            "name": tuple(SAMPLERS),
            "timestep_spacing": tuple(TimestepSpacing),
            "prediction_type": tuple(PredictionType),
        }
        for field, choices in known.items():
            value = getattr(self, field)
            if value is not None and value not in choices:
                what = "sampler" if field == "name" else field
                raise RequestError(f"got {what} {value!r}, expected one of {', '.join(choices)}; choose one of these")

        if self.steps_offset is not None and not 0 <= self.steps_offset < 1000:
            raise RequestError(f"got steps_offset {self.steps_offset!r}, expected 0 to 999; 1 is SD 1.x's own")

    @property
    def info(self) -> SamplerInfo:
        """The sampler's row."""
        return SAMPLERS[self.name]

    def schedule(self, config: ScheduleConfig, steps: int) -> Schedule:
        """The sampler's schedule over the model's, with the caller's wishes last.

        Raises:
            RequestError: an impossible number of steps.
        """
        wishes = {
            "timestep_spacing": self.timestep_spacing,
            "prediction_type": self.prediction_type,
            "steps_offset": self.steps_offset,
            "sigma_spacing": self.info.sigma_spacing,
        }
        chosen = {key: value for key, value in wishes.items() if value is not None}
        return self.info.grid(ScheduleConfig.model_validate({**config.model_dump(), **chosen}), steps)
