"""Prompt encoders over a bundle, for tests that look at conditioning instead of pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from latentrt.engines.bundle import open_bundle
from latentrt.engines.cache import OpenComponents
from latentrt.engines.manifest import TEXT_ENCODER, TOKENIZER
from latentrt.engines.precision import Backend
from latentrt.engines.spec import Array
from latentrt.runtime.prompt import PromptEncoder, prompt_options_from_arguments
from latentrt.runtime.textual_inversion import TextualInversions, inversions_from_paths
from latentrt.runtime.token_embeddings import TokenEmbeddings
from latentrt.runtime.tokenizer import tokenizer_from_folder

# fp32 in another order of operations, over a dozen layers; measured 5e-7
TOLERANCE = 5e-6

Encode = Callable[..., tuple[Array, Array | None]]


@contextmanager
def prompt_encoder(bundle: Path) -> Iterator[Encode]:
    """encode(prompts, negatives=None, inversions=(), syntax=…, long_prompt=…, clip_skip=…) over a bundle.

    ``inversions`` are (path, token) pairs.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    tokenizer = tokenizer_from_folder(bundle / "tokenizer", length=manifest.tokenizers[TOKENIZER].length)
    table = manifest.token_embeddings[TEXT_ENCODER]
    embeddings = TokenEmbeddings(bundle / table.file, table)
    components = OpenComponents(opened, Backend.ORT_CPU, threads=1)
    engine = components.engine(TEXT_ENCODER, manifest.profiles[0])

    def encode(
        prompts: str | Sequence[str],
        negatives: str | Sequence[str] | None = None,
        *,
        inversions: Sequence[tuple[Path, str | None]] = (),
        syntax: str = "plain",
        long_prompt: str | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Array, Array | None]:
        loaded = TextualInversions()
        for path, token in inversions:
            found = inversions_from_paths(path, token, tokenizer=tokenizer, width=embeddings.width)
            loaded = loaded.with_loaded(found)
        options = prompt_options_from_arguments(syntax, long_prompt, clip_skip, manifest.text_layers)
        sides = [[side] if isinstance(side, str) else side for side in (prompts, negatives)]
        return PromptEncoder(tokenizer, embeddings, loaded, engine).encode(sides[0] or [], sides[1], options)

    try:
        yield encode
    finally:
        components.close()


def assert_equal(ours: Array | None, theirs: Array, name: str = "") -> None:
    """The same shape, and no number further away than the tolerance times the largest one."""
    assert ours is not None
    assert ours.shape == theirs.shape, name
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max(), err_msg=name)
