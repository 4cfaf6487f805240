"""All that a call may have at once: each counts, and calls in threads do not meet."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.shapes import profile_from_text
from latentrt.engines.spec import Array

PROMPT = "a {red|green|blue} [apple:pear:0.5] AND a [cat|dog] :0.6"


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[latentrt.Pipeline]:
    """The tiny model with a size and its double, as if it was built for both, and a LoRA."""
    lora = save_tiny_lora(tmp_path_factory.mktemp("loras") / "style.safetensors", tiny_bundle)
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        sizes = tuple(map(profile_from_text, ("32x32x2", "64x64")))
        object.__setattr__(pipe._bundle, "manifest", pipe.manifest.model_copy(update={"profiles": sizes}))
        pipe.load_lora(lora)
        yield pipe


@pytest.fixture(scope="module")
def everything(tiny_net: Path) -> dict[str, Any]:
    """One of each."""
    edges = Image.effect_noise((40, 40), 90).convert("RGB")
    return {
        "prompt_syntax": "a1111",
        "wildcards": "",
        "loras": {"style": 0.8},
        "control": latentrt.Control(tiny_net, edges, scale=0.7, end=0.8),
        "regions": [latentrt.Region("a [bird:fish:2]", box=(0, 0, 0.5, 1), feather=0.1)],
        "freeu": latentrt.FreeU(b1=1.2, b2=1.3, s1=0.9, s2=0.4),
        "pag_scale": 2.0,
        "guidance_rescale": 0.3,
        "hires": latentrt.Hires(steps=2, strength=0.7),
    }


def drawn(pipe: latentrt.Pipeline, options: Mapping[str, Any], prompt: str = PROMPT, seed: int = 5) -> Array:
    """Latents of a few steps."""
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "sampler": "dpmpp_2m", "seed": [seed]}
    return pipe(prompt, **{**call, **options}, output_type="latent").latents


@pytest.mark.slow
def test_each_counts(pipe: latentrt.Pipeline, everything: dict[str, Any]) -> None:
    """Without any one of them, or with another prompt, the picture is another."""
    whole = drawn(pipe, everything)
    assert whole.shape == (1, 4, 32, 32)
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, drawn(pipe, everything))
    for name in everything:
        other = drawn(pipe, {**everything, name: None})
        assert other.shape != whole.shape or not np.allclose(other, whole, atol=1e-3), name
    for prompt in (PROMPT.replace("pear", "plum"), PROMPT.replace("dog", "cow"), PROMPT.replace("0.6", "0.5")):
        assert not np.allclose(drawn(pipe, everything, prompt), whole, atol=1e-3), prompt


def test_threads_draw_what_is_drawn_alone(pipe: latentrt.Pipeline, everything: dict[str, Any]) -> None:
    """Calls that differ in all of it, of one pipeline."""
    plain: dict[str, Any] = {}
    calls = [(everything, 5), (plain, 5), ({**everything, "hires": None}, 6)]
    alone = [drawn(pipe, options, seed=seed) for options, seed in calls]
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(drawn, pipe, options, PROMPT, seed) for options, seed in calls]
        for future, expected in zip(waiting, alone, strict=True):
            assert np.array_equal(future.result(), expected)


def test_the_settings_tell_all(pipe: latentrt.Pipeline, everything: dict[str, Any]) -> None:
    """The text that other tools read, with the prompt that the seed chose."""
    result = pipe(PROMPT, **everything, num_inference_steps=2, seed=[5])
    assert result.images[0].size == (64, 64)
    text = result.metadata[0].parameters()
    assert text.splitlines()[0].startswith("a ")
    assert "{" not in text.splitlines()[0]
    for name in ("Hires upscale", "Hires steps", "ControlNet 0", "Region 0", "Lora hashes", "FreeU", "PAG scale"):
        assert f"{name}: " in text, text
    for value in ("[apple:pear:0.5] AND a [cat|dog] :0.6", "a {red|green|blue}"):
        assert value in text
