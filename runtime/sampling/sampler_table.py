"""The samplers by name: which solver walks which grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

from latentrt.engines.bundle.records.schedule_config import (
    SigmaSpacing,
)
from latentrt.runtime.sampling.grids import dpm as dpm_grids
from latentrt.runtime.sampling.grids import k_diffusion as k_grids
from latentrt.runtime.sampling.grids import whole_timesteps as grids
from latentrt.runtime.sampling.grids.common import Grid
from latentrt.runtime.sampling.solvers.cfg_plus_plus import ddim_cfg_plus_plus, dpmpp_2m_cfg_plus_plus
from latentrt.runtime.sampling.solvers.consistency import lcm, tcd
from latentrt.runtime.sampling.solvers.ddim import ddim, euler
from latentrt.runtime.sampling.solvers.dpm import AlgorithmType, dpm_multistep, dpm_singlestep
from latentrt.runtime.sampling.solvers.er_sde import er_sde
from latentrt.runtime.sampling.solvers.linear_multistep import deis, lms, pndm
from latentrt.runtime.sampling.solvers.midpoint import dpm_2, dpmpp_sde, heun
from latentrt.runtime.sampling.solvers.solver import Solver
from latentrt.runtime.sampling.solvers.unipc import unipc

KARRAS_SUFFIX, _KARRAS_LABEL = "_k", "Karras"


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """One row of the table of samplers.

    ``order`` is the solver's order of convergence, ``stochastic`` whether noise is added on the way unless an option
    says otherwise, and ``calls_per_step`` how often the model is asked in each step but the last. ``fixed`` are the
    solver's options that the name stands for. A solver that ``counts_timesteps`` cannot draw with a model that has
    none (EDM); all others walk EDM's grid there. ``cfg_plus_plus`` is the solver that CFG++ makes of this one, if any.
    """

    name: str
    label: str
    order: int
    solver: Solver
    grid: Grid
    stochastic: bool = False
    calls_per_step: int = 1
    counts_timesteps: bool = False
    sigma_spacing: SigmaSpacing | None = None
    cfg_plus_plus: Solver | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """What a caller may set for this sampler alone, with the defaults: the keywords of solver and grid."""
        found = {**keyword_defaults(self.solver), **keyword_defaults(self.grid)}
        found.pop("strength", None)  # which is image-to-image's own argument
        return MappingProxyType({name: value for name, value in found.items() if name not in self.fixed})


def keyword_defaults(function: Any) -> dict[str, Any]:
    """The keyword-only parameters of a solver or a grid, with their defaults."""
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
            *row(name + KARRAS_SUFFIX, f"{label} {_KARRAS_LABEL}", *parts, sigma_spacing=karras, **rest),
        ]

    sde = {"algorithm_type": AlgorithmType.SDE_DPMSOLVERPP}
    first_order, second_order = {"cfg_plus_plus": ddim_cfg_plus_plus}, {"cfg_plus_plus": dpmpp_2m_cfg_plus_plus}
    return [
        *row("ddim", "DDIM", 1, ddim, grids.ddim_grid, **first_order),
        *row("ddpm", "DDPM", 1, ddim, grids.ddpm_grid, stochastic=True, fixed={"eta": 1.0}, **first_order),
        *row("pndm", "PNDM", 2, pndm, grids.pndm_grid, counts_timesteps=True),
        *pair("euler", "Euler", 1, euler, k_grids.euler_grid, **first_order),
        *row(
            "euler_a",
            "Euler Ancestral",
            1,
            ddim,
            k_grids.euler_ancestral_grid,
            stochastic=True,
            sigma_spacing=plain,
            fixed={"eta": 1.0},
            **first_order,
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
        *pair("dpmpp_2m", "DPM++ 2M", 2, dpm_multistep, dpm_grids.dpm_grid, fixed={"solver_order": 2}, **second_order),
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
        *row("lcm", "LCM", 1, lcm, grids.consistency_grid, stochastic=True, counts_timesteps=True),
        *row("tcd", "TCD", 1, tcd, grids.tcd_grid, counts_timesteps=True),
        *row("er_sde", "ER-SDE", 3, er_sde, k_grids.k_grid, stochastic=True, sigma_spacing=plain),
        *row("edm_euler", "EDM Euler", 1, euler, k_grids.edm_grid, **first_order),
    ]


SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType({row.name: row for row in _rows()})
