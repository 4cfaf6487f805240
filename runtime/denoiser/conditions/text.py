"""Prompts, as the states and pooled vectors of all text encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.condition import FixedCondition
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE
from latentrt.runtime.prompts.encoder import Encoded, PromptEncoder, Prompts
from latentrt.runtime.prompts.style import PromptOptions
from latentrt.runtime.prompts.tree import Prompt


@dataclass(frozen=True, eq=False)
class TextCondition(FixedCondition):
    """Prompts; ``chunks`` says of how many chunks the longest is."""

    chunks: int


def text_condition(
    encoders: Sequence[PromptEncoder],
    prompts: Sequence[Prompts],
    options: PromptOptions,
    parsed: Mapping[str, Prompt],
    *,
    guides: bool,
) -> TextCondition:
    """Encodes the prompts with every text encoder.

    Args:
        encoders: in the order in which their states lie side by side.
        prompts: of each encoder.
        options: how to read them.
        parsed: the tree of every text.
        guides: whether any step has a negative pass; what that sees is zeros where the prompts have no negatives.

    Raises:
        RequestError: weights so large that the result is not finite.
    """
    pairs = list(zip(encoders, prompts, strict=True))

    def sides(least: int) -> list[tuple[Encoded, Encoded | None]]:
        return [
            encoder.encode(texts.positives, texts.negatives if guides else None, options, parsed, chunks=least)
            for encoder, texts in pairs
        ]

    encoded = sides(1)
    chunks = max(positive.chunks for positive, _ in encoded)
    if any(positive.chunks < chunks for positive, _ in encoded):
        encoded = sides(chunks)
    rows = {POSITIVE: _inputs([positive for positive, _ in encoded])}
    if guides:
        negatives = [negative for _, negative in encoded if negative is not None]
        rows[NEGATIVE] = (
            _inputs(negatives) if negatives else {name: np.zeros_like(row) for name, row in rows[POSITIVE].items()}
        )
    return TextCondition(rows, chunks=chunks)


def _inputs(encoded: Sequence[Encoded]) -> Mapping[str, Array]:
    """States side by side, and the pooled vector of the encoder that has one."""
    pooled = [one.pooled for one in encoded if one.pooled is not None]
    states = np.concatenate([one.states for one in encoded], axis=-1)
    return {"encoder_hidden_states": states, **({"text_embeds": pooled[0]} if pooled else {})}
