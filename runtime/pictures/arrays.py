"""The pictures that callers give: PIL, or arrays in the layouts in which users of NumPy and torch have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array, is_array, is_tensor
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.pictures.image import Picture, rgb_from_image

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_CLOSE = 0.02  # part of the proportions by which nobody sees a picture stretched
_ROUNDING = 1e-3  # how far a picture that was computed may leave its range


def pictures_from_argument(
    image: Any, latent_channels: int, *, latents: bool, name: str = "image"
) -> list[Picture] | Array:
    """The picture or pictures that a call starts from.

    Args:
        image: PIL, an array or torch's tensor, or a list of them. An array is one picture, (H, W), (H, W, C) or
            (C, H, W) with C of 1, 3 or 4, or several: (N, H, W, C) or (N, C, H, W).
        latent_channels: C of the model's latents: so many channels that come first are latents, as in diffusers.
        latents: whether the call takes latents, too.
        name: what errors call it.

    Returns:
        PIL pictures as they are and arrays as (H, W, 3) float32 in [0, 1]; or latents (N, C, h, w) as they are.

    Raises:
        RequestError: none, or something that is no picture.
    """
    if is_array(image) and (found := _latents(image, latent_channels)) is not None:
        if latents:
            return found
        raise RequestError(
            f"got {name} {np.shape(image)}, which are latents where the channels come first, expected a picture; give "
            "RGBA as (height, width, 4)"
        )
    given = [image] if isinstance(image, Image.Image) or is_array(image) else image
    if not isinstance(given, (list, tuple)) or not given:
        raise RequestError(f"got {name} {_named(image)}, expected a PIL picture, an array, or a list of them; give one")
    parts: list[Image.Image | list[Array]] = []
    for one in given:
        if is_array(one) and _latents(one, latent_channels) is not None:
            raise RequestError(
                f"got a list with latents {np.shape(one)}, expected one array (N, {latent_channels}, h, w); stack them"
            )
        if not (isinstance(one, Image.Image) or is_array(one)):
            raise RequestError(
                f"got {name} {_named(one)}, expected a PIL picture or an array (height, width, 3); convert it"
            )
        parts.append(one if isinstance(one, Image.Image) else channels_last(one, name))
    arrays = iter(_rgb([array for part in parts if isinstance(part, list) for array in part]))
    return [
        picture
        for part in parts
        for picture in ([part] if isinstance(part, Image.Image) else [next(arrays) for _ in part])
    ]


def picture_from_argument(image: Any, latent_channels: int) -> Picture:
    """The one picture that a call starts from, as ``pictures_from_argument`` reads it.

    Raises:
        RequestError: none or several, or something that is no picture.
    """
    pictures = pictures_from_argument(image, latent_channels, latents=False)
    if len(pictures) != 1:
        raise RequestError(f"got {len(pictures)} pictures, expected one; call once for each")
    return pictures[0]


def rgb_array(image: Any) -> Array:
    """One picture as (H, W, 3) float32 in [0, 1], from an array of any layout and range that a call takes.

    Raises:
        RequestError: something else, or several pictures.
    """
    if not is_array(image):
        raise RequestError(
            f"got image {_named(image)}, expected a PIL picture or an array (height, width, 3); give one"
        )
    pictures = channels_last(image, "image")
    if len(pictures) != 1:
        raise RequestError(
            f"got image {np.shape(image)}, expected one picture (height, width, 3); give them one by one"
        )
    return _rgb(pictures)[0]


def size_of(image: Picture) -> tuple[int, int]:
    """Width and height of a picture."""
    if isinstance(image, Image.Image):
        return image.size
    return int(image.shape[1]), int(image.shape[0])


def warn_of_proportions(image: Picture, profile: Profile, remedy: str) -> None:
    """Says that a picture is stretched to the size drawn; arrays of that size already are not.

    Args:
        image: as it was given.
        profile: what it is resized to.
        remedy: what to do instead.
    """
    width, height = size_of(image)
    stretch = (profile.width / profile.height) / (width / height)
    if not 1 - _CLOSE <= stretch <= 1 + _CLOSE:
        warn_caller(f"a picture of {width}x{height} is stretched to {profile.width}x{profile.height} pixels; {remedy}")


def _latents(value: Any, channels: int) -> Array | None:
    """Latents (N, C, h, w), if an array's channels, which come first, are as many as those of latents."""
    shape = np.shape(value)
    if len(shape) == 4 and shape[1] == channels:
        return as_array(value, "latents")
    if len(shape) == 3 and shape[0] == channels and (is_tensor(value) or shape[2] not in _CHANNELS):
        return as_array(value, "latents")[None]
    return None


