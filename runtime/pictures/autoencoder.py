"""Pictures to latents and back."""

import numpy as np

from latentrt.engines.batches import in_batches
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise


def latents_from_pixels(engine: Engine, space: LatentSpace, pixels: Array, noise: Noise, count: int) -> Array:
    """Samples latents of pictures from the encoder's posterior.

    Args:
        engine: the VAE encoder.
        space: the latents' scale.
        pixels: (M, 3, H, W) float32 in [−1, 1]; M is ``count`` or divides it.
        noise: the run's noise; the posterior's sample is drawn before any other.
        count: N, pictures in the run.

    Returns:
        (N, C, H/f, W/f) float32, scaled for the U-Net. As in diffusers, one seed for the whole batch samples
        each distinct picture once; seeds per picture sample each picture of the run.
    """
    moments = in_batches(engine, "sample", pixels, "latent_parameters")
    drawn = count if noise.per_picture else len(pixels)
    mean, logvar = np.split(np.tile(moments, (drawn // len(moments), 1, 1, 1)), 2, axis=1)
    deviation = np.exp(np.float32(0.5) * np.clip(logvar, -30.0, 20.0))
    sample = mean + deviation * noise(drawn)
    return np.tile(space.scaled(sample), (count // drawn, 1, 1, 1))


def pixels_from_latents(engine: Engine, space: LatentSpace, latents: Array) -> Array:
    """Decodes latents (N, C, H/f, W/f) to pictures (N, H, W, 3) float32 in [0, 1].

    Raises:
        EngineError: the decoder returned NaN or infinity.
    """
    return pixels_from_output(in_batches(engine, "latent_sample", space.unscaled(latents), "sample"))


def pixels_from_output(pixels: Array) -> Array:
    """What a decoder returned, (N, 3, H, W) in [−1, 1], as pictures (N, H, W, 3) float32 in [0, 1].

    Raises:
        EngineError: NaN or infinity.
    """
    if not np.isfinite(pixels).all():
        raise EngineError(
            "the VAE decoder returned NaN or infinity, expected finite pixels; lower guidance_scale, build an fp16 "
            "bundle again with --fp32 vae_decoder, or find what overflows with latentrt debug --component vae_decoder"
        )
    return np.clip(pixels / 2 + np.float32(0.5), 0.0, 1.0).transpose(0, 2, 3, 1)
