"""One call of a pipeline, checked: every argument is refused or filled in before any work is done."""

import math
import operator
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.manifest import BundleManifest
from latentrt.engines.profile import Profile, profile_for_size
from latentrt.engines.schedule_config import ScheduleConfig
from latentrt.engines.spec import Array
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
    adds_noise: bool
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
    given = _known_options(options)
    _check_workflow(manifest, workflow, given)
    prompts = _texts(prompt, "prompt")
    repeats = _whole(given.get("num_images_per_prompt", 1), "num_images_per_prompt")
    if not prompts or repeats < 1:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    output_type = _chosen(OutputType, given.get("output_type", OutputType.PIL), "output_type")
    vae = _chosen(VaeMode, given.get("vae", VaeMode.WHOLE), "vae")
    for name in ("callback_on_step_end", "progress"):
        if given.get(name) is not None and not callable(given[name]):
            raise RequestError(f"got {name} {given[name]!r}, expected a function; give one")
    sampler, steps, schedule = _scheduled(manifest, given)
    for name in ("denoising_start", "denoising_end"):
        if name in given and not sampler.tells_timesteps:
            raise RequestError(f"got {name} with sampler {sampler.name!r}, which has no timesteps; use strength")
    solver = sampler.solver(manifest.schedule)
    guidance = _guidance(manifest, given, schedule)
    strength = None if strength is None else _share(strength, "strength")
    schedule = schedule.started_at(_start(manifest.schedule, given, sampler, schedule, steps, strength))
    denoising_end = given.get("denoising_end")
    profile = _profile(manifest, given)
    clip_skip = given.get("clip_skip")
    prompt_options = prompt_options_from_arguments(
        given.get("prompt_syntax", PromptSyntax.PLAIN),
        given.get("long_prompt"),
        None if clip_skip is None else _whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    negatives = _negatives(given.get("negative_prompt"), len(prompts))
    check_prompts([*prompts, *negatives], prompt_options)
    count, sizes = len(prompts) * repeats, manifest.dimensions(profile)
    shape = (count, manifest.latents.channels, sizes["latent_height"], sizes["latent_width"])
    return Request(
        prompts=[text for text in prompts for _ in range(repeats)],
        negatives=[text for text in negatives for _ in range(repeats)],
        prompt_options=prompt_options,
        profile=profile,
        latent_shape=shape,
        steps=steps,
        schedule=schedule,
        stop_below=-math.inf if denoising_end is None else _cutoff(manifest.schedule, denoising_end, "denoising_end"),
        solver=solver,
        guidance=guidance,
        sampler=sampler,
        seeds=_seeds(given.get("seed"), count),
        latents=None if given.get("latents") is None else checked_latents(given["latents"], shape),
        vae=vae,
        output_type=output_type,
        callback=given.get("callback_on_step_end"),
        progress=given.get("progress"),
        strength=strength,
        adds_noise=given.get("denoising_start") is None,
        model=manifest.source.name,
    )


def _known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were set; unknown ones are refused with the name they come close to."""
    known = list(Options.__annotations__)
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
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
        sampler = replace(sampler, **custom)
    steps = given.get("num_inference_steps")
    if steps is None and sampler.timesteps is None and sampler.sigmas is None:
        steps = manifest.defaults.num_inference_steps
    steps = None if steps is None else _whole(steps, "num_inference_steps")
    schedule = sampler.schedule(manifest.schedule, steps, family=manifest.family)
    return sampler, len(guidance_ratios(schedule)) if steps is None else steps, schedule


def _guidance(manifest: BundleManifest, given: Mapping[str, Any], schedule: Schedule) -> Guidance:
    """The weight of every step, off outside of the interval."""
    scale, ratios = given.get("guidance_scale", manifest.defaults.guidance_scale), guidance_ratios(schedule)
    if np.ndim(scale) == 0:
        scales = [_number(scale, "guidance_scale")] * len(ratios)
    else:
        scales = [_number(value, "guidance_scale") for value in scale]
        if len(scales) != len(ratios):
            raise RequestError(f"got {len(scales)} guidance scales for {len(ratios)} steps; give one, or one per step")
    for value in scales:
        if not (math.isfinite(value) and value >= 0.0):
            raise RequestError(f"got guidance_scale {value}, expected a number of at least 0; 7.5 is common")
    if max(scales) > _STRONG_GUIDANCE:
        warnings.warn(f"guidance_scale {max(scales):g} is strong; colours may saturate", stacklevel=5)
    start = _share(given.get("guidance_start", 0.0), "guidance_start")
    end = _share(given.get("guidance_end", 1.0), "guidance_end")
    if start >= end:
        raise RequestError(f"got guidance_start {start:g} and guidance_end {end:g}, expected the end later; swap them")
    count = len(ratios)
    inside = [index / count >= start and (index + 1) / count <= end for index in range(count)]
    return Guidance(
        scales=tuple(value if guided else 1.0 for value, guided in zip(scales, inside, strict=True)),
        ratios=ratios,
        rescale=_share(given.get("guidance_rescale", 0.0), "guidance_rescale"),
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


def _cutoff(config: ScheduleConfig, share: Any, name: str) -> float:
    """The training timestep at a share of the noise schedule, from its noisy end."""
    count = config.num_train_timesteps
    return float(round(count - _share(share, name) * count))


def _profile(manifest: BundleManifest, given: Mapping[str, Any]) -> Profile:
    first = manifest.profiles[0]
    width, height = given.get("width", first.width), given.get("height", first.height)
    return profile_for_size(manifest.profiles, _whole(width, "width"), _whole(height, "height"))


def images_from_argument(image: Any, channels: int) -> list[Image.Image | Array] | Array:
    """The picture or pictures to start from, or latents (N, ``channels``, h, w) as they are.

    Raises:
        RequestError: none, or something that is no picture.
    """
    if getattr(image, "ndim", 0) == 4 and np.shape(image)[1] == channels:
        return np.asarray(image)
    images = [image] if isinstance(image, Image.Image) or getattr(image, "ndim", 0) == 3 else image
    images = list(images) if getattr(images, "ndim", 0) == 4 else images
    if not isinstance(images, (list, tuple)) or not images:
        raise RequestError(f"got image {_named(image)}, expected a PIL picture, an array, or a list of them; give one")
    wrong = [one for one in images if not (isinstance(one, Image.Image) or getattr(one, "ndim", 0) == 3)]
    if wrong:
        raise RequestError(
            f"got image {_named(wrong[0])}, expected a PIL picture or an array (height, width, 3); convert it"
        )
    return list(images)


def _named(value: Any) -> str:
    return f"{type(value).__name__} {np.shape(value)}" if hasattr(value, "shape") else repr(value)


def size_of(image: Image.Image | Array) -> tuple[int, int]:
    """Width and height of a picture."""
    if isinstance(image, Image.Image):
        return image.size
    return int(image.shape[1]), int(image.shape[0])


def checked_latents(latents: Any, shape: tuple[int, ...]) -> Array:
    """Latents of a caller.

    Raises:
        RequestError: another shape or type, NaN or infinity.
    """
    array = np.asarray(latents)
    if array.shape != shape or array.dtype != np.float32:
        raise RequestError(
            f"got latents {array.shape} {array.dtype}, expected {shape} float32; give one latent per picture"
        )
    if not np.isfinite(array).all():
        raise RequestError("got latents with NaN or infinity, expected finite values; draw them anew")
    return array


def _chosen(kind: Any, value: Any, name: str) -> Any:
    if value not in tuple(kind):
        raise RequestError(f"got {name} {value!r}, expected one of {', '.join(kind)}; choose one")
    return kind(value)


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)  # NumPy's integers, too
    except TypeError as error:
        raise RequestError(f"got {name} {value!r}, expected a whole number; give one") from error


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise RequestError(f"got {name} {value!r}, expected a number; give one") from error


def _share(value: Any, name: str) -> float:
    number = _number(value, name)
    if not 0.0 <= number <= 1.0:
        raise RequestError(f"got {name} {number:g}, expected 0 to 1; set {name} in this range")
    return number


def _texts(value: Any, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"got {name} {value!r}, expected a text or a list of texts; give one")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # lone surrogates, which a terminal's bytes become if they are no UTF-8
            raise RequestError(f"got text {text!a}, expected valid Unicode; write it as UTF-8") from error
    return list(texts)


def _negatives(negative: str | Sequence[str] | None, prompts: int) -> list[str]:
    texts = _texts("" if negative is None else negative, "negative_prompt")
    if negative is None or isinstance(negative, str):
        return texts * prompts
    if len(texts) != prompts:
        raise RequestError(f"got {len(texts)} negative prompts for {prompts} prompts; give one, or one per prompt")
    return texts


def _seeds(seed: int | Sequence[int] | None, count: int) -> int | tuple[int, ...]:
    if seed is None:
        return tuple(secrets.randbits(32) for _ in range(count))
    shared = np.ndim(seed) == 0
    values: list[Any] = [seed] if shared else list(seed)  # type: ignore[arg-type]
    seeds = tuple(_whole(value, "seed") for value in values)
    if not all(0 <= value < 2**64 for value in seeds):
        raise RequestError(f"got seed {seed!r}, expected whole numbers from 0 to 2^64 − 1; choose one in this range")
    if shared:
        return seeds[0]
    if len(seeds) != count:
        raise RequestError(f"got {len(seeds)} seeds for {count} pictures; give one for all, or one per picture")
    return seeds
