"""What AUTOMATIC1111's web UI calls our samplers and their schedules.

Its reader takes the first sampler of its list for a name that it does not know, and "Automatic" where no schedule is
named: Karras's σ for half of the list. So both are spelled as there (version 1.10: ``sd_samplers_kdiffusion.py``,
``sd_samplers_timesteps.py``, ``sd_schedulers.py``); what it does not have keeps our label.
"""

from collections.abc import Mapping

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig, SigmaSpacing, TimestepSpacing
from latentrt.runtime.sampling.grids import dpm as dpm_grids
from latentrt.runtime.sampling.grids import k_diffusion as k_grids
from latentrt.runtime.sampling.grids.common import Grid
from latentrt.runtime.sampling.grids.k_diffusion import InterpolationType
from latentrt.runtime.sampling.sampler_options import AYS
from latentrt.runtime.sampling.sampler_table import KARRAS_SUFFIX
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.solvers.dpm import AlgorithmType, SolverType

_SAMPLERS: Mapping[str, str] = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "lms": "LMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
    "edm_euler": "Euler",
}
_CURVES: Mapping[SigmaSpacing, str] = {
    SigmaSpacing.KARRAS: "Karras",
    SigmaSpacing.EXPONENTIAL: "Exponential",
    SigmaSpacing.BETA: "Beta",
}
_AUTOMATIC, _UNIFORM, _SGM_UNIFORM, _DDIM, _AYS = "Automatic", "Uniform", "SGM Uniform", "DDIM", "Align Your Steps"
DPM_GRIDS = (dpm_grids.dpm_grid, dpm_grids.singlestep_grid, dpm_grids.deis_grid, dpm_grids.unipc_grid)
"""The grids of the DPM-Solver family."""


def sampler_name(sampler: Sampler) -> str:
    """Its sampler's name; our label, without the schedule's name, where it has no such sampler."""
    plain = sampler.name.removesuffix(KARRAS_SUFFIX)
    algorithm = sampler.info.fixed.get("algorithm_type", sampler.algorithm_type or AlgorithmType.DPMSOLVERPP)
    if plain in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m"):
        if algorithm == AlgorithmType.SDE_DPMSOLVERPP:
            heun = " Heun" if sampler.solver_type == SolverType.HEUN else ""
            return "DPM++ 3M SDE" if plain == "dpmpp_3m" else f"DPM++ 2M SDE{heun}"
        if algorithm != AlgorithmType.DPMSOLVERPP:
            return f"{sampler.info.label.removesuffix(' Karras')} ({algorithm})"
    return _SAMPLERS.get(plain, sampler.info.label.removesuffix(" Karras"))


def schedule_type(sampler: Sampler, config: ScheduleConfig) -> str | None:
    """Its name of the levels that a run visits; None where it has none for them.

    Args:
        sampler: the sampler.
        config: the model's schedule.
    """
    if AYS in (sampler.timesteps, sampler.sigmas):
        return _AYS
    if sampler.timesteps is not None or sampler.sigmas is not None:
        return None
    config = sampler.config(config)
    grid = sampler.info.grid
    if grid is k_grids.edm_grid or config.edm is not None:  # such a model has no timesteps
        own = SigmaSpacing.KARRAS if config.edm is None else config.edm.sigma_spacing
        return _CURVES.get(own if config.sigma_spacing is SigmaSpacing.TIMESTEPS else config.sigma_spacing)
    if sampler.info.sigma_spacing is None:
        return _AUTOMATIC  # it has no choice for these
    if config.sigma_spacing is not SigmaSpacing.TIMESTEPS:
        return _CURVES.get(config.sigma_spacing)
    if sampler.interpolation_type == InterpolationType.LOG_LINEAR:
        return None
    return _of_timesteps(config, grid)


def _of_timesteps(config: ScheduleConfig, grid: Grid) -> str | None:
    """The schedule that visits the same timesteps.

    The DPM-Solver family's "linspace" leaves the last of N + 1 timesteps out, which is called SGM Uniform there.
    "trailing" differs from that by less than a timestep, and "leading" with an offset of 1 is ComfyUI's ddim_uniform.
    """
    spacing = config.timestep_spacing or TimestepSpacing.LINSPACE
    if grid is dpm_grids.singlestep_grid:
        spacing = TimestepSpacing.LINSPACE  # whatever the schedule says
    if spacing is TimestepSpacing.TRAILING or (spacing is TimestepSpacing.LINSPACE and grid in DPM_GRIDS):
        return _SGM_UNIFORM
    if spacing is TimestepSpacing.LINSPACE:
        return _UNIFORM
    return _DDIM if config.steps_offset == 1 and grid not in DPM_GRIDS else None
