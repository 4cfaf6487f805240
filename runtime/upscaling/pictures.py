"""Pictures of the forms in which callers have them, through what enlarges arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import is_array
from latentrt.runtime.pictures.arrays import pictures_from_argument
from latentrt.runtime.pictures.image import rgb_from_image

_NO_LATENTS = -1  # channels that no array has: none of them is taken for latents
Enlarge = Callable[..., Array]
"""``Upscaler.upscaled``."""


def upscaled_pictures(enlarge: Enlarge, image: Any, scale: float | None, progress: Any) -> Any:
    """``Upscaler.upscale``, whose arguments and errors these are.

    Args:
        enlarge: takes pixels, a scale and ``progress``.
        image: the picture or pictures.
        scale: of all.
        progress: is told of tiles.
    """
    if isinstance(image, Image.Image):
        return _upscaled_image(enlarge, image, scale, progress)
    if is_array(image):
        pictures = pictures_from_argument(image, _NO_LATENTS, latents=False)
        enlarged = enlarge(np.stack([np.asarray(one, np.float32) for one in pictures]), scale, progress=progress)
        return enlarged if np.ndim(image) == 4 else enlarged[0]
    if not isinstance(image, Sequence) or isinstance(image, (str, bytes)) or not image:
        raise RequestError(
            f"got image {repr(image)[:200]}, expected a PIL picture, an array (height, width, 3), or a list of them; "
            "give one"
        )
    return [upscaled_pictures(enlarge, one, scale, progress) for one in image]


def _upscaled_image(enlarge: Enlarge, image: Image.Image, scale: float | None, progress: Any) -> Image.Image:
    """A PIL picture; its transparency, where it has some, goes through as grey."""
    if not image.has_transparency_data or image.mode == "La":
        return Image.fromarray(enlarge(_stacked(rgb_from_image(image)), scale, progress=progress)[0])
    layers = image.convert("RGBA")
    alpha = layers.getchannel("A")
    opaque = alpha.getextrema()[0] == 255
    pixels = [layers.convert("RGB"), *([] if opaque else [alpha.convert("RGB")])]
    colours, *masks = enlarge(_stacked(*pixels), scale, progress=progress)
    mask = np.rint(masks[0].mean(2)).astype(np.uint8) if masks else np.full(colours.shape[:2], 255, np.uint8)
    return Image.fromarray(np.dstack([colours, mask]))


def _stacked(*images: Image.Image) -> Array:
    return np.stack([np.asarray(image) for image in images])
