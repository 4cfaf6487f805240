"""Pictures as CLIP's image encoders take them, to the last bit as transformers' CLIPImageProcessor makes them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from latentrt.engines.bundle.records.conditioning import ImageEncoderRecord, Resizing
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.image import Picture, images_from_pixels, rgb_from_image


def clip_pixels(picture: Picture, size: int, mean: Sequence[float], std: Sequence[float]) -> Array:
    """A picture (3, size, size) float32: its shorter side resized (bicubic), the middle cut out, normalised.

    Args:
        picture: PIL, or (H, W, 3) float32 in [0, 1], which is rounded to 8 bits.
        size: of both sides in pixels.
        mean: what is taken from each channel of [0, 1].
        std: what each is divided by then.
    """
    image = rgb_from_image(picture) if isinstance(picture, Image.Image) else images_from_pixels(picture[None])[0]
    short, long = sorted(image.size)
    scaled = int(size * long / short)
    width, height = (size, scaled) if image.width <= image.height else (scaled, size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    cut = resized[top : top + size, left : left + size]
    unit = (cut.astype(np.float64) * (1 / 255)).astype(np.float32)
    pixels = (unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def encoder_pixels(picture: Picture, record: ImageEncoderRecord) -> Array:
    """A picture as a model's image encoder takes it: (3, s, s) float32.

    Args:
        picture: as in ``clip_pixels``.
        record: the encoder's.
    """
    if record.resizing is Resizing.CENTER_CROP:
        return clip_pixels(picture, record.size, record.mean, record.std)
    raise NotImplementedError(record.resizing)
