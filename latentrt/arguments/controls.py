"""Control nets as they are named on a command line: a bundle, a picture, and how much it counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentrt.arguments.addons import AddonOption

if TYPE_CHECKING:
    from latentrt.runtime.addons.control import Control

CONTROL_OPTION = AddonOption(
    name="--control",
    form="NET:IMAGE[:SCALE]",
    noun="net",
    label="a ControlNet",
    example=("edges.png", "0.8"),
)
"""What names control nets and T2I-Adapters."""
_REMEDY = "make it with latentrt prepare inpaint"


def controls_from_options(
    options: Sequence[str],
    *,
    starts: Sequence[float],
    ends: Sequence[float],
    modes: Sequence[str],
    types: Sequence[str],
) -> "list[Control]":
    """The ``Control`` of each ``--control``, its picture read.

    Args:
        options: as ``NET:IMAGE[:SCALE]``.
        starts: of ``--control-start``: none, one for all, or one for each.
        ends: of ``--control-end``, likewise.
        modes: of ``--control-mode``, likewise.
        types: of ``--control-type``, likewise.

    Raises:
        RequestError: another number of them, or a file that cannot be read.
    """
    from latentrt.runtime.addons.control import Control
    from latentrt.runtime.pictures.image import read_picture_or_array

    count = len(options)
    given = {
        "start": CONTROL_OPTION.for_each("--control-start", starts, count),
        "end": CONTROL_OPTION.for_each("--control-end", ends, count),
        "mode": CONTROL_OPTION.for_each("--control-mode", modes, count),
        "type": [_type(one) for one in CONTROL_OPTION.for_each("--control-type", types, count)],
    }
    controls = []
    for index, argument in enumerate(map(CONTROL_OPTION.argument, options)):
        more = {name: values[index] for name, values in given.items() if values}
        controls.append(
            Control(
                argument.bundle,
                read_picture_or_array(argument.image, "a control picture", _REMEDY),
                scale=argument.scale,
                **more,
            )
        )
    return controls


def _type(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
