"""What a U-Net is told beside the sample and the timestep, put together from all text encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.prompts.encoder import Encoded, PromptEncoder
from latentrt.runtime.prompts.style import PromptOptions


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the U-Net is told of each picture beside the sample and the timestep: arrays (N, …) by its inputs' names.

    ``negative`` is the same for the unconditional half; None where no step has one.
    """

    positive: Mapping[str, Array]
    negative: Mapping[str, Array] | None

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.positive.values())))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The texts of N pictures for one text encoder; ``negatives`` is None where there is nothing to encode."""

    positives: Sequence[str]
    negatives: Sequence[str] | None

    def repeated(self, times: int) -> "Prompts":
        """Every text so many times in turn."""
        positives, negatives = (
            None if side is None else [text for text in side for _ in range(times)]
            for side in (self.positives, self.negatives)
        )
        return Prompts(positives=positives or [], negatives=negatives)


def conditioning_of(
    encoders: Sequence[PromptEncoder],
    prompts: Sequence[Prompts],
    options: PromptOptions,
    *,
    guided: bool,
    time_ids: tuple[Sequence[float], Sequence[float]] | None,
) -> Conditioning:
    """Encodes the prompts of every text encoder.

    Args:
        encoders: in the order in which their states lie side by side.
        prompts: of each encoder.
        options: how to read them.
        guided: whether any step has an unconditional half; its conditioning is zeros where the prompts have no
            negatives.
        time_ids: of the pictures and of their unconditional halves, for models that take them.

    Raises:
        RequestError: a malformed prompt, or weights so large that the result is not finite.
    """
    pairs = list(zip(encoders, prompts, strict=True))
    sides = [encoder.encode(texts.positives, texts.negatives if guided else None, options) for encoder, texts in pairs]
    most = max(positive.chunks for positive, _ in sides)
    sides = [
        side
        if side[0].chunks == most
        else encoder.encode(texts.positives, texts.negatives if guided else None, options, chunks=most)
        for side, (encoder, texts) in zip(sides, pairs, strict=True)
    ]
    positive = _inputs([side[0] for side in sides])
    against = [side[1] for side in sides if side[1] is not None]
    negative = _inputs(against) if against else {name: np.zeros_like(array) for name, array in positive.items()}
    if time_ids is not None:
        count = len(prompts[0].positives)
        for half, ids in ((positive, time_ids[0]), (negative, time_ids[1])):
            half["time_ids"] = np.tile(np.array(ids, np.float32), (count, 1))
    return Conditioning(positive=positive, negative=negative if guided else None)


def _inputs(encoded: Sequence[Encoded]) -> dict[str, Array]:
    """States side by side, and the pooled vector of the encoder that has one."""
    inputs = {"encoder_hidden_states": np.concatenate([one.states for one in encoded], axis=-1)}
    pooled = [one.pooled for one in encoded if one.pooled is not None]
    return inputs | ({"text_embeds": pooled[0]} if pooled else {})
