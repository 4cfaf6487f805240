"""Prompts to text embeddings."""

import warnings
from collections.abc import Sequence

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.batches import in_batches
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
