"""Forty thousand random prompts in A1111's syntax, and what its web UI makes of them.

``a1111_prompts.json`` holds the answers of ``get_multicond_prompt_list`` and of
``get_learned_conditioning_prompt_schedules`` in ``modules/prompt_parser.py`` of AUTOMATIC1111's web UI 1.10 (commit
28bd8e14) with lark 1.1.2, each as the texts of every step. Where brackets are loose its answers depend on
PYTHONHASHSEED; it was started many times, and all answers to a prompt are kept.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNT, BLOCK = 40_000, 100
ANSWERS = Path(__file__).with_name("a1111_prompts.json")
_WORDS = ("a", "b", "red cat", "dog", " ", "  ", "\n", ", ", "é", "日", "{", "}")
_SYNTAX = (*"[[]](()):::||\\", "\\[", "\\]", "\\(", "\\)", "\\:", "\\|", "\\\\", "BREAK", " BREAK ", "AND", " AND ")
_NUMBERS = ("3", "0.5", "12", "1.5", "-1", ".25", "2.", "1e0", "+2", "0", "1.0", "7", "1.2.3", "99")
_WHEN = (*_NUMBERS, " 2", "0.75 ", "\n4 ", "x", "")


@dataclass(frozen=True)
class Case:
    """A prompt, the steps of its run, and in the second pass of a hires fix those of the first."""

    prompt: str
    steps: int
    before: int | None


def cases(count: int = COUNT) -> Iterator[Case]:
    """The first prompts, the same in every run."""
    drawn = random.Random(18)
    for _ in range(count):
        kind = drawn.random()
        if kind < 0.2:
            prompt = "".join(drawn.choice(_WORDS + _SYNTAX + _NUMBERS) for _ in range(drawn.randint(0, 14)))
        else:
            prompt = _nested(drawn, 0, sound=kind < 0.6)
        if drawn.random() < 0.15:
            prompt += drawn.choice((":", " :", " : ")) + drawn.choice(_NUMBERS) + drawn.choice(("", " "))
        if drawn.random() < 0.1:
            place = drawn.randint(0, len(prompt))
            prompt = f"{prompt[:place]}<lora:x:0.5>{prompt[place:]}"
        yield Case(prompt, *drawn.choice(((7, None), (10, None), (5, 8))))


def _nested(drawn: random.Random, depth: int, *, sound: bool) -> str:
    """Syntax inside of syntax; ``sound``: with words alone between it."""

    def inner() -> str:
        return _nested(drawn, depth + 1, sound=sound)

    kind = drawn.random()
    if depth > 2 or kind < 0.35:
        return "".join(drawn.choice(_WORDS if sound else _WORDS + _SYNTAX) for _ in range(drawn.randint(0, 4)))
    if kind < 0.5:
        return f"[{inner()}:{inner()}:{drawn.choice(_WHEN)}]"
    if kind < 0.6:
        return f"[{inner()}:{drawn.choice(_WHEN)}]"
    if kind < 0.72:
        return f"[{'|'.join(inner() for _ in range(drawn.randint(2, 4)))}]"
    if kind < 0.8:
        return f"({inner()}{drawn.choice(('', ':1.2', ':', ': 0.5'))})" if sound else f"({inner()}]"
    if kind < 0.84:
        return f"[{inner()}]" if sound else f"[{inner()})"
    if kind < 0.89:
        return f"{inner()} AND {inner()} :{drawn.choice(_NUMBERS)}"
    return inner() + inner()


def digest(answers: Sequence[Any]) -> str:
    """Eight digits that stand for answers."""
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:8]
