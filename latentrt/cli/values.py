"""How the command line's texts become the values of keywords."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.flags import Form


def size_from_text(text: str | None, name: str) -> tuple[int, int] | tuple[None, None]:
    """Width and height of ``WIDTHxHEIGHT``; of no text neither.

    Raises:
        RequestError: another form.
    """
    if text is None:
        return None, None
    from latentrt.engines.shapes import profile_from_text

    try:
        profile = profile_from_text(text)
    except RequestError:
        profile = None
    if profile is None or profile.batch != 1:
        hint = "use --count for several pictures" if name == "size" else "correct it"
        raise RequestError(f"got {name} {text!r}, expected WIDTHxHEIGHT, such as 512x512; {hint}")
    return profile.width, profile.height


def _height_first(text: str, option: str) -> tuple[int | None, int | None]:
    width, height = size_from_text(text, option)
    return height, width


def _whole_numbers(text: str, option: str) -> list[int]:
    found = _numbers(text, option)
    if not all(value.is_integer() for value in found):
        raise RequestError(f"got {option} {text!r}, expected whole numbers of pixels; correct it")
    return [int(value) for value in found]


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(f"got {option} {text!r}, expected numbers with commas between them; correct it") from error


def _numbers_or_ays(text: str, option: str) -> list[float] | str:
    return text if text.lower() == "ays" else _numbers(text, option)


def value_from_text(text: str) -> Any:
    """True, false, numbers and lists as JSON writes them; anything else is a text."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _number_or_numbers(text: str, option: str) -> float | list[float]:
    numbers = _numbers(text, option)
    return numbers[0] if len(numbers) == 1 else numbers


def _settings(text: str, option: str) -> dict[str, Any] | None:
    """``NAME=VALUE`` pairs with commas between them; ``on`` is none of them, and ``off`` as if nothing was given."""
    if text.lower() == "off":
        return None
    if text.lower() == "on":
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise RequestError(
            f"got {option} {text!r}, expected NAME=VALUE with commas between them, on or off; correct it"
        )
    settings = {name.strip().replace("-", "_"): value_from_text(value.strip()) for name, _, value in pairs}
    if len(settings) < len(pairs):
        raise RequestError(f"got {option} {text!r}, expected each name once; leave one out")
    return settings


def _whole_number_or_settings(text: str, option: str) -> int | dict[str, Any] | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    if "=" not in text and text.lower() not in ("on", "off"):
        raise RequestError(
            f"got {option} {text!r}, expected a whole number, NAME=VALUE with commas between them, on or off; correct "
            "it"
        )
    return _settings(text, option)


def _as_it_is(value: Any, _: str) -> Any:
    return value


READ: Mapping[Form, Callable[[Any, str], Any]] = {
    Form.TEXT: _as_it_is,
    Form.NUMBER: _as_it_is,
    Form.WHOLE_NUMBER: _as_it_is,
    Form.NUMBERS: _number_or_numbers,
    Form.NUMBERS_OR_AYS: _numbers_or_ays,
    Form.SIZE: _height_first,
    Form.PAIR: _whole_numbers,
    Form.SETTINGS: _settings,
    Form.WHOLE_NUMBER_OR_SETTINGS: _whole_number_or_settings,
}
"""How the value of an option is read, by its form; each is given the option's name for messages."""
