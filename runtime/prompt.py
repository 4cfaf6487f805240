"""Prompts to text embeddings."""

import warnings
from collections.abc import Sequence

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.tokenizer import Tokenizer


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the text encoder reads; the warning quotes what was left out."""


class TextEncoder:
    """A tokenizer and a text encoder engine."""

    def __init__(self, tokenizer: Tokenizer, engine: Engine) -> None:
        self._tokenizer = tokenizer
        self._engine = engine

    def encode(self, prompts: Sequence[str]) -> Array:
        """Embeddings (N, length, width) float32, one per prompt; equal prompts are encoded once."""
        unique = list(dict.fromkeys(prompts))
        encodings = [self._tokenizer.encode(prompt) for prompt in unique]
        for encoding in encodings:
            if encoding.lost:
                warnings.warn(
                    f"the prompt is longer than {self._tokenizer.length - 2} tokens; left out: {encoding.lost!r}",
                    PromptTruncatedWarning,
                    stacklevel=4,
                )
        states = in_batches(self._engine, "input_ids", np.stack([e.ids for e in encodings]), "last_hidden_state")
        rows = {prompt: row for row, prompt in enumerate(unique)}
        return states[[rows[prompt] for prompt in prompts]]


def in_batches(engine: Engine, source: str, array: Array, result: str) -> Array:
    """Runs an engine of one input over any number of samples, in pieces that its batch sizes allow.

    Args:
        engine: the engine.
        source: name of its input.
        array: (N, …).
        result: name of the wanted output.

    Returns:
        (N, …), the output for each sample.
    """
    pieces = []
    for start, stop, batch in pieces_of(len(array), engine.spec.batches):
        piece = array[start:stop]
        padding = [(0, batch - len(piece))] + [(0, 0)] * (array.ndim - 1)
        pieces.append(engine.run({source: np.pad(piece, padding)})[result][: len(piece)])
    return np.concatenate(pieces)


def pieces_of(count: int, batches: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cuts ``count`` samples into (start, stop, engine batch), batches ascending in ``batches``."""
    cuts, start = [], 0
    while start < count:
        stop = min(start + batches[-1], count)
        batch = next(b for b in batches if b >= stop - start)
        cuts.append((start, stop, batch))
        start = stop
    return cuts
