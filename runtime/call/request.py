"""One call of a pipeline, checked: every argument is refused or filled in before any work is done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np

from latentrt.engines.bundle.manifest import BundleManifest, Start
from latentrt.engines.bundle.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile, profile_for_size
from latentrt.engines.spec import Array
from latentrt.runtime.call.checks import (
    checked_latents,
    chosen,
    number,
    numbers,
    seeds_for,
    share,
    texts,
    texts_for,
    warn_caller,
    whole,
)
from latentrt.runtime.call.metadata import PictureMetadata
from latentrt.runtime.call.options import CallbackOnStepEnd, OnProgress, Options
from latentrt.runtime.call.result import OutputType
from latentrt.runtime.denoiser.conditions.text import Prompts
from latentrt.runtime.denoiser.conditions.time_ids import time_ids_from_options
from latentrt.runtime.denoiser.guidance import Guidance, guidance_ratios
from latentrt.runtime.pictures.tiling import VaeMode
from latentrt.runtime.prompts.style import PromptOptions, PromptSyntax, check_prompts, prompt_options_from_arguments
from latentrt.runtime.sampling.run import model_calls
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.solver import Solver

_STRONG_GUIDANCE = 14.0  # above this, pictures of the SD family oversaturate


class Workflow(StrEnum):
    """What a call starts from."""

    TEXT = "text-to-image"
    IMAGE = "image-to-image"
    INPAINT = "inpainting"


@dataclass(frozen=True, kw_only=True)
class Request:
    """N pictures of one size. ``seeds`` is one for the whole batch or one per picture.

    ``prompts`` holds the texts for each text encoder, ``time_ids`` what is said of the pictures' size, and of that of
    their unconditional halves.

    ``schedule`` is the whole run, started where the call starts; it ends before timesteps below ``stop_below``.
    """

    prompts: tuple[Prompts, ...]
    time_ids: tuple[Sequence[float], Sequence[float]] | None
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
        return self.latent_shape[0]

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
        scales, (first, *others) = self.guidance.scales, self.prompts
        # A second text encoder that reads the same needs no mention
        second = Prompts(positives=[], negatives=None) if not others or others[-1] == first else others[-1]
        return tuple(
            PictureMetadata(
                prompt=prompt,
                negative_prompt=None if first.negatives is None else first.negatives[index],
                prompt_2=second.positives[index] if second.positives else None,
                negative_prompt_2=second.negatives[index] if second.negatives else None,
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
                time_ids=() if self.time_ids is None else tuple(map(tuple, self.time_ids)),
                denoising_start=self.denoising_start,
                denoising_end=self.denoising_end,
            )
            for index, (prompt, seed) in enumerate(zip(first.positives, self.seed_of_each, strict=True))
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
    strength = None if strength is None else share(strength, "strength")
    sampler = _sampler(manifest, given)
    of_grid = strength if strength and _takes_strength_in_grid(manifest, workflow, sampler) else 1.0
    steps, schedule = _scheduled(manifest, given, sampler, of_grid)
    _check_schedule(given, sampler, schedule)
    solver = sampler.solver(manifest.schedule)
    guidance = _guidance(manifest, given, schedule)
    of_steps = strength if of_grid == 1.0 else None
    schedule = schedule.started_at(_start(manifest.schedule, given, sampler, schedule, steps, of_steps))
    denoising_end = given.get("denoising_end")
    profile = _profile(manifest, given)
    clip_skip = given.get("clip_skip")
    prompt_options = prompt_options_from_arguments(
        given.get("prompt_syntax", PromptSyntax.PLAIN),
        given.get("long_prompt"),
        None if clip_skip is None else whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    time_ids = time_ids_from_options(
        manifest.conditioning.time_ids, given, profile, from_picture=workflow is not Workflow.TEXT
    )
    read = _prompts(manifest, prompts, given)
    check_prompts([text for one in read for text in (*one.positives, *(one.negatives or ()))], prompt_options)
    count = len(prompts) * repeats
    shape = manifest.latents.shape(profile, count)
    return Request(
        prompts=tuple(one.repeated(repeats) for one in read),
        time_ids=time_ids,
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


def _prompts(manifest: BundleManifest, prompts: list[str], given: Mapping[str, Any]) -> tuple[Prompts, ...]:
    """What each text encoder reads, one text per prompt.

    Negatives are None where the model wants zeros instead of an empty prompt that nobody gave.
    """
    second = [name for name in ("prompt_2", "negative_prompt_2") if name in given]
    encoders = len(manifest.conditioning.text_encoders)
    if second and encoders == 1:
        raise RequestError(f"got {' and '.join(second)} with a model that has one text encoder; leave it out")
    if "negative_prompt_2" in given and "negative_prompt" not in given:
        raise RequestError("got negative_prompt_2 alone, expected negative_prompt, too; give it, if only ''")
    if manifest.guidance_embedding and any(given.get(name) for name in ("negative_prompt", "negative_prompt_2")):
        raise RequestError(
            "got a negative prompt with a model that has its guidance built in and knows none; leave it out"
        )
    against: list[str] | None = None
    if "negative_prompt" in given or not manifest.conditioning.zero_empty_negative:
        against = texts_for(given.get("negative_prompt", ""), len(prompts), "negative_prompt")
    first = Prompts(positives=prompts, negatives=against)
    if encoders == 1:
        return (first,)
    # An empty second prompt is none, as in diffusers
    positives = texts_for(given.get("prompt_2") or "", len(prompts), "prompt_2")
    negatives = (
        None if against is None else texts_for(given.get("negative_prompt_2") or "", len(prompts), "negative_prompt_2")
    )
    other = Prompts(
        positives=[own or text for own, text in zip(positives, prompts, strict=True)],
        negatives=None
        if against is None
        else [own or text for own, text in zip(negatives or (), against, strict=True)],
    )
    return (first, *[other] * (encoders - 1))


def _check_workflow(manifest: BundleManifest, workflow: Workflow, given: Mapping[str, Any]) -> None:
    """Refuses keywords that say nothing in this workflow, and models that need another."""
    if manifest.unet_takes_mask and workflow is not Workflow.INPAINT:
        raise RequestError(f"got {workflow} with an inpainting model, whose U-Net wants a mask; use inpaint")
    if manifest.traits.starts_from is Start.PICTURE and workflow is Workflow.TEXT:
        raise RequestError(
            "got text-to-image with a refiner, which goes on from a picture; use img2img, or give it the latents of a "
            "base model's denoising_end with the same denoising_start"
        )
    if "denoising_start" in given and workflow is not Workflow.IMAGE:
        raise RequestError(f"got denoising_start in {workflow}, expected latents to go on from; use img2img")
    if "latents" in given and workflow is Workflow.IMAGE:
        raise RequestError("got latents beside image, expected one start; give the latents as image")


def _sampler(manifest: BundleManifest, given: Mapping[str, Any]) -> Sampler:
    """The sampler, with custom timesteps or sigmas."""
    wanted = given.get("sampler", manifest.defaults.sampler)
    sampler = wanted if isinstance(wanted, Sampler) else Sampler(name=wanted)
    custom = {name: given[name] for name in ("timesteps", "sigmas") if name in given}
    if custom:
        # they take the place of a default sampler's curve of sigmas
        plain = sampler.name if "sampler" in given else sampler.name.removesuffix("_k")
        sampler = replace(sampler, name=plain, **custom)
    return sampler


def _takes_strength_in_grid(manifest: BundleManifest, workflow: Workflow, sampler: Sampler) -> bool:
    """Whether all steps are taken from a part of the distilled timesteps, instead of a part of the steps.

    diffusers has no such pipeline for inpainting, and its image-to-image one cannot draw with TCD: there the pipelines
    of the teachers leave steps out.
    """
    return manifest.traits.strength_picks_timesteps and workflow is Workflow.IMAGE and sampler.grid_takes_strength


def _scheduled(
    manifest: BundleManifest, given: Mapping[str, Any], sampler: Sampler, strength: float
) -> tuple[int, Schedule]:
    """The number of steps, and their levels; ``strength`` is 1 but where the grid takes it."""
    steps = given.get("num_inference_steps")
    if steps is None and sampler.timesteps is None and sampler.sigmas is None:
        steps = manifest.defaults.num_inference_steps
    steps = None if steps is None else whole(steps, "num_inference_steps")
    schedule = sampler.schedule(manifest.schedule, steps, ays_table=manifest.traits.ays_table, strength=strength)
    return len(guidance_ratios(schedule)) if steps is None else steps, schedule


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
    rescale = share(given.get("guidance_rescale", 0.0), "guidance_rescale")
    if rescale and manifest.guidance_embedding:
        raise RequestError(
            f"got guidance_rescale {rescale:g} with a model that has its guidance built in; leave it out"
        )
    return Guidance(
        scales=tuple(value if guided else 1.0 for value, guided in zip(scales, inside, strict=True)),
        ratios=ratios,
        rescale=rescale,
        embedding=manifest.guidance_embedding,
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


def _profile(manifest: BundleManifest, given: Mapping[str, Any]) -> Profile:
    first = manifest.profiles[0]
    width, height = given.get("width", first.width), given.get("height", first.height)
    return profile_for_size(manifest.profiles, whole(width, "width"), whole(height, "height"))
