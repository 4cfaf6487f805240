"""Forms: objects and lists that the client spells with brackets in the names of their fields."""

from collections.abc import Iterable
from typing import Any

from latentrt.engines.errors import RequestError, shown

_DEEPEST = 6  # names within names: LoRA weights of blocks have four


def values_from_form(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values of a form: ``hires[scale]=2`` belongs to an object, ``seed[]=1`` to a list.

    Args:
        fields: name and text, in order.

    Returns:
        By name: texts, lists of texts, and objects of the same. A text stands where a number is meant: who reads the
        field knows its type.

    Raises:
        RequestError: a name with brackets that do not match, or one that is used in two ways.
    """
    values: dict[str, Any] = {}
    for name, text in fields:
        *parents, last = _path(name)
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise _used_twice(name)
        if last.endswith("[]"):
            listed = place.setdefault(last.removesuffix("[]"), [])
            if not isinstance(listed, list):
                raise _used_twice(name)
            listed.append(text)
        elif last in place:
            raise _used_twice(name)
        else:
            place[last] = text
    return values


def _path(name: str) -> list[str]:
    """``loras[style][unet]`` as its names; a list's has ``[]`` behind the last."""
    first, opened, rest = name.partition("[")
    if not opened:
        return [name]
    inner = rest.removesuffix("]").split("][")
    if not first or not rest.endswith("]") or len(inner) > _DEEPEST or "" in inner[:-1]:
        raise RequestError(f"got a form field {shown(name)}, expected a name such as hires[scale]; correct it")
    if inner[-1]:
        return [first, *inner]
    names = [first, *inner[:-1]]
    return [*names[:-1], f"{names[-1]}[]"]


def _used_twice(name: str) -> RequestError:
    return RequestError(f"got the form field {shown(name)} more than once, or as two kinds; give it once")
