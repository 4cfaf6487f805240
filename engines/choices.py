"""One member of an enum, from what a caller gave."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from latentrt.engines.errors import RequestError, shown

_Kind = TypeVar("_Kind", bound=StrEnum)


def choice(kind: type[_Kind], value: object, name: str, *, besides: Sequence[str] = ()) -> _Kind:
    """An enum's member, from itself or from its value.

    Args:
        kind: the enum.
        value: what the caller gave.
        name: what the error calls it.
        besides: further values that the caller may give; the error lists them first.

    Raises:
        RequestError: none of the enum's values; they are listed.
    """
    if isinstance(value, str) and value in tuple(kind):
        return kind(value)
    given = str(value) if isinstance(value, str) else value
    raise RequestError(
        f"got {name} {shown(given)}, expected one of {', '.join((*besides, *kind))}; choose one of these"
    )


def choice_if_given(kind: type[_Kind], value: object, name: str) -> _Kind | None:
    """The same, but None stays None.

    Raises:
        RequestError: none of the enum's values; they are listed.
    """
    return None if value is None else choice(kind, value, name)
