"""Calls that start from pictures: how large those are, and how many there may be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.kinds import VAE_ENCODER
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.choices import choice
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import profile_for_size
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.initial_latents import (
    InitialLatents,
    KeptPixels,
    Pictures,
    latents_from_images,
    latents_from_masked,
)
from latentrt.runtime.call.keywords.options import Options, set_options
from latentrt.runtime.call.request import Request, request_from_options
from latentrt.runtime.call.sizes.canvas import SourceSize
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.pictures.arrays import pictures_from_argument, size_of
from latentrt.runtime.pictures.masked_content import MaskedContent
from latentrt.runtime.pictures.tiling import vae_engine
from latentrt.runtime.sampling.noise import Noise


def image_call(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    image: Any,
    strength: float | None,
    options: Options,
    additions: Additions,
) -> CheckedCall:
    """A call of ``Pipeline.img2img``, checked.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    check_workflow(manifest, Workflow.IMAGE)
    images = pictures_from_argument(image, manifest.latents.channels, latents=True)
    if options.get("denoising_start") is None:
        strength = manifest.defaults.strength if strength is None else strength
    elif strength is not None or not isinstance(images, np.ndarray):
        given = "strength" if strength is not None else "a picture"
        raise RequestError(f"got {given} with denoising_start, expected the latents of another run alone; leave it out")
    request = request_from_options(
        manifest,
        prompt,
        options,
        Workflow.IMAGE,
        strength=strength,
        source=source_size(manifest, images),
        additions=additions,
    )
    check_count(len(images), request, "images")

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        return latents_from_images(manifest, request, images, noise, lambda: encoder_of(engines, request))

    return CheckedCall(request=request, start=start)


def inpaint_call(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    image: Any,
    mask_image: Any,
    strength: float | None,
    padding_mask_crop: int | None,
    kept_pixels: str | KeptPixels,
    masked_content: str | MaskedContent,
    options: Options,
    additions: Additions,
) -> CheckedCall:
    """A call of ``Pipeline.inpaint``, checked.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    from latentrt.runtime.pictures.mask import inpaint_input_from_pictures, masks_from_argument

    check_workflow(manifest, Workflow.INPAINT)
    if choice(KeptPixels, kept_pixels, "kept_pixels") is KeptPixels.DECODED and padding_mask_crop is not None:
        raise RequestError(
            "got kept_pixels 'decoded' with padding_mask_crop, which pastes into the picture; leave one out"
        )
    content = choice(MaskedContent, masked_content, "masked_content")
    images = pictures_from_argument(image, manifest.latents.channels, latents=False)
    masks = masks_from_argument(mask_image)
    source = source_size(manifest, images) if padding_mask_crop is None else None
    if strength is None:
        strength = manifest.defaults.strength if manifest.unet_takes_mask else 1.0
    request = request_from_options(
        manifest, prompt, options, Workflow.INPAINT, strength=strength, source=source, additions=additions
    )
    request = replace(request, masked_content=content)
    check_count(len(images), request, "images")
    check_count(len(masks), request, "masks")
    profile = request.canvas.profile
    inputs = inpaint_input_from_pictures(
        list(images), masks, profile.width, profile.height, padding_mask_crop=padding_mask_crop
    )

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        initial = latents_from_masked(manifest, request, inputs, noise, lambda: encoder_of(engines, request))
        return replace(initial, paste=None) if kept_pixels == KeptPixels.DECODED else initial

    return CheckedCall(request=request, start=start)


def outpaint_call(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    image: Any,
    strength: float | None,
    options: Options,
    additions: Additions,
    **sides: int,
) -> CheckedCall:
    """A call of ``Pipeline.outpaint``, checked: one of ``inpaint`` on a canvas around the picture.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    from latentrt.runtime.pictures.arrays import picture_from_argument
    from latentrt.runtime.pictures.outpaint import outpaint_canvas

    set_options(options)
    check_workflow(manifest, Workflow.INPAINT)
    picture = picture_from_argument(image, manifest.latents.channels)
    canvas, mask = outpaint_canvas(picture, **sides)
    profile_for_size(
        manifest.profiles,
        *canvas.size,
        multiple=manifest.pixel_multiple,
        remedy="pad the picture to one of these",
    )
    wanted = options.get("width") or canvas.width, options.get("height") or canvas.height
    if wanted != canvas.size:
        raise RequestError(
            f"got size {wanted[0]}x{wanted[1]} for a canvas of {canvas.width}x{canvas.height}, expected no other; "
            "pad to the size wanted"
        )
    kept, content = KeptPixels.EXACT, MaskedContent.ORIGINAL
    return inpaint_call(manifest, prompt, canvas, mask, strength, None, kept, content, options, additions)


def encoder_of(engines: Engines, request: Request) -> Engine:
    """The VAE encoder; latents go without."""
    return vae_engine(engines, VAE_ENCODER, request.canvas.profile, request.canvas.vae)


def source_size(manifest: BundleManifest, images: Pictures) -> SourceSize:
    """That of the first picture, or of the picture that latents stand for."""
    if isinstance(images, np.ndarray):
        width, height = manifest.latents.pixel_size(images)
        remedy = f"give latents {images.shape} of a picture of one of these sizes"
    else:
        width, height = size_of(images[0])
        remedy = "resize the picture to one of these"
        if isinstance(images[0], Image.Image):
            remedy = "give width and height of one of these, to which the picture is resized"
    return SourceSize(width=width, height=height, remedy=remedy)


def check_count(given: int, request: Request, what: str) -> None:
    """Refuses pictures that are neither one for all nor one for each.

    Raises:
        RequestError: their number.
    """
    if given not in (1, request.count):
        raise RequestError(f"got {given} {what} for {request.count} pictures; give one, or one per picture")
