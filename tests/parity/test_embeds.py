"""Encoded prompts: made as diffusers makes them, drawn from as diffusers does, and changed on the way by callbacks."""

from collections.abc import Callable, Mapping
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

LATENT_TOLERANCE = 1e-3
SIZE = (32, 32)
Pipes = Callable[[str], latentrt.Pipeline]


@pytest.fixture(scope="module")
def references(family_checkpoint: Callable[[str], Path]) -> Mapping[str, DiffusersReference]:
    """Diffusers on the tiny checkpoints."""
    return {family: DiffusersReference(family_checkpoint(family)) for family in ("sd1", "sdxl")}


def theirs(reference: DiffusersReference, prompt: Any, **keywords: Any) -> dict[str, torch.Tensor]:
    """What diffusers' ``encode_prompt`` gives, under the names by which its pipelines take it."""
    keywords = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, "device": "cpu", **keywords}
    with torch.inference_mode():
        found = reference.text.encode_prompt(prompt, **keywords)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return {name: tensor.clone() for name, tensor in zip(names, found, strict=False)}


ENCODED: dict[str, tuple[Any, dict[str, Any]]] = {
    "one": ("a red apple", {}),
    "with a negative": ("a red apple", {"negative_prompt": "blurry"}),
    "several": (["a cat", "a dog"], {"negative_prompt": ["ugly", ""], "num_images_per_prompt": 2}),
    "clip skip": ("a red apple", {"clip_skip": 1, "negative_prompt": ""}),
}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("case", ENCODED)
def test_encode(family_pipe: Pipes, references: Mapping[str, DiffusersReference], family: str, case: str) -> None:
    """Names, shapes and values; without a negative prompt SDXL's are zeros."""
    if case == "clip skip" and family == "sd1":
        pytest.skip("diffusers looks for a module that transformers has no longer; test_prompts.py compares the layers")
    prompt, keywords = ENCODED[case]
    expected = theirs(references[family], prompt, **keywords)
    found = family_pipe(family).encode(prompt, **keywords)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        array: Array = found[name]  # type: ignore[literal-required]
        assert (array.shape, array.dtype) == (tuple(tensor.shape), np.float32)
        np.testing.assert_allclose(array, tensor.numpy(), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_is_encoded_draws_as_its_text(family_pipe: Pipes, family: str) -> None:
    """In every workflow, to the bit; also in a syntax, in chunks, and several pictures of each prompt."""
    pipe = family_pipe(family)
    image, mask = Image.effect_noise(SIZE, 90).convert("RGB"), Image.new("L", SIZE, 255)
    prompts = {"negative_prompt": "blurry--", "prompt_syntax": "compel"}
    common: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent", "width": 32}
    draws: list[Callable[..., latentrt.Result]] = [
        pipe.__call__,
        lambda prompt=None, **more: pipe.img2img(prompt, image=image, strength=0.6, **more),
        lambda prompt=None, **more: pipe.inpaint(prompt, image=image, mask_image=mask, **more),
    ]
    embeds = pipe.encode(["a red++ apple", "a dog " * 50], **prompts)  # type: ignore[arg-type]
    assert embeds["prompt_embeds"].shape[:2] == (2, 154)
    for draw in draws:
        expected = draw(["a red++ apple", "a dog " * 50], **prompts, **common)
        np.testing.assert_array_equal(draw(**embeds, **common).latents, expected.latents)
    twice = pipe(**embeds, num_images_per_prompt=2, **common).latents
    np.testing.assert_array_equal(
        twice, pipe(["a red++ apple", "a dog " * 50], num_images_per_prompt=2, **prompts, **common).latents
    )


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("negative", ["text", "embeds", "none"])
def test_diffusers_draws_the_same(
    family_pipe: Pipes, references: Mapping[str, DiffusersReference], family: str, negative: str
) -> None:
    """From embeddings that no text has, two prompts of two pictures; beside a negative text, none, or embeddings."""
    generator = torch.Generator().manual_seed(0)
    shapes = theirs(references[family], ["", ""])
    embeds = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in shapes.items()
        if negative == "embeds" or not name.startswith("negative")
    }
    keywords = {
        **embeds,
        "num_images_per_prompt": 2,
        **({"negative_prompt": ["ugly", ""]} if negative == "text" else {}),
    }
    common = {"sampler": "euler", "guidance_scale": 4.0}
    expected = references[family].draw(prompt=None, seeds=3, size=SIZE, steps=2, **keywords, **common)  # type: ignore[arg-type]
    result = family_pipe(family)(seed=3, num_inference_steps=2, output_type="latent", width=32, **keywords, **common)
    parity = parity_of(result.latents, expected.latents)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)


