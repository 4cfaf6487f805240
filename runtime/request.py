"""One call of a pipeline, checked: every argument is refused or filled in before any work is done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.manifest import BundleManifest
from latentrt.engines.profile import Profile, profile_for_size
from latentrt.engines.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.spec import Array
from latentrt.runtime.arguments import (
    checked_latents,
    chosen,
    negatives,
    number,
    numbers,
    seeds_for,
    share,
    texts,
    warn_caller,
    whole,
)
from latentrt.runtime.guidance import Guidance, guidance_ratios
from latentrt.runtime.image import PictureMetadata
from latentrt.runtime.loop import model_calls
from latentrt.runtime.options import CallbackOnStepEnd, OnProgress, Options
from latentrt.runtime.prompt import PromptOptions, PromptSyntax, check_prompts, prompt_options_from_arguments
from latentrt.runtime.result import OutputType
from latentrt.runtime.samplers import Sampler
from latentrt.runtime.schedule import Schedule
from latentrt.runtime.solvers.solver import Solver
from latentrt.runtime.tiling import VaeMode

_STRONG_GUIDANCE = 14.0  # above this, pictures of the SD family oversaturate


class Workflow(StrEnum):
    """What a call starts from."""

    TEXT = "text-to-image"
    IMAGE = "image-to-image"
    INPAINT = "inpainting"


@dataclass(frozen=True, kw_only=True)
class Request:
    """N pictures of one size. ``seeds`` is one for the whole batch or one per picture.

    ``schedule`` is the whole run, started where the call starts; it ends before timesteps below ``stop_below``.
    """

    prompts: list[str]
    negatives: list[str]
    prompt_options: PromptOptions
    profile: Profile
    latent_shape: tuple[int, ...]
    steps: int
    schedule: Schedule
    stop_below: float
    solver: Solver
    guidance: Guidance
    sampler: Sampler
    seeds: int | tuple[int, ...]
    latents: Array | None
    vae: VaeMode
    output_type: OutputType
    callback: CallbackOnStepEnd | None
    progress: OnProgress | None
    strength: float | None
    denoising_start: float | None
    denoising_end: float | None
    model: str

    @property
    def count(self) -> int:
        """N."""
        return len(self.prompts)

    @property
    def seed_of_each(self) -> tuple[int, ...]:
        """The seed of every picture; a shared one is repeated."""
        return self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * self.count

    @property
    def model_calls(self) -> int:
        """How often the loop will ask the model."""
        return sum(level.timestep >= self.stop_below for level in model_calls(self.schedule, self.solver))

    def metadata(self) -> tuple[PictureMetadata, ...]:
        """The settings of every picture. Where a seed is shared, its place in the batch counts."""
        scales = self.guidance.scales
        return tuple(
            PictureMetadata(
                prompt=prompt,
                negative_prompt=negative,
                num_inference_steps=self.steps,
                guidance_scale=max(scales),
                guidance_scales=() if len(set(scales)) == 1 else scales,
                guidance_rescale=self.guidance.rescale,
                sampler=self.sampler.name,
                sampler_label=self.sampler.info.label,
                sampler_options=self.sampler.wishes,
                seed=seed,
                batch_index=index if isinstance(self.seeds, int) else 0,
                width=self.profile.width,
                height=self.profile.height,
                model=self.model,
                strength=self.strength,
                clip_skip=self.prompt_options.clip_skip,
                prompt_syntax=self.prompt_options.syntax.value,
                denoising_start=self.denoising_start,
                denoising_end=self.denoising_end,
            )
            for index, (prompt, negative, seed) in enumerate(
                zip(self.prompts, self.negatives, self.seed_of_each, strict=True)
            )
        )


def request_from_options(
    manifest: BundleManifest,
    prompt: str | Sequence[str],
    options: Options,
    workflow: Workflow,
    *,
    strength: float | None = None,
) -> Request:
    """Checks a call's arguments and fills in the bundle's defaults; ``strength`` is None for text-to-image.

    Raises:
        RequestError: the first argument that cannot be served, with what to do.
    """
    given = known_options(options)
    _check_workflow(manifest, workflow, given)
    prompts = texts(prompt, "prompt")
    repeats = whole(given.get("num_images_per_prompt", 1), "num_images_per_prompt")
    if not prompts or repeats < 1:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    output_type = chosen(OutputType, given.get("output_type", OutputType.PIL), "output_type")
    vae = chosen(VaeMode, given.get("vae", VaeMode.WHOLE), "vae")
    for name in ("callback_on_step_end", "progress"):
        if given.get(name) is not None and not callable(given[name]):
            raise RequestError(f"got {name} {given[name]!r}, expected a function; give one")
    sampler, steps, schedule = _scheduled(manifest, given)
    _check_schedule(given, sampler, schedule)
    solver = sampler.solver(manifest.schedule)
    guidance = _guidance(manifest, given, schedule)
    strength = None if strength is None else share(strength, "strength")
    schedule = schedule.started_at(_start(manifest.schedule, given, sampler, schedule, steps, strength))
    denoising_end = given.get("denoising_end")
    profile = _profile(manifest, given)
    clip_skip = given.get("clip_skip")
    prompt_options = prompt_options_from_arguments(
        given.get("prompt_syntax", PromptSyntax.PLAIN),
        given.get("long_prompt"),
        None if clip_skip is None else whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    against = negatives(given.get("negative_prompt"), len(prompts))
    check_prompts([*prompts, *against], prompt_options)
    count, sizes = len(prompts) * repeats, manifest.dimensions(profile)
    shape = (count, manifest.latents.channels, sizes["latent_height"], sizes["latent_width"])
    return Request(
        prompts=[text for text in prompts for _ in range(repeats)],
        negatives=[text for text in against for _ in range(repeats)],
        prompt_options=prompt_options,
        profile=profile,
        latent_shape=shape,
        steps=steps,
        schedule=schedule,
        stop_below=-math.inf if denoising_end is None else _cutoff(manifest.schedule, denoising_end, "denoising_end"),
        solver=solver,
        guidance=guidance,
        sampler=sampler,
        seeds=seeds_for(given.get("seed"), count),
        latents=None if given.get("latents") is None else checked_latents(given["latents"], shape),
        vae=vae,
        output_type=output_type,
        callback=given.get("callback_on_step_end"),
        progress=given.get("progress"),
        strength=strength,
        denoising_start=given.get("denoising_start"),
        denoising_end=denoising_end,
        model=manifest.source.name,
    )


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were set; unknown ones are refused with the name they come close to."""
    known = list(Options.__annotations__)
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            if name == "strength":
                hint = "a picture to start from goes with it: use img2img"
            raise RequestError(f"got keyword {name!r}, expected one that drawing knows; {hint}")
    return {name: value for name, value in options.items() if value is not None}


