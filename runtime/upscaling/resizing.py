"""Arrays resized with Lanczos, by Pillow."""

import numpy as np
from PIL import Image

from latentrt.engines.spec import Array

_LANCZOS = Image.Resampling.LANCZOS


def resized(picture: Array, height: int, width: int) -> Array:
    """A picture (H, W, 3), float32 in [0, 1] or uint8, at another size and of the same type; itself where it has it.

    Pillow's filter of three lobes, which is widened where it shrinks; what it leaves beyond [0, 1] is cut off.
    """
    if picture.shape[:2] == (height, width):
        return picture
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize((width, height), _LANCZOS))
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(picture, 2, 0))
    larger = [np.asarray(plane.resize((width, height), _LANCZOS)) for plane in planes]
    return np.asarray(np.clip(np.stack(larger, axis=2), 0.0, 1.0))
