"""Documents and files that differ from good ones in a few places, to try readers with. Every run is the same."""

import json
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from latentrt.engines.errors import LatentrtError

_Test = TypeVar("_Test", bound=Callable[..., Any])

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, 1e308, -0.0, math.nan, math.inf, 0.5]),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["", "1", "nan", "true", "epsilon", "\0", "../x", "é" * 300]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
_BYTES = st.sampled_from([b"\0", b"\xff", b"{", b"}", b'"', b"\x80", b".", b"\n", struct.pack("<Q", 2**63), b"9" * 30])


def fuzzed(examples: int) -> Callable[[_Test], _Test]:
    """A bounded run of a property test that is the same each time."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # the smallest example would take minutes more
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def refused_in_a_sentence(kind: type[LatentrtError] = LatentrtError) -> Iterator[None]:
    """Lets through nothing but an error of ours, which says what to do in one line."""
    message = "; "
    try:
        yield
    except kind as error:
        message = str(error)
    assert "\n" not in message
    assert "; " in message


@st.composite
def documents(draw: st.DrawFn, good: Any) -> Any:
    """A JSON document with one to three values replaced, taken away, or added; seldom another document altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(JSON)
    document = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = document, draw(st.sampled_from(_keys(document)))
        while isinstance(holder[key], (dict, list)) and holder[key] and draw(st.booleans()):
            holder = holder[key]
            key = draw(st.sampled_from(_keys(holder)))
        change = draw(st.integers(0, 5))
        if change == 0 and isinstance(holder, dict):
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(JSON)
        elif change == 2:
            holder[key] = [holder[key]]
        elif change == 3:
            holder[key] = str(holder[key])
        else:
            holder[key] = draw(JSON)
        if not document:
            break
    return document


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes of which a few are changed, cut out, doubled or put in; seldom the beginning alone."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        change = draw(st.integers(0, 5))
        if change == 0:
            del content[place:]
        elif change == 1:
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif change == 2:
            content[place:place] = draw(st.one_of(_BYTES, st.binary(max_size=9)))
        elif change == 3:
            del content[place : place + draw(st.integers(1, 40))]
        elif change == 4:
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:
            replacement = draw(_BYTES)
            content[place : place + len(replacement)] = replacement
    return bytes(content)