def channels_last(value: Any, name: str) -> list[Array]:
    """The pictures (H, W, C) of an array; where both ends could be channels, torch has them first and NumPy last."""
    array = as_array(value, name)
    if array.ndim == 2:
        array = array[..., None]
    last, first = (array.ndim in (3, 4) and array.shape[place] in _CHANNELS for place in (-1, -3))
    if not (last or first) or 0 in array.shape:
        raise RequestError(
            f"got {name} {np.shape(value)}, expected an array (height, width, C) or (C, height, width) with 1, 3 or 4 "
            "channels, or (N, height, width, C) or (N, C, height, width) for several; change its layout"
        )
    if first and (is_tensor(value) or not last):
        array = np.moveaxis(array, -3, -1)
    return list(array) if array.ndim == 4 else [array]


def _rgb(pictures: Sequence[Array]) -> list[Array]:
    """Pictures (H, W, C) as (H, W, 3) float32 in [0, 1]: grey in three channels, transparency on white.

    Floats that go below 0 are taken for [−1, 1], all of a call's together, as diffusers does.
    """
    for picture in pictures:
        if picture.dtype not in (np.uint8, np.bool_) and not np.issubdtype(picture.dtype, np.floating):
            raise RequestError(
                f"got an image array of {picture.dtype}, expected uint8, or floats in [0, 1]; convert it"
            )
    floats = [picture for picture in pictures if np.issubdtype(picture.dtype, np.floating)]
    lowest = float(np.min([one.min() for one in floats], initial=0.0))
    highest = float(np.max([one.max() for one in floats], initial=0.0))
    if not (lowest >= -1.0 - _ROUNDING and highest <= 1.0 + _ROUNDING):  # not so with NaN, either
        held = "NaN" if np.isnan(lowest) else f"values from {lowest:g} to {highest:g}"
        raise RequestError(f"got an image array with {held}, outside [0, 1]; give uint8, or floats in [0, 1]")
    signed = lowest < -_ROUNDING
    if signed:
        warn_caller(
            f"image has values from {lowest:.3g} to {highest:.3g} and is read as [−1, 1]; give floats in [0, 1], which "
            "leave no doubt: (image + 1) / 2"
        )
    return [_coloured(picture, signed=signed) for picture in pictures]


def _coloured(picture: Array, *, signed: bool) -> Array:
    """One picture (H, W, C), whose range was checked, as (H, W, 3) float32 in [0, 1]."""
    if picture.dtype == np.uint8:
        if picture.shape[2] == 4:
            picture = np.asarray(rgb_from_image(Image.fromarray(picture)))
        floats = picture.astype(np.float32) / np.float32(255.0)
    else:
        floats = picture.astype(np.float32)
        if signed and np.issubdtype(picture.dtype, np.floating):
            floats = (floats + np.float32(1.0)) / np.float32(2.0)
        floats = np.clip(floats, 0.0, 1.0)
    if floats.shape[2] == 4:
        colours, alpha = floats[..., :3], floats[..., 3:]
        return np.asarray(colours * alpha + (np.float32(1.0) - alpha))
    return np.repeat(floats, 3, axis=2) if floats.shape[2] == 1 else floats


def _named(value: Any) -> str:
    return f"{type(value).__name__} {np.shape(value)}" if hasattr(value, "shape") else repr(value)[:200]