def _check_workflow(manifest: BundleManifest, workflow: Workflow, given: Mapping[str, Any]) -> None:
    """Refuses keywords that say nothing in this workflow, and models that need another."""
    if manifest.unet_takes_mask and workflow is not Workflow.INPAINT:
        raise RequestError(f"got {workflow} with an inpainting model, whose U-Net wants a mask; use inpaint")
    if "denoising_start" in given and workflow is not Workflow.IMAGE:
        raise RequestError(f"got denoising_start in {workflow}, expected latents to go on from; use img2img")
    if "latents" in given and workflow is Workflow.IMAGE:
        raise RequestError("got latents beside image, expected one start; give the latents as image")


def _scheduled(manifest: BundleManifest, given: Mapping[str, Any]) -> tuple[Sampler, int, Schedule]:
    """The sampler with custom timesteps or sigmas, its number of steps, and its levels."""
    wanted = given.get("sampler", manifest.defaults.sampler)
    sampler = wanted if isinstance(wanted, Sampler) else Sampler(name=wanted)
    custom = {name: given[name] for name in ("timesteps", "sigmas") if name in given}
    if custom:
        # they take the place of a default sampler's curve of sigmas
        plain = sampler.name if "sampler" in given else sampler.name.removesuffix("_k")
        sampler = replace(sampler, name=plain, **custom)
    steps = given.get("num_inference_steps")
    if steps is None and sampler.timesteps is None and sampler.sigmas is None:
        steps = manifest.defaults.num_inference_steps
    steps = None if steps is None else whole(steps, "num_inference_steps")
    schedule = sampler.schedule(manifest.schedule, steps, family=manifest.family)
    return sampler, len(guidance_ratios(schedule)) if steps is None else steps, schedule


