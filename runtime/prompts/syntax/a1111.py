"""The prompt syntax of AUTOMATIC1111's web UI: ``(word)``, ``(word:1.3)``, ``[word]``, ``BREAK``, ``<lora:name:1>``."""

import re
from dataclasses import dataclass, replace
from math import isfinite

from latentrt.runtime.prompts.syntax.lora_tags import lora_tags, place_in
from latentrt.runtime.prompts.syntax.tree import Fragment, Prompt, fused, syntax_error, without_loras

_OPENING = {")": "(", "]": "["}
_FACTORS = {")": 1.1, "]": 1 / 1.1}
# An escape (a lone backslash vanishes), an opening bracket, a weight, a closing bracket, plain text
_PIECE = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<close>[)\]])|[^\\()\[\]:]+|:"
)
# White space before it belongs to it, too; looked for here, that would be tried from every blank
_BREAK = re.compile(r"\bBREAK\b\s*")


def prompt_from_a1111(text: str) -> Prompt:
    """Parses a prompt as A1111 does, or the text that it is at a step.

    A bracket that is never closed reaches to the end, and one that was never opened is text: so A1111 reads
    them, too. BREAK starts a new chunk; a chunk that only the end of the text leaves empty is none. The tags of LoRAs
    are taken out before anything else is read.

    Raises:
        RequestError: a weight that is no number, BREAK inside brackets, or an extra network that is no LoRA.
    """
    loras = lora_tags(text)
    try:
        tree = _parsed(without_loras(text, loras))
    except _MalformedError as error:
        raise syntax_error(text, place_in(error.position, loras), error.reason) from error.__cause__
    return replace(tree, loras=loras)


class _MalformedError(Exception):
    """Where a text is malformed, and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position, self.reason = position, reason


def _parsed(text: str) -> Prompt:
    """The tree of a text without tags."""
    parts: list[list[_Piece]] = [[]]
    # Of every open bracket: the index of the first fragment inside, and the position
    opened: dict[str, list[tuple[int, int]]] = {kind: [] for kind in _OPENING.values()}

    for piece in _PIECE.finditer(text):
        here = parts[-1]
        escaped, opening, weight, closing = piece.group("escaped", "open", "weight", "close")
        if escaped is not None:
            here.append(_Piece(escaped))
        elif opening:
            opened[opening].append((len(here), piece.start()))
        elif weight is not None and opened["("]:
            _close(opened["("], here, _number(piece.start("weight"), weight))
        elif closing and opened[_OPENING[closing]]:
            _close(opened[_OPENING[closing]], here, _FACTORS[closing])
        else:
            *before, last = _BREAK.split(piece.group())
            first, *others = [*(part.rstrip() for part in before), last]
            here.append(_Piece(first))
            innermost = max((position for kind in opened.values() for _, position in kind[-1:]), default=None)
            if others and innermost is not None:
                raise _MalformedError(
                    innermost, "BREAK inside brackets, expected outside; close the bracket before BREAK"
                )
            parts += [[_Piece(other)] for other in others]
    for closing, kind in _OPENING.items():
        while opened[kind]:
            _close(opened[kind], parts[-1], _FACTORS[closing])
    if len(parts) > 1 and not "".join(piece.text for piece in parts[-1]).strip():
        parts.pop()
    fragments = [[Fragment(text=piece.text, weight=piece.weight) for piece in part] for part in parts]
    if not all(isfinite(fragment.weight) for part in fragments for fragment in part):
        raise _MalformedError(0, "the nested weights multiply to infinity, expected finite; lower them")
    return Prompt(parts=tuple(fused(part, "") for part in fragments), weights=(1.0,) * len(fragments))


@dataclass
class _Piece:
    """Text, and its weight so far."""

    text: str
    weight: float = 1.0


def _close(opened: list[tuple[int, int]], pieces: list[_Piece], factor: float) -> None:
    """Closes the innermost bracket of one kind: what stands inside is weighted."""
    first, _ = opened.pop()
    for piece in pieces[first:]:
        piece.weight *= factor


def _number(position: int, weight: str) -> float:
    try:
        number = float(weight)
    except ValueError as error:
        raise _MalformedError(
            position, f"got weight {weight!r}, expected a number; write (word:1.3), or \\( \\) for brackets"
        ) from error
    if not isfinite(number):
        raise _MalformedError(position, f"got weight {weight[:12]}…, expected a finite number; lower it")
    return number
