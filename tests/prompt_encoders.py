"""Prompt encoders over a bundle, for tests that look at conditioning instead of pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.runtime.prompts.encoder import PromptEncoder
from latentrt.runtime.prompts.style import parsed_prompts, prompt_options_from_arguments
from latentrt.runtime.prompts.text_encoder import text_encoders_from_bundle

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
    (text_encoder,) = text_encoders_from_bundle(opened)
    components = OpenComponents(opened, Backend.ORT_CPU, threads=1)
    engine = components.engine(text_encoder.record.component, Shapes(profile=manifest.profiles[0]))

    def encode(
        prompts: str | Sequence[str],
        negatives: str | Sequence[str] | None = None,
        *,
        inversions: Sequence[tuple[Path, str | None]] = (),
        syntax: str = "plain",
        long_prompt: str | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Array, Array | None]:
        loaded = text_encoder
        for path, token in inversions:
            loaded = loaded.with_loaded(path, token)
        options = prompt_options_from_arguments(syntax, long_prompt, clip_skip, manifest.text_layers)
        sides = [[side] if isinstance(side, str) else side for side in (prompts, negatives)]
        parsed = parsed_prompts([text for side in sides for text in side or ()], options)
        positive, negative = PromptEncoder(loaded, engine).encode(sides[0] or [], sides[1], options, parsed)
        return positive.states, None if negative is None else negative.states

    try:
        yield encode
    finally:
        components.close()


def assert_equal(ours: Array | None, theirs: Array, name: str = "") -> None:
    """The same shape, and no number further away than the tolerance times the largest one."""
    assert ours is not None
    assert ours.shape == theirs.shape, name
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max(), err_msg=name)
