"""Pictures as CLIP's image encoders take them: as transformers' CLIPImageProcessor makes them, or a model's own way."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from latentrt.engines.bundle.records.conditioning import ImageEncoderRecord, Resizing
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.image import Picture, images_from_pixels, rgb_from_image
from latentrt.runtime.pictures.interpolation import Interpolation, pixel_weights

_LEAST_SIGMA, _LEAST_KERNEL = 0.001, 3  # of the blur; they leave a picture as it is


def clip_pixels(picture: Picture, size: int, mean: Sequence[float], std: Sequence[float]) -> Array:
    """A picture (3, size, size) float32: its shorter side resized (bicubic), the middle cut out, normalised.

    To the last bit what transformers makes.

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
    return _normalized((cut.astype(np.float64) * (1 / 255)).astype(np.float32), mean, std)


def encoder_pixels(picture: Picture, record: ImageEncoderRecord) -> Array:
    """A picture as a model's image encoder takes it: (3, s, s) float32.

    Args:
        picture: PIL, laid on white where it is transparent, or (H, W, 3) float32 in [0, 1].
        record: the encoder's.
    """
    if record.resizing is Resizing.CENTER_CROP:
        return clip_pixels(picture, record.size, record.mean, record.std)
    if isinstance(picture, Image.Image):
        picture = np.asarray(rgb_from_image(picture), np.float32) / np.float32(255)
    rows, columns = (_line_weights(side, record.size, record.resizing) for side in picture.shape[:2])
    squeezed = rows @ picture.transpose(2, 0, 1).astype(np.float32) @ columns.T
    return _normalized(squeezed.transpose(1, 2, 0), record.mean, record.std)


def _normalized(unit: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(3, s, s) float32 of (s, s, 3) in [0, 1]."""
    pixels = (unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _line_weights(count: int, size: int, resizing: Resizing) -> Array:
    """How much of each pixel of a line is in each of the square's: (size, count) float32.

    As both blur and resizing are sums along lines, one matrix does them together.
    """
    weights = pixel_weights(count, size, Interpolation.BICUBIC_ALIGNED)
    if resizing is Resizing.BLURRED:
        weights = _behind_blur(weights, count / size)
    return weights.astype(np.float32)


def _behind_blur(weights: Array, factor: float) -> Array:
    """Weights (n, count) of a line's pixels before it is blurred, of those behind the blur, which mirrors its ends.

    The width of the blur is scikit-image's for a line that becomes ``factor`` times shorter, as kornia and diffusers'
    ``_resize_with_antialiasing`` take it.
    """
    sigma = max((factor - 1) / 2, _LEAST_SIGMA)
    reach = int(max(4 * sigma, _LEAST_KERNEL)) // 2
    kernel = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    count = weights.shape[1]
    blurred = np.zeros((count, len(weights)))
    mirrored = np.pad(np.arange(count), reach, mode="reflect")
    for offset, share in enumerate(kernel / kernel.sum()):
        np.add.at(blurred, mirrored[offset : offset + count], share * weights.T)
    return blurred.T
