"""What every prompt syntax parses to: weighted fragments of text, blended and put one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.engines.errors import RequestError

_EXCERPT = 24  # characters of the prompt on either side of the marker


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A piece of text and its weight; 1 means as it is."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Text:
    """Fragments that are read by the text encoder as one text."""

    fragments: tuple[Fragment, ...]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """The weighted sum of the conditionings of several texts."""

    texts: tuple[Text, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LoraTag:
    """A LoRA that a prompt asks for, its weights for U-Net and text encoders, and where in the prompt it stands."""

    name: str
    unet: float
    text: float
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Conditionings that are concatenated; a weight moves a part away from the empty prompt (0: the empty prompt).

    ``loras`` are no part of the text, in the order in which they stand.
    """

    parts: tuple[Text | Blend, ...]
    weights: tuple[float, ...]
    loras: tuple[LoraTag, ...] = ()

    @property
    def texts(self) -> list[Text]:
        """All texts, those of blends among them."""
        return [text for part in self.parts for text in (part.texts if isinstance(part, Blend) else [part])]


EMPTY = Text(fragments=(Fragment(text=""),))


def plain_prompt(text: str) -> Prompt:
    """The prompt that takes every character for what it is."""
    return Prompt(parts=(Text(fragments=(Fragment(text=text),)),), weights=(1.0,))


def without_loras(prompt: str, loras: Sequence[LoraTag]) -> str:
    """A prompt as it was typed, without the LoRAs in it."""
    ends, begins = [0, *(lora.end for lora in loras)], [*(lora.begin for lora in loras), len(prompt)]
    return "".join(prompt[end:begin] for end, begin in zip(ends, begins, strict=True))


def fused(fragments: list[Fragment], joint: str) -> Text:
    """The text of some fragments, neighbours of one weight joined by ``joint``."""
    joined: list[Fragment] = []
    for fragment in fragments:
        if joined and joined[-1].weight == fragment.weight:
            joined[-1] = Fragment(text=joined[-1].text + joint + fragment.text, weight=fragment.weight)
        else:
            joined.append(fragment)
    return Text(fragments=tuple(joined)) if joined else EMPTY


def syntax_error(prompt: str, position: int, reason: str) -> RequestError:
    """A malformed prompt: where (counted from 1, with the marker ▸ in an excerpt), why and what to do.

    Args:
        prompt: the whole prompt.
        position: index of the offending character.
        reason: what was got, what was expected; what to do.
    """
    before = prompt[max(0, position - _EXCERPT) : position]
    after = prompt[position : position + _EXCERPT]
    lead, tail = "…" * (position > _EXCERPT), "…" * (position + _EXCERPT < len(prompt))
    excerpt = " ".join(f"{lead}{before}▸{after}{tail}".split())
    return RequestError(f"the prompt is malformed at character {position + 1}: {excerpt}: {reason}")
