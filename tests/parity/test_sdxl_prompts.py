"""SDXL's conditioning equal to compel's and diffusers': two encoders, chunks, weights, pooled vectors, inversions."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_encoders import assert_equal
from safetensors.torch import save_file

import latentrt
from latentrt.engines.bundle.records.conditioning import guidance_scale_embedding
from latentrt.engines.shapes import Shapes
from latentrt.runtime.denoiser.conditions.text import TextCondition, text_condition
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE
from latentrt.runtime.prompts.encoder import PromptEncoder, Prompts
from latentrt.runtime.prompts.parts import ONE_STEP
from latentrt.runtime.prompts.plan import prompt_plan
from latentrt.runtime.prompts.style import STYLES, parsed_prompts, prompt_options_from_arguments
from latentrt.runtime.prompts.text_encoder import TextEncoder, text_encoders_from_bundle

LONG = "a red apple. and then a long sentence, with many things; in it: more " * 8
PROMPTS = (
    "",
    "a red apple",
    "a red++++ apple--- on a table",
    "a (red apple)1.3 on a table, (gone)0.0 b",
    '("red","blue").blend(0.7,0.3)',
    '("red","blue cat").and()',  # with weights compel fails where a pooled vector is wanted
    LONG,
    f'("a","{LONG}").blend(0.5,0.5)',
    "w " * 90 + "(a b)- c",
)

Encode = Callable[..., TextCondition]


@pytest.fixture(scope="module")
def theirs(family_checkpoint: Callable[[str], Path]) -> Any:
    """diffusers' pipeline."""
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(family_checkpoint("sdxl"), add_watermarker=False)


@pytest.fixture(scope="module")
def encode(family_pipe: Callable[[str], latentrt.Pipeline], family_bundle: Callable[[str], Path]) -> Encode:
    """encode(prompts, negatives, prompt_2=…, encoders=…, syntax=…, long_prompt=…, clip_skip=…)."""
    from latentrt.engines.bundle.bundle import open_bundle

    pipe = family_pipe("sdxl")
    own = text_encoders_from_bundle(open_bundle(family_bundle("sdxl")))

    def encoded(
        prompts: Sequence[str],
        negatives: Sequence[str] | None = None,
        *,
        prompt_2: Sequence[str] | None = None,
        encoders: Sequence[TextEncoder] = own,
        syntax: str = "plain",
        long_prompt: str | None = None,
        clip_skip: int = 0,
    ) -> TextCondition:
        manifest = pipe.manifest
        options = prompt_options_from_arguments(syntax, long_prompt, clip_skip, manifest.text_layers)
        second = prompt_2 or prompts
        return text_condition(
            [
                PromptEncoder(
                    encoder, pipe._components.engine(encoder.record.component, Shapes(profile=manifest.profiles[0]))
                )
                for encoder in encoders
            ],
            prompt_plan(
                [Prompts(positives=prompts, negatives=negatives), Prompts(positives=second, negatives=negatives)],
                STYLES[options.syntax],
                ONE_STEP,
            ),
            options,
            parsed_prompts([*prompts, *second, *(negatives or ())], options),
            guides=negatives is not None,
        )

    return encoded


def test_compel(encode: Encode, theirs: Any) -> None:
    """Every construct, states and pooled vectors; negatives filled up to the prompt's length."""
    from compel.convenience_wrappers import CompelForSDXL

    reference = CompelForSDXL(theirs)
    for prompt in PROMPTS:
        with torch.no_grad():
            expected = reference(prompt, negative_prompt="blurry-- (ugly)1.4")
        ours = encode([prompt], ["blurry-- (ugly)1.4"], syntax="compel")
        assert ours.rows(NEGATIVE) is not None
        assert_equal(ours.rows(POSITIVE)["encoder_hidden_states"], expected.embeds.numpy(), prompt)
        assert_equal(ours.rows(POSITIVE)["text_embeds"], expected.pooled_embeds.numpy(), prompt)
        assert_equal(ours.rows(NEGATIVE)["encoder_hidden_states"], expected.negative_embeds.numpy(), prompt)
        assert_equal(ours.rows(NEGATIVE)["text_embeds"], expected.negative_pooled_embeds.numpy(), prompt)


