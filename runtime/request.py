"""One call of a pipeline, checked: every argument is refused or filled in before any work is done."""

import math
import operator
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.manifest import BundleManifest
from latentrt.engines.profile import Profile, profile_for_size
from latentrt.engines.spec import Array
from latentrt.runtime.image import PictureMetadata
from latentrt.runtime.prompt import (
    LongPrompt,
    PromptOptions,
    PromptSyntax,
    check_prompts,
    prompt_options_from_arguments,
)
from latentrt.runtime.result import OutputType
from latentrt.runtime.samplers import Sampler
from latentrt.runtime.schedule import Schedule

CallbackOnStepEnd = Callable[[Any, int, float, dict[str, Array]], Mapping[str, Array] | None]
_STRONG_GUIDANCE = 14.0  # above this, pictures of the SD family oversaturate


@dataclass(frozen=True, kw_only=True)
class Request:
    """N pictures of one size. ``seeds`` is one for the whole batch or one per picture."""

    prompts: list[str]
    negatives: list[str]
    profile: Profile
    latent_shape: tuple[int, ...]
    steps: int
    schedule: Schedule
    guidance_scale: float
    sampler: Sampler
    seeds: int | tuple[int, ...]
    output_type: OutputType
    callback: CallbackOnStepEnd | None
    strength: float | None
    prompt_options: PromptOptions
    model: str

    @property
    def count(self) -> int:
        """N."""
        return len(self.prompts)

    @property
    def seed_of_each(self) -> tuple[int, ...]:
        """The seed of every picture; a shared one is repeated."""
        return self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * self.count

    def metadata(self) -> tuple[PictureMetadata, ...]:
        """The settings of every picture. Where a seed is shared, its place in the batch counts."""
        return tuple(
            PictureMetadata(
                prompt=prompt,
                negative_prompt=negative,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                sampler=self.sampler.name,
                sampler_label=self.sampler.info.label,
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


def request_from_arguments(
    manifest: BundleManifest,
    *,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    width: int | None,
    height: int | None,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    sampler: str | Sampler | None,
    seed: int | Sequence[int] | None,
    num_images_per_prompt: int,
    output_type: str,
    callback_on_step_end: CallbackOnStepEnd | None,
    strength: float | None,
    prompt_syntax: str | PromptSyntax,
    long_prompt: str | LongPrompt | None,
    clip_skip: int | None,
) -> Request:
    """Checks a call's arguments and fills in the bundle's defaults; ``strength`` is None for text-to-image.

    Raises:
        RequestError: the first argument that cannot be served, with what to do.
    """
    defaults, first = manifest.defaults, manifest.profiles[0]
    prompts = _texts(prompt, "prompt")
    repeats = _whole(num_images_per_prompt, "num_images_per_prompt")
    if not prompts or repeats < 1:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    if output_type not in tuple(OutputType):
        raise RequestError(f"got output_type {output_type!r}, expected one of {', '.join(OutputType)}; choose one")
    scale = _number(defaults.guidance_scale if guidance_scale is None else guidance_scale, "guidance_scale")
    if not (math.isfinite(scale) and scale >= 0.0):
        raise RequestError(f"got guidance_scale {scale}, expected a number of at least 0; 7.5 is common")
    if scale > _STRONG_GUIDANCE:
        warnings.warn(f"guidance_scale {scale:g} is strong; colours may saturate", stacklevel=4)
    if strength is not None and not 0.0 <= (strength := _number(strength, "strength")) <= 1.0:
        raise RequestError(f"got strength {strength}, expected 0 to 1; set strength in this range")
    steps = _whole(
        defaults.num_inference_steps if num_inference_steps is None else num_inference_steps, "num_inference_steps"
    )
    chosen = sampler if isinstance(sampler, Sampler) else Sampler(name=sampler or defaults.sampler)
    schedule = chosen.schedule(manifest.schedule, steps)
    profile = profile_for_size(
        manifest.profiles,
        first.width if width is None else _whole(width, "width"),
        first.height if height is None else _whole(height, "height"),
    )
    prompt_options = prompt_options_from_arguments(
        prompt_syntax,
        long_prompt,
        None if clip_skip is None else _whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    negatives = _negatives(negative_prompt, len(prompts))
    check_prompts([*prompts, *negatives], prompt_options)
    count, sizes = len(prompts) * repeats, manifest.dimensions(profile)
    return Request(
        prompts=[text for text in prompts for _ in range(repeats)],
        negatives=[text for text in negatives for _ in range(repeats)],
        profile=profile,
        latent_shape=(count, manifest.latents.channels, sizes["latent_height"], sizes["latent_width"]),
        steps=steps,
        schedule=schedule if strength is None else schedule.last(min(int(steps * strength), len(schedule))),
        guidance_scale=scale,
        sampler=chosen,
        seeds=_seeds(seed, count),
        output_type=OutputType(output_type),
        callback=callback_on_step_end,
        strength=strength,
        prompt_options=prompt_options,
        model=manifest.source.name,
    )


def images_from_argument(image: Any) -> list[Image.Image | Array]:
    """The picture or pictures to start from.

    Raises:
        RequestError: none, or something that is no picture.
    """
    images = [image] if isinstance(image, Image.Image) or hasattr(image, "ndim") else image
    if not isinstance(images, (list, tuple)) or not images:
        raise RequestError(f"got image {image!r}, expected a PIL picture, an array, or a list of them; give one")
    wrong = [one for one in images if not (isinstance(one, Image.Image) or getattr(one, "ndim", 0) == 3)]
    if wrong:
        raise RequestError(
            f"got image {type(wrong[0]).__name__} {np.shape(wrong[0])}, expected a PIL picture or an array "
            "(height, width, 3); convert it"
        )
    return list(images)


def size_of(image: Image.Image | Array) -> tuple[int, int]:
    """Width and height of a picture."""
    if isinstance(image, Image.Image):
        return image.size
    return int(image.shape[1]), int(image.shape[0])


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
