"""Control nets as they are named on a command line: a bundle, a picture, and how much it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from latentrt.runtime.addons.control import Control

FORM = "NET:IMAGE[:SCALE]"
_ARRAYS = ".npy"


@dataclass(frozen=True, kw_only=True)
class ControlArgument:
    """A net's bundle, its picture's file, and its scale."""

    net: Path
    image: Path
    scale: float = 1.0


def control_from_text(text: str) -> ControlArgument:
    """Reads ``NET:IMAGE[:SCALE]``. Paths may have colons: the longest beginnings that exist are taken.

    Raises:
        RequestError: no such bundle or picture, or a scale that is no finite number.
    """
    parts = text.split(":")
    nets = [end for end in range(len(parts), 0, -1) if _exists(parts[:end])]
    for end in nets:
        for last in range(len(parts), end, -1):
            if _exists(parts[end:last]):
                return _of_parts(parts, end, last)
    if not nets:
        raise RequestError(
            f"got control {text!r}, expected {FORM} with the bundle of a ControlNet, and there is none at the "
            "beginning; check the path"
        )
    net, rest = ":".join(parts[: nets[0]]), parts[nets[0] :]
    if not rest:
        raise RequestError(f"got control {text!r} without a picture, expected {FORM}; give {net}:edges.png")
    missing = ":".join(rest[:-1] if len(rest) > 1 and _is_number(rest[-1]) else rest)
    raise RequestError(f"got picture {missing!r} for the net {net!r}, which does not exist; check the path")


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

    count = len(options)
    given = {
        "start": _for_each("--control-start", starts, count),
        "end": _for_each("--control-end", ends, count),
        "mode": _for_each("--control-mode", modes, count),
        "type": [_type(one) for one in _for_each("--control-type", types, count)],
    }
    controls = []
    for index, argument in enumerate(map(control_from_text, options)):
        more = {name: values[index] for name, values in given.items() if values}
        controls.append(Control(argument.net, _picture(argument.image), scale=argument.scale, **more))
    return controls


def _for_each(option: str, values: Sequence[Any], count: int) -> Sequence[Any]:
    """One value for each, of none, one or as many."""
    if values and not count:
        raise RequestError(f"got {option} without --control, expected it beside one; give --control {FORM}")
    if len(values) not in (0, 1, count):
        raise RequestError(
            f"got {option} {len(values)} times for {count} times --control; give it once for all, or once for each"
        )
    return values if len(values) == count else [*values] * count


def _type(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _of_parts(parts: Sequence[str], end: int, last: int) -> ControlArgument:
    net, image, rest = ":".join(parts[:end]), ":".join(parts[end:last]), parts[last:]
    if len(rest) > 1 or not all(map(_is_number, rest)):
        raise RequestError(
            f"got scale {':'.join(rest)!r} for the net {net!r}, expected {FORM} with a finite number, such as "
            f"{Path(net).name}:{Path(image).name}:0.8; correct it"
        )
    return ControlArgument(net=Path(net), image=Path(image), scale=float(rest[0]) if rest else 1.0)


def _picture(path: Path) -> Any:
    """A picture, or an array as ``latentrt prepare inpaint`` writes it."""
    if path.suffix.lower() != _ARRAYS:
        from latentrt.runtime.pictures.image import read_image

        return read_image(path)
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:  # MemoryError: a header that lies
        reason = getattr(error, "strerror", None) or "it is damaged or no array"
        raise RequestError(
            f"cannot read a control picture from {str(path)!r} ({reason}); make it with latentrt prepare inpaint"
        ) from error


def _exists(parts: Sequence[str]) -> bool:
    try:
        return list(parts) != [""] and Path(":".join(parts)).exists()
    except (OSError, ValueError):  # a name that is too long, or none that a file could have
        return False


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
