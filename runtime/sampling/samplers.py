"""A sampler as a caller chooses it: a name, and what it shall do otherwise than the model's schedule says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any

from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.sampling.grids import k_diffusion as k_grids
from latentrt.runtime.sampling.grids.align_your_steps import ays_sigmas, ays_timesteps
from latentrt.runtime.sampling.grids.k_diffusion import TimestepType
from latentrt.runtime.sampling.sampler_options import AYS, CHOICES, OF_CONFIG, checked_option
from latentrt.runtime.sampling.sampler_table import KARRAS_SUFFIX, SAMPLERS, SamplerInfo, keyword_defaults
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.dpm import AlgorithmType, SolverType
from latentrt.runtime.sampling.solvers.solver import Solver
from latentrt.runtime.sampling.solvers.unipc import BFunction, unipc


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler's name and what the caller wants otherwise than the model's schedule; None keeps that.

    The names of the wishes are diffusers' own. The first group concerns the schedule, ``timesteps`` and ``sigmas``
    replace it (``"ays"``: the Align Your Steps table of the model's family), and the rest are options of single
    samplers: ``SAMPLERS[name].options`` lists them with their defaults.

    Raises:
        RequestError: an unknown name or value, or an option that this sampler does not have.
    """

    name: str
    timestep_spacing: str | None = None
    prediction_type: str | None = None
    steps_offset: int | None = None
    sigma_spacing: str | None = None
    final_sigmas_type: str | None = None
    rescale_betas_zero_snr: bool | None = None
    set_alpha_to_one: bool | None = None
    skip_prk_steps: bool | None = None

    timesteps: Sequence[float] | str | None = None
    sigmas: Sequence[float] | str | None = None

    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    interpolation_type: str | None = None
    timestep_type: str | None = None
    algorithm_type: str | None = None
    solver_type: str | None = None
    solver_order: int | None = None
    order: int | None = None
    lower_order_final: bool | None = None
    euler_at_final: bool | None = None
    lambda_min_clipped: float | None = None
    predict_x0: bool | None = None
    disable_corrector: Sequence[int] | None = None
    original_inference_steps: int | None = None
    timestep_scaling: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    sigma_data: float | None = None
    rho: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in SAMPLERS:
            raise RequestError(
                f"got sampler {shown(self.name)}, expected one of {', '.join(SAMPLERS)}; {_hint(self.name)}"
            )
        for name, value in self.wishes.items():
            self._check_known(name)
            choices = self._solver_types if name == "solver_type" else CHOICES.get(name)
            object.__setattr__(self, name, checked_option(name, value, choices))
        if self.timesteps is not None and self.sigmas is not None:
            raise RequestError("got timesteps and sigmas, expected one of them; leave one out")

    @property
    def info(self) -> SamplerInfo:
        """The sampler's row."""
        return SAMPLERS[self.name]

    @property
    def wishes(self) -> dict[str, Any]:
        """Everything but the name that the caller set."""
        return {f.name: value for f in fields(self)[1:] if (value := getattr(self, f.name)) is not None}

    @property
    def stochastic(self) -> bool:
        """Whether noise is added on the way, with the options as they are."""
        algorithm = AlgorithmType(self.algorithm_type or AlgorithmType.DPMSOLVERPP)
        churned = bool(self.s_churn) or bool(self.eta) or algorithm.stochastic
        return (self.info.stochastic and self.eta != 0.0) or churned

    @property
    def options(self) -> tuple[str, ...]:
        """The names of all wishes that mean something to this sampler."""
        return tuple(f.name for f in fields(self)[1:] if _has(self.info, f.name))

    @property
    def tells_timesteps(self) -> bool:
        """Whether a model that has timesteps is told them, not log(σ)/4."""
        return self.info.grid is not k_grids.edm_grid and self.timestep_type != TimestepType.CONTINUOUS

    @property
    def grid_takes_strength(self) -> bool:
        """Whether the timesteps can be chosen from a part of those that a model was distilled on."""
        return self.timesteps is None and "strength" in keyword_defaults(self.info.grid)

    def config(self, config: ScheduleConfig) -> ScheduleConfig:
        """The model's schedule with the caller's wishes last."""
        row = {} if self.info.sigma_spacing is None else {"sigma_spacing": self.info.sigma_spacing}
        wishes = {name: value for name, value in self.wishes.items() if name in OF_CONFIG}
        return ScheduleConfig.model_validate({**config.model_dump(), **row, **wishes})

    def schedule(
        self, config: ScheduleConfig, steps: int | None, ays_table: str = "sd1", strength: float = 1.0
    ) -> Schedule:
        """The levels to visit; custom timesteps and sigmas need no number of steps. ``ays_table`` names the Align Your
        Steps table; ``strength`` is for grids that take one.

        Raises:
            RequestError: an impossible number of steps, one that contradicts custom timesteps, or a wish that means
                nothing to a model without timesteps.
        """
        if config.edm is not None:
            self._check_edm()
            bound = self._bound(k_grids.edm_grid, config)
            return k_grids.edm_grid(self.config(config), self._steps(steps, bound) or 0, **bound)
        bound = self._bound(self.info.grid, config)
        if bound.get("timesteps") == AYS:
            bound["timesteps"] = ays_timesteps(steps, ays_table)
        if bound.get("sigmas") == AYS:
            bound["sigmas"] = ays_sigmas(steps, ays_table)
        if self.grid_takes_strength:
            bound["strength"] = strength
        return self.info.grid(self.config(config), self._steps(steps, bound), **bound)

    def solver(self, config: ScheduleConfig) -> Solver:
        """The solver with its options bound."""
        return partial(self.info.solver, **self._bound(self.info.solver, config))

    def cfg_plus_plus_solver(self, config: ScheduleConfig) -> Solver:
        """The solver that CFG++ makes of this one.

        Raises:
            RequestError: there is none, or it lacks an option that the caller set.
        """
        solver = self.info.cfg_plus_plus
        if solver is None:
            able = ", ".join(row.name for row in SAMPLERS.values() if row.cfg_plus_plus is not None)
            raise RequestError(
                f"got cfg_plus_plus with sampler {self.name!r}, for which it is not defined; choose one of {able}"
            )
        plain, known = keyword_defaults(self.info.solver), keyword_defaults(solver)
        for name, value in self.wishes.items():
            if name in plain and name not in known and value != plain[name]:
                raise RequestError(
                    f"got {name} {value!r} with cfg_plus_plus, which has no such option for sampler {self.name!r}; "
                    "leave one of them out"
                )
        return partial(solver, **self._bound(solver, config))

    def _steps(self, steps: int | None, bound: Mapping[str, Any]) -> int | None:
        """The number of steps: that of custom timesteps or sigmas where there are any.

        Raises:
            RequestError: it contradicts them.
        """
        if self.timesteps is None and self.sigmas is None:
            return steps
        custom = len(bound["timesteps"]) if self.timesteps is not None else len(bound["sigmas"]) - 1
        if steps not in (None, custom):
            raise RequestError(
                f"got num_inference_steps {steps} with {custom} custom steps, expected them to agree; "
                "leave num_inference_steps out"
            )
        return custom

    def _bound(self, function: Any, config: ScheduleConfig) -> dict[str, Any]:
        """The keywords of a solver or grid that the row, the caller or the model's schedule decides."""
        known = keyword_defaults(function)
        of_model = {name: getattr(self.config(config), name) for name in known if name in ScheduleConfig.model_fields}
        if config.edm is not None:
            of_model |= {name: getattr(config.edm, name) for name in known if name in EdmLevels.model_fields}
        wanted = {**of_model, **self.info.fixed, **self.wishes}
        return {name: value for name, value in wanted.items() if name in known}

    @property
    def _solver_types(self) -> type[StrEnum]:
        return BFunction if self.info.solver is unipc else SolverType

    def _check_edm(self) -> None:
        """Refuses what a model that was trained on EDM's noise levels has no timesteps for."""
        if self.info.counts_timesteps:
            able = ", ".join(row.name for row in SAMPLERS.values() if not row.counts_timesteps)
            raise RequestError(
                f"got sampler {self.name!r} for a model with EDM's noise levels, which has no timesteps; "
                f"choose one of {able}"
            )
        known = {"prediction_type", "sigma_spacing", "final_sigmas_type", *keyword_defaults(self.info.solver)}
        if self.info.grid is k_grids.edm_grid:
            known |= keyword_defaults(k_grids.edm_grid).keys()
        if self.sigmas != AYS:
            known |= {"sigmas"}
        for name, value in self.wishes.items():
            if name not in known:
                raise RequestError(
                    f"got {name} {value!r} for a model with EDM's noise levels, to which it means nothing; leave it out"
                )

    def _check_known(self, name: str) -> None:
        if _has(self.info, name):
            return
        having = [row.name for row in SAMPLERS.values() if _has(row, name)]
        if name in ("timesteps", "sigmas"):  # which a curve of sigmas leaves no room for
            having = [other for other in having if not other.endswith(KARRAS_SUFFIX)]
        raise RequestError(
            f"got {name} for sampler {self.name!r}, which has no such option; "
            f"leave it out, or choose one of {', '.join(having)}"
        )


def _hint(name: Any) -> str:
    """What to do instead of an unknown name: CFG++ is no sampler here, as it is in other programs."""
    if isinstance(name, str) and re.search(r"cfg_?(pp|\+\+)", name.lower().replace(" ", "_")):
        return "choose one of these and give cfg_plus_plus=0.6 with it"
    return "choose one of these"


def _has(row: SamplerInfo, name: str) -> bool:
    """Whether a wish means something to a sampler; wishes about the schedule do to all but those without σ curves."""
    curves = row.sigma_spacing is not None or row.name == "edm_euler"
    return name in row.options or (name in OF_CONFIG and (name != "sigma_spacing" or curves))
