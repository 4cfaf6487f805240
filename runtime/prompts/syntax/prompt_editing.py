"""Prompts that change on the way, as AUTOMATIC1111's web UI writes them.

``[a:b:when]`` is a, and b after the step ``when``; ``[b:when]`` is nothing before and ``[a::when]`` nothing after.
``[a|b]`` changes with every step. Both nest. Version 1.10 counts as follows (``modules/prompt_parser.py``, and its
wiki, "Seed breaking changes", 1.6.0): with a point ``when`` is a share of the steps, without one a number of steps.
In the second pass of a hires fix a share counts from 1.0 (1.5 is half of that pass) and a number from the end of the
first pass; edits of the first pass lie behind it.

A bracket that does not read as an edit, an alternation or an emphasis is a character, and so are the colons in it.
The characters of a ``|`` outside of alternations, or of a backslash with nothing behind it, make the whole text one
that never changes: so A1111 reads them, too. Where a text with such loose brackets could be read in two ways,
A1111's choice depends on the order of Python's sets and may differ from one start to the next. Here, everything that
can be an edit is one.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, field

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.parts import StepCount
from latentrt.runtime.prompts.syntax.lora_tags import lora_tags
from latentrt.runtime.prompts.syntax.tree import without_loras

_MOST_CHARACTERS = 100_000  # of all texts that one prompt becomes
_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_OPENING = {"]": "[", ")": "("}


def changes(text: str) -> bool:
    """Whether a prompt, as it is written, may change from one step to another."""
    return _edited(text) is not None


def texts_at_steps(text: str, steps: StepCount) -> tuple[str, ...]:
    """The text of every step, or the only one of a prompt that does not change.

    Args:
        text: a prompt as it is written.
        steps: of the run.

    Returns:
        One text as it is written, or ``steps.steps`` texts without tags of LoRAs.

    Raises:
        RequestError: the texts are more than 100,000 characters together, or a tag of a LoRA is malformed.
    """
    edited = _edited(text)
    if edited is None:
        return (text,)
    ends = {group: _last_step(group.when, steps) for group in edited.groups.values() if group.when is not None}
    # A text depends on the place in every cycle of alternations and on the edits that are done
    lengths = sorted({len(group.bounds) - 1 for group in edited.groups.values() if group.when is None})
    thresholds = sorted(set(ends.values()))
    known: dict[tuple[int, ...], str] = {}
    texts: list[str] = []
    characters = 0
    for step in range(1, steps.steps + 1):
        state = (bisect_left(thresholds, step), *((step - 1) % length for length in lengths))
        if state not in known:
            known[state] = edited.text_at(step, ends)
            characters += len(known[state])
            if characters > _MOST_CHARACTERS:
                raise RequestError(
                    f"got a prompt that changes into more than {_MOST_CHARACTERS:,} characters of text over "
                    f"{steps.steps} steps, expected fewer; shorten it, or leave alternations [a|b] out"
                )
        texts.append(known[state])
    return tuple(texts) if len(set(texts)) > 1 else (texts[0],)


def _last_step(when: str, steps: StepCount) -> int:
    """The last step before an edit; 0 where it is done from the start."""
    if "." in when:
        last = (float(when) - (0.0 if steps.before is None else 1.0)) * steps.steps
    else:
        last = float(when) - (steps.before or 0)
    return int(min(max(last, 0.0), steps.steps))


@dataclass(frozen=True, eq=False)
class _Group:
    """An edit, or an alternation if ``when`` is None.

    ``bounds`` are the tokens around its texts: the opening bracket, then what ends each of them.
    """

    bounds: tuple[int, ...]
    close: int
    when: str | None


@dataclass(frozen=True)
class _Edited:
    """The tokens of a text, and what changes in it by its opening bracket."""

    tokens: list[str]
    groups: dict[int, _Group]

    def text_at(self, step: int, ends: dict[_Group, int]) -> str:
        """The text of a step, counted from 1."""
        chosen: list[str] = []
        inside: list[tuple[int, int]] = []  # where the text of each entered group ends, and where the group does
        index = 0
        while index < len(self.tokens):
            if inside and index == inside[-1][0]:
                index = inside.pop()[1] + 1
                continue
            group = self.groups.get(index)
            if group is None:
                chosen.append(self.tokens[index])
            else:
                choices = len(group.bounds) - 1
                if group.when is None:
                    choice = (step - 1) % choices
                else:
                    choice = choices - 1 if step > ends[group] else choices - 2
                if choice < 0:  # [b:when], before
                    index = group.close
                else:
                    index = group.bounds[choice]
                    inside.append((group.bounds[choice + 1], group.close))
            index += 1
        return "".join(chosen)


@dataclass(frozen=True)
class _Bracket:
    """An open bracket, and the colons and bars directly inside of it."""

    index: int
    kind: str
    colons: list[int] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)


def _edited(text: str) -> _Edited | None:
    """What changes in a prompt; None where nothing does.

    A bracket is loose if it has no partner, or if it and its partner enclose what cannot stand in brackets. What
    encloses a loose bracket is loose, too. So one look at every token is enough.
    """
    if "[" not in text:
        return None
    text = without_loras(text, lora_tags(text))
    tokens = _TOKEN.findall(text)
    if sum(map(len, tokens)) != len(text):
        return None
    groups: dict[int, _Group] = {}
    opened: list[_Bracket] = []
    for index, token in enumerate(tokens):
        if token in ("[", "("):
            opened.append(_Bracket(index, token))
        elif token == ":" and opened:
            opened[-1].colons.append(index)
        elif token == "|":
            if not opened:
                return None
            opened[-1].bars.append(index)
        elif token in _OPENING and opened:
            group = None
            if matches := opened[-1].kind == _OPENING[token]:
                group = _group(opened[-1], index, tokens)
            if group is not None:
                groups[group.bounds[0]] = group
            if group is None and not (matches and _is_emphasis(opened[-1])):
                if any(bracket.bars for bracket in opened):
                    return None
                opened.clear()
            else:
                opened.pop()
    if any(bracket.bars for bracket in opened) or not groups:
        return None
    return _Edited(tokens, groups)


def _is_emphasis(bracket: _Bracket) -> bool:
    """Whether brackets are characters that the tree parser reads, whatever they enclose."""
    return not bracket.bars and len(bracket.colons) <= (bracket.kind == "(")


def _group(bracket: _Bracket, close: int, tokens: list[str]) -> _Group | None:
    """What a pair of square brackets changes; None where nothing."""
    if bracket.kind != "[":
        return None
    if bracket.bars and not bracket.colons:
        return _Group((bracket.index, *bracket.bars, close), close, None)
    if not bracket.bars and 1 <= len(bracket.colons) <= 2 and close == bracket.colons[-1] + 2:
        number = _NUMBER.fullmatch(tokens[close - 1])
        if number:
            return _Group((bracket.index, *bracket.colons), close, number.group(1))
    return None
