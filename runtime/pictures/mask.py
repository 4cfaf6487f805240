"""Inpainting: what a picture and its mask become for the model, and the way back to a picture.

A mask says what to redraw: 0.5 (128 of 255) and above is redrawn, below is kept. Sizes, resampling and the crop
region follow diffusers' inpaint pipelines; kept pixels come back exactly, which theirs do not where a mask is grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.pixels import normalized
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array, is_array
from latentrt.runtime.checks import whole
from latentrt.runtime.pictures.arrays import rgb_array, size_of
from latentrt.runtime.pictures.crop import Box, Crop, cover, crop_region, fit_and_fill
from latentrt.runtime.pictures.image import Picture, array_from_image, images_from_pixels, rgb_from_image

_REDRAWN_FROM = 128  # of 255: the first 8-bit value at or above one half


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """How one drawn picture returns to its source.

    Attributes:
        source: (h, w, 3) float32 in [0, 1]: the user's picture, or what it was resized to without a crop.
        weight: (h, w, 1) float32: how much of the drawn picture shows, 0 wherever the mask says keep.
        box: the part of the source that was drawn, or None for all of it.
    """

    source: Array
    weight: Array
    box: Box | None


@dataclass(frozen=True, kw_only=True, eq=False)
class InpaintInput:
    """M pictures with their masks at the model's size, and the way back.

    Attributes:
        pixels: (M, 3, H, W) float32 in [−1, 1].
        mask: (M, 1, H, W) float32: 1 is redrawn, 0 is kept.
        overlays: one per picture, for ``paste_back``.
    """

    pixels: Array
    mask: Array
    overlays: tuple[Overlay, ...]

    @property
    def masked_pixels(self) -> Array:
        """The pictures (M, 3, H, W) with mid-grey, 0, wherever they are redrawn."""
        return np.asarray(self.pixels * (self.mask < 0.5))

    @property
    def crops(self) -> tuple[Crop, ...]:
        """Which parts of their sources were drawn; none where all of them is."""
        return tuple(
            Crop(size=(overlay.source.shape[1], overlay.source.shape[0]), box=overlay.box)
            for overlay in self.overlays
            if overlay.box is not None
        )


def masks_from_argument(mask_image: Any, name: str = "mask_image") -> list[Picture]:
    """The mask or masks that a caller gave: PIL, an array or torch's tensor, or a list of them.

    An array is one mask, (H, W), (H, W, 1) or (1, H, W), or several: (N, H, W), (N, H, W, 1) or (N, 1, H, W).

    Args:
        mask_image: what the caller gave.
        name: of the argument, for errors.

    Returns:
        PIL pictures as they are, and arrays (H, W).

    Raises:
        RequestError: none, a list with something that is no mask, or an array of another layout.
    """
    masks = [mask_image] if isinstance(mask_image, Image.Image) or is_array(mask_image) else mask_image
    if not isinstance(masks, (list, tuple)) or not masks:
        raise RequestError(f"got {name} {mask_image!r}, expected a PIL picture, an array, or a list; give one")
    found: list[Picture] = []
    for mask in masks:
        if isinstance(mask, Image.Image):
            found.append(mask)
        elif is_array(mask):
            found += _masks_of_array(as_array(mask, name), name)
        else:
            raise RequestError(f"got {name} {mask!r}, expected a PIL picture or an array; open it first")
    return found


def _masks_of_array(array: Array, name: str) -> list[Array]:
    """The masks (H, W) of an array of one or several, each of one channel."""
    if array.ndim == 2:
        return [array]
    if array.ndim == 3 and array.shape[2] not in (2, 3, 4):
        return [array[..., 0]] if array.shape[2] == 1 else list(array)
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        return list(array[..., 0] if array.shape[3] == 1 else array[:, 0])
    raise RequestError(
        f"got {name} {array.shape}, expected (height, width), or (N, height, width) for several, of one channel; "
        "give that, or a PIL picture, whose brightness counts"
    )


def inpaint_input_from_pictures(
    images: Sequence[Picture],
    masks: Sequence[Picture],
    width: int,
    height: int,
    *,
    padding_mask_crop: int | None = None,
) -> InpaintInput:
    """Pictures and masks at the model's size.

    Args:
        images: PIL pictures of any size, resized with Lanczos; or arrays as ``rgb_array`` reads them, which must have
            the model's size unless there is a crop.
        masks: one for all, or one per picture, each of its picture's size: PIL of any mode (its brightness counts;
            transparent is black, so kept), or arrays (H, W) or (H, W, 1), bool, uint8 or float in [0, 1].
        width: of the model's picture, in pixels.
        height: in pixels.
        padding_mask_crop: draw only the part around the mask, this many pixels wider on each side and enlarged to
            the model's size. None draws all.

    Raises:
        RequestError: pictures and masks that do not pair, differ in size or cannot be read; a crop around a mask
            that redraws nothing.
    """
    padding = None if padding_mask_crop is None else _padding(padding_mask_crop)
    if not images or not masks or (len(images) != len(masks) and 1 not in (len(images), len(masks))):
        raise RequestError(
            f"got {len(masks)} masks for {len(images)} images, expected one, or one per image; give as many"
        )
    count = max(len(images), len(masks))
    parts = [
        _prepared(images[index % len(images)], masks[index % len(masks)], width, height, padding)
        for index in range(count)
    ]
    return InpaintInput(
        pixels=np.stack([normalized(picture) for picture, _, _ in parts]),
        mask=np.stack([np.asarray(grey)[None] >= _REDRAWN_FROM for _, grey, _ in parts]).astype(np.float32),
        overlays=tuple(overlay for _, _, overlay in parts),
    )


def _prepared(
    image: Picture, mask: Picture, width: int, height: int, padding: int | None
) -> tuple[Array, Image.Image, Overlay]:
    """The picture (H, W, 3) in [0, 1] and the grey mask at the model's size, and the way back."""
    layer = _mask_image(mask)
    image = image if isinstance(image, Image.Image) else rgb_array(image)
    size = size_of(image)
    if layer.size != size:
        raise RequestError(
            f"got a mask of {layer.width}x{layer.height} for an image of {size[0]}x{size[1]}, expected equal sizes; "
            "resize the mask"
        )
    if padding is None:
        picture = array_from_image(image, width, height)
        # in the mask's own mode: Pillow resizes "1" and "P" without interpolation, and so does the reference
        grey = layer.resize((width, height), resample=Image.Resampling.LANCZOS).convert("L")
        return picture, grey, Overlay(source=picture, weight=_weight(grey), box=None)
    source, whole = array_from_image(image, *size), layer.convert("L")
    brightest = int(np.asarray(whole).max())
    if brightest < _REDRAWN_FROM:
        raise RequestError(
            f"got a mask whose brightest value is {brightest} of 255, expected {_REDRAWN_FROM} or more "
            "somewhere to crop around; paint what to redraw in white, or leave padding_mask_crop out"
        )
    box = crop_region(whole, width, height, padding)
    rgb = rgb_from_image(image) if isinstance(image, Image.Image) else images_from_pixels(source[None])[0]
    picture = np.asarray(fit_and_fill(rgb.crop(box), width, height), np.float32) / np.float32(255.0)
    grey = fit_and_fill(layer.crop(box), width, height).convert("L")
    return picture, grey, Overlay(source=source, weight=_weight(whole), box=box)


