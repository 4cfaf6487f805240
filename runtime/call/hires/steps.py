"""The steps of a second pass: exactly as many as are asked for, the last ones of a longer schedule."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.hires.hires import Hires
from latentrt.runtime.call.keywords.options import SamplingKeywords
from latentrt.runtime.call.sampling import Sampling, StepKeywords, sampler_from_keywords, solver_from_keywords
from latentrt.runtime.checks import number, whole
from latentrt.runtime.metadata.a1111_names import schedule_type
from latentrt.runtime.sampling.sampler_options import AYS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Schedule

_MOST = 0.999  # of the strength: A1111's bound (modules/sd_samplers_common.py), which leaves 1 all of the schedule


def second_sampling(manifest: BundleManifest, hires: Hires, first: Sampling, keywords: StepKeywords) -> Sampling:
    """How the second pass samples: the last ``steps`` of a schedule of int(steps / min(strength, 0.999)) steps.

    Models whose own sampler takes all steps from a part of the distilled timesteps (LCM distilled from SD 1.x) do so.

    Args:
        manifest: the bundle's.
        hires: what the caller asked for.
        first: how the first pass samples.
        keywords: of the second pass.

    Raises:
        RequestError: a strength, steps or a sampler that cannot be, or a schedule that the sampler does not have.
    """
    strength = number(hires.strength, "strength of hires")
    if not 0.0 < strength <= 1.0:
        raise RequestError(
            f"got strength {strength:g} of hires, expected above 0 to 1; set it in this range, such as 0.55"
        )
    steps = first.steps if hires.steps is None else whole(hires.steps, "steps of hires")
    if steps < 1:
        raise RequestError(f"got {steps} steps of hires, expected at least 1; raise steps")
    sampler = _sampler(manifest, hires, first)
    if manifest.traits.strength_picks_timesteps and sampler.grid_takes_strength:
        schedule = _scheduled(manifest, sampler, steps, strength, picked=strength)
    else:
        whole_schedule = _scheduled(manifest, sampler, int(steps / min(strength, _MOST)), strength, picked=1.0)
        schedule = last_steps(whole_schedule, steps)
    return replace(
        first,
        sampler=sampler,
        solver=solver_from_keywords(manifest, keywords, sampler),
        schedule_type=schedule_type(sampler, manifest.schedule),
        steps=steps,
        schedule=schedule,
        latents=None,
        strength=strength,
    )


def last_steps(schedule: Schedule, steps: int) -> Schedule:
    """The same run with its last ``steps`` steps alone.

    PNDM asks twice at the second timestep that it visits, to warm up; so it does at the second of these.
    """
    # by their levels: on curves of σ different ones are rounded to one timestep
    visited = np.flatnonzero(
        np.append(True, np.diff(schedule.sigmas) != 0) | np.append(True, np.diff(schedule.alphas) != 0)
    )
    repeats = len(visited) < schedule.total_steps
    start = len(visited) - steps
    if repeats and steps > 1:
        visited = np.insert(visited, start + 1, visited[start + 1])
    of_steps = {one.name: getattr(schedule, one.name) for one in fields(schedule)}
    cut: dict[str, Any] = {
        name: value[visited]
        for name, value in of_steps.items()
        if repeats and isinstance(value, np.ndarray) and name != "trained_sigmas"
    }
    return replace(schedule, **cut).started_at(start)


def _sampler(manifest: BundleManifest, hires: Hires, first: Sampling) -> Sampler:
    """The second pass's sampler, whose grid must have any number of steps."""
    keywords: SamplingKeywords = {} if hires.sampler is None else {"sampler": hires.sampler}
    sampler = sampler_from_keywords(manifest, keywords) if keywords else first.sampler
    for name, custom in (("timesteps", sampler.timesteps), ("sigmas", sampler.sigmas)):
        if custom not in (None, AYS):
            remedy = "leave them out" if keywords else "give hires a sampler of its own, as sampler='euler'"
            raise RequestError(
                f"got {name} for hires, whose second pass takes the last steps of a longer schedule; {remedy}"
            )
    return sampler


def _scheduled(manifest: BundleManifest, sampler: Sampler, total: int, strength: float, picked: float) -> Schedule:
    try:
        return sampler.schedule(manifest.schedule, total, ays_table=manifest.traits.ays_table, strength=picked)
    except RequestError as error:
        raise RequestError(
            f"the second pass of hires, at strength {strength:g}, has a schedule of {total} steps: "
            f"{str(error).partition(';')[0]}; raise the strength of hires, or lower its steps"
        ) from error
