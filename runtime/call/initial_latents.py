"""Where a run starts: noise, a picture brought to a noise level, or a picture with a mask."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.call.request import Request
from latentrt.runtime.checks import checked_latents
from latentrt.runtime.denoiser.conditions.condition import Condition
from latentrt.runtime.denoiser.conditions.mask import mask_condition
from latentrt.runtime.pictures.autoencoder import latents_from_pixels
from latentrt.runtime.pictures.image import Picture, pixels_from_image
from latentrt.runtime.pictures.masked_content import MaskedContent, filled
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Keep

if TYPE_CHECKING:
    from latentrt.runtime.denoiser.conditions.text import TextCondition
    from latentrt.runtime.pictures.mask import InpaintInput

Pictures = list[Picture] | Array


class KeptPixels(StrEnum):
    """What inpainting returns where nothing was redrawn: the source's own pixels, or the autoencoder's of them."""

    EXACT = "exact"
    DECODED = "decoded"


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialLatents:
    """What a run begins with.

    Attributes:
        x: (N, C, H/f, W/f) float32 at the schedule's first level.
        keep: what stays as it is, for a U-Net without mask channels.
        conditions: what the U-Net is told of the picture.
        seen: what an image encoder saw, which the U-Net attends to in the place of prompts; None: it reads prompts.
        paste: the pictures that the result is laid over, or None.
    """

    x: Array
    keep: Keep | None = None
    conditions: tuple[Condition, ...] = ()
    seen: "TextCondition | None" = None
    paste: "InpaintInput | None" = None


def latents_from_noise(request: Request, noise: Noise) -> InitialLatents:
    """Noise of the schedule's first deviation."""
    sampling = request.sampling
    unit = noise() if sampling.latents is None else sampling.latents
    return InitialLatents(x=unit * np.float32(sampling.schedule.initial_scale))


def latents_from_images(
    manifest: BundleManifest, request: Request, images: Pictures, noise: Noise, encoder: Callable[[], Engine]
) -> InitialLatents:
    """Pictures, or latents as they are, brought to the first level that is visited.

    Where a run goes on with another's latents (``denoising_start``) no noise is added.
    """
    if isinstance(images, np.ndarray):
        given = checked_latents(images, (len(images), *request.latent_shape[1:]))
        clean = np.tile(given, (request.count // len(given), 1, 1, 1))
    else:
        profile = request.canvas.profile
        pixels = np.stack([pixels_from_image(picture, profile.width, profile.height) for picture in images])
        clean = latents_from_pixels(encoder(), manifest.latents, pixels, noise, request.count)
    steps = request.sampling.schedule.steps
    if not steps or request.sampling.denoising_start is not None:
        return InitialLatents(x=clean)
    return InitialLatents(x=steps[0].level.noised(_unscaled(request, clean), noise()))


def latents_from_masked(
    manifest: BundleManifest, request: Request, inputs: "InpaintInput", noise: Noise, encoder: Callable[[], Engine]
) -> InitialLatents:
    """A picture with a mask, for a U-Net with mask channels or without.

    The order of the draws is diffusers': the picture's posterior (where it is needed), the noise, the masked
    picture's posterior. A U-Net without mask channels keeps what is kept by blending.
    """
    space, count, sampling, content = manifest.latents, request.count, request.sampling, request.masked_content
    steps, whole = sampling.schedule.steps, sampling.strength == 1.0
    clean = None
    if not manifest.unet_takes_mask or not whole or not steps:
        pixels = filled(inputs.pixels, inputs.mask) if content is MaskedContent.FILL else inputs.pixels
        clean = _unscaled(request, latents_from_pixels(encoder(), space, pixels, noise, count))
    unit = noise() if sampling.latents is None else sampling.latents
    mask = space.mask(inputs.mask)
    mask = np.tile(mask, (count // len(mask), 1, 1, 1))
    if not steps and clean is not None:
        x = clean * np.float32(sampling.schedule.data_scale)
    elif whole or clean is None:
        x = unit * np.float32(sampling.schedule.initial_scale)
    else:
        x = steps[0].level.noised(_begun(clean, mask, unit, content), unit)
    if manifest.unet_takes_mask:
        masked = latents_from_pixels(encoder(), space, inputs.masked_pixels, noise, count)
        return InitialLatents(x=x, conditions=(mask_condition(mask, masked),), paste=inputs)
    noise(count if noise.per_picture else len(inputs.pixels))  # the draw that the reference makes and does not use
    assert clean is not None  # what a U-Net without mask channels always encodes; for the type checker
    keep = Keep(mask=mask, clean=clean, noise=unit, data_scale=sampling.schedule.data_scale)
    return InitialLatents(x=x, keep=keep, paste=inputs)


def _begun(clean: Array, mask: Array, unit: Array, content: MaskedContent) -> Array:
    """What is noised: the latents, with others under the mask where they are wanted.

    The noise is the run's own, as in A1111, which draws both from the picture's seed.
    """
    if content is MaskedContent.NOISE:
        return np.where(mask > 0, unit, clean)
    return np.where(mask > 0, np.float32(0), clean) if content is MaskedContent.NOTHING else clean


def _unscaled(request: Request, clean: Array) -> Array:
    """Latents in the scale that the schedule's levels are for."""
    scale = request.sampling.schedule.data_scale
    return clean if scale == 1.0 else clean / np.float32(scale)
