"""Planes resized as torch does it: ``interpolate(mode="bicubic")``, corners not aligned, nothing smoothed before."""

import numpy as np

from latentrt.engines.spec import Array

_A = -0.75  # of the cubic kernel (Keys 1981), torch's


def resized_bicubic(plane: Array, height: int, width: int) -> Array:
    """A plane (H, W) at another size, float32. Places beyond its edges have the edge's value; it may overshoot."""
    rows, columns = _weights(plane.shape[0], height), _weights(plane.shape[1], width)
    return np.asarray(rows @ plane.astype(np.float64) @ columns.T, np.float32)


def _weights(count: int, wanted: int) -> Array:
    """How much of each of ``count`` values is in each of those wanted: (wanted, count)."""
    places = (np.arange(wanted) + 0.5) * (count / wanted) - 0.5
    first = np.floor(places)
    weights = np.zeros((wanted, count))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(places - first - offset)
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        index = np.clip(first + offset, 0, count - 1).astype(int)
        np.add.at(weights, (np.arange(wanted), index), np.where(distance <= 1, near, far))
    return weights