def paste_back(inputs: InpaintInput, pixels: Array) -> list[Array]:
    """Lays drawn pictures over their sources; what the mask keeps is the source, bit for bit.

    Args:
        inputs: M pictures, masks and boxes.
        pixels: (N, H, W, 3) float in [0, 1], as ``pixels_from_latents`` returns them; picture i belongs to
            input i modulo M.

    Returns:
        N pictures (h, w, 3) float32 in [0, 1], each of its source's size: that of the user's picture with a crop,
        the model's without.
    """
    pictures = []
    for index, drawn in enumerate(pixels):
        overlay = inputs.overlays[index % len(inputs.overlays)]
        picture = overlay.source.copy()
        part, weight = picture, overlay.weight
        if overlay.box is not None:
            left, top, right, bottom = overlay.box
            back = cover(images_from_pixels(drawn[None])[0], right - left, bottom - top)
            drawn = np.asarray(back, np.float32) / np.float32(255.0)
            part, weight = picture[top:bottom, left:right], weight[top:bottom, left:right]
        blended = np.where(weight == 1.0, drawn, part + weight * (drawn - part))
        np.copyto(part, blended, where=weight > 0.0)
        pictures.append(picture)
    return pictures


def white_places(mask: Picture, width: int, height: int) -> Array:
    """Where a mask is white, one half and above: (height, width) float32 of ones and zeros.

    Args:
        mask: PIL, or an array (H, W) as ``masks_from_argument`` gives them; of another size it is resized (Lanczos).
        width: wanted, in pixels.
        height: in pixels.

    Raises:
        RequestError: a mask that cannot be read.
    """
    grey = _mask_image(mask).resize((width, height), resample=Image.Resampling.LANCZOS).convert("L")
    return (np.asarray(grey) >= _REDRAWN_FROM).astype(np.float32)


