"""What weights do to conditioning: compel's way and A1111's."""

import math
from collections.abc import Sequence

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.prompts.chunks import Framed

_SMALLEST = 1e-5  # compel's; the blend below has no finite weight at 0


def weighted_as_compel(text: Framed, states: Sequence[Array], empty: Array) -> Array:
    """Moves each token away from the empty prompt by its weight, then blends in what the text is without it.

    c = e + w · (z − e) for every token. For every fragment of a weight w below 1 the same is made with the
    fragment masked out, and enters a weighted mean with tan((1 − w) · π/2) against 1: half and half at w = 0.5,
    the masked one alone towards 0.

    Args:
        text: k chunks.
        states: (k, L, width) of the text as it is, then without each of ``text.lowered``.
        empty: (L, width) of the empty prompt.

    Returns:
        (k, L, width) float32.
    """
    weights = text.weights[..., None]
    moved = [np.where(weights == 1.0, z, empty + (z - empty) * weights) for z in states]
    shares = [1.0] + [math.tan((1.0 - max(_SMALLEST, weight)) * math.pi / 2) for weight, _ in text.lowered]
    total = sum(shares)
    return sum((np.float32(share / total) * z for share, z in zip(shares, moved, strict=True)), np.zeros_like(empty))


def weighted_as_a1111(text: Framed, states: Sequence[Array], empty: Array) -> Array:
    """Multiplies every token by its weight, then scales each chunk so that its mean is what it was.

    Args:
        text: k chunks.
        states: (k, L, width) of the text as it is.
        empty: not used.

    Returns:
        (k, L, width) float32.
    """
    (z,) = states
    if (text.weights == 1.0).all():
        return z
    moved = z * text.weights[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = z.mean((1, 2), np.float64) / moved.mean((1, 2), np.float64)
    return np.asarray(moved * ratios.astype(np.float32)[:, None, None])
