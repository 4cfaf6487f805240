"""The pipeline: prompts in, pictures out, around the engines of one bundle."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter

import numpy as np
from PIL import Image

from latentrt.engines.bundle import Bundle
from latentrt.engines.cache import OpenComponents
from latentrt.engines.errors import RequestError
from latentrt.engines.manifest import TEXT_ENCODER, TOKENIZER, BundleManifest
from latentrt.engines.spec import Array
from latentrt.runtime.autoencoder import latents_from_pixels, pixels_from_latents
from latentrt.runtime.guidance import GuidedUnet
from latentrt.runtime.image import images_from_pixels, pixels_from_image
from latentrt.runtime.loop import OnStep, denoise
from latentrt.runtime.noise import Noise
from latentrt.runtime.prompt import LongPrompt, PromptEncoder, PromptSyntax
from latentrt.runtime.request import (
    CallbackOnStepEnd,
    Request,
    images_from_argument,
    request_from_arguments,
    size_of,
)
from latentrt.runtime.result import OutputType, Result, Timings
from latentrt.runtime.samplers import Sampler
from latentrt.runtime.textual_inversion import TextualInversions, inversions_from_paths
from latentrt.runtime.token_embeddings import TokenEmbeddings
from latentrt.runtime.tokenizer import tokenizer_from_folder


class Pipeline:
    """Draws pictures from a bundle. Threads may share one; calls keep no state in it.

    Textual inversions are the one thing that is loaded into it; a call takes those that are there as it begins.
    """

    def __init__(self, bundle: Bundle, components: OpenComponents) -> None:
        """Takes opened components; use ``latentrt.open``, which makes them."""
        record = bundle.manifest.tokenizers[TOKENIZER]
        for name in bundle.manifest.files:
            if name.startswith(f"{record.folder}/"):
                bundle.path(name)
        self._bundle = bundle
        self._components = components
        self._tokenizer = tokenizer_from_folder(bundle.root / record.folder, length=record.length)
        table = bundle.manifest.token_embeddings[TEXT_ENCODER]
        self._embeddings = TokenEmbeddings(bundle.path(table.file), table)
        self._inversions = TextualInversions()
        self._loading = Lock()

    @property
    def manifest(self) -> BundleManifest:
        """The bundle's manifest: profiles, schedule, defaults, parity figures."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The backend that runs the engines."""
        return self._components.backend

    def load_textual_inversion(
        self, paths: str | Path | Sequence[str | Path], token: str | Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """Loads embedding files; what they taught stands in prompts for their triggers from the next call on.

        Args:
            paths: one file or several: safetensors, ``.pt`` or ``.bin`` of InvokeAI, diffusers or A1111.
            token: the trigger instead of the file's own; for several files one each.

        Returns:
            The triggers. ``<name>`` is matched as it stands, ``name`` as a word and as ``<name>``.

        Raises:
            RequestError: a file that is damaged or not for this model, or a trigger that is taken.
        """
        added = inversions_from_paths(paths, token, tokenizer=self._tokenizer, width=self._embeddings.width)
        with self._loading:
            self._inversions = self._inversions.with_loaded(added)
        return tuple(inversion.trigger for inversion in added)

    def unload_textual_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Forgets the textual inversions of these triggers; None forgets all.

        Raises:
            RequestError: a trigger that is not loaded.
        """
        with self._loading:
            self._inversions = (
                TextualInversions()
                if token is None
                else self._inversions.without([token] if isinstance(token, str) else token)
            )

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
        prompt_syntax: str | PromptSyntax = PromptSyntax.PLAIN,
        long_prompt: str | LongPrompt | None = None,
        clip_skip: int | None = None,
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
            prompt_syntax: how weights are written in the prompts: "plain" (not at all), "compel" or "a1111".
            long_prompt: "truncate" leaves out what the text encoder cannot read at once and warns; "chunk"
                encodes it in chunks. None truncates plain prompts and chunks the others.
            clip_skip: how many of the text encoder's last layers to leave out for the prompt.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        request = request_from_arguments(
            self.manifest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            num_images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            prompt_syntax=prompt_syntax,
            long_prompt=long_prompt,
            clip_skip=clip_skip,
            strength=None,
        )
        begin = perf_counter()
        noise = Noise(request.seeds, request.latent_shape)
        start = noise() if latents is None else _checked_latents(latents, request.latent_shape)
        x = start * np.float32(request.schedule.initial_scale)
        return self._draw(request, x, noise, begin, encode_image=0.0)

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
        prompt_syntax: str | PromptSyntax = PromptSyntax.PLAIN,
        long_prompt: str | LongPrompt | None = None,
        clip_skip: int | None = None,
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
            prompt_syntax: as in a plain call.
            long_prompt: as in a plain call.
            clip_skip: as in a plain call.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        images = images_from_argument(image)
        if width is None and height is None:
            width, height = size_of(images[0])
        request = request_from_arguments(
            self.manifest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            num_images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            prompt_syntax=prompt_syntax,
            long_prompt=long_prompt,
            clip_skip=clip_skip,
            strength=self.manifest.defaults.strength if strength is None else strength,
        )
        if len(images) not in (1, request.count):
            raise RequestError(f"got {len(images)} images for {request.count} pictures; give one, or one per picture")
        begin = perf_counter()
        width, height = request.profile.width, request.profile.height
        pixels = np.stack([pixels_from_image(picture, width, height) for picture in images])
        noise = Noise(request.seeds, request.latent_shape)
        encoder = self._components.engine("vae_encoder", request.profile)
        clean = latents_from_pixels(encoder, self.manifest.latents, pixels, noise, request.count)
        steps = request.schedule.steps
        x = steps[0].level.noised(clean, noise()) if steps else clean
        return self._draw(request, x, noise, begin, encode_image=perf_counter() - begin)

    def _draw(self, request: Request, x: Array, noise: Noise, begin: float, encode_image: float) -> Result:
        """Encodes the prompts, denoises x and decodes it."""
        start = perf_counter()
        engine = self._components.engine(TEXT_ENCODER, request.profile)
        encoder = PromptEncoder(self._tokenizer, self._embeddings, self._inversions, engine)
        guided = request.guidance_scale > 1.0
        positive, negative = encoder.encode(
            request.prompts, request.negatives if guided else None, request.prompt_options
        )
        encoded = perf_counter()
        chunks = positive.shape[1] // self._tokenizer.length
        unet = GuidedUnet(
            self._components.engine("unet", request.profile, chunks), positive, negative, request.guidance_scale
        )
        latents = denoise(x, request.schedule, request.sampler.info.solver, unet, noise, self._on_step(request))
        denoised = perf_counter()
        images: list[Image.Image] | list[Array] = []
        if request.output_type is not OutputType.LATENT:
            decoder = self._components.engine("vae_decoder", request.profile)
            pixels = pixels_from_latents(decoder, self.manifest.latents, latents)
            images = images_from_pixels(pixels) if request.output_type is OutputType.PIL else list(pixels)
        end = perf_counter()
        return Result(
            images=images,
            latents=latents,
            seeds=request.seed_of_each,
            timings=Timings(
                encode_prompt=encoded - start,
                encode_image=encode_image,
                denoise=denoised - encoded,
                unet=unet.seconds,
                unet_calls=unet.calls,
                decode=end - denoised,
                total=end - begin,
            ),
            metadata=request.metadata(),
        )

    def _on_step(self, request: Request) -> OnStep | None:
        callback = request.callback
        if callback is None:
            return None

        def on_step(index: int, timestep: float, x: Array) -> Array:
            replaced = callback(self, index, timestep, {"latents": x}) or {}
            latents = np.asarray(replaced.get("latents", x), x.dtype)
            if latents.shape != x.shape:
                raise RequestError(
                    f"callback_on_step_end returned latents {latents.shape}, expected {x.shape}; keep the shape"
                )
            return latents

        return on_step


def _checked_latents(latents: Array, shape: tuple[int, ...]) -> Array:
    array = np.asarray(latents)
    if array.shape != shape or array.dtype != np.float32:
        raise RequestError(
            f"got latents {array.shape} {array.dtype}, expected {shape} float32; "
            "give one unit-variance latent per picture"
        )
    if not np.isfinite(array).all():
        raise RequestError("got latents with NaN or infinity, expected finite values; draw them anew")
    return array
