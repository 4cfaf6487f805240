"""The samplers by name: which solver walks which grid, and what a caller may wish otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property, partial
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

import numpy as np

from latentrt.engines.bundle.schedule_config import (
    FinalSigma,
    PredictionType,
    ScheduleConfig,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.engines.errors import RequestError
from latentrt.runtime.checks import chosen, number, numbers, whole
from latentrt.runtime.sampling.grids import dpm as dpm_grids
from latentrt.runtime.sampling.grids import k_diffusion as k_grids
from latentrt.runtime.sampling.grids import whole_timesteps as grids
from latentrt.runtime.sampling.grids.align_your_steps import ays_sigmas, ays_timesteps
from latentrt.runtime.sampling.grids.common import Grid
from latentrt.runtime.sampling.grids.k_diffusion import InterpolationType, TimestepType
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.consistency import lcm, tcd
from latentrt.runtime.sampling.solvers.ddim import ddim, euler
from latentrt.runtime.sampling.solvers.dpm import AlgorithmType, SolverType, dpm_multistep, dpm_singlestep
from latentrt.runtime.sampling.solvers.er_sde import er_sde
from latentrt.runtime.sampling.solvers.linear_multistep import deis, lms, pndm
from latentrt.runtime.sampling.solvers.midpoint import dpm_2, dpmpp_sde, heun
from latentrt.runtime.sampling.solvers.solver import Solver
from latentrt.runtime.sampling.solvers.unipc import BFunction, unipc

_KARRAS_SUFFIX, _KARRAS_LABEL = "_k", "Karras"
_AYS = "ays"


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """One row of the table of samplers.

    ``order`` is the solver's order of convergence, ``stochastic`` whether noise is added on the way unless an option
    says otherwise, and ``calls_per_step`` how often the model is asked in each step but the last. ``fixed`` are the
    solver's options that the name stands for.
    """

    name: str
    label: str
    order: int
    solver: Solver
    grid: Grid
    stochastic: bool = False
    calls_per_step: int = 1
    sigma_spacing: SigmaSpacing | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """What a caller may set for this sampler alone, with the defaults: the keywords of solver and grid."""
        found = {**_keywords(self.solver), **_keywords(self.grid)}
        found.pop("strength", None)  # which is image-to-image's own argument
        return MappingProxyType({name: value for name, value in found.items() if name not in self.fixed})


def _keywords(function: Any) -> dict[str, Any]:
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY}


def _rows() -> list[SamplerInfo]:
    plain, karras = SigmaSpacing.TIMESTEPS, SigmaSpacing.KARRAS

    def row(name: str, label: str, order: int, solver: Solver, grid: Grid, **rest: Any) -> list[SamplerInfo]:
        return [SamplerInfo(name=name, label=label, order=order, solver=solver, grid=grid, **rest)]

    def pair(name: str, label: str, *parts: Any, **rest: Any) -> list[SamplerInfo]:
        """The sampler on the model's own timesteps, and on Karras's σ."""
        return [
            *row(name, label, *parts, sigma_spacing=plain, **rest),
            *row(name + _KARRAS_SUFFIX, f"{label} {_KARRAS_LABEL}", *parts, sigma_spacing=karras, **rest),
        ]

    sde = {"algorithm_type": AlgorithmType.SDE_DPMSOLVERPP}
    return [
        *row("ddim", "DDIM", 1, ddim, grids.ddim_grid),
        *row("ddpm", "DDPM", 1, ddim, grids.ddpm_grid, stochastic=True, fixed={"eta": 1.0}),
        *row("pndm", "PNDM", 2, pndm, grids.pndm_grid),
        *pair("euler", "Euler", 1, euler, k_grids.euler_grid),
        *row(
            "euler_a",
            "Euler Ancestral",
            1,
            ddim,
            k_grids.euler_ancestral_grid,
            stochastic=True,
            sigma_spacing=plain,
            fixed={"eta": 1.0},
        ),
        *pair("heun", "Heun", 2, heun, k_grids.k_grid, calls_per_step=2),
        *pair("kdpm_2", "KDPM 2", 2, dpm_2, k_grids.k_rounded_grid, calls_per_step=2, fixed={"eta": 0.0}),
        *pair(
            "kdpm_2_a",
            "KDPM 2 Ancestral",
            2,
            dpm_2,
            k_grids.k_rounded_grid,
            calls_per_step=2,
            stochastic=True,
            fixed={"eta": 1.0},
        ),
        *pair("lms", "LMS", 4, lms, k_grids.k_grid),
        *pair("dpmpp_2s", "DPM++ 2S", 2, dpm_singlestep, dpm_grids.singlestep_grid),
        *pair("dpmpp_2m", "DPM++ 2M", 2, dpm_multistep, dpm_grids.dpm_grid, fixed={"solver_order": 2}),
        *pair(
            "dpmpp_2m_sde",
            "DPM++ 2M SDE",
            2,
            dpm_multistep,
            dpm_grids.dpm_grid,
            stochastic=True,
            fixed={"solver_order": 2, **sde},
        ),
        # three predictions, but the published curvature term has half its weight: second order is what it has
        *pair("dpmpp_3m", "DPM++ 3M", 2, dpm_multistep, dpm_grids.dpm_grid, fixed={"solver_order": 3}),
        *pair("dpmpp_sde", "DPM++ SDE", 2, dpmpp_sde, k_grids.k_grid, calls_per_step=2, stochastic=True),
        *pair("deis", "DEIS", 2, deis, dpm_grids.deis_grid),
        *pair("unipc", "UniPC", 2, unipc, dpm_grids.unipc_grid),
        *row("lcm", "LCM", 1, lcm, grids.consistency_grid, stochastic=True),
        *row("tcd", "TCD", 1, tcd, grids.tcd_grid),
        *row("er_sde", "ER-SDE", 3, er_sde, k_grids.k_grid, stochastic=True, sigma_spacing=plain),
        *row("edm_euler", "EDM Euler", 1, euler, k_grids.edm_grid),
    ]


SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType({row.name: row for row in _rows()})

# Wishes about the schedule that every sampler's grid reads from the config
_OF_CONFIG = (
    "timestep_spacing",
    "prediction_type",
    "steps_offset",
    "sigma_spacing",
    "final_sigmas_type",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
    "skip_prk_steps",
)
_CHOICES: Mapping[str, type[StrEnum]] = {
    "timestep_spacing": TimestepSpacing,
    "prediction_type": PredictionType,
    "sigma_spacing": SigmaSpacing,
    "final_sigmas_type": FinalSigma,
    "algorithm_type": AlgorithmType,
    "interpolation_type": InterpolationType,
    "timestep_type": TimestepType,
}
# What else an option may be: whole numbers or numbers within bounds, which keep float64 finite
_WHOLE = {"steps_offset": (0, 999), "solver_order": (1, 3), "order": (1, 4), "original_inference_steps": (1, 1000)}
_NUMBERS = {
    "eta": (0.0, 1.0),
    "s_churn": (0.0, 1e6),
    "s_tmin": (0.0, 1e6),
    "s_tmax": (0.0, 1e6),
    "s_noise": (0.0, 100.0),
    "lambda_min_clipped": (-100.0, 100.0),
    "timestep_scaling": (0.0, 1e6),
    "sigma_min": (1e-5, 1e5),
    "sigma_max": (1e-5, 1e5),
    "sigma_data": (1e-5, 1e3),
    "rho": (1.0, 100.0),
}
_SWITCHES = frozenset(
    {
        "rescale_betas_zero_snr",
        "set_alpha_to_one",
        "skip_prk_steps",
        "lower_order_final",
        "euler_at_final",
        "predict_x0",
    }
)


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
            raise RequestError(f"got sampler {self.name!r}, expected one of {', '.join(SAMPLERS)}; choose one of these")
        for name, value in self.wishes.items():
            self._check_known(name)
            choices = self._solver_types if name == "solver_type" else _CHOICES.get(name)
            object.__setattr__(self, name, _wish(name, value, choices))
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
        """Whether the model is told training timesteps, not log(σ)/4."""
        return self.info.grid is not k_grids.edm_grid and self.timestep_type != TimestepType.CONTINUOUS

    @property
    def grid_takes_strength(self) -> bool:
        """Whether the timesteps can be chosen from a part of those that a model was distilled on."""
        return self.timesteps is None and "strength" in _keywords(self.info.grid)

    def config(self, config: ScheduleConfig) -> ScheduleConfig:
        """The model's schedule with the caller's wishes last."""
        row = {} if self.info.sigma_spacing is None else {"sigma_spacing": self.info.sigma_spacing}
        wishes = {name: value for name, value in self.wishes.items() if name in _OF_CONFIG}
        return ScheduleConfig.model_validate({**config.model_dump(), **row, **wishes})

    def schedule(
        self, config: ScheduleConfig, steps: int | None, ays_table: str = "sd1", strength: float = 1.0
    ) -> Schedule:
        """The levels to visit; custom timesteps and sigmas need no number of steps. ``ays_table`` names the Align Your
        Steps table; ``strength`` is for grids that take one.

        Raises:
            RequestError: an impossible number of steps, or one that contradicts custom timesteps.
        """
        bound = self._bound(self.info.grid, config)
        if bound.get("timesteps") == _AYS:
            bound["timesteps"] = ays_timesteps(steps, ays_table)
        if bound.get("sigmas") == _AYS:
            bound["sigmas"] = ays_sigmas(steps, ays_table)
        if self.grid_takes_strength:
            bound["strength"] = strength
        custom = None
        if self.timesteps is not None or self.sigmas is not None:
            custom = len(bound["timesteps"]) if self.timesteps is not None else len(bound["sigmas"]) - 1
        if custom is not None and steps not in (None, custom):
            raise RequestError(
                f"got num_inference_steps {steps} with {custom} custom steps, expected them to agree; "
                "leave num_inference_steps out"
            )
        return self.info.grid(self.config(config), custom or steps, **bound)

    def solver(self, config: ScheduleConfig) -> Solver:
        """The solver with its options bound."""
        return partial(self.info.solver, **self._bound(self.info.solver, config))

    def _bound(self, function: Any, config: ScheduleConfig) -> dict[str, Any]:
        """The keywords of a solver or grid that the row, the caller or the model's schedule decides."""
        known = _keywords(function)
        of_model = {name: getattr(self.config(config), name) for name in known if name in ScheduleConfig.model_fields}
        wanted = {**of_model, **self.info.fixed, **self.wishes}
        return {name: value for name, value in wanted.items() if name in known}

    @property
    def _solver_types(self) -> type[StrEnum]:
        return BFunction if self.info.solver is unipc else SolverType

    def _check_known(self, name: str) -> None:
        if _has(self.info, name):
            return
        having = [row.name for row in SAMPLERS.values() if _has(row, name)]
        if name in ("timesteps", "sigmas"):  # which a curve of sigmas leaves no room for
            having = [other for other in having if not other.endswith(_KARRAS_SUFFIX)]
        raise RequestError(
            f"got {name} for sampler {self.name!r}, which has no such option; "
            f"leave it out, or choose one of {', '.join(having)}"
        )


