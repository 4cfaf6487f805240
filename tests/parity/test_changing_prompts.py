"""Prompts that change with the steps, and composed ones, against diffusers' pipelines with the same embeddings."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

TOLERANCE = 1e-4
SIZE = (32, 32)
STEPS = 5
NEGATIVE = "blurry"
Pipes = Callable[[str], latentrt.Pipeline]
Part = tuple[float, Sequence[str]]
"""The weight of one of the prompts of a picture, and its text at every step."""


@pytest.fixture(scope="module")
def references(family_checkpoint: Callable[[str], Path]) -> Mapping[str, DiffusersReference]:
    """Diffusers on the tiny checkpoints."""
    return {family: DiffusersReference(family_checkpoint(family)) for family in ("sd1", "sdxl")}


def encoded(pipe: latentrt.Pipeline, texts: Sequence[Any], **keywords: Any) -> dict[str, torch.Tensor]:
    """Embeddings of texts, each a prompt or a prompt and its prompt_2, beside the negative prompt; equally long."""
    firsts, seconds = zip(*((text, text) if isinstance(text, str) else text for text in texts), strict=True)
    of_two = {"prompt_2": list(seconds)} if len(pipe.manifest.conditioning.text_encoders) > 1 else {}
    found = pipe.encode(list(firsts), negative_prompt=NEGATIVE, prompt_syntax="a1111", **of_two, **keywords)  # type: ignore[arg-type]
    return {name: torch.from_numpy(np.asarray(array)) for name, array in found.items()}


def ours(pipe: latentrt.Pipeline, prompt: Any, **keywords: Any) -> Array:
    """The latents that a pipeline draws."""
    common = {"num_inference_steps": STEPS, "guidance_scale": 6.0, "seed": 3, "output_type": "latent"}
    more = {} if "image" in keywords else {"width": SIZE[0], "height": SIZE[1]}
    draw = pipe.img2img if "image" in keywords else pipe
    result = draw(prompt, negative_prompt=NEGATIVE, prompt_syntax="a1111", **(common | more | keywords))
    assert result.latents is not None
    return result.latents


def assert_equal(found: Array, expected: Array) -> None:
    """Latents."""
    parity = parity_of(found, expected)
    assert parity.relative_error <= TOLERANCE, str(parity)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m_k", "euler", "ddim"])
@pytest.mark.grid(most=1)
def test_a_prompt_that_changes(
    family_pipe: Pipes, references: Mapping[str, DiffusersReference], family: str, sampler: str
) -> None:
    """As diffusers draws with a callback that changes the embeddings behind each step."""
    pipe, reference = family_pipe(family), references[family]
    texts = ["a red cat", "a dog cat", "a red cat", "a dog cat", "a red (bird:1.3)"]
    embeds = encoded(pipe, texts)

    def change(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        after = min(step + 1, STEPS - 1)
        rows = [(name, slice(after, after + 1)) for name in ("negative_prompt_embeds", "prompt_embeds")]
        told = {"prompt_embeds": torch.cat([embeds[name][row] for name, row in rows])}
        if family == "sdxl":
            told["add_text_embeds"] = torch.cat(
                [embeds[name.replace("prompt", "pooled_prompt")][row] for name, row in rows]
            )
        return told

    wanted = ["prompt_embeds", *(["add_text_embeds"] if family == "sdxl" else [])]
    expected = reference.draw(
        prompt=None,  # type: ignore[arg-type]
        **{name: tensor[:1] for name, tensor in embeds.items()},
        sampler=sampler,
        seeds=3,
        size=SIZE,
        steps=STEPS,
        guidance_scale=6.0,
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=wanted,
    )
    prompt = "a [red|dog] [cat:(bird:1.3):0.8]"
    assert_equal(ours(pipe, prompt, sampler=sampler), expected.latents)
    assert parity_of(ours(pipe, texts[0], sampler=sampler), expected.latents).relative_error > 1e-3


@contextmanager
def composed(reference: DiffusersReference, pipe: latentrt.Pipeline, pictures: Sequence[Sequence[Part]]) -> Any:
    """Makes the reference's guided prediction u + s · Σ wᵢ · (cᵢ − u), with the texts of each step.

    Each picture has its own prompts. The model is asked once a step.
    """
    texts = list(dict.fromkeys(text for parts in pictures for _, of_steps in parts for text in of_steps))
    embeds = encoded(pipe, texts)
    unet = reference.text.unet
    ask, calls = unet.forward, []

    def forward(sample: Any, timestep: Any, encoder_hidden_states: Any, **keywords: Any) -> Any:
        step, half = len(calls), len(sample) // 2
        calls.append(timestep)
        added = keywords.get("added_cond_kwargs") or {}
        rows = []
        for index, parts in enumerate(pictures):

            def prediction(states: Any, pooled: Any, index: int = index) -> Any:
                told = {"text_embeds": pooled, "time_ids": added["time_ids"][:1]} if added else None
                return ask(sample[index : index + 1], timestep, states, added_cond_kwargs=told, return_dict=False)[0]

            against = slice(index, index + 1)
            unconditional = prediction(encoder_hidden_states[against], added["text_embeds"][against] if added else None)
            guided = unconditional
            for weight, of_steps in parts:
                place = texts.index(of_steps[step])
                pooled = embeds["pooled_prompt_embeds"][place : place + 1] if added else None
                guided = guided + weight * (
                    prediction(embeds["prompt_embeds"][place : place + 1], pooled) - unconditional
                )
            rows.append((unconditional, guided))
        assert half == len(pictures)
        return (torch.cat([torch.cat(side) for side in zip(*rows, strict=True)]),)

    unet.forward = forward
    try:
        yield {name: tensor[:1].repeat(len(pictures), *[1] * (tensor.ndim - 1)) for name, tensor in embeds.items()}
    finally:
        unet.forward = ask


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("workflow", ["text", "image"])
@pytest.mark.grid(most=1)
def test_composed_prompts(
    family_pipe: Pipes, references: Mapping[str, DiffusersReference], family: str, workflow: str
) -> None:
    """Three pictures of one, two and three prompts, which change at different steps, and of which one is long.

    Image-to-image takes three of its five steps, and they are those that its prompts count.
    """
    pipe, reference = family_pipe(family), references[family]
    steps = STEPS if workflow == "text" else 3
    long = "a red bird, " * 12
    prompts = ["a [cat|dog]", f"{long}:0.7 AND a [fish::2] :-0.4", "[a:b:0.5] AND a tree :0.5 AND sky"]
    pictures: list[list[Part]] = [
        [(1.0, ["a cat", "a dog"] * steps)],
        [(0.7, [long.rstrip()] * steps), (-0.4, ["a fish", "a fish", *["a "] * steps])],
        [(1.0, ["a"] * (steps // 2) + ["b"] * steps), (0.5, ["a tree"] * steps), (1.0, ["sky"] * steps)],
    ]
    picture = (
        {} if workflow == "text" else {"image": Image.linear_gradient("L").convert("RGB").resize(SIZE), "strength": 0.6}
    )
    with composed(reference, pipe, pictures) as embeds:
        expected = reference.draw(
            prompt=None,  # type: ignore[arg-type]
            **embeds,
            sampler="euler",
            seeds=3,
            size=SIZE,
            steps=STEPS,
            guidance_scale=6.0,
            **picture,
        )
    assert_equal(ours(pipe, prompts, sampler="euler", **picture), expected.latents)


def test_two_text_encoders(family_pipe: Pipes, references: Mapping[str, DiffusersReference]) -> None:
    """A second prompt of as many prompts, which changes at steps of its own, or of one for all of them."""
    pipe, reference = family_pipe("sdxl"), references["sdxl"]
    steps: list[Part] = [
        (1.0, [("a", "x")] * 2 + [("a", "y")] * 1 + [("b", "y")] * 2),  # type: ignore[list-item]
        (0.5, [("c", "z")] * STEPS),  # type: ignore[list-item]
    ]
    with composed(reference, pipe, [steps]) as embeds:
        drawn = {"sampler": "euler", "seeds": 3, "size": SIZE, "steps": STEPS, "guidance_scale": 6.0}
        expected = reference.draw(prompt=None, **embeds, **drawn)  # type: ignore[arg-type]
    found = ours(pipe, "[a:b:3] AND c:0.5", prompt_2="[x:y:2] AND z", sampler="euler")
    assert_equal(found, expected.latents)
    shared = ours(pipe, "a AND c", prompt_2="x", sampler="euler")
    np.testing.assert_array_equal(shared, ours(pipe, "a AND c", prompt_2="x AND x", sampler="euler"))
    with pytest.raises(RequestError, match="composed of 2 and 3 prompts, expected equally many; "):
        ours(pipe, "a AND c", prompt_2="x AND y AND z")


def test_negative_prompts_change_and_are_not_composed(tiny_pipe: latentrt.Pipeline) -> None:
    """AND in them is a word, as in A1111."""
    drawn = {"sampler": "euler", "width": 32, "height": 32}
    plain = ours(tiny_pipe, "a", **drawn)
    changed = tiny_pipe(
        "a",
        negative_prompt="[blurry:dark:0.6]",
        prompt_syntax="a1111",
        num_inference_steps=STEPS,
        guidance_scale=6.0,
        seed=3,
        output_type="latent",
        **drawn,  # type: ignore[arg-type]
    )
    first_steps = tiny_pipe(
        "a",
        negative_prompt="[blurry:dark:5]",
        prompt_syntax="a1111",
        num_inference_steps=STEPS,
        guidance_scale=6.0,
        seed=3,
        output_type="latent",
        **drawn,  # type: ignore[arg-type]
    )
    np.testing.assert_array_equal(first_steps.latents, plain)
    assert changed.latents is not None
    assert np.abs(changed.latents - plain).max() > 1e-3


def test_neutral_prompts_are_plain_ones(tiny_pipe: latentrt.Pipeline) -> None:
    """Bit for bit: edits that nothing sees, weights of 1, equal alternatives."""
    drawn = {"sampler": "euler"}
    plain = ours(tiny_pipe, "a red cat", **drawn)
    for prompt in ("a [red:blue:1.0] cat", "a [blue:red:0] cat", "a [red|red] cat", "a red cat :1.0"):
        np.testing.assert_array_equal(ours(tiny_pipe, prompt, **drawn), plain, prompt)


def test_without_guidance(tiny_pipe: latentrt.Pipeline) -> None:
    """Weights that sum up to 1 need no negative prompt; others steer away from it with a scale of 1."""
    drawn: dict[str, Any] = {"sampler": "euler", "guidance_scale": 1.0}
    with pytest.warns(UserWarning, match="without guidance"):
        plain = ours(tiny_pipe, "a red cat", **drawn)
    with pytest.warns(UserWarning, match="without guidance"):
        halves = ours(tiny_pipe, "a red cat :0.25 AND a red cat :0.75", **drawn)
    assert_equal(halves, plain)
    twice = ours(tiny_pipe, "a red cat AND a red cat", **drawn)
    assert_equal(twice, ours(tiny_pipe, "a red cat", sampler="euler", guidance_scale=2.0))


def test_what_cannot_be_encoded_before(tiny_pipe: latentrt.Pipeline) -> None:
    """Embeddings are of one text."""
    for prompt, message in (
        ("a [b:c:0.5]", r"changes with the steps .*, expected one text for all of them; encode each of its texts"),
        ("[a|b]", "changes with the steps"),
        ("a AND b", "is composed .*, expected one without weight; encode each of its prompts"),
    ):
        with pytest.raises(RequestError, match=message):
            tiny_pipe.encode(prompt, prompt_syntax="a1111")
    with pytest.raises(RequestError, match="changes with the steps"):
        tiny_pipe.encode("a", negative_prompt="[a|b]", prompt_syntax="a1111")
    tiny_pipe.encode("a AND [b]", negative_prompt="a AND b")


def test_warnings(tiny_pipe: latentrt.Pipeline) -> None:
    """Of syntax that another one knows, and of text that is taken for a weight."""
    drawn: dict[str, Any] = {"num_inference_steps": 1, "width": 32, "height": 32, "output_type": "latent"}
    with pytest.warns(
        UserWarning, match=r"a prompt has \[cat:dog:0.5\], which a plain prompt takes for text; set prompt"
    ):
        tiny_pipe("a [cat:dog:0.5]", **drawn)
    with pytest.warns(UserWarning, match="ends in a colon and 9, which A1111's syntax takes for its weight"):
        tiny_pipe("photo, 16:9", prompt_syntax="a1111", **drawn)


def test_metadata_have_the_prompt_as_it_was_written(tiny_pipe: latentrt.Pipeline) -> None:
    """Whatever it became."""
    prompt = "a [cat:dog:0.5] AND a <bird>:0.5"
    result = tiny_pipe(prompt, prompt_syntax="a1111", num_inference_steps=2, width=32, height=32, guidance_scale=4.0)
    assert result.metadata[0].prompt == prompt
    assert result.metadata[0].parameters().startswith(prompt + "\n")


def test_models_with_guidance_built_in(family_pipe: Pipes) -> None:
    """They have no negative prompt: prompts may change, and weights must sum up to 1."""
    pipe = family_pipe("lcm-sd1")
    drawn: dict[str, Any] = {"num_inference_steps": 2, "width": 32, "height": 32, "seed": 1, "output_type": "latent"}
    for prompt in ("[a:b:1]", "a:0.5 AND b:0.5"):
        assert np.isfinite(pipe(prompt, prompt_syntax="a1111", **drawn).latents).all()  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="weights do not sum up to 1, with a model that has its guidance built in"):
        pipe("a AND b", prompt_syntax="a1111", **drawn)


@pytest.mark.slow
def test_both_passes_of_a_hires_fix(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A prompt that changes between them draws what two prompts draw; one that changes in the second does not."""
    bundle = tmp_path / "two.bundle"
    latentrt.build(tiny_checkpoint, bundle, profiles=["32x32", "64x64"])
    drawn: dict[str, Any] = {"num_inference_steps": 3, "seed": 1, "width": 32, "height": 32, "guidance_scale": 5.0}
    with latentrt.open(bundle) as pipe:

        def pixels(prompt: str, hires: latentrt.Hires) -> Any:
            return pipe(prompt, hires=hires, prompt_syntax="a1111", output_type="np", **drawn).images

        expected = pixels("a cat", latentrt.Hires(prompt="a dog"))
        for prompt in ("a [cat:dog:1.0]", "a [cat:dog:3]"):
            np.testing.assert_array_equal(pixels(prompt, latentrt.Hires()), expected, prompt)
        later = pixels("a [cat:dog:1.4]", latentrt.Hires())
        np.testing.assert_array_equal(pixels("a [cat:dog:4]", latentrt.Hires()), later)
        assert np.abs(np.subtract(later, expected)).max() > 1e-4
