"""What lies under a mask as its redrawing begins, where that is not the picture itself."""

from enum import StrEnum

import numpy as np

from latentrt.engines.spec import Array


class MaskedContent(StrEnum):
    """What a run below full strength starts from where a mask redraws: A1111's four choices.

    The picture as it is; the colours around the mask, carried into it; noise instead of latents; latents of zero.
    """

    ORIGINAL = "original"
    FILL = "fill"
    NOISE = "noise"
    NOTHING = "nothing"


def filled(pixels: Array, mask: Array) -> Array:
    """Pictures whose masked part is filled from around: near the edge its colours, further in those of wider means.

    It is the pull-push of Gortler et al., The Lumigraph (1996), section 3.4: sums over ever larger squares, until every
    square has kept pixels, and back, each level filling what the finer one lacks.

    Args:
        pixels: (M, 3, H, W) float32.
        mask: (M, 1, H, W) of ones, where to fill, and zeros.

    Returns:
        (M, 3, H, W) float32; what the mask keeps is as it was. Zeros where it keeps nothing.
    """
    weights = 1 - np.asarray(mask, np.float32)
    return np.where(mask > 0, _pulled(pixels * weights, weights), pixels)


def _pulled(sums: Array, weights: Array) -> Array:
    """Colours everywhere, of colours times their weights (0 to 1)."""
    if weights.min() >= 1.0 or weights[0, 0].size == 1:
        return sums
    odd = [(0, 0), (0, 0), *((0, size % 2) for size in weights.shape[2:])]
    wide_sums, wide_weights = (_squares(np.pad(layer, odd)) for layer in (sums, weights))
    shrunk = np.minimum(wide_weights, 1.0) / np.maximum(wide_weights, np.finfo(np.float32).tiny)
    coarse = _pulled(wide_sums * shrunk, wide_weights * shrunk)
    height, width = weights.shape[2:]
    return np.asarray(sums + (1 - weights) * _doubled(_doubled(coarse, 2), 3)[:, :, :height, :width])


def _squares(layer: Array) -> Array:
    """The sums of squares of two by two."""
    columns = layer[:, :, :, ::2] + layer[:, :, :, 1::2]
    return np.asarray(columns[:, :, ::2] + columns[:, :, 1::2])


def _doubled(layer: Array, axis: int) -> Array:
    """Twice as long along an axis, linearly between the middles."""
    values = np.moveaxis(layer, axis, -1)
    beside = np.concatenate([values[..., :1], values, values[..., -1:]], -1)
    pairs = np.stack([0.75 * values + 0.25 * beside[..., :-2], 0.75 * values + 0.25 * beside[..., 2:]], -1)
    return np.moveaxis(pairs.reshape(*values.shape[:-1], -1), -1, axis)
