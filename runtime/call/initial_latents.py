"""Where a run starts: noise, a picture brought to a noise level, or a picture with a mask."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image

from latentrt.engines.bundle.manifest import BundleManifest
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.call.checks import checked_latents
from latentrt.runtime.call.request import Request
from latentrt.runtime.pictures.autoencoder import latents_from_pixels
from latentrt.runtime.pictures.image import pixels_from_image
from latentrt.runtime.pictures.mask import InpaintInput
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.schedule import Level

Picture = Image.Image | Array
Pictures = list[Picture] | Array


class KeptPixels(StrEnum):
    """What inpainting returns where nothing was redrawn: the source's own pixels, or the autoencoder's of them."""

    EXACT = "exact"
    DECODED = "decoded"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the loop begins with.

    Attributes:
        x: (N, C, H/f, W/f) float32 at the schedule's first level.
        blend: brings kept parts back after every update, given x and the level it is at (None after the last).
        channels: (N, E, H/f, W/f) that the U-Net wants beside x, or None.
        paste: the pictures that the result is laid over, or None.
    """

    x: Array
    blend: Callable[[Array, Level | None], Array] | None = None
    channels: Array | None = None
    paste: InpaintInput | None = None


def text_start(request: Request, noise: Noise) -> Start:
    """Noise of the schedule's first deviation."""
    unit = noise() if request.latents is None else request.latents
    return Start(x=unit * np.float32(request.schedule.initial_scale))


def image_start(
    manifest: BundleManifest, request: Request, images: Pictures, noise: Noise, encoder: Callable[[], Engine]
) -> Start:
    """Pictures, or latents as they are, brought to the first level that is visited.

    Where a run goes on with another's latents (``denoising_start``) no noise is added.
    """
    if isinstance(images, np.ndarray):
        given = checked_latents(images, (len(images), *request.latent_shape[1:]))
        clean = np.tile(given, (request.count // len(given), 1, 1, 1))
    else:
        width, height = request.profile.width, request.profile.height
        pixels = np.stack([pixels_from_image(picture, width, height) for picture in images])
        clean = latents_from_pixels(encoder(), manifest.latents, pixels, noise, request.count)
    steps = request.schedule.steps
    if not steps or request.denoising_start is not None:
        return Start(x=clean)
    return Start(x=steps[0].level.noised(_unscaled(request, clean), noise()))


def inpaint_start(
    manifest: BundleManifest, request: Request, inputs: InpaintInput, noise: Noise, encoder: Callable[[], Engine]
) -> Start:
    """A picture with a mask, for a U-Net with mask channels or without.

    The order of the draws is diffusers': the picture's posterior (where it is needed), the noise, the masked
    picture's posterior. A U-Net without mask channels keeps what is kept by blending: after every update the
    original, noised to the level that x is at now, replaces what the mask does not redraw.
    """
    latents, count = manifest.latents, request.count
    steps, whole = request.schedule.steps, request.strength == 1.0
    takes_mask = manifest.unet_takes_mask
    clean = None
    if not takes_mask or not whole or not steps:
        clean = _unscaled(request, latents_from_pixels(encoder(), latents, inputs.pixels, noise, count))
    unit = noise() if request.latents is None else request.latents
    mask = latents.mask(inputs.mask)
    mask = np.tile(mask, (count // len(mask), 1, 1, 1))
    if not steps and clean is not None:
        x = clean * np.float32(request.schedule.data_scale)
    elif whole or clean is None:
        x = unit * np.float32(request.schedule.initial_scale)
    else:
        x = steps[0].level.noised(clean, unit)
    if takes_mask:
        masked = latents_from_pixels(encoder(), latents, inputs.masked_pixels, noise, count)
        return Start(x=x, channels=np.concatenate([mask, masked], axis=1), paste=inputs)
    noise(count if noise.per_picture else len(inputs.pixels))  # the draw that the reference makes and does not use
    assert clean is not None  # what a U-Net without mask channels always encodes; for the type checker

    def blend(x: Array, level: Level | None, clean: Array = clean) -> Array:
        kept = clean * np.float32(request.schedule.data_scale) if level is None else level.noised(clean, unit)
        return np.asarray((1.0 - mask) * kept + mask * x, x.dtype)

    return Start(x=x, blend=blend, paste=inputs)


def _unscaled(request: Request, clean: Array) -> Array:
    """Latents in the scale that the schedule's levels are for."""
    scale = request.schedule.data_scale
    return clean if scale == 1.0 else clean / np.float32(scale)
