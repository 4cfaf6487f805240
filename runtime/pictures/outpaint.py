"""Outpainting: a picture on a larger canvas and the mask of what is new, ready for inpainting."""

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.checks import whole
from latentrt.runtime.pictures.arrays import rgb_array
from latentrt.runtime.pictures.image import images_from_pixels, rgb_from_image

# The new area's blur grows with the distance to the picture: by how many pixels of radius per pixel, in few steps
_BLUR_PER_PIXEL = 0.25
_BLURS = (2.0, 4.0, 8.0, 16.0, 32.0)
_MOST_PIXELS = 4096 * 4096  # beyond any profile; the canvas and its blurs take up to 64 bytes a pixel
_FADE_FROM = 128  # of 255: what inpainting still redraws


def outpaint_canvas(
    image: Image.Image | Array, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0, overlap: int = 0
) -> tuple[Image.Image, Image.Image]:
    """A picture with room around it, and the mask that says what to draw.

    The room is filled with the picture's edge, carried outwards and blurred more the farther it goes: a start from
    which a model without mask channels can go on at a strength below 1.

    Args:
        image: PIL of any mode, or an array as ``rgb_array`` reads it.
        left: pixels to add on that side, as with the three that follow.
        top: pixels.
        right: pixels.
        bottom: pixels.
        overlap: pixels of the picture, along the sides that grow, that are drawn anew as well. Across them the mask
            fades from white to middle grey, and ``paste_back`` fades the drawn picture into the source.

    Returns:
        The canvas, RGB, and the mask, L, both (left + w + right) × (top + h + bottom) pixels. Where the mask is
        black the canvas is the picture, pixel for pixel.

    Raises:
        RequestError: a canvas beyond 4096² pixels, a padding or overlap below 0 or not whole, no padding at all, an
            overlap that covers the picture, or something that is no picture.
    """
    paddings = {"left": left, "top": top, "right": right, "bottom": bottom}
    for name, value in (paddings | {"overlap": overlap}).items():
        _check_pixels(name, value)
    if not any(paddings.values()):
        raise RequestError("got no padding on any side, expected some to draw in; give left, top, right or bottom")
    picture = _picture(image)
    width, height = picture.width + left + right, picture.height + top + bottom
    if width * height > _MOST_PIXELS:
        raise RequestError(f"got a canvas of {width}x{height}, expected at most {_MOST_PIXELS} pixels; pad less")
    distance = _distance((picture.height, picture.width), left=left, top=top, right=right, bottom=bottom)
    if overlap > 0 and not (distance <= -overlap).any():
        raise RequestError(
            f"got overlap {overlap} for a picture of {picture.width}x{picture.height}, expected less than covers it; "
            "make it smaller"
        )
    fade = np.ceil(255 + (distance - 1) * ((255 - _FADE_FROM) / max(overlap, 1)))
    grey = np.where(distance > 0, 255, np.where(distance > -overlap, fade, 0)).astype(np.uint8)
    canvas = _filled(np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge"), distance)
    canvas.paste(picture, (left, top))
    return canvas, Image.fromarray(grey)


def _distance(size: tuple[int, int], *, left: int, top: int, right: int, bottom: int) -> Array:
    """How far each pixel of the canvas lies outside the picture: 1 beside it; 0, −1, … going in from a grown side."""

    def along(length: int, before: int, after: int) -> Array:
        place = np.arange(-before, length + after)
        outside = np.full(len(place), -length - max(size))  # a side that does not grow is far away
        if before:
            outside = np.maximum(outside, -place)
        if after:
            outside = np.maximum(outside, place - (length - 1))
        return outside

    return np.asarray(np.maximum(along(size[0], top, bottom)[:, None], along(size[1], left, right)[None]))


def _filled(extended: Array, distance: Array) -> Image.Image:
    """Mixes blurs of the extended picture, so that the radius grows with the distance."""
    image = Image.fromarray(extended)
    wanted = np.maximum(distance, 0) * _BLUR_PER_PIXEL
    result = extended.astype(np.float32)
    below = 0.0
    for radius in _BLURS:
        share = np.clip((wanted - below) / (radius - below), 0.0, 1.0).astype(np.float32)[..., None]
        if not share.any():
            break
        result += share * (np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) - result)
        below = radius
    return Image.fromarray(result.round().astype(np.uint8))


def _picture(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        return images_from_pixels(rgb_array(image)[None])[0]
    if 0 in image.size:
        raise RequestError(f"got image {(image.height, image.width, 3)}, expected some pixels; give another picture")
    return rgb_from_image(image)


def _check_pixels(name: str, value: Any) -> None:
    if whole(value, name) < 0:
        raise RequestError(f"got {name} {value!r}, expected a whole number of pixels from 0; give one")
