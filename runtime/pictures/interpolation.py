"""Planes resized as torch's ``interpolate`` does it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from latentrt.engines.spec import Array


class Interpolation(StrEnum):
    """How a plane is resized. Those that are antialiased leave out what lies beyond its edges; without that, places
    there have the edge's value. Aligned corners: the middles of the outermost pixels stay where they are."""

    BILINEAR = "bilinear"
    BILINEAR_ANTIALIASED = "bilinear-antialiased"
    BICUBIC = "bicubic"
    BICUBIC_ALIGNED = "bicubic-aligned"
    BICUBIC_ANTIALIASED = "bicubic-antialiased"
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"


def interpolated(planes: Array, height: int, width: int, mode: Interpolation) -> Array:
    """Planes (…, H, W) at another size, (…, height, width) float32. Cubic kernels may overshoot.

    Antialiased modes only enlarge: where they make a side smaller, torch would widen their kernels.
    """
    rows, columns = pixel_weights(planes.shape[-2], height, mode), pixel_weights(planes.shape[-1], width, mode)
    return np.asarray(rows @ planes.astype(np.float64) @ columns.T, np.float32)


@dataclass(frozen=True, kw_only=True)
class _Filter:
    """A kernel, a function of the distance in pixels, how far it reaches, and what it makes of edges and corners."""

    kernel: Callable[[Array], Array]
    reach: int
    ends_at_edges: bool = False
    corners_aligned: bool = False


def _linear(distance: Array) -> Array:
    return np.asarray(1.0 - distance)


def _cubic(a: float) -> Callable[[Array], Array]:
    """The cubic kernel of Keys 1981."""

    def kernel(distance: Array) -> Array:
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return np.where(distance <= 1, near, far)

    return kernel


_FILTERS = {
    Interpolation.BILINEAR: _Filter(kernel=_linear, reach=1),
    Interpolation.BILINEAR_ANTIALIASED: _Filter(kernel=_linear, reach=1, ends_at_edges=True),
    Interpolation.BICUBIC: _Filter(kernel=_cubic(-0.75), reach=2),
    Interpolation.BICUBIC_ALIGNED: _Filter(kernel=_cubic(-0.75), reach=2, corners_aligned=True),
    Interpolation.BICUBIC_ANTIALIASED: _Filter(kernel=_cubic(-0.5), reach=2, ends_at_edges=True),  # torch's a there
}


def pixel_weights(count: int, wanted: int, mode: Interpolation) -> Array:
    """How much of each of ``count`` pixels of a line is in each of those wanted: (wanted, count) float64."""
    weights = np.zeros((wanted, count))
    here = np.arange(wanted)
    places: Array
    if mode not in _FILTERS:
        # torch's "nearest" takes the value at a place's beginning, "nearest-exact" that at its middle
        middle = 0.5 if mode is Interpolation.NEAREST_EXACT else 0.0
        weights[here, np.minimum(((here + middle) * (count / wanted)).astype(int), count - 1)] = 1.0
        return weights
    chosen = _FILTERS[mode]
    if chosen.corners_aligned:
        # torch's places are float32: beyond a thousand pixels that shows in the fourth digit
        step = np.float32(count - 1) / np.float32(max(wanted - 1, 1))
        places = (here.astype(np.float32) * step).astype(np.float64)
    else:
        places = (here + 0.5) * (count / wanted) - 0.5
    first = np.floor(places)
    for offset in range(1 - chosen.reach, 1 + chosen.reach):
        values = chosen.kernel(np.abs(places - first - offset))
        index = (first + offset).astype(int)
        if chosen.ends_at_edges:
            values = np.where((index >= 0) & (index < count), values, 0.0)
        np.add.at(weights, (here, np.clip(index, 0, count - 1)), values)
    return np.asarray(weights / weights.sum(1, keepdims=True))
