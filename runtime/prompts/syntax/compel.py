"""The prompt syntax of compel 2.5: ``word++``, ``(two words)1.3``, ``("a", "b").blend(0.7, 0.3)``, ``.and()``.

A prompt is read word by word. Where a word, a quotation or a parenthesis carries a weight, what it holds is
weighted; nested weights multiply. A parenthesis whose inside is no list of words (``(a = b)``) is text, and
so is one in the middle of a word (``cat(s)``): so compel reads them, too. ``withLora(name, 0.8)`` or ``useLora(…)``
as a word by itself asks for a LoRA.
"""

import re
from dataclasses import dataclass, field, replace
from math import isfinite

from latentrt.runtime.prompts.syntax.lora_tags import refuse_repeated
from latentrt.runtime.prompts.syntax.tree import (
    Blend,
    Fragment,
    LoraTag,
    Prompt,
    Text,
    fused,
    plain_prompt,
    syntax_error,
)

_STRONGER, _WEAKER = 1.1, 0.9
_DEEPEST = 32  # brackets inside of brackets
_SPACE = " \t\n\r\v\f"
_SYNTAX = '()",.+-='

_COMMA = re.compile(r",(\S)")
_QUOTED = re.compile(r'"((?:\\"|[^"\n\r])*)"')
_INSIDE = re.compile(r"\\[tnrf]|.", re.DOTALL)  # of a quotation: escaped white space, or any character
_WORD = re.compile(rf"(?:\\[{re.escape(_SYNTAX)}]|[+-](?=[^\s{re.escape(_SYNTAX)}])|[^\s{re.escape(_SYNTAX)}])+")
_FREE_WORD = re.compile(r"\S+")
_SIGNS = re.compile(r"\++|-+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)|-?\d+")
_ATTEND = re.compile(r"\s*\.attend\s*\(\s*([^()]*?)\s*\)")
_OPERATOR = re.compile(r"(?<!\\)\)\s*\.(blend|and|add)\s*\(")
_ARGUMENTS = re.compile(r"[^()]*")
_SWAP = re.compile(r"(?<!\\)\.swap\s*\(")
_BEGIN_OF_LORA = re.compile(r"\b(?:with|use)Lora\s*\(")
_LORA = re.compile(rf"{_BEGIN_OF_LORA.pattern}\s*([A-Za-z0-9_-]+)\s*(?:,\s*({_NUMBER.pattern})\s*)?\)")


@dataclass(frozen=True)
class _Weighted:
    """Words and weighted groups under one factor."""

    factor: float
    children: "list[_Node]" = field(default_factory=list)


_Node = str | _Weighted | LoraTag
_Found = tuple[list[_Node], int]  # what was read, and the index behind it


def prompt_from_compel(text: str) -> Prompt:
    """Parses a prompt as compel does.

    Raises:
        RequestError: parentheses that do not match, an operator that is not the whole prompt, a number of
            weights that is not that of the texts, a weight that is no finite number, or a LoRA that stands twice.
    """
    if found := _SWAP.search(text):
        raise syntax_error(text, found.start(), ".swap(…) is not supported; write one of the two texts")
    _check_parentheses(text)
    if not text.strip():
        return plain_prompt("")
    reader = _Reader(*_spaced(text))
    if operator := _OPERATOR.search(reader.text):
        tree = _combination(reader, operator)
    else:
        tree = Prompt(parts=(reader.flat(reader.words(0)),), weights=(1.0,))
    loras = tuple(sorted(reader.loras, key=lambda lora: lora.begin))
    refuse_repeated(text, loras)
    return replace(tree, loras=loras)


def _spaced(text: str) -> tuple[str, list[int], str]:
    """The text with a space behind every comma, as compel has it, and each character's index before."""
    places = list(range(len(text)))
    for comma in reversed(list(_COMMA.finditer(text))):
        places.insert(comma.start(1), comma.start(1))
    return _COMMA.sub(r", \1", text), [*places, len(text)], text


def _check_parentheses(text: str) -> None:
    opened: list[int] = []
    for match in re.finditer(r"\\[()]|[()]", text):
        if match.group() == "(":
            opened.append(match.start())
            if len(opened) > _DEEPEST:
                raise syntax_error(text, match.start(), f"more than {_DEEPEST} nested parentheses; use fewer")
        elif match.group() == ")":
            if not opened:
                raise syntax_error(
                    text, match.start(), "a parenthesis that was never opened; open it, or write \\) for the character"
                )
            opened.pop()
    if opened:
        raise syntax_error(
            text, opened[-1], "a parenthesis that is never closed; close it, or write \\( for the character"
        )