def test_every_kind_of_array(tiny_pipe: latentrt.Pipeline) -> None:
    """torch's in any precision and with a gradient, NumPy's in any precision; one negative for all."""
    embeds = tiny_pipe.encode(["a cat", "a dog"])
    common: dict[str, Any] = {"num_inference_steps": 1, "seed": 1, "output_type": "latent", "width": 32}
    expected = tiny_pipe(**embeds, **common).latents
    kinds: dict[str, tuple[Callable[[Array], Any], float]] = {
        "float64": (np.float64, 0.0),
        "float16": (np.float16, 1e-2),
        "torch": (lambda array: torch.from_numpy(array).requires_grad_(), 0.0),
        "bfloat16": (lambda array: torch.from_numpy(array).bfloat16(), 1e-1),
        "a negative for all": (lambda array: array, 0.0),
    }
    for name, (convert, tolerance) in kinds.items():
        given = {key: convert(array) for key, array in embeds.items()}  # type: ignore[arg-type]
        if name == "a negative for all":
            given["negative_prompt_embeds"] = given["negative_prompt_embeds"][:1]
        np.testing.assert_allclose(tiny_pipe(**given, **common).latents, expected, atol=tolerance, err_msg=name)


def test_metadata_name_what_was_encoded(tiny_pipe: latentrt.Pipeline) -> None:
    """In place of the texts that nobody knows."""
    embeds = tiny_pipe.encode("a cat")
    (metadata,) = tiny_pipe(prompt_embeds=embeds["prompt_embeds"], negative_prompt="ugly", width=32).metadata
    assert (metadata.prompt, metadata.negative_prompt, metadata.embeds) == ("", "ugly", ("prompt_embeds",))
    assert "Embeds: prompt_embeds, Version" in metadata.parameters()


EMBEDS = np.zeros((1, 77, 64), np.float32)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sd1", {}, "got no prompt, expected a text or prompt_embeds"),
    ("sd1", {"prompt": "a", "prompt_embeds": EMBEDS}, "got prompt with prompt_embeds"),
    ("sd1", {"prompt_embeds": EMBEDS, "clip_skip": 1}, "got clip_skip with prompt_embeds.*pipe.encode"),
    ("sd1", {"prompt_embeds": EMBEDS, "prompt_syntax": "compel"}, "got prompt_syntax with prompt_embeds"),
    (
        "sd1",
        {"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": EMBEDS},
        "got negative_prompt with negative_prompt_embeds",
    ),
    ("sd1", {"prompt_embeds": EMBEDS[0]}, r"got prompt_embeds \(77, 64\), expected an array \(N, 77, 64\)"),
    ("sd1", {"prompt_embeds": EMBEDS[..., :32]}, r"\(1, 77, 32\)"),
    ("sd1", {"prompt_embeds": EMBEDS[:, :50]}, "a multiple of 77 tokens"),
    ("sd1", {"prompt_embeds": EMBEDS[:0]}, r"\(0, 77, 64\)"),
    ("sd1", {"prompt_embeds": [EMBEDS[0]]}, "got prompt_embeds list"),
    ("sd1", {"prompt_embeds": EMBEDS.astype(np.int64)}, "int64, expected floats"),
    ("sd1", {"prompt_embeds": EMBEDS * np.nan}, "NaN"),
    ("sd1", {"prompt_embeds": EMBEDS, "pooled_prompt_embeds": EMBEDS[:, 0]}, "pooled_prompt_embeds with a model that"),
    ("sd1", {"prompt": "a", "negative_prompt_embeds": EMBEDS.repeat(3, 0)}, r"\(3, 77, 64\) for 1 prompts"),
    (
        "sd1",
        {"prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS.repeat(2, 1)},
        "of 77 tokens and negative_prompt_embeds of 154",
    ),
    ("sd1", {"prompt": "a " * 99, "long_prompt": "chunk", "negative_prompt_embeds": EMBEDS}, "texts of 154"),
    ("sdxl", {"prompt_embeds": np.zeros((1, 77, 192), np.float32)}, "without pooled_prompt_embeds, expected both"),
    (
        "sdxl",
        {"prompt": "a", "negative_prompt_embeds": np.zeros((1, 77, 192), np.float32)},
        "without negative_pooled_prompt_embeds",
    ),
    ("sdxl", {"prompt": "a", "pooled_prompt_embeds": np.zeros((1, 96), np.float32)}, "without prompt_embeds"),
    ("lcm-sd1", {"prompt": "a", "negative_prompt_embeds": EMBEDS}, "guidance built in"),
]


