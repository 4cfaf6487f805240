"""Sizes as OpenAI writes them: ``512x768``, or ``auto``."""

import math
import re
from collections.abc import Sequence

from latentrt.engines.errors import RequestError, shown
from latentrt.engines.shapes import Profile

AUTO = "auto"
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def size_from_text(size: str | None) -> tuple[int, int] | None:
    """Width and height in pixels; None where the server chooses.

    Raises:
        RequestError: neither ``WIDTHxHEIGHT`` nor ``auto``.
    """
    if size in (None, "", AUTO):
        return None
    match = _SIZE.fullmatch(str(size))
    if match is None:
        raise RequestError(f"got size {shown(size)}, expected WIDTHxHEIGHT or auto; write 512x512")
    return int(match[1]), int(match[2])


def nearest_size(profiles: Sequence[Profile], width: int, height: int) -> tuple[int, int]:
    """The size to draw a picture over in where none is asked for: its own, or that of the nearest proportions.

    Of sizes with the same proportions it is the one whose area is nearest.

    Args:
        profiles: the bundle's.
        width: of the picture, in pixels.
        height: in pixels.
    """

    def distance(profile: Profile) -> tuple[float, float]:
        proportions = math.log(profile.width * height / (profile.height * width))
        area = math.log(profile.width * profile.height / (width * height))
        return round(abs(proportions), 6), abs(area)

    nearest = min(profiles, key=distance)
    return nearest.width, nearest.height