def _has(row: SamplerInfo, name: str) -> bool:
    """Whether a wish means something to a sampler; wishes about the schedule do to all but those without σ curves."""
    curves = row.sigma_spacing is not None or row.name == "edm_euler"
    return name in row.options or (name in _OF_CONFIG and (name != "sigma_spacing" or curves))


def _wish(name: str, value: Any, choices: type[StrEnum] | None) -> Any:
    """A wish in Python's own types, whatever NumPy's it came in.

    Raises:
        RequestError: of the wrong kind or out of bounds.
    """
    if choices is not None:
        if value == PredictionType.EDM:  # the solver's name for what EDM's samplers make of epsilon
            value = repr(value)
        return chosen(choices, value, name).value
    if name in _SWITCHES:
        if not isinstance(value, (bool, np.bool_)):
            raise RequestError(f"got {name} {value!r}, expected True or False; change it")
        return bool(value)
    if name in _WHOLE or name in _NUMBERS:
        read, (low, high) = (whole, _WHOLE[name]) if name in _WHOLE else (number, _NUMBERS[name])
        found = read(value, name)
        if not low <= found <= high:
            raise RequestError(f"got {name} {found:g}, expected {low:g} to {high:g}; change it")
        return found
    if name == "disable_corrector":
        return tuple(int(step) for step in numbers(value, name))
    if isinstance(value, str):
        if value.lower() != _AYS:
            raise RequestError(f"got {name} {value!r}, expected a list of numbers, or {_AYS!r}; change it")
        return _AYS
    return numbers(value, name)