@pytest.mark.parametrize(("family", "keywords", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_refused(family_pipe: Pipes, family: str, keywords: dict[str, Any], reason: str) -> None:
    """One sentence: got, expected, what to do."""
    with pytest.raises(RequestError, match=reason) as refused:
        family_pipe(family)(**keywords)
    assert "\n" not in str(refused.value)


def test_encode_takes_what_is_about_prompts(tiny_pipe: latentrt.Pipeline) -> None:
    """And refuses the rest."""
    with pytest.raises(RequestError, match="got keyword 'seed'"):
        tiny_pipe.encode("a", seed=1)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="got no prompt"):
        tiny_pipe.encode(None)  # type: ignore[arg-type]


Change = Callable[[int, dict[str, Any]], dict[str, Any]]


def second_half(step: int, tensors: dict[str, Any]) -> dict[str, Any]:
    """Guidance ends after the third step, and with it the negatives: diffusers' dynamic guidance."""
    if step != 2:
        return {}
    rows = {name: tensor[len(tensor) // 2 :] for name, tensor in tensors.items() if "embeds" in name}
    return {**rows, "guidance_scale": 0.0}


def in_place(step: int, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors themselves, which then are not returned."""
    for tensor in tensors.values():
        tensor *= 0.8
    return {}


CHANGES: dict[str, Change] = {
    "another weight": lambda step, tensors: {"guidance_scale": 9.0 - step},
    "no more guidance": second_half,
    "weaker embeddings": lambda step, tensors: {
        name: tensor * 0.9 for name, tensor in tensors.items() if "embeds" in name
    },
    "turned": lambda step, tensors: {name: -tensor for name, tensor in tensors.items()} if step == 1 else {},
    "in place": in_place,
}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.grid
def test_callbacks(family_pipe: Pipes, references: Mapping[str, DiffusersReference], family: str, change: str) -> None:
    """One function with diffusers' tensors and with ours; diffusers' guidance is an attribute of its pipeline."""
    names = ["latents", "prompt_embeds", *(["pooled_prompt_embeds"] if family == "sdxl" else [])]
    elsewhere = {"pooled_prompt_embeds": "add_text_embeds"}

    def ours(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return CHANGES[change](step, tensors)

    def of_diffusers(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        given = {name: tensors[elsewhere.get(name, name)] for name in names}
        returned = CHANGES[change](step, given)
        pipe._guidance_scale = returned.pop("guidance_scale", pipe._guidance_scale)
        if pipe._guidance_scale <= 1.0 and family == "sdxl" and step == 2:
            returned["add_time_ids"] = tensors["add_time_ids"][1:]
        return {elsewhere.get(name, name): tensor for name, tensor in returned.items()}

    asked = [elsewhere.get(name, name) for name in names] + (["add_time_ids"] if family == "sdxl" else [])
    common = {"sampler": "dpmpp_2m", "guidance_scale": 6.0, "negative_prompt": "ugly"}
    expected = references[family].draw(
        prompt="a cat",
        seeds=3,
        size=SIZE,
        steps=5,
        callback_on_step_end=of_diffusers,
        callback_on_step_end_tensor_inputs=asked,
        **common,  # type: ignore[arg-type]
    )
    drawing: dict[str, Any] = {"seed": 3, "num_inference_steps": 5, "output_type": "latent", "width": 32, **common}
    result = family_pipe(family)(
        "a cat", callback_on_step_end=ours, callback_on_step_end_tensor_inputs=names, **drawing
    )
    parity = parity_of(result.latents, expected.latents)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)
    assert not np.allclose(family_pipe(family)("a cat", **drawing).latents, result.latents, atol=1e-3)
