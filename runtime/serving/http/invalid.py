"""What a body has wrong, in one sentence."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from latentrt.engines.errors import shown

_MOST = 3  # mistakes in a message
_LONGEST = 60  # characters of a value
# What pydantic puts into a place to tell the types of a union apart
_TYPE = re.compile(r"str|int|float|bool|.*\[.*|function-.*|constrained-.*|[A-Z]\w*Json")
_BEFORE = ("Value error, ", "Assertion failed, ", "Input should be ")


def message_from_validation(error: RequestValidationError) -> tuple[int, str, str | None]:
    """The status, the sentence, and the field that it is about first."""
    mistakes = list(error.errors())
    first = mistakes[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", "")
        return 400, f"got a body that is no JSON ({reason}), expected a JSON object; correct it", None
    if isinstance(first.get("input"), bytes) and _name(first) in (None, "body"):
        return 422, "got a body of another type, expected JSON; send it with Content-Type: application/json", None
    by_field: dict[str | None, list[Mapping[str, Any]]] = {}
    for mistake in mistakes:
        by_field.setdefault(_name(mistake), []).append(mistake)
    told = [_told(field) for field in list(by_field.values())[:_MOST]]
    more = len(by_field) - len(told)
    text = "; ".join(told) + (f"; and {more} more" if more else "")
    return 422, text if _finished(first) else f"{text}; correct it", _name(first)


def _name(mistake: Mapping[str, Any]) -> str | None:
    """The field as the client wrote it, such as ``control.0.scale``."""
    parts = [str(part) for part in mistake["loc"]]
    if parts and parts[0] in ("body", "query", "path", "header") and len(parts) > 1:
        parts = parts[1:]
    return ".".join(part for part in parts if not _TYPE.fullmatch(part)) or None


def _finished(mistake: Mapping[str, Any]) -> bool:
    """Whether the sentence says already what to do."""
    return mistake["type"] == "value_error" and ";" in mistake["msg"]


def _told(mistakes: Sequence[Mapping[str, Any]]) -> str:
    """What a field has wrong; of several types that it may have, each has its complaint."""
    mistake = mistakes[0]
    name = _name(mistake)
    if mistake["type"] == "missing":
        return f"got no {name}, expected one"
    if mistake["type"] == "extra_forbidden":
        return f"got {name}, which is no field here"
    if _finished(mistake):
        return str(mistake["msg"]).removeprefix(_BEFORE[0])
    expected = dict.fromkeys(_expected(str(one["msg"])) for one in mistakes)
    return f"got {name} {_value(mistake.get('input'))}, expected {' or '.join(expected)}"


def _expected(message: str) -> str:
    for beginning in _BEFORE:
        message = message.removeprefix(beginning)
    return f"{message[:1].lower()}{message[1:]}"


def _value(value: Any) -> str:
    """A value at no length, however large: one of a hostile body is not written out first."""
    if isinstance(value, str | bytes):
        return shown(value[:_LONGEST]) + ("…" if len(value) > _LONGEST else "")
    if isinstance(value, list | tuple | dict | set):
        return f"({'an object' if isinstance(value, dict) else 'a list'} of {len(value)})"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "(a huge number)"
    return shown(value)