@pytest.mark.parametrize(("first", "second"), [("a cat", LONG), (LONG, "a cat")])
def test_prompts_of_different_lengths(encode: Encode, theirs: Any, first: str, second: str) -> None:
    """The shorter one is filled up with that encoder's empty prompt."""
    from compel.convenience_wrappers import CompelForSDXL

    with torch.no_grad():
        expected = CompelForSDXL(theirs)(first, style_prompt=second)
    ours = encode([first], prompt_2=[second], syntax="compel")
    assert ours.rows(POSITIVE)["encoder_hidden_states"].shape == (1, 308, 192)
    assert_equal(ours.rows(POSITIVE)["encoder_hidden_states"], expected.embeds.numpy())
    assert_equal(ours.rows(POSITIVE)["text_embeds"], expected.pooled_embeds.numpy())


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_diffusers(encode: Encode, theirs: Any, clip_skip: int | None) -> None:
    """Its own encoding, also of what is cut off, with a layer less for the prompt alone."""
    prompts, negatives = ["a cat!", LONG], ["", "blurry"]
    with torch.no_grad():
        wide, against, pooled, pooled_against = theirs.encode_prompt(
            prompts, prompt_2=["red", "b"], negative_prompt=negatives, clip_skip=clip_skip
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", latentrt.PromptTruncatedWarning)
        ours = encode(prompts, negatives, prompt_2=["red", "b"], clip_skip=clip_skip or 0)
    assert ours.rows(NEGATIVE) is not None
    assert_equal(ours.rows(POSITIVE)["encoder_hidden_states"], wide.numpy())
    assert_equal(ours.rows(NEGATIVE)["encoder_hidden_states"], against.numpy())
    assert_equal(ours.rows(POSITIVE)["text_embeds"], pooled.numpy())
    assert_equal(ours.rows(NEGATIVE)["text_embeds"], pooled_against.numpy())


def test_a1111_pools_the_first_chunk_without_weights(encode: Encode) -> None:
    """As the web UI does: weights reach the states alone, and what follows the first chunk is not pooled."""
    plain = encode(["a red apple"], syntax="a1111").rows(POSITIVE)
    weighted = encode(["a (red:1.5) apple"], syntax="a1111").rows(POSITIVE)
    assert np.abs(weighted["encoder_hidden_states"] - plain["encoder_hidden_states"]).max() > 1e-2
    assert_equal(weighted["text_embeds"], plain["text_embeds"])
    longer = encode(["a red apple BREAK something else"], syntax="a1111").rows(POSITIVE)
    assert longer["encoder_hidden_states"].shape[1] == 154
    assert_equal(longer["text_embeds"], plain["text_embeds"])


def test_no_negatives_are_zeros(encode: Encode, family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """Of states and pooled vector; only where a half without the prompt is wanted at all."""
    assert NEGATIVE not in encode(["a"]).of_pass
    seen = []

    def watch(pipe: Any, step: int, timestep: float, tensors: Any) -> None:
        seen.append(step)

    empty = family_pipe("sdxl")("a", negative_prompt="", seed=1, num_inference_steps=2, output_type="latent")
    zeros = family_pipe("sdxl")("a", seed=1, num_inference_steps=2, output_type="latent", callback_on_step_end=watch)
    assert len(seen) == 2
    assert zeros.metadata[0].negative_prompt is None
    assert empty.metadata[0].negative_prompt == ""
    assert np.abs(empty.latents - zeros.latents).max() > 1e-3


@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion(
    encode: Encode,
    theirs: Any,
    family_bundle: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    vectors: int,
) -> None:
    """A file with clip_l and clip_g, against diffusers, which takes each for its encoder."""
    from diffusers import StableDiffusionXLPipeline

    from latentrt.engines.bundle.bundle import open_bundle

    generator = torch.Generator().manual_seed(vectors)
    tensors = {
        name: 0.02 * torch.randn((vectors, width), generator=generator)
        for name, width in (("clip_l", 64), ("clip_g", 128))
    }
    path = tmp_path / "toy.safetensors"
    save_file(tensors, path)
    pipe = StableDiffusionXLPipeline.from_pretrained(family_checkpoint("sdxl"), add_watermarker=False)
    for name, tokenizer, encoder in (
        ("clip_l", pipe.tokenizer, pipe.text_encoder),
        ("clip_g", pipe.tokenizer_2, pipe.text_encoder_2),
    ):
        pipe.load_textual_inversion({"<toy>": tensors[name]}, token="<toy>", tokenizer=tokenizer, text_encoder=encoder)
    # Its config calls the end token 2, for which transformers takes the highest id: here that of the added token
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    with torch.no_grad():
        wide, _, pooled, _ = pipe.encode_prompt("a <toy> on a table", do_classifier_free_guidance=False)
    own = text_encoders_from_bundle(open_bundle(family_bundle("sdxl")))
    loaded = [encoder.with_loaded(path, "<toy>") for encoder in own]
    ours = encode(["a <toy> on a table"], encoders=loaded).rows(POSITIVE)
    assert_equal(ours["encoder_hidden_states"], wide.numpy())
    assert_equal(ours["text_embeds"], pooled.numpy())


def test_an_inversion_for_one_encoder_is_refused(
    family_pipe: Callable[[str], latentrt.Pipeline], tmp_path: Path
) -> None:
    """Half a word is none; nothing is loaded then, and a whole one is loaded and forgotten in both encoders."""
    pipe = family_pipe("sdxl")
    save_file({"emb_params": torch.ones(2, 64)}, tmp_path / "half.safetensors")
    with pytest.raises(latentrt.RequestError, match="width 64, expected an embedding for width 128"):
        pipe.load_textual_inversion(tmp_path / "half.safetensors")
    save_file({"clip_g": torch.ones(2, 128), "clip_l": torch.ones(2, 64)}, tmp_path / "whole.safetensors")
    assert pipe.load_textual_inversion(tmp_path / "whole.safetensors") == ("whole",)
    with pytest.raises(latentrt.RequestError, match="loaded already"):
        pipe.load_textual_inversion(tmp_path / "whole.safetensors")
    pipe.unload_textual_inversion("whole")
    with pytest.raises(latentrt.RequestError, match="expected one that is loaded"):
        pipe.unload_textual_inversion("whole")


@pytest.mark.parametrize("size", [16, 17, 256])
@pytest.mark.parametrize("scale", [1.0, 1.5, 7.5, 8.5])
def test_guidance_scale_embedding(theirs: Any, size: int, scale: float) -> None:
    """diffusers' own, of the scale less 1."""
    expected = theirs.get_guidance_scale_embedding(torch.tensor([scale - 1]), size)[0].numpy()
    # The angles reach thousands, where the last place of float32 is 5e-4
    np.testing.assert_allclose(guidance_scale_embedding(scale, size), expected, atol=1e-3)
