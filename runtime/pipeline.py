"""The pipeline: prompts in, pictures out, around the engines of one bundle."""

import math
import operator
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle import Bundle
from latentrt.engines.cache import OpenComponents
from latentrt.engines.errors import RequestError
from latentrt.engines.manifest import BundleManifest
from latentrt.engines.profile import Profile, profile_for_size
from latentrt.engines.spec import Array
from latentrt.runtime.autoencoder import latents_from_pixels, pixels_from_latents
from latentrt.runtime.guidance import GuidedUnet
from latentrt.runtime.image import PictureMetadata, images_from_pixels, pixels_from_image
from latentrt.runtime.loop import OnStep, denoise
from latentrt.runtime.noise import Noise
from latentrt.runtime.prompt import TextEncoder
from latentrt.runtime.result import OutputType, Result, Timings
from latentrt.runtime.samplers import Sampler
from latentrt.runtime.tokenizer import tokenizer_from_folder

CallbackOnStepEnd = Callable[["Pipeline", int, float, dict[str, Array]], Mapping[str, Array] | None]
_STRONG_GUIDANCE = 14.0  # above this, pictures of the SD family oversaturate


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One checked call: N pictures of one size."""

    prompts: list[str]
    negatives: list[str]
    profile: Profile
    steps: int
    guidance_scale: float
    sampler: Sampler
    seeds: int | tuple[int, ...]
    output_type: OutputType
    callback: CallbackOnStepEnd | None
    strength: float | None = None

    @property
    def count(self) -> int:
        return len(self.prompts)


class Pipeline:
    """Draws pictures from a bundle. Threads may share one; calls keep no state in it."""

    def __init__(self, bundle: Bundle, components: OpenComponents) -> None:
        """Takes opened components; use ``latentrt.open``, which makes them."""
        record = bundle.manifest.tokenizers["tokenizer"]
        for name in bundle.manifest.files:
            if name.startswith(f"{record.folder}/"):
                bundle.path(name)
        self._bundle = bundle
        self._components = components
        self._tokenizer = tokenizer_from_folder(bundle.root / record.folder, length=record.length)

    @property
    def manifest(self) -> BundleManifest:
        """The bundle's manifest: profiles, schedule, defaults, parity figures."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The backend that runs the engines."""
        return self._components.backend

    def close(self) -> None:
        """Releases the engines; later calls are refused."""
        self._components.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        latents: Array | None = None,
        output_type: str = "pil",
        callback_on_step_end: CallbackOnStepEnd | None = None,
    ) -> Result:
        """Draws pictures from text.

        Args:
            prompt: one text or several.
            negative_prompt: what to steer away from: one for all, or one per prompt.
            width: in pixels; together with ``height`` a size that the bundle has a profile for. None takes
                the bundle's first profile.
            height: in pixels.
            num_inference_steps: sampler steps. None takes the bundle's default, as with all that follow.
            guidance_scale: weight of classifier-free guidance; at most 1 means none and half the work.
            sampler: a name from ``latentrt samplers``, or a ``Sampler`` with wishes about its schedule.
            seed: one seed for the whole batch, as ``torch.Generator().manual_seed`` in diffusers, or one per
                picture. None draws one at random per picture.
            num_images_per_prompt: pictures of each prompt, in the order of the prompts.
            latents: initial noise (N, C, H/f, W/f) float32 of unit variance instead of the seed's.
            output_type: "pil", "np" or "latent".
            callback_on_step_end: called as f(pipeline, step, timestep, {"latents": x}) after every update;
                ``latents`` in a returned mapping replaces x.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        request = self._request(
            prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, sampler, seed,
            num_images_per_prompt, output_type, callback_on_step_end,
        )  # fmt: skip
        begin = perf_counter()
        noise = Noise(request.seeds, self._latent_shape(request))
        schedule = request.sampler.schedule(self.manifest.schedule, request.steps)
        if latents is None:
            latents = noise()
        elif latents.shape != self._latent_shape(request) or latents.dtype != np.float32:
            raise RequestError(
                f"got latents {latents.shape} {latents.dtype}, expected {self._latent_shape(request)} float32; "
                "give one unit-variance latent per picture"
            )
        if not np.isfinite(latents).all():
            raise RequestError("got latents with NaN or infinity, expected finite values; draw them anew")
        x = latents * np.float32(schedule.initial_scale)
        return self._draw(request, x, schedule, noise, begin, encode_image=0.0)

    def img2img(
        self,
        prompt: str | Sequence[str],
        *,
        image: Image.Image | Array | Sequence[Image.Image | Array],
        strength: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        callback_on_step_end: CallbackOnStepEnd | None = None,
    ) -> Result:
        """Draws pictures that start from a picture.

        Args:
            prompt: one text or several.
            image: the picture for all, or one per picture drawn: PIL, or arrays (H, W, 3).
            strength: how much of the schedule runs, 0 to 1: the last int(steps · strength) steps. At 0 the
                U-Net is not called and the picture only passes through the autoencoder.
            negative_prompt: as in a plain call, and so are all others.
            width: the size to resize a PIL picture to. None takes the picture's own size.
            height: in pixels.
            num_inference_steps: steps of the whole schedule.
            guidance_scale: weight of guidance.
            sampler: a name or a ``Sampler``.
            seed: one for the batch or one per picture.
            num_images_per_prompt: pictures of each prompt.
            output_type: "pil", "np" or "latent".
            callback_on_step_end: as in a plain call.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        images = [image] if isinstance(image, (Image.Image, np.ndarray)) else list(image)
        if not images:
            raise RequestError("got no image, expected one or one per picture; give image=…")
        strength = self.manifest.defaults.strength if strength is None else strength
        if not 0.0 <= strength <= 1.0:
            raise RequestError(f"got strength {strength}, expected 0 to 1; set strength in this range")
        if width is None and height is None:
            width, height = _size_of(images[0])
        request = self._request(
            prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, sampler, seed,
            num_images_per_prompt, output_type, callback_on_step_end, strength,
        )  # fmt: skip
        if request.count % len(images):
            raise RequestError(f"got {len(images)} images for {request.count} pictures; give one, or one per picture")
        begin = perf_counter()
        width, height = request.profile.width, request.profile.height
        pixels = np.stack([pixels_from_image(picture, width, height) for picture in images])
        noise = Noise(request.seeds, self._latent_shape(request))
        schedule = request.sampler.schedule(self.manifest.schedule, request.steps)
        schedule = schedule.last(min(int(request.steps * strength), request.steps))
        encoder = self._components.engine("vae_encoder", request.profile)
        clean = latents_from_pixels(encoder, self.manifest.latents, pixels, noise, request.count)
        x = schedule.steps[0].level.noised(clean, noise()) if len(schedule) else clean
        return self._draw(request, x, schedule, noise, begin, encode_image=perf_counter() - begin)

    def _draw(
        self, request: _Request, x: Array, schedule: Any, noise: Noise, begin: float, encode_image: float
    ) -> Result:
        """Encodes the prompts, denoises x and decodes it."""
        start = perf_counter()
        encoder = TextEncoder(self._tokenizer, self._components.engine("text_encoder", request.profile))
        guided = request.guidance_scale > 1.0
        embeddings = encoder.encode([*request.prompts, *(request.negatives if guided else ())])
        encoded = perf_counter()
        unet = GuidedUnet(
            self._components.engine("unet", request.profile),
            embeddings[: request.count],
            embeddings[request.count :] if guided else None,
            request.guidance_scale,
        )
        latents = denoise(x, schedule, request.sampler.info.solver, unet, noise, self._on_step(request))
        denoised = perf_counter()
        images: list[Image.Image] | list[Array] = []
        if request.output_type is not OutputType.LATENT:
            decoder = self._components.engine("vae_decoder", request.profile)
            pixels = pixels_from_latents(decoder, self.manifest.latents, latents)
            images = images_from_pixels(pixels) if request.output_type is OutputType.PIL else list(pixels)
        end = perf_counter()
        seeds = request.seeds if isinstance(request.seeds, tuple) else (request.seeds,) * request.count
        return Result(
            images=images,
            latents=latents,
            seeds=seeds,
            timings=Timings(
                encode_prompt=encoded - start,
                encode_image=encode_image,
                denoise=denoised - encoded,
                unet=unet.seconds,
                unet_calls=unet.calls,
                decode=end - denoised,
                total=end - begin,
            ),
            metadata=self._metadata(request, seeds),
        )

    def _on_step(self, request: _Request) -> OnStep | None:
        callback = request.callback
        if callback is None:
            return None

        def on_step(index: int, timestep: float, x: Array) -> Array:
            replaced = callback(self, index, timestep, {"latents": x}) or {}
            latents = replaced.get("latents", x)
            if latents.shape != x.shape:
                raise RequestError(
                    f"callback_on_step_end returned latents {latents.shape}, expected {x.shape}; keep the shape"
                )
            return latents

        return on_step

    def _latent_shape(self, request: _Request) -> tuple[int, ...]:
        latents, profile = self.manifest.latents, request.profile
        return (
            request.count,
            latents.channels,
            profile.height // latents.pixels,
            profile.width // latents.pixels,
        )

    def _metadata(self, request: _Request, seeds: tuple[int, ...]) -> tuple[PictureMetadata, ...]:
        shared = isinstance(request.seeds, int)
        return tuple(
            PictureMetadata(
                prompt=prompt,
                negative_prompt=negative,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                sampler=request.sampler.name,
                sampler_label=request.sampler.info.label,
                seed=seed,
                batch_index=index if shared else 0,
                width=request.profile.width,
                height=request.profile.height,
                model=self.manifest.source.name,
                strength=request.strength,
            )
            for index, (prompt, negative, seed) in enumerate(
                zip(request.prompts, request.negatives, seeds, strict=True)
            )
        )

    def _request(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        width: int | None,
        height: int | None,
        steps: int | None,
        guidance_scale: float | None,
        sampler: str | Sampler | None,
        seed: int | Sequence[int] | None,
        num_images_per_prompt: int,
        output_type: str,
        callback: CallbackOnStepEnd | None,
        strength: float | None = None,
    ) -> _Request:
        """Checks the arguments of a call and fills in the bundle's defaults."""
        defaults = self.manifest.defaults
        prompts = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
        if not prompts or not all(isinstance(text, str) for text in prompts):
            raise RequestError("got no prompt, expected a text or a list of texts; give at least one")
        for text in (*prompts, *([negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or ())):
            _check_text(text)
        if num_images_per_prompt < 1:
            raise RequestError(f"got {num_images_per_prompt} images per prompt, expected at least 1; raise it")
        if output_type not in tuple(OutputType):
            raise RequestError(f"got output_type {output_type!r}, expected one of {', '.join(OutputType)}")
        guidance_scale = defaults.guidance_scale if guidance_scale is None else float(guidance_scale)
        if not (math.isfinite(guidance_scale) and guidance_scale >= 0.0):
            raise RequestError(f"got guidance_scale {guidance_scale}, expected a number of at least 0; 7.5 is common")
        if guidance_scale > _STRONG_GUIDANCE:
            warnings.warn(f"guidance_scale {guidance_scale:g} is strong; colours may saturate", stacklevel=3)
        first = self.manifest.profiles[0]
        chosen = sampler if isinstance(sampler, Sampler) else Sampler(name=sampler or defaults.sampler)
        count = len(prompts) * num_images_per_prompt
        request = _Request(
            prompts=[text for text in prompts for _ in range(num_images_per_prompt)],
            negatives=_negatives(negative_prompt, len(prompts), num_images_per_prompt),
            profile=profile_for_size(self.manifest.profiles, width or first.width, height or first.height),
            steps=defaults.num_inference_steps if steps is None else steps,
            guidance_scale=guidance_scale,
            sampler=chosen,
            seeds=_seeds(seed, count),
            output_type=OutputType(output_type),
            callback=callback,
            strength=strength,
        )
        chosen.schedule(self.manifest.schedule, request.steps)
        return request


def _check_text(text: str) -> None:
    """Refuses lone surrogates, which a terminal's bytes become where they are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"got text {text!a}, expected valid Unicode; write it as UTF-8") from error


def _negatives(negative: str | Sequence[str] | None, prompts: int, repeats: int) -> list[str]:
    texts = [negative or ""] * prompts if negative is None or isinstance(negative, str) else list(negative)
    if len(texts) != prompts:
        raise RequestError(f"got {len(texts)} negative prompts for {prompts} prompts; give one, or one per prompt")
    return [text for text in texts for _ in range(repeats)]


def _seeds(seed: int | Sequence[int] | None, count: int) -> int | tuple[int, ...]:
    if seed is None:
        return tuple(secrets.randbits(32) for _ in range(count))
    shared = np.ndim(seed) == 0
    values: list[Any] = [seed] if shared else list(seed)  # type: ignore[arg-type]
    try:
        seeds = tuple(operator.index(value) for value in values)  # NumPy's integers, too
    except TypeError:
        seeds = (-1,)
    if not all(0 <= value < 2**64 for value in seeds):
        raise RequestError(f"got seed {seed!r}, expected whole numbers from 0 to 2^64 − 1; choose one in this range")
    if shared:
        return seeds[0]
    if len(seeds) != count:
        raise RequestError(f"got {len(seeds)} seeds for {count} pictures; give one for all, or one per picture")
    return seeds


def _size_of(image: Image.Image | Array) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.size
    shape = np.shape(image)
    if len(shape) != 3:
        raise RequestError(f"got an image array of shape {shape}, expected (height, width, 3); give one of this form")
    return int(shape[1]), int(shape[0])