class _Reader:
    """Reads one string from left to right; every method takes an index and gives the next, or None."""

    def __init__(self, text: str, places: list[int], prompt: str) -> None:
        self.text, self.places, self.prompt = text, places, prompt
        self.loras: list[LoraTag] = []  # in the nodes that were made flat
        # Groups are tried with and without a weight behind them, at every depth: without this, 2^depth times
        self._parentheses: dict[int, _Found | None] = {}
        self._quotations: dict[int, _Found | None] = {}

    def behind_loras(self, index: int) -> int:
        """The index behind LoRAs and white space."""
        nodes: list[_Node] = []
        while found := self.lora(index := self.skip(index)):
            nodes += found[0]
            index = found[1]
        self.flat(nodes)
        return index

    def fail(self, index: int, reason: str) -> Exception:
        """The error for an index in this string, stated for the prompt that the user wrote."""
        return syntax_error(self.prompt, self.places[min(index, len(self.places) - 1)], reason)

    def skip(self, index: int) -> int:
        """The index of the next character that is no space."""
        while index < len(self.text) and self.text[index] in _SPACE:
            index += 1
        return index

    def words(self, index: int) -> list[_Node]:
        """Everything from an index on; what is nothing else is a word as it stands."""
        nodes: list[_Node] = []
        while (index := self.skip(index)) < len(self.text):
            found = self.lora(index) or self.weighted(index) or self.quoted(index) or self.parenthesis(index)
            if found is None:
                word = _FREE_WORD.match(self.text, index)
                self.refuse_lora(word)
                found = ([word.group()], word.end()) if word else ([], index + 1)
            nodes += found[0]
            index = found[1]
        return nodes

    def list_of_words(self, index: int) -> _Found:
        """Words, groups, commas and full stops, as far as they go: what parentheses and quotations hold."""
        nodes: list[_Node] = []
        while (index := self.skip(index)) < len(self.text):
            found = self.lora(index) or self.weighted(index) or self.parenthesis(index) or self.quoted(index)
            found = found or self.word(index)
            if found is None and self.text[index] in ",.":
                found = [self.text[index]], index + 1
            if found is None:
                break
            nodes += found[0]
            index = found[1]
        return nodes, index

    def lora(self, index: int) -> _Found | None:
        """A LoRA with its weight."""
        found = _LORA.match(self.text, index)
        if found is None:
            self.refuse_lora(_BEGIN_OF_LORA.match(self.text, index))
            return None
        weight = float(found.group(2) or 1.0)
        if not isfinite(weight):
            raise self.fail(found.start(2), f"got weight {found.group(2)[:8]}…, expected a finite number; lower it")
        begin, end = self.places[index], self.places[found.end() - 1] + 1
        return [LoraTag(name=found.group(1), unet=weight, text=weight, begin=begin, end=end)], found.end()

    def refuse_lora(self, found: "re.Match[str] | None") -> None:
        """Refuses what asks for a LoRA in another way."""
        begun = found and _BEGIN_OF_LORA.search(self.text, found.start(), found.end())
        if begun:
            raise self.fail(
                begun.start(),
                "expected withLora(name, 0.8) as a word by itself, with a name of letters, digits, _ and -; correct "
                "it, or name the LoRA in loras",
            )

    def word(self, index: int) -> _Found | None:
        """A word without syntax; + and - count as part of it where another letter follows."""
        found = _WORD.match(self.text, index)
        return ([found.group()], found.end()) if found else None

    def parenthesis(self, index: int) -> _Found | None:
        """A list of words in parentheses."""
        if index not in self._parentheses:
            self._parentheses[index] = self._parenthesis(index)
        return self._parentheses[index]

    def _parenthesis(self, index: int) -> _Found | None:
        if not self.text.startswith("(", index):
            return None
        nodes, end = self.list_of_words(index + 1)
        return (nodes, end + 1) if self.text.startswith(")", end) else None

    def quoted(self, index: int) -> _Found | None:
        """A list of words in double quotes."""
        if index not in self._quotations:
            self._quotations[index] = self._quoted(index)
        return self._quotations[index]

    def _quoted(self, index: int) -> _Found | None:
        found = _QUOTED.match(self.text, index)
        if found is None:
            return None
        if not found.group(1).strip():
            return [""], found.end()
        inner = self.inside(found)
        nodes, end = inner.list_of_words(0)
        return (nodes, found.end()) if end == len(inner.text) else None

    def inside(self, quotation: "re.Match[str]") -> "_Reader":
        """A reader of a quotation's inside; quotes in it stay characters."""
        pieces = list(_INSIDE.finditer(self.text, quotation.start(1), quotation.end(1)))
        content = "".join(" " if len(piece.group()) > 1 else piece.group() for piece in pieces)
        return _Reader(
            content, [self.places[at] for at in (*(p.start() for p in pieces), quotation.end(1))], self.prompt
        )

    def weighted(self, index: int) -> _Found | None:
        """A quotation or parenthesis before signs or a number, a word before signs, or any before .attend(…)."""
        group = self.quoted(index) or self.parenthesis(index)
        target = group or self.word(index)
        if target is None:
            return None
        nodes, end = target
        if attend := _ATTEND.match(self.text, end):
            return [_Weighted(self.factor(attend.group(1), attend.start(1)), nodes)], attend.end()
        operator = _SIGNS.match(self.text, end) or (_NUMBER.match(self.text, end) if group else None)
        if operator is None:
            return None
        return [_Weighted(self.factor(operator.group(), end), nodes)], operator.end()

    def factor(self, operator: str, index: int) -> float:
        """1.1 for every plus, 0.9 for every minus, or the number."""
        signs = _SIGNS.fullmatch(operator)
        if not signs and not _NUMBER.fullmatch(operator):
            raise self.fail(index, f"got weight {operator!r}, expected +, - or a number; write one")
        try:
            factor = (_STRONGER if operator[0] == "+" else _WEAKER) ** len(operator) if signs else float(operator)
        except OverflowError:
            factor = float("inf")
        if not isfinite(factor):
            raise self.fail(index, f"got weight {operator[:8]}…, expected a finite number; lower it")
        return factor

    def flat(self, nodes: list[_Node]) -> Text:
        """Nodes as fragments, each weighted by all the groups around it; ``loras`` has those among them then."""
        fragments: list[Fragment] = []

        def visit(nodes: list[_Node], weight: float) -> None:
            for node in nodes:
                if isinstance(node, LoraTag):
                    self.loras.append(node)
                elif isinstance(node, _Weighted):
                    visit(node.children, weight * node.factor)
                elif isfinite(weight):
                    fragments.append(Fragment(text=_unescaped(node), weight=weight))
                else:
                    raise self.fail(0, "the nested weights multiply to infinity, expected finite; lower them")

        visit(nodes, 1.0)
        return fused(fragments, " ")


