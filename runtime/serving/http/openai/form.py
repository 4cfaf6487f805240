"""Forms: objects and lists that the client spells with brackets in the names of their fields."""

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json

from latentrt.engines.errors import RequestError, shown

_DEEPEST = 6  # names within names: LoRA weights of blocks have four
_OBJECTS = (
    *("apg", "control", "deep_cache", "dynamic_thresholding", "freeu", "hires", "image_prompt", "loras", "regions"),
    "sampler",
)
_UNTYPED = (
    "apg",
    "deep_cache",
    "dynamic_thresholding",
    "freeu",
    "loras",
    "sampler",
)  # objects whose fields nobody declares
# As JSON spells them, none so long that it would be no number
_LITERAL = re.compile(r"-?(?:0|[1-9]\d{0,99})(?:\.\d{1,99})?(?:[eE][+-]?\d{1,2})?|true|false", re.ASCII)


def values_from_form(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values of a form: ``hires[scale]=2`` belongs to an object, ``seed[]=1`` to a list.

    An object may also be written as JSON, which lists of objects must be.

    Args:
        fields: name and text, in order.

    Returns:
        By name: texts, lists of texts, and objects of the same. A text stands where a number is meant, but in objects
        whose fields have no declared type.

    Raises:
        RequestError: a name with brackets that do not match, one that is used in two ways, or damaged JSON.
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
    for name in set(_OBJECTS) & set(values):
        values[name] = _object(name, values[name])
    return values


def _object(name: str, value: Any) -> Any:
    """A field that holds an object, or the name of one."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return from_json(value, allow_inf_nan=False)
        except ValueError as error:
            raise RequestError(f"got {name} that is no JSON, expected an object or a list; correct it") from error
    return _typed(value) if name in _UNTYPED else value


def _typed(value: Any) -> Any:
    """Numbers, true and false in place of the texts that spell them."""
    if isinstance(value, dict):
        return {name: _typed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return json.loads(value) if _LITERAL.fullmatch(value) else value


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
