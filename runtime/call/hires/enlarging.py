"""What a first pass drew, enlarged for the second."""

from collections.abc import Callable, Mapping

from PIL import Image

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.call.hires.hires import LatentUpscaler, PictureUpscaler
from latentrt.runtime.call.hires.second_pass import SecondPass
from latentrt.runtime.call.initial_latents import Pictures
from latentrt.runtime.pictures.autoencoder import pixels_from_latents
from latentrt.runtime.pictures.image import images_from_pixels
from latentrt.runtime.pictures.interpolation import Interpolation, interpolated

_INTERPOLATIONS: Mapping[LatentUpscaler, Interpolation] = {
    LatentUpscaler.LATENT: Interpolation.BILINEAR,
    LatentUpscaler.LATENT_ANTIALIASED: Interpolation.BILINEAR_ANTIALIASED,
    LatentUpscaler.LATENT_BICUBIC: Interpolation.BICUBIC,
    LatentUpscaler.LATENT_BICUBIC_ANTIALIASED: Interpolation.BICUBIC_ANTIALIASED,
    LatentUpscaler.LATENT_NEAREST: Interpolation.NEAREST,
    LatentUpscaler.LATENT_NEAREST_EXACT: Interpolation.NEAREST_EXACT,
}
_FILTERS: Mapping[PictureUpscaler, Image.Resampling] = {
    PictureUpscaler.LANCZOS: Image.Resampling.LANCZOS,
    PictureUpscaler.BICUBIC: Image.Resampling.BICUBIC,
    PictureUpscaler.NEAREST: Image.Resampling.NEAREST,
}


def enlarged(second: SecondPass, space: LatentSpace, latents: Array, decoder: Callable[[], Engine]) -> Pictures:
    """What the second pass starts from: latents of its size, or pictures that are encoded at its size.

    Between decoding and encoding pictures have 8 bits, as one that is saved has: the second pass draws what
    image-to-image draws of the picture of the first.

    Args:
        second: the pass.
        space: the latents' scale.
        latents: (N, C, h, w) of the first one.
        decoder: opens the VAE decoder at the first one's size.
    """
    request, upscaler = second.request, second.upscaler
    if isinstance(upscaler, LatentUpscaler):
        height, width = request.latent_shape[-2:]
        return interpolated(latents, height, width, _INTERPOLATIONS[upscaler])
    profile = request.canvas.profile
    pixels = pixels_from_latents(decoder(), space, latents)
    if isinstance(upscaler, PictureUpscaler):
        size = profile.width, profile.height
        return [image.resize(size, _FILTERS[upscaler]) for image in images_from_pixels(pixels)]
    return list(images_from_pixels(upscaler.upscaled(pixels, float(second.hires.scale))))  # the last pixel is Lanczos's
