"""Prompts, as the states and pooled vectors of all text encoders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.condition import FixedCondition
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Pass
from latentrt.runtime.prompts.encoder import Encoded, PromptEncoder, Prompts
from latentrt.runtime.prompts.style import PromptOptions
from latentrt.runtime.prompts.tree import Prompt

STATES, POOLED = "encoder_hidden_states", "text_embeds"  # the U-Net's inputs
EMBEDS: Mapping[str, tuple[Pass, str]] = {
    "prompt_embeds": (POSITIVE, STATES),
    "negative_prompt_embeds": (NEGATIVE, STATES),
    "pooled_prompt_embeds": (POSITIVE, POOLED),
    "negative_pooled_prompt_embeds": (NEGATIVE, POOLED),
}
"""diffusers' names of encoded prompts, by pass and by input of the U-Net."""


@dataclass(frozen=True, eq=False)
class TextCondition(FixedCondition):
    """Prompts; ``chunks`` says of how many chunks the longest is. Rows of a side may be missing where nobody asks."""

    chunks: int


def text_condition(
    encoders: Iterable[PromptEncoder],
    prompts: Sequence[Prompts],
    options: PromptOptions,
    parsed: Mapping[str, Prompt],
    *,
    guides: bool,
    given: TextCondition | None = None,
) -> TextCondition:
    """Encodes the prompts with every text encoder.

    Args:
        encoders: in the order in which their states lie side by side; taken where there is a text to encode.
        prompts: of each encoder.
        options: how to read them.
        parsed: the tree of every text.
        guides: whether any step has a negative pass; what that sees is zeros where the prompts have no negatives.
        given: the sides that were encoded before, which have no texts.

    Raises:
        RequestError: weights so large that the result is not finite, or texts of more chunks than what was given.
    """
    rows = {} if given is None else dict(given.rows)
    guides = guides and NEGATIVE not in rows
    least = 1 if given is None else given.chunks
    if POSITIVE not in rows:
        texts = [(one.positives, one.negatives if guides else None) for one in prompts]
    elif guides and prompts[0].negatives is not None:
        texts = [(one.negatives or (), None) for one in prompts]
        options = replace(options, clip_skip=0)  # which concerns prompts alone
    else:
        texts = []  # both sides are given, or the negative one is zeros
    encoded = _encoded(encoders if texts else (), texts, options, parsed, least)
    chunks = encoded[0][0].chunks if encoded else least
    if given is not None and chunks > least:
        length = encoded[0][0].states.shape[1]
        raise RequestError(
            f"got embeds of {length * least // chunks} tokens and texts of {length}, expected equally many; encode "
            "both with one pipe.encode, or shorten the text"
        )
    first = [side for side, _ in encoded]
    if POSITIVE not in rows:
        rows[POSITIVE] = _inputs(first)
        first = [side for _, side in encoded if side is not None]
    if guides:
        rows[NEGATIVE] = _inputs(first) if first else {name: np.zeros_like(row) for name, row in rows[POSITIVE].items()}
    return TextCondition(rows, chunks=chunks)


def _encoded(
    encoders: Iterable[PromptEncoder],
    texts: Sequence[tuple[Sequence[str], Sequence[str] | None]],
    options: PromptOptions,
    parsed: Mapping[str, Prompt],
    least: int,
) -> list[tuple[Encoded, Encoded | None]]:
    """What every encoder makes of its texts, of equally many chunks, ``least`` or more."""
    encoders = list(encoders)

    def sides(least: int) -> list[tuple[Encoded, Encoded | None]]:
        return [
            encoder.encode(positives, negatives, options, parsed, chunks=least)
            for encoder, (positives, negatives) in zip(encoders, texts, strict=True)
        ]

    encoded = sides(least)
    chunks = max((positive.chunks for positive, _ in encoded), default=least)
    return encoded if all(positive.chunks == chunks for positive, _ in encoded) else sides(chunks)


def _inputs(encoded: Sequence[Encoded]) -> Mapping[str, Array]:
    """States side by side, and the pooled vector of the encoder that has one."""
    pooled = [one.pooled for one in encoded if one.pooled is not None]
    states = np.concatenate([one.states for one in encoded], axis=-1)
    return {STATES: states, **({POOLED: pooled[0]} if pooled else {})}