def grey_values(mask: Picture) -> Array:
    """A mask's brightness at its own size, (H, W) uint8; as ``white_places`` takes it.

    Raises:
        RequestError: a mask that cannot be read.
    """
    return np.asarray(_mask_image(mask).convert("L"))


def _weight(grey: Image.Image) -> Array:
    """How much of the drawn picture shows: 0 below one half, then rising to 1 at white.

    The reference lays the source on with the grey value itself, so that a pixel that is a little grey, which the
    model was told to keep, comes back changed. Rising from one half keeps it, and leaves no step there.
    """
    value = np.asarray(grey, np.float32)[..., None]
    lowest = np.float32(_REDRAWN_FROM - 1)
    return np.asarray(np.clip((value - lowest) / (255 - lowest), 0.0, 1.0), np.float32)


def _padding(value: Any) -> int:
    padding = whole(value, "padding_mask_crop")
    if padding < 0:
        raise RequestError(f"got padding_mask_crop {value!r}, expected a whole number of pixels from 0; give one")
    return padding


def _mask_image(mask: Any) -> Image.Image:
    """A mask as a PIL picture whose brightness counts: arrays as 8-bit grey, transparency on black.

    Paint programs save strokes on nothing with white hidden under the nothing; the reference drops the alpha
    channel and would redraw all of it.
    """
    if not isinstance(mask, Image.Image):
        return _image_from_mask_array(mask)
    if mask.mode in ("F", "I"):
        raise RequestError(
            f"got a mask of mode {mask.mode!r}, whose range is unknown, expected 'L'; convert it to 0 to 255"
        )
    if mask.mode.startswith("I"):
        return rgb_from_image(mask).convert("L")  # 16 bits
    try:
        if mask.has_transparency_data:
            layer = mask.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")
        mask.convert("L")
    except ValueError as error:
        raise RequestError(f"got a mask of mode {mask.mode!r}, expected one such as 'L'; convert it") from error
    return mask


def _image_from_mask_array(mask: Any) -> Image.Image:
    array = np.asarray(mask)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.size == 0:
        raise RequestError(f"got a mask {array.shape}, expected a PIL picture or (height, width); give one of these")
    if array.dtype == np.bool_:
        return Image.fromarray(array.astype(np.uint8) * np.uint8(255))
    if array.dtype == np.uint8:
        if array.max() == 1:
            raise RequestError("got a uint8 mask of zeros and ones, expected 0 to 255; give bool, or multiply by 255")
        return Image.fromarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise RequestError(f"got a mask of {array.dtype}, expected bool, uint8, or floats in [0, 1]; convert it")
    if not (array.min() >= 0.0 and array.max() <= 1.0):
        raise RequestError("got a mask with NaN or values outside [0, 1]; give bool, uint8, or floats in [0, 1]")
    return Image.fromarray((array.astype(np.float64) * 255.0).round().astype(np.uint8))  # 0.5 becomes 128