def _check_schedule(given: Mapping[str, Any], sampler: Sampler, schedule: Schedule) -> None:
    """Refuses parts of a schedule without timesteps, nothing between start and end, and ε where there is only noise."""
    for name in ("denoising_start", "denoising_end"):
        if name in given and not sampler.tells_timesteps:
            raise RequestError(f"got {name} with sampler {sampler.name!r}, which has no timesteps; use strength")
    start = share(given.get("denoising_start", 0.0), "denoising_start")
    end = share(given.get("denoising_end", 1.0), "denoising_end")
    if "denoising_start" in given and start >= end:
        raise RequestError(
            f"got denoising_start {start:g} and denoising_end {end:g}, expected the end later; swap them"
        )
    if schedule.prediction_type is PredictionType.EPSILON and not schedule.alphas.all():
        raise RequestError(
            "got zero terminal SNR with epsilon prediction, which says nothing where there is only noise; "
            "set prediction_type='v_prediction', or leave rescale_betas_zero_snr out"
        )


def _guidance(manifest: BundleManifest, given: Mapping[str, Any], schedule: Schedule) -> Guidance:
    """The weight of every step, off outside of the interval."""
    scale, ratios = given.get("guidance_scale", manifest.defaults.guidance_scale), guidance_ratios(schedule)
    if isinstance(scale, (Sequence, np.ndarray)) and not isinstance(scale, str):
        scales = numbers(scale, "guidance_scale")
        if len(scales) != len(ratios):
            raise RequestError(
                f"got {len(scales)} guidance scales for a schedule of {len(ratios)} steps; give one, or one per step, "
                "those before the start included"
            )
    else:
        scales = (number(scale, "guidance_scale"),) * len(ratios)
    for value in scales:
        if not (math.isfinite(value) and value >= 0.0):
            raise RequestError(f"got guidance_scale {value}, expected a number of at least 0; 7.5 is common")
    if max(scales) > _STRONG_GUIDANCE:
        warn_caller(f"guidance_scale {max(scales):g} is strong; colours may saturate")
    start = share(given.get("guidance_start", 0.0), "guidance_start")
    end = share(given.get("guidance_end", 1.0), "guidance_end")
    if start >= end:
        raise RequestError(f"got guidance_start {start:g} and guidance_end {end:g}, expected the end later; swap them")
    count = len(ratios)
    inside = [index / count >= start and (index + 1) / count <= end for index in range(count)]
    return Guidance(
        scales=tuple(value if guided else 1.0 for value, guided in zip(scales, inside, strict=True)),
        ratios=ratios,
        rescale=share(given.get("guidance_rescale", 0.0), "guidance_rescale"),
    )


def _start(
    config: ScheduleConfig,
    given: Mapping[str, Any],
    sampler: Sampler,
    schedule: Schedule,
    steps: int,
    strength: float | None,
) -> int:
    """The first step to take."""
    if "denoising_start" in given:
        cutoff = _cutoff(config, given["denoising_start"], "denoising_start")
        if sampler.info.calls_per_step == 1:
            return sum(step.level.timestep >= cutoff for step in schedule.all_steps)
        # Two calls a step share their timesteps with neighbours: what is left must be odd, or it begins in the
        # middle of a step.
        calls = model_calls(schedule, sampler.solver(config))
        left = sum(level.timestep < cutoff for level in calls)
        return (len(calls) - (left if left % 2 else left + 1)) // 2
    if strength is None:
        return 0
    taken = min(int(steps * strength), steps)
    return steps - taken if taken else schedule.total_steps


def _cutoff(config: ScheduleConfig, part: Any, name: str) -> float:
    """The training timestep at a share of the noise schedule, from its noisy end."""
    count = config.num_train_timesteps
    return float(round(count - share(part, name) * count))


def _profile(manifest: BundleManifest, given: Mapping[str, Any]) -> Profile:
    first = manifest.profiles[0]
    width, height = given.get("width", first.width), given.get("height", first.height)
    return profile_for_size(manifest.profiles, whole(width, "width"), whole(height, "height"))
