"""Pictures that a model is told of: seen by its image encoder, or as latents behind the noised ones."""

from collections.abc import Mapping

import numpy as np

from latentrt.engines.batches import in_batches
from latentrt.engines.bundle.records.conditioning import ImageEncoderRecord
from latentrt.engines.bundle.unet.net_inputs import IMAGE_EMBEDS, PIXELS
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, FixedCondition
from latentrt.runtime.denoiser.conditions.text import STATES, TextCondition, fixed_text
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Side
from latentrt.runtime.pictures.clip_pixels import encoder_pixels
from latentrt.runtime.pictures.image import Picture


def image_embeds(engine: Engine, record: ImageEncoderRecord, pictures: list[Picture]) -> Array:
    """What the image encoder makes of M pictures: (M, width) float32."""
    pixels = np.stack([encoder_pixels(picture, record) for picture in pictures])
    return in_batches(engine, PIXELS, pixels, IMAGE_EMBEDS)


def seen_condition(tokens: Array) -> TextCondition:
    """What the U-Net attends to in place of prompts: (N, 1, width), and zeros in the unconditional half."""
    of_pass = {POSITIVE: fixed_text({STATES: tokens}), NEGATIVE: fixed_text({STATES: np.zeros_like(tokens)})}
    return TextCondition(of_pass=of_pass, chunks=1)


def concatenated_condition(latents: Mapping[Side, Array]) -> FixedCondition:
    """Latents of a picture behind the noised ones: (N, C, h, w) by side, or (N, F, C, h, w)."""
    return FixedCondition({side: {SAMPLE: one} for side, one in latents.items()})


def image_latents(engine: Engine, pixels: Array) -> Array:
    """The posterior's mean, in the autoencoder's own scale: (M, C, h, w) of pixels (M, 3, H, W) in [−1, 1]."""
    mean, _ = np.split(in_batches(engine, "sample", pixels, "latent_parameters"), 2, axis=1)
    return np.asarray(mean)
