"""How long each picture of a clip is shown, in whole units of a format's clock."""

from fractions import Fraction
from itertools import pairwise

_FINEST = 1000  # parts of a second that a rate may have


def rate_from_fps(fps: float) -> Fraction:
    """Frames per second as a fraction: exact for whole numbers, and for others to a part in a thousand."""
    return Fraction(fps).limit_denominator(_FINEST)


def frame_durations(count: int, rate: Fraction, clock: int) -> list[int]:
    """How long so many frames are shown, in units of which ``clock`` make a second.

    Each begins at the unit nearest to its time, so that a long clip does not drift where a frame is no whole number of
    units: 7 a second are 143, 143, 143, 142, … ms.
    """
    starts = [round(index * clock / rate) for index in range(count + 1)]
    return [end - start for start, end in pairwise(starts)]
