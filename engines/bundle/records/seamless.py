"""Whether a bundle's pictures wrap around at their edges, so that copies of one tile a plane."""

from enum import StrEnum


class Seamless(StrEnum):
    """The axes along which a picture's right and left (x), or bottom and top (y), edges meet."""

    NONE = "none"
    X = "x"
    Y = "y"
    XY = "xy"

    @property
    def wraps_x(self) -> bool:
        """Whether the right edge meets the left one."""
        return "x" in self.value

    @property
    def wraps_y(self) -> bool:
        """Whether the bottom edge meets the top one."""
        return "y" in self.value