def _unescaped(word: str) -> str:
    return re.sub(r'\\+([()"])', r"\1", word)


def _combination(reader: _Reader, operator: "re.Match[str]") -> Prompt:
    """``("a", "b").blend(…)`` or ``.and(…)``, which must be the whole prompt."""
    name = operator.group(1)
    form = f'("…", "…").{name}(…)'
    index = reader.behind_loras(0)
    if reader.text[index] != "(":
        raise reader.fail(index, f".{name}(…) must stand behind the whole prompt; write {form} and nothing else")
    texts: list[Text] = []
    separator = ","
    while separator == ",":
        index = reader.skip(index + 1)
        found = reader.quoted(index) or reader.parenthesis(index) or reader.word(index)
        if found is None and (quotation := _QUOTED.match(reader.text, index)):
            found = reader.inside(quotation).words(0), quotation.end()
        if found is None:
            raise reader.fail(index, f"expected a text in double quotes; write {form}")
        texts.append(reader.flat(found[0]))
        index = reader.skip(found[1])
        separator = reader.text[index : index + 1]
    if index != operator.start():
        raise reader.fail(index, f"expected a comma or the parenthesis before .{name}; write {form}")
    arguments = _ARGUMENTS.match(reader.text, operator.end())
    end = arguments.end() if arguments else operator.end()
    closed = reader.text.startswith(")", end)
    where = reader.behind_loras(end + 1) if closed else end
    if not closed or where < len(reader.text):
        raise reader.fail(where, f".{name}(…) must be the end of the prompt; write {form} and nothing else")
    words = [word.strip() for word in reader.text[operator.end() : end].split(",")] if end > operator.end() else []
    words = [] if words == [""] else words
    normalized = not (name == "blend" and words[-1:] == ["no_normalize"])
    weights = [_weight(reader, operator.end(), word) for word in (words if normalized else words[:-1])]
    if weights and len(weights) != len(texts):
        raise reader.fail(
            operator.end(), f"got {len(weights)} weights for {len(texts)} texts, expected as many; give one per text"
        )
    weights = weights or [1.0] * len(texts)
    if name != "blend":
        return Prompt(parts=tuple(texts), weights=tuple(weights))
    total = sum(weights)
    if normalized and not total:
        raise reader.fail(operator.end(), "the weights of a blend sum to 0; change one, or add no_normalize")
    scaled = tuple(weight / total for weight in weights) if normalized else tuple(weights)
    return Prompt(parts=(Blend(texts=tuple(texts), weights=scaled),), weights=(1.0,))


def _weight(reader: _Reader, index: int, word: str) -> float:
    if not _NUMBER.fullmatch(word) or not isfinite(number := float(word)):
        raise reader.fail(index, f"got weight {word[:24]!r}, expected a number; write 1, 0.5 or no weights at all")
    return number
