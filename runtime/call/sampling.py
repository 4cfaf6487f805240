"""How a call samples: sampler, schedule, the part of it that runs, seeds."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.options import GuidanceKeywords, SamplingKeywords
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.checks import checked_latents, seeds_for, share, warn_caller, whole
from latentrt.runtime.denoiser.steps import step_ratios
from latentrt.runtime.metadata.a1111_names import sampler_name, schedule_type
from latentrt.runtime.sampling.run import levels_asked
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Solver


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How N pictures are sampled.

    ``schedule`` is the whole run, started where the call starts; it ends before timesteps below ``stop_below``.
    ``schedule_type`` is A1111's name of its levels. ``seeds`` is one for the whole batch or one per picture.
    """

    sampler: Sampler
    solver: Solver
    schedule_type: str | None
    steps: int
    schedule: Schedule
    stop_below: float
    seeds: int | tuple[int, ...]
    latents: Array | None
    strength: float | None
    denoising_start: float | None
    denoising_end: float | None

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """The noise-to-signal ratios of the steps that the run takes, descending."""
        return step_ratios(self.schedule.steps)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Where the model will be asked, in order."""
        asked = levels_asked(self.schedule, self.solver)
        return tuple(level for level in asked if level.timestep >= self.stop_below)

    def metadata(self) -> dict[str, Any]:
        """What a picture's metadata say of its sampling."""
        return {
            "num_inference_steps": self.steps,
            "sampler": self.sampler.name,
            "sampler_label": sampler_name(self.sampler),
            "schedule_type": self.schedule_type,
            "sampler_options": self.sampler.wishes,
            "strength": self.strength,
            "denoising_start": self.denoising_start,
            "denoising_end": self.denoising_end,
            "seeded": self.latents is None,
        }


class StepKeywords(SamplingKeywords, GuidanceKeywords, total=False):
    """What decides how to sample: CFG++, which is guidance, has solvers of its own."""


def sampling_from_keywords(
    manifest: BundleManifest,
    keywords: StepKeywords,
    workflow: Workflow,
    strength: float | None,
    shape: tuple[int, ...],
) -> Sampling:
    """Checks how to sample, and works out the schedule.

    Args:
        manifest: the bundle's.
        keywords: those of the group, and of guidance, that were set.
        workflow: what the call starts from.
        strength: how much of the schedule runs; None for text-to-image.
        shape: of the latents, (N, C, h, w).

    Raises:
        RequestError: a sampler, schedule, part of it, seed or latents that cannot be served.
    """
    if "denoising_start" in keywords and workflow is not Workflow.IMAGE:
        remedy = "use img2img" if workflow.task is Task.PICTURES else "leave it out, as it begins with noise"
        raise RequestError(f"got denoising_start in {workflow}, expected latents to go on from; {remedy}")
    if "latents" in keywords and workflow is Workflow.IMAGE:
        raise RequestError("got latents beside image, expected one start; give the latents as image")
    strength = None if strength is None else share(strength, "strength")
    sampler = sampler_from_keywords(manifest, keywords)
    in_grid = _strength_picks_timesteps(manifest, workflow, sampler)
    of_grid = strength if strength and in_grid else 1.0
    steps, schedule = _scheduled(manifest, keywords, sampler, of_grid)
    _check_schedule(keywords, sampler, schedule)
    of_steps = strength if of_grid == 1.0 else None
    schedule = schedule.started_at(_first_step(manifest.schedule, keywords, sampler, schedule, steps, of_steps))
    end = keywords.get("denoising_end")
    latents = keywords.get("latents")
    return Sampling(
        sampler=sampler,
        solver=solver_from_keywords(manifest, keywords, sampler),
        schedule_type=schedule_type(sampler, manifest.schedule),
        steps=steps,
        schedule=schedule,
        stop_below=-math.inf if end is None else _cutoff(manifest.schedule, end, "denoising_end"),
        seeds=seeds_for(keywords.get("seed"), shape[0]),
        latents=None if latents is None else checked_latents(latents, shape),
        strength=strength,
        denoising_start=keywords.get("denoising_start"),
        denoising_end=end,
    )


