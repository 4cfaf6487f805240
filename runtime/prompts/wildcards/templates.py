"""Templates, read and sampled by the package dynamicprompts, within bounds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from dynamicprompts.commands import Command
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.parse import parse
from dynamicprompts.samplers.random import RandomSampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.sampling_result import SamplingResult
from dynamicprompts.types import ResultGen
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.item import WildcardItem
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.wildcards.files import WildcardFiles

_MOST_PARTS = 20_000  # texts, braces and wildcards of one prompt
_MOST_CHARACTERS = 100_000  # of one prompt
_MOST_CHOSEN_FROM = 10_000  # entries of {2$$__name__}, which the package reads one by one
# The package's parser keeps these for ${…} and %{…} and knows no escapes; alone they are text here
_ALONE = re.compile(r"%(?!\{)|(?<!\$)\$(?![${])")
_HIDDEN = {"%": "\ue000", "$": "\ue001"}
_SHOWN = str.maketrans({hidden: shown for shown, hidden in _HIDDEN.items()})
_SHOWN_OF_ERROR = 40  # characters of a template in an error


class Templates:
    """Makes prompts of templates; threads may share it."""

    def __init__(self, files: WildcardFiles) -> None:
        """Takes the wildcards."""
        self._files = files

    def prompt(self, template: str, seed: int) -> str:
        """The prompt that a seed makes of a template; whatever the seed was used for before.

        Raises:
            RequestError: a malformed template, a wildcard without a file, or a prompt beyond all bounds.
        """
        if not template:
            return ""
        context = _Context(
            default_sampling_method=SamplingMethod.RANDOM,
            wildcard_manager=_Values(self._files),
            samplers={SamplingMethod.RANDOM: RandomSampler()},
            rand=Random(seed),
        )
        shown = template if len(template) <= _SHOWN_OF_ERROR else f"{template[:_SHOWN_OF_ERROR]}…"
        try:
            drawn = next(iter(context.sample_prompts(_hidden(template), 1)))
        except RequestError:
            raise
        except ParseBaseException as error:
            raise _malformed(error) from error
        except KeyError as error:
            raise RequestError(f"cannot resolve {shown!r}: {error.args[0]}; write ${{name=…}} before it") from error
        except RecursionError as error:
            raise RequestError(
                f"cannot resolve {shown!r}, whose wildcards or variables name one another without end, or whose braces "
                "lie too deep; break the circle"
            ) from error
        except Exception as error:  # of the package, which checks little
            cause = error.__cause__ or error
            raise RequestError(
                f"cannot resolve {shown!r} ({type(cause).__name__}{f': {cause}' if str(cause) else ''}); correct it"
            ) from error
        return drawn.text.translate(_SHOWN)


def _hidden(text: str) -> str:
    return _ALONE.sub(lambda match: _HIDDEN[match[0]], text)


def _malformed(error: ParseBaseException) -> RequestError:
    """What the parser could not read, and where."""
    text, place = error.pstr.translate(_SHOWN), error.loc
    got = re.match(r"__|[$%]\{|.?", text[place:], re.S)
    named = text if len(text) <= 2 * _SHOWN_OF_ERROR else f"…{text[max(place - _SHOWN_OF_ERROR, 0) :][:80]}…"
    return RequestError(
        f"got template {named!r} with {got[0] if got else ''!r} at character {place + 1}, which begins nothing that "
        "ends, expected {a|b}, __file__ or ${name=…}; close it, or leave it out"
    )


@dataclass
class _Budget:
    """What is left of the bounds of one prompt."""

    parts: int = _MOST_PARTS
    characters: int = _MOST_CHARACTERS

    def take(self, command: Command) -> None:
        self.parts -= 1
        self.characters -= len(getattr(command, "literal", ""))
        if self.parts < 0 or self.characters < 0:
            raise RequestError(
                f"got a template that grows beyond {_MOST_PARTS} parts or {_MOST_CHARACTERS} characters, expected a "
                "prompt; look for wildcards that name each other many times"
            )


@dataclass(frozen=True)
class _Context(SamplingContext):
    """The package's context, in which everything is chosen at random and counted.

    ``{!…}`` (all combinations) and ``{@…}`` (in turn) have no meaning for one picture.
    """

    budget: _Budget = field(default_factory=_Budget)

    def generator_from_command(self, command: Command) -> ResultGen:
        self.budget.take(command)
        return self.default_sampler.generator_from_command(command, self)

    def sample_prompts(self, prompt: str | Command, num_prompts: int | None = None) -> Iterable[SamplingResult]:
        return super().sample_prompts(_parsed(prompt) if isinstance(prompt, str) else prompt, num_prompts)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Command:
    return parse(text)


class _Values(WildcardManager):
    """The package's way to the entries of a wildcard."""

    def __init__(self, files: WildcardFiles) -> None:
        super().__init__()
        self._files = files

    def get_values(self, wildcard: str) -> WildcardValues:
        """All entries, or an error that a user can read."""
        entries = self._files.entries(wildcard.translate(_SHOWN))
        return _Counted(tuple(WildcardItem(_hidden(entry.text), entry.weight) for entry in entries))


class _Counted(WildcardValues):
    """Entries of which several are chosen only if they are not too many."""

    def iterate_string_values_weighted(self) -> Iterable[str]:  # type: ignore[override]
        """As the package does: each as often as its weight says."""
        count = sum(int(getattr(item, "weight", 1)) for item in self.items)
        if not 0 < count <= _MOST_CHOSEN_FROM:
            raise RequestError(
                f"got several entries to choose from {len(self.items)} with weights of {count} in all, expected 1 to "
                f"{_MOST_CHOSEN_FROM}; choose one entry at a time, or split the file"
            )
        return super().iterate_string_values_weighted()


parse("{a|b}")  # builds the parser, once for all threads
