"""Control pictures: any picture, and the pictures of inpainting nets, which hold −1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array, is_array
from latentrt.runtime.pictures.arrays import channels_last, pictures_from_argument, rgb_array, size_of
from latentrt.runtime.pictures.crop import Crop, fit_and_fill
from latentrt.runtime.pictures.image import Picture, array_from_image, images_from_pixels, rgb_from_image


def control_pictures_from_argument(image: Any, latent_channels: int, what: str) -> list[Picture]:
    """The control picture or pictures that a caller gave, as ``pictures_from_argument`` reads them.

    An array whose only numbers below 0 are −1 marks with them what is to be redrawn (``latentrt.prepare.inpaint``), and
    is taken as it is.

    Args:
        image: PIL, an array or torch's tensor, or a list of them.
        latent_channels: of the model.
        what: whose pictures they are, for errors.

    Raises:
        RequestError: none, or something that is no picture.
    """
    name = f"image of {what}"
    given = image if isinstance(image, (list, tuple)) else [image]
    if not any(is_array(one) and _is_marked(one, name) for one in given):
        return list(pictures_from_argument(image, latent_channels, latents=False, name=name))
    pictures: list[Picture] = []
    for one in given:
        if is_array(one) and _is_marked(one, name):
            pictures += [_marked(array, name) for array in channels_last(one, name)]
        else:
            pictures += pictures_from_argument(one, latent_channels, latents=False, name=name)
    return pictures


def check_size(pictures: Sequence[Picture], width: int, height: int, what: str) -> None:
    """Refuses arrays of another size than the pictures that are drawn; PIL pictures are resized.

    Raises:
        RequestError: naming both sizes.
    """
    for picture in pictures:
        if not isinstance(picture, Image.Image) and size_of(picture) != (width, height):
            own = size_of(picture)
            raise RequestError(
                f"got an array of {own[0]}x{own[1]} as image of {what}, expected {width}x{height}, as it is drawn; "
                "resize it, or give a PIL picture, which is resized"
            )


def control_pixels(picture: Picture, width: int, height: int, crop: Crop | None, what: str) -> Array:
    """A control picture (3, H, W) float32 in [0, 1], or −1, as it is given to a net.

    Resized with Lanczos, as diffusers does. With a crop it lies over the picture that is cropped, and its part is
    brought to the model's size as that picture's is.

    Args:
        picture: of ``control_pictures_from_argument``.
        width: of the model's picture, in pixels.
        height: in pixels.
        crop: the part that is drawn; None: all.
        what: whose picture it is, for errors.

    Raises:
        RequestError: an array of another size.
    """
    if isinstance(picture, np.ndarray) and (crop is None or picture.min() < 0.0):
        check_size([picture], width, height, f"{what}, which is not cropped" if crop else what)
        return np.ascontiguousarray(np.moveaxis(picture, -1, 0))
    if crop is None:
        return np.ascontiguousarray(np.moveaxis(array_from_image(picture, width, height), -1, 0))
    if isinstance(picture, np.ndarray):
        check_size([picture], *crop.size, what)
        layer = images_from_pixels(picture[None])[0]
    else:
        layer = rgb_from_image(picture)
        if layer.size != crop.size:
            layer = layer.resize(crop.size, resample=Image.Resampling.LANCZOS)
    part = fit_and_fill(layer.crop(crop.box), width, height)
    return np.ascontiguousarray(np.moveaxis(np.asarray(part, np.float32) / np.float32(255.0), -1, 0))


def _is_marked(value: Any, name: str) -> bool:
    """Whether all numbers below 0 are −1, and there are some."""
    array = as_array(value, name)
    if not np.issubdtype(array.dtype, np.floating):
        return False
    below = array[array < 0.0]
    return bool(below.size) and bool((below == -1.0).all())


def _marked(array: Array, name: str) -> Array:
    """A marked picture (H, W, C) as (H, W, 3) float32.

    Raises:
        RequestError: another number of channels, or values that are none of a picture's.
    """
    if array.shape[2] != 3:
        raise RequestError(
            f"got {name} {array.shape} with −1, expected (height, width, 3); make it with latentrt.prepare.inpaint"
        )
    floats = array.astype(np.float32)
    rgb_array(np.maximum(floats, 0.0))  # for its checks
    return floats
