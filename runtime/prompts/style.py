"""How prompts are read: the options of a call, and what each syntax decides."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from latentrt.engines.bundle.tokenizer import Tokenizer
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.prompts.chunks import Framed, Token, near_commas, whole_sentences
from latentrt.runtime.prompts.parts import PromptPart, StepCount, one_prompt, unchanging
from latentrt.runtime.prompts.syntax.tree import LoraTag, Prompt, Text, plain_prompt
from latentrt.runtime.prompts.weighting import weighted_as_a1111, weighted_as_compel


class PromptSyntax(StrEnum):
    """How weights are written: not at all (as in diffusers), as in compel and InvokeAI, or as in A1111."""

    PLAIN = "plain"
    COMPEL = "compel"
    A1111 = "a1111"


class LongPrompt(StrEnum):
    """What becomes of text beyond one chunk: left out with a warning, or encoded in chunks of its own."""

    TRUNCATE = "truncate"
    CHUNK = "chunk"


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How the prompts of a call are read. ``clip_skip`` is how many of the text encoder's last layers are left out."""

    syntax: PromptSyntax = PromptSyntax.PLAIN
    long_prompt: LongPrompt = LongPrompt.TRUNCATE
    clip_skip: int = 0


@dataclass(frozen=True, kw_only=True)
class Style:
    """What a syntax decides: its parser, where chunks end, what weights do, and what becomes of long text.

    ``parts`` says which prompts a prompt is composed of, and ``at_steps`` which text one of them is at every step of a
    run: one for each, or one for all; ``changes`` says whether they may differ. ``parse`` takes such a text, ``loras``
    the prompt as it was written. Negative prompts are not composed.

    ``pooled`` chooses the text whose first chunk gives the pooled vector, without weights, as in A1111; None takes as
    much of the prompt as one chunk holds, as it was typed, as in compel.
    """

    parse: Callable[[str], Prompt]
    parts: Callable[[str], tuple[PromptPart, ...]]
    at_steps: Callable[[str, StepCount], tuple[str, ...]]
    changes: Callable[[str], bool]
    loras: Callable[[str], tuple[LoraTag, ...]]
    ends: Callable[[Sequence[Token], Tokenizer], list[int]]
    weighted: Callable[[Framed, Sequence[Array], Array], Array]
    masks: Callable[[Framed], list[Array]]
    pooled: Callable[[Prompt], Text] | None
    long_prompt: LongPrompt


def _prompt_from_compel(text: str) -> Prompt:
    from latentrt.runtime.prompts.syntax.compel import prompt_from_compel  # plain prompts do without it

    return prompt_from_compel(text)


def _prompt_from_a1111(text: str) -> Prompt:
    from latentrt.runtime.prompts.syntax.a1111 import prompt_from_a1111

    return prompt_from_a1111(text)


def _prompts_from_a1111(text: str) -> tuple[PromptPart, ...]:
    from latentrt.runtime.prompts.syntax.composition import prompts_from_a1111

    return prompts_from_a1111(text)


def _texts_of_a1111(text: str, steps: StepCount) -> tuple[str, ...]:
    from latentrt.runtime.prompts.syntax.prompt_editing import texts_at_steps

    return texts_at_steps(text, steps)


def _changes_in_a1111(text: str) -> bool:
    from latentrt.runtime.prompts.syntax.prompt_editing import changes

    return changes(text)


def _loras_of_a1111(text: str) -> tuple[LoraTag, ...]:
    from latentrt.runtime.prompts.syntax.lora_tags import lora_tags

    return lora_tags(text)


def _lowered_masks(text: Framed) -> list[Array]:
    return [mask for _, mask in text.lowered]


STYLES = {
    PromptSyntax.PLAIN: Style(
        parse=plain_prompt,
        parts=one_prompt,
        at_steps=unchanging,
        changes=lambda text: False,
        loras=lambda text: (),
        ends=whole_sentences,
        weighted=weighted_as_compel,
        masks=_lowered_masks,
        pooled=None,
        long_prompt=LongPrompt.TRUNCATE,
    ),
    PromptSyntax.COMPEL: Style(
        parse=_prompt_from_compel,
        parts=one_prompt,
        at_steps=unchanging,
        changes=lambda text: False,
        loras=lambda text: _prompt_from_compel(text).loras,
        ends=whole_sentences,
        weighted=weighted_as_compel,
        masks=_lowered_masks,
        pooled=None,
        long_prompt=LongPrompt.CHUNK,
    ),
    PromptSyntax.A1111: Style(
        parse=_prompt_from_a1111,
        parts=_prompts_from_a1111,
        at_steps=_texts_of_a1111,
        changes=_changes_in_a1111,
        loras=_loras_of_a1111,
        ends=near_commas,
        weighted=weighted_as_a1111,
        masks=lambda text: [],
        pooled=lambda tree: tree.texts[0],
        long_prompt=LongPrompt.CHUNK,
    ),
}


def prompt_options_from_arguments(
    syntax: object, long_prompt: object, clip_skip: int | None, layers: int
) -> PromptOptions:
    """Checks how prompts shall be read.

    Args:
        syntax: a ``PromptSyntax`` or its name.
        long_prompt: a ``LongPrompt`` or its name; None takes the syntax's own.
        clip_skip: layers to leave out; None is 0.
        layers: how many the text encoder has.

    Raises:
        RequestError: another name, or as many layers as there are or more.
    """
    chosen = choice(PromptSyntax, syntax, "prompt_syntax")
    policy = STYLES[chosen].long_prompt if long_prompt is None else choice(LongPrompt, long_prompt, "long_prompt")
    if clip_skip is not None and not 0 <= clip_skip < layers:
        raise RequestError(
            f"got clip_skip {clip_skip}, expected 0 to {layers - 1} for a text encoder of {layers} layers; lower it"
        )
    return PromptOptions(syntax=chosen, long_prompt=policy, clip_skip=clip_skip or 0)


def parsed_prompts(prompts: Iterable[str], options: PromptOptions) -> dict[str, Prompt]:
    """The tree of every text.

    Raises:
        RequestError: the first that is malformed.
    """
    parse = STYLES[options.syntax].parse
    return {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
