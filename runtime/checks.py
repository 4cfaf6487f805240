"""What callers give, read and checked: numbers, texts, seeds and latents."""

import operator
import secrets
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError, shown
from latentrt.engines.spec import Array


def whole(value: Any, name: str) -> int:
    """A whole number, NumPy's included.

    Raises:
        RequestError: anything else; True and False are no numbers.
    """
    try:
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    raise RequestError(f"got {name} {shown(value)}, expected a whole number; give one")


def number(value: Any, name: str) -> float:
    """A number, NumPy's included, as Python's own: NumPy's would widen every array that they touch.

    Raises:
        RequestError: anything else.
    """
    try:
        if not isinstance(value, (bool, np.bool_, str, bytes)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise RequestError(f"got {name} {shown(value)}, expected a number; give one")


def share(value: Any, name: str) -> float:
    """A number from 0 to 1.

    Raises:
        RequestError: anything else.
    """
    found = number(value, name)
    if not 0.0 <= found <= 1.0:
        raise RequestError(f"got {name} {found:g}, expected 0 to 1; set {name} in this range")
    return found


def is_list(value: Any) -> bool:
    """Whether something holds several values; an array without dimensions is one number."""
    return isinstance(value, (Sequence, np.ndarray)) and getattr(value, "ndim", 1) > 0


def numbers(value: Any, name: str) -> tuple[float, ...]:
    """A list of finite numbers.

    Raises:
        RequestError: anything else.
    """
    if isinstance(value, (str, bytes)) or not is_list(value):
        raise RequestError(f"got {name} {shown(value)}, expected a list of numbers; give one")
    found = tuple(number(one, name) for one in value)
    if not np.isfinite(found).all():
        raise RequestError(f"got {name} {list(found)}, expected finite numbers; correct it")
    return found


def texts(value: Any, name: str) -> list[str]:
    """One text or several, as a list.

    Raises:
        RequestError: something else, or text that is not Unicode.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise RequestError(f"got {name} {shown(value)}, expected a text or a list of texts; give one")
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # lone surrogates, which a terminal's bytes become if they are no UTF-8
            raise RequestError(f"got text {text!a}, expected valid Unicode; write it as UTF-8") from error
    return list(found)


def texts_for(value: Any, prompts: int, name: str) -> list[str]:
    """One text per prompt, from one for all or one each.

    Raises:
        RequestError: another number of them.
    """
    found = texts(value, name)
    if isinstance(value, str):
        return found * prompts
    if len(found) != prompts:
        raise RequestError(
            f"got {len(found)} {name.replace('prompt', 'prompts', 1).replace('_', ' ')} for {prompts} prompts; "
            "give one, or one per prompt"
        )
    return found


def seeds_for(value: Any, count: int) -> int | tuple[int, ...]:
    """One seed for the whole batch, or one per picture; None draws them.

    Raises:
        RequestError: another number of them, or one beyond 64 bits.
    """
    if value is None:
        return tuple(secrets.randbits(32) for _ in range(count))
    shared = not is_list(value)
    seeds = tuple(whole(one, "seed") for one in ([value] if shared else value))
    if not all(0 <= seed < 2**64 for seed in seeds):
        raise RequestError(
            f"got seed {shown(value)}, expected whole numbers from 0 to 2^64 − 1; choose one in this range"
        )
    if shared:
        return seeds[0]
    if len(seeds) != count:
        raise RequestError(f"got {len(seeds)} seeds for {count} pictures; give one for all, or one per picture")
    return seeds


def checked_latents(latents: Any, shape: tuple[int, ...], what: str = "latents") -> Array:
    """Latents of a caller.

    Raises:
        RequestError: another shape or type, NaN or infinity.
    """
    from latentrt.runtime.arrays import as_array  # loaded by those who give arrays

    array = as_array(latents, what)
    if array.shape != shape or array.dtype != np.float32:
        raise RequestError(
            f"got {what} {array.shape} {array.dtype}, expected {shape} float32; give one latent per picture"
        )
    if not np.isfinite(array).all():
        raise RequestError(f"got {what} with NaN or infinity, expected finite values; draw them anew")
    return array


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line outside of this package that led here, however deep we are."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("latentrt."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
