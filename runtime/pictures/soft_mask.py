"""Soft masks: how much something counts at each place of a picture, 0 to 1, from its pixels down to its latents.

Every change of size is a mean over areas, so that a mask keeps its area whatever the sizes, and masks that add up to 1
still do.
"""

from collections.abc import Sequence

import numpy as np

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.crop import Crop, size_inside


def layer_of_box(box: Sequence[float], width: int, height: int) -> Array:
    """How much of each pixel lies in a box: (height, width) float64.

    Args:
        box: (left, top, right, bottom) as shares of the width and the height.
        width: in pixels.
        height: in pixels.
    """
    left, top, right, bottom = box
    return np.outer(_covered(top, bottom, height), _covered(left, right, width))


def layer_of_mask(grey: Array, width: int, height: int) -> Array:
    """A mask (H, W) uint8 at another size: (height, width) float64, 255 being 1."""
    layer = grey / 255.0
    for axis, pixels in enumerate((height, width)):
        edges = np.arange(pixels + 1) * (layer.shape[axis] / pixels)
        layer = _means(layer, edges[:-1], edges[1:], axis)
    return layer


def feathered(layer: Array, share: float) -> Array:
    """A layer whose edges rise evenly over a part of its shorter side; those of the picture itself stay as they are."""
    wide = share * min(layer.shape)
    if wide <= 1.0:
        return layer  # as the mean of a part of a pixel is the pixel
    for axis in (0, 1):
        middles = np.arange(layer.shape[axis]) + 0.5
        layer = _means(layer, middles - wide / 2, middles + wide / 2, axis)
    return layer


def at_latents(layer: Array, space: LatentSpace, profile: Profile, crop: Crop | None) -> Array:
    """A layer at the size of the latents, (h, w) float64.

    Args:
        layer: of the picture's size; with a crop of the size of what is cropped.
        space: of the latents.
        profile: the picture's.
        crop: the part that is drawn, brought to the picture's size as ``fit_and_fill`` does; None: all.
    """
    if crop is not None:
        left, top, right, bottom = crop.box
        layer = layer[top:bottom, left:right]
    inside = size_inside((layer.shape[1], layer.shape[0]), profile.width, profile.height)
    factors = space.height_factor, space.width_factor
    for axis, (pixels, own) in enumerate(((profile.height, inside[1]), (profile.width, inside[0]))):
        edges = np.arange(0, pixels + 1, factors[axis]) - (pixels // 2 - own // 2)
        edges = edges * (layer.shape[axis] / own)
        layer = _means(layer, edges[:-1], edges[1:], axis)
    return layer


def _covered(start: float, stop: float, pixels: int) -> Array:
    """How much of each pixel of a row lies between two shares of it."""
    places = np.arange(pixels)
    within = np.minimum(stop * pixels, places + 1) - np.maximum(start * pixels, places)
    return np.asarray(np.clip(within, 0.0, 1.0))


def _means(layer: Array, starts: Array, stops: Array, axis: int) -> Array:
    """Means along an axis, from each start to its stop, in pixels; beyond the ends the last value goes on."""
    values = np.moveaxis(layer, axis, -1)
    count = values.shape[-1]
    sums = np.concatenate([np.zeros_like(values[..., :1]), np.cumsum(values, -1)], -1)

    def sum_until(places: Array) -> Array:
        within = np.clip(places, 0, count)
        pixels = np.minimum(within.astype(np.intp), count - 1)
        beyond = values[..., :1] * np.minimum(places, 0.0) + values[..., -1:] * np.maximum(places - count, 0.0)
        return np.asarray(sums[..., pixels] + (within - pixels) * values[..., pixels] + beyond)

    return np.moveaxis((sum_until(stops) - sum_until(starts)) / (stops - starts), -1, axis)
