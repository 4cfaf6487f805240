"""Add-ons as they are named on a command line: a bundle, a picture, and how much it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class AddonArgument:
    """An add-on's bundle, its picture's file, and its scale."""

    bundle: Path
    image: Path
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AddonOption:
    """An option that names add-ons.

    Attributes:
        name: the option.
        form: what it takes.
        noun: what the add-on is, for messages.
        label: what its bundle is of.
        example: a picture and a scale behind it.
    """

    name: str
    form: str
    noun: str
    label: str
    example: tuple[str, str]

    def argument(self, text: str) -> AddonArgument:
        """Reads ``BUNDLE:IMAGE[:SCALE]``. Paths may have colons: the longest beginnings that exist are taken.

        Raises:
            RequestError: no such bundle or picture, both in the wrong order, or a scale that is no finite number.
        """
        parts = text.split(":")
        bundles = [end for end in range(len(parts), 0, -1) if _exists(parts[:end])]
        for end in bundles:
            for last in range(len(parts), end, -1):
                if _exists(parts[end:last]):
                    return self._of_parts(parts, end, last)
        what = self.name.removeprefix("--").replace("-", " ")
        if not bundles:
            raise RequestError(
                f"got {what} {text!r}, expected {self.form} with the bundle of {self.label}, and there is none at the "
                "beginning; check the path"
            )
        bundle, rest = ":".join(parts[: bundles[0]]), parts[bundles[0] :]
        if not rest:
            raise RequestError(
                f"got {what} {text!r} without a picture, expected {self.form}; give {bundle}:{self.example[0]}"
            )
        missing = ":".join(rest[:-1] if len(rest) > 1 and _is_number(rest[-1]) else rest)
        raise RequestError(
            f"got picture {missing!r} for the {self.noun} {bundle!r}, which does not exist; check the path"
        )

    def for_each(self, beside: str, values: Sequence[Any], count: int) -> Sequence[Any]:
        """The values of an option beside it, one for each add-on, of none, one or as many.

        Raises:
            RequestError: another number of them, or an option that stands alone.
        """
        return for_each(self.name, self.form, beside, values, count)

    def _of_parts(self, parts: Sequence[str], end: int, last: int) -> AddonArgument:
        bundle, image, rest = ":".join(parts[:end]), ":".join(parts[end:last]), parts[last:]
        if Path(bundle).is_file() and Path(image).is_dir():
            raise RequestError(
                f"got the file {bundle!r} as the {self.noun} and the folder {image!r} as its picture, expected "
                f"{self.form}; swap them"
            )
        if len(rest) > 1 or not all(map(_is_number, rest)):
            raise RequestError(
                f"got scale {':'.join(rest)!r} for the {self.noun} {bundle!r}, expected {self.form} with a finite "
                f"number, such as {Path(bundle).name}:{Path(image).name}:{self.example[1]}; correct it"
            )
        return AddonArgument(bundle=Path(bundle), image=Path(image), scale=float(rest[0]) if rest else 1.0)


def for_each(option: str, form: str, beside: str, values: Sequence[Any], count: int) -> Sequence[Any]:
    """The values of an option that stands beside another one, one for each time that this is given.

    Args:
        option: the other one, which is repeatable.
        form: what it takes.
        beside: the option itself.
        values: none, one for all, or one for each.
        count: how often the other one is given.

    Raises:
        RequestError: another number of them, or an option that stands alone.
    """
    if values and not count:
        raise RequestError(f"got {beside} without {option}, expected it beside one; give {option} {form}")
    if len(values) not in (0, 1, count):
        raise RequestError(
            f"got {beside} {len(values)} times for {count} times {option}; give it once for all, or once for each"
        )
    return values if len(values) == count else [*values] * count


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
