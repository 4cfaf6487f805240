"""The values of an axis as they are written: separated by commas, or as ranges of numbers."""

import re
from fractions import Fraction

from latentrt.engines.errors import RequestError

MOST_CELLS = 1000
"""How many cells a grid may have."""
_VALUE = re.compile(r'\s*+(?:"((?:[^"]|"")*+)"|((?!")[^,\n]*?))\s*(,|\Z)')
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(
    rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*(?P<step>{_NUMBER})\s*\)|\[\s*(?P<count>\d+)\s*\])?", re.ASCII
)
_FORMS = "1-5, 1-10(+3) or 0-1[5]"
_DIGITS = 6  # significant ones of a number between the ends of a range


def split_values(text: str, option: str) -> tuple[str, ...]:
    """Values between commas, without the spaces around them; one that has commas itself stands in double quotes.

    Args:
        text: one line of CSV.
        option: what it was given to, for messages.

    Raises:
        RequestError: quotes without an end, or text behind them.
    """
    values, place = [], 0
    while (match := _VALUE.match(text, place)) is not None:
        quoted, bare, end = match.groups()
        values.append(bare if quoted is None else quoted.replace('""', '"').strip())
        place = match.end()
        if not end:
            return tuple(values)
    raise RequestError(
        f"got {option} {text!r}, expected values with commas between them, and those with commas in double quotes, "
        'such as "a cat, sitting","a dog"; correct it'
    )


def numbers_from_ranges(values: tuple[str, ...], option: str, *, whole: bool) -> tuple[str, ...]:
    """The values with every range in its numbers, as A1111's X/Y/Z plot writes ranges; others stay as they are.

    ``1-5`` counts by ones, ``1-10(+3)`` by threes and not beyond the end, ``0-1[5]`` are five numbers evenly spaced.
    Ranges may go down.

    Args:
        values: as they are written.
        option: what they were given to, for messages.
        whole: whether evenly spaced numbers are cut down to whole ones, each of them once.

    Raises:
        RequestError: a step that leads away from the end, no number, or too many of them.
    """
    numbers: list[str] = []
    for value in values:
        match = _RANGE.fullmatch(value)
        numbers += [value] if match is None else _numbers(match, option, whole=whole)
    return tuple(numbers)


def _numbers(match: re.Match[str], option: str, *, whole: bool) -> list[str]:
    start, end = Fraction(match[1]), Fraction(match[2])
    if match["count"] is not None:
        count = int(match["count"])
        _check_count(count, match[0], option)
        spaced = [start + (end - start) * index / max(count - 1, 1) for index in range(count)]
        return list(dict.fromkeys(str(int(number)) if whole else _text(number) for number in spaced))
    down = end < start
    step = Fraction(match["step"] or 1)
    if match["step"] is None or (down and not match["step"].startswith("+")):
        step = -abs(step) if down else step
    if step == 0 or (start != end and (step < 0) is not down):
        raise RequestError(
            f"got {option} with the range {match[0]!r}, whose step does not lead to its end, expected a form such as "
            f"{_FORMS}; correct the step"
        )
    count = int((end - start) / step) + 1
    _check_count(count, match[0], option)
    return [_text(start + index * step) for index in range(count)]


def _check_count(count: int, text: str, option: str) -> None:
    if not 1 <= count <= MOST_CELLS:
        raise RequestError(
            f"got {option} with the range {text!r} of {count} numbers, expected 1 to {MOST_CELLS}; choose fewer"
        )


def _text(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.{_DIGITS}g}"
