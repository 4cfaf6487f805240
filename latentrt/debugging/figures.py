"""How far two results of one tensor are apart."""

import math
from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A tensor on two sides, over all runs.

    Attributes:
        error: the worst ‖a−b‖/‖b‖ of a run; infinite where the suspect alone has numbers that are not finite.
        largest: the largest finite magnitude on the suspect's side.
        expected: that on the reference's.
        not_finite: how many of the suspect's numbers are infinite or NaN where the reference's are not.
    """

    error: float
    largest: float
    expected: float
    not_finite: int = 0

    def worse(self, other: "Figures") -> "Figures":
        """Both together: of each figure the worse one."""
        return Figures(
            error=max(self.error, other.error),
            largest=max(self.largest, other.largest),
            expected=max(self.expected, other.expected),
            not_finite=self.not_finite + other.not_finite,
        )


def figures_of(suspect: Array, reference: Array, *, end: float = math.inf) -> Figures:
    """Compares two arrays, in float64; of different shapes they are as far apart as can be.

    ``end`` is the largest number of the suspect's precision. A suspect's number that is this or its negative agrees
    with what lies beyond it on the reference's side: masks are full of the lowest number that there is.
    """
    a, b = np.asarray(suspect), np.asarray(reference)
    if a.shape != b.shape:
        return Figures(error=math.inf, largest=_largest(a), expected=_largest(b))
    if _largest(a) == end:
        b = np.where((np.abs(a) == end) & (np.abs(b) > end) & (np.signbit(a) == np.signbit(b)), a, b)
    expected = np.isfinite(b)
    lost = int(np.count_nonzero(~np.isfinite(a) & expected))
    if lost:
        error = math.inf
    else:
        known = np.where(expected, b, 0).astype(np.float64)
        difference = np.where(expected, a, 0) - known
        norm, distance = _norm(known), _norm(difference)
        error = distance / norm if norm else (math.inf if distance else 0.0)
    return Figures(error=error, largest=_largest(a), expected=_largest(b), not_finite=lost)


def _norm(array: Array) -> float:
    return math.sqrt(float(np.square(array).sum()))


def _largest(array: Array) -> float:
    return float(np.abs(array, where=np.isfinite(array), out=np.zeros(array.shape, array.dtype)).max(initial=0.0))