def sampler_from_keywords(manifest: BundleManifest, keywords: SamplingKeywords) -> Sampler:
    """The sampler, with custom timesteps or sigmas.

    Raises:
        RequestError: an unknown one, or timesteps beside sigmas.
    """
    named = keywords.get("sampler")
    if named is None or (isinstance(named, str) and named == manifest.defaults.sampler):
        options: dict[str, Any] = dict(manifest.defaults.sampler_options)
        named = Sampler(name=manifest.defaults.sampler, **options)
    sampler = named if isinstance(named, Sampler) else Sampler(name=named)
    custom: dict[str, Any] = {}
    if "timesteps" in keywords:
        custom["timesteps"] = keywords["timesteps"]
    if "sigmas" in keywords:
        custom["sigmas"] = keywords["sigmas"]
    if custom:
        # they take the place of a default sampler's curve of sigmas
        if "sampler" not in keywords:
            custom |= {"name": sampler.name.removesuffix("_k"), "sigma_spacing": None}
        sampler = replace(sampler, **custom)
    return sampler


def solver_from_keywords(manifest: BundleManifest, keywords: StepKeywords, sampler: Sampler) -> Solver:
    """The sampler's solver, or what CFG++ makes of it.

    Raises:
        RequestError: CFG++ is not defined for the sampler, or for an option of it.
    """
    renoises = "cfg_plus_plus" in keywords and not manifest.guidance_embedding  # with which guidance refuses it
    return (sampler.cfg_plus_plus_solver if renoises else sampler.solver)(manifest.schedule)


def _strength_picks_timesteps(manifest: BundleManifest, workflow: Workflow, sampler: Sampler) -> bool:
    """Whether all steps are taken from a part of the distilled timesteps, instead of a part of the steps.

    diffusers has no such pipeline for inpainting, and its image-to-image one cannot draw with TCD: there the pipelines
    of the teachers leave steps out.
    """
    picks = manifest.traits.strength_picks_timesteps
    return picks and workflow is Workflow.IMAGE and sampler.grid_takes_strength


def _scheduled(
    manifest: BundleManifest, keywords: SamplingKeywords, sampler: Sampler, strength: float
) -> tuple[int, Schedule]:
    """The number of steps, and their levels; ``strength`` is 1 but where the grid takes it."""
    steps = keywords.get("num_inference_steps")
    if steps is None and sampler.timesteps is None and sampler.sigmas is None:
        steps = manifest.defaults.num_inference_steps
    steps = None if steps is None else whole(steps, "num_inference_steps")
    schedule = sampler.schedule(manifest.schedule, steps, ays_table=manifest.traits.ays_table, strength=strength)
    return len(step_ratios(schedule.all_steps)) if steps is None else steps, schedule


def _check_schedule(keywords: SamplingKeywords, sampler: Sampler, schedule: Schedule) -> None:
    """Refuses parts of a schedule without timesteps, nothing between start and end, and ε where there is only noise."""
    for name in ("denoising_start", "denoising_end"):
        if name in keywords and (schedule.edm or not sampler.tells_timesteps):
            raise RequestError(f"got {name} with sampler {sampler.name!r}, which has no timesteps; use strength")
    start = share(keywords.get("denoising_start", 0.0), "denoising_start")
    end = share(keywords.get("denoising_end", 1.0), "denoising_end")
    if "denoising_start" in keywords and start >= end:
        raise RequestError(
            f"got denoising_start {start:g} and denoising_end {end:g}, expected the end later; correct them"
        )
    if schedule.prediction_type is PredictionType.EPSILON and not np.all(schedule.alphas):
        raise RequestError(
            "got zero terminal SNR with epsilon prediction, which says nothing where there is only noise; "
            "set prediction_type='v_prediction', or leave rescale_betas_zero_snr out"
        )


def _first_step(
    config: ScheduleConfig,
    keywords: SamplingKeywords,
    sampler: Sampler,
    schedule: Schedule,
    steps: int,
    strength: float | None,
) -> int:
    """The first step to take."""
    if "denoising_start" in keywords:
        cutoff = _cutoff(config, keywords["denoising_start"], "denoising_start")
        if sampler.info.calls_per_step == 1:
            return sum(step.level.timestep >= cutoff for step in schedule.all_steps)
        # Two calls a step share their timesteps with neighbours: what is left must be odd, or it begins in the
        # middle of a step.
        levels = levels_asked(schedule, sampler.solver(config))
        left = sum(level.timestep < cutoff for level in levels)
        return (len(levels) - (left if left % 2 else left + 1)) // 2
    if strength is None:
        return 0
    taken = min(int(steps * strength), steps)
    if not taken and strength > 0.0:
        warn_caller(
            f"strength {strength:g} of {steps} steps is less than one step, and nothing is drawn; raise strength or "
            "num_inference_steps until their product is at least 1"
        )
    return steps - taken if taken else schedule.total_steps


def _cutoff(config: ScheduleConfig, part: Any, name: str) -> float:
    """The training timestep at a share of the noise schedule, from its noisy end."""
    count = config.num_train_timesteps
    return float(round(count - share(part, name) * count))
