"""Tokens to the chunks that a text encoder reads: cut where each syntax cuts, and framed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.tokenizer import Tokenizer
from latentrt.engines.spec import Array

_SENTENCE_ENDS = frozenset({".</w>"})
_PHRASE_ENDS = frozenset({".</w>", ",</w>", ";</w>", ":</w>"})
_COMMA = ",</w>"
_BACKTRACK = 20  # tokens that A1111 moves to the next chunk, so that it begins behind a comma (its default)


@dataclass(frozen=True)
class Token:
    """One token slot: its id, its fragment and place in the fragment's text.

    ``joined`` slots belong to the same textual inversion as the slot before.
    """

    id: int
    fragment: int
    begin: int
    joined: bool = False


@dataclass(frozen=True, kw_only=True)
class Framed:
    """A text in k chunks of ``length`` tokens.

    ``ids`` (k, length) int64 and ``weights`` (k, length) float32, 1 for framing and padding. ``lowered`` are the
    weights below 1, each with the mask (k, length) int64 that hides its fragment.
    """

    ids: Array
    weights: Array
    lowered: tuple[tuple[float, Array], ...]


def whole_sentences(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[int]:
    """Where compel ends its chunks: behind the last full stop that fits; else behind a comma, semicolon or
    colon; else behind a word; else in the middle of one."""
    texts = [tokenizer.text_of(token.id) for token in tokens]
    ends, start = [], 0
    while len(tokens) - start > tokenizer.room:
        window = range(start + tokenizer.room - 1, start - 1, -1)
        found = [
            next((i for i in window if texts[i] in _SENTENCE_ENDS), None),
            next((i for i in window if texts[i] in _PHRASE_ENDS), None),
            next((i for i in window if texts[i].endswith("</w>")), None),
        ]
        last = next((i for i in found if i is not None), start + tokenizer.room - 1)
        start = last + 1
        ends.append(start)
    return [*ends, len(tokens)]


def near_commas(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[int]:
    """Where A1111 ends its chunks: when they are full, or behind a comma among the last 20 tokens; the vectors
    of a textual inversion stay together."""
    comma_id, room = tokenizer.id_of(_COMMA), tokenizer.room
    ends, start, comma = [], 0, -1
    for i, token in enumerate(tokens):
        if token.joined:
            continue
        size = i - start
        if token.id == comma_id:
            comma = i
        elif size == room and comma >= 0 and i - comma <= _BACKTRACK:
            start, comma = comma + 1, -1
            ends.append(start)
        slots = next((n for n in range(1, len(tokens) - i) if not tokens[i + n].joined), len(tokens) - i)
        if i - start + slots > room:
            start, comma = i, -1
            ends.append(start)
    return [*ends, len(tokens)]


def framed(tokens: Sequence[Token], ends: Sequence[int], weights: Sequence[float], tokenizer: Tokenizer) -> Framed:
    """Chunks with start, end and padding.

    Args:
        tokens: all tokens of a text.
        ends: where each chunk ends among them. What lies behind the last end is left out.
        weights: of each fragment.
        tokenizer: gives length and framing.
    """
    length, starts = tokenizer.length, [0, *ends[:-1]]
    ids = np.stack([tokenizer.framed([t.id for t in tokens[a:b]]) for a, b in zip(starts, ends, strict=True)])
    factors = np.ones(ids.shape, np.float32)
    places: dict[int, list[int]] = {}
    for chunk, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for column, token in enumerate(tokens[start:end], 1):
            factors[chunk, column] = weights[token.fragment]
            places.setdefault(token.fragment, []).append(chunk * length + column)
    cut = tokens[ends[-1]].fragment if ends[-1] < len(tokens) else None
    lowered = []
    for fragment, slots in places.items():
        if weights[fragment] < 1.0:
            mask: Array = np.ones(ids.size, np.int64)
            # As in compel: from first to last slot but for the frames of the chunks; a fragment that was cut off,
            # unless it is the first, takes the end token with it
            mask[slots[0] : slots[-1] + 1] = 0
            mask = mask.reshape(ids.shape)
            mask[:, 0] = mask[:, -1] = 1
            if fragment == cut and slots[0] > 1:
                mask[0, slots[0] :] = 0
            lowered.append((weights[fragment], mask))
    return Framed(ids=ids, weights=factors, lowered=tuple(lowered))
