"""Wildcards in calls: the seed chooses the prompts before anything else reads them, and the settings tell both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters
from latentrt.runtime.prompts.wildcards.wildcards import resolver_from_argument

TEMPLATE = "a {red|blue|green|grey} __animal__"
ONE = {"num_inference_steps": 1, "output_type": "latent"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file."""
    place = tmp_path / "wild"
    place.mkdir()
    (place / "animal.txt").write_text("cat\ndog\nfrog\n{small|large} bear\n")
    return place


def prompts(result: latentrt.Result) -> list[str]:
    """What the pictures say that they were drawn from."""
    return [one.prompt for one in result.metadata]


def test_draws_what_the_resolved_prompt_draws(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """Bit for bit, negative prompts and weights of a syntax included: nothing else hangs on the choice."""
    options: dict[str, Any] = {"seed": 3, "prompt_syntax": "a1111", "guidance_scale": 4.0, **ONE}
    drawn = tiny_pipe(f"({TEMPLATE}:{{1.1|1.3}})", negative_prompt="{dark|dull}", wildcards=folder, **options)
    (told,) = drawn.metadata
    resolve = resolver_from_argument(folder)
    assert told.prompt == resolve(f"({TEMPLATE}:{{1.1|1.3}})", 3)
    assert told.negative_prompt == resolve("{dark|dull}", 3)
    plain = tiny_pipe(told.prompt, negative_prompt=told.negative_prompt, **options)
    np.testing.assert_array_equal(drawn.latents, plain.latents)
    assert plain.metadata[0].templates == {}
    settings = settings_from_parameters(told.parameters())
    assert settings["Wildcard prompt"] == f"({TEMPLATE}:{{1.1|1.3}})"
    assert settings["Wildcard negative prompt"] == "{dark|dull}"


def test_each_picture_is_chosen_by_its_own_seed(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """Alone and in a batch; a shared seed counts up; equal templates become equal prompts."""
    resolve = resolver_from_argument(folder)
    batch = tiny_pipe(
        TEMPLATE, num_images_per_prompt=4, negative_prompt=TEMPLATE, seed=[9, 2, 9, 5], wildcards=folder, **ONE
    )
    assert prompts(batch) == [resolve(TEMPLATE, seed) for seed in (9, 2, 9, 5)]
    assert [one.negative_prompt for one in batch.metadata] == prompts(batch)
    np.testing.assert_array_equal(batch.latents[0], batch.latents[2])
    alone = tiny_pipe(TEMPLATE, seed=2, wildcards=folder, **ONE)
    assert prompts(alone) == prompts(batch)[1:2]
    shared = tiny_pipe(TEMPLATE, num_images_per_prompt=3, seed=8, wildcards=folder, **ONE)
    assert prompts(shared) == [resolve(TEMPLATE, seed) for seed in (8, 9, 10)]
    assert shared.seeds == (8, 8, 8)  # the noise is the batch's, as ever
    plain = tiny_pipe(prompts(shared), seed=8, **ONE)
    np.testing.assert_array_equal(shared.latents, plain.latents)


def test_seeds_at_random_choose_too(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """The result's seeds draw the same prompts again."""
    drawn = tiny_pipe([TEMPLATE, "{1|2|3|4|5|6|7|8|9}"], wildcards=folder, **ONE)
    resolve = resolver_from_argument(folder)
    assert prompts(drawn) == [resolve(TEMPLATE, drawn.seeds[0]), resolve("{1|2|3|4|5|6|7|8|9}", drawn.seeds[1])]


def test_off_unless_asked_for(tiny_pipe: latentrt.Pipeline) -> None:
    """Braces and underscores are text."""
    (told,) = tiny_pipe("{a|b} __init__", seed=1, **ONE).metadata
    assert (told.prompt, told.templates) == ("{a|b} __init__", {})


def test_a_negative_template_beside_embeds(tiny_pipe: latentrt.Pipeline) -> None:
    """One side may be encoded."""
    embeds = {"prompt_embeds": tiny_pipe.encode("a cat")["prompt_embeds"]}
    (told,) = tiny_pipe(**embeds, negative_prompt="{a|b}", wildcards="", seed=1, **ONE).metadata
    assert told.negative_prompt in ("a", "b")
    assert told.templates == {"negative_prompt": "{a|b}"}


def test_regions_have_templates_too(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """Each picture's by its own seed; the settings tell what was drawn."""
    right = latentrt.Region(TEMPLATE, box=(0.5, 0, 1, 1))
    told = tiny_pipe("a", num_images_per_prompt=2, regions=right, wildcards=folder, seed=[3, 5], **ONE)
    resolve = resolver_from_argument(folder)
    chosen = [resolve(TEMPLATE, seed) for seed in (3, 5)]
    assert [one.regions[0].prompt for one in told.metadata] == chosen
    plain = tiny_pipe(
        ["a", "a"], regions=[[latentrt.Region(text, box=(0.5, 0, 1, 1))] for text in chosen], seed=[3, 5], **ONE
    )
    np.testing.assert_array_equal(told.latents, plain.latents)


def test_hires_reads_the_same_prompts(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """Its own prompt is a template, too."""
    size = {"width": 32, "height": 32}
    hires = latentrt.Hires(scale=1.0, steps=1, upscaler="lanczos", prompt=f"{TEMPLATE}, fine")
    (told,) = tiny_pipe(TEMPLATE, hires=hires, wildcards=folder, **size, **ONE).metadata
    assert told.hires is not None
    assert told.hires.prompt == f"{told.prompt}, fine"


def test_resolved_before_loras_are_looked_for(tiny_pipe: latentrt.Pipeline) -> None:
    """A tag's name may be chosen."""
    with pytest.raises(RequestError, match="got LoRA 'ink'"):
        tiny_pipe("<lora:{ink|ink}:0.8>", prompt_syntax="a1111", wildcards="", seed=1, **ONE)


def test_refused_before_anything_is_drawn(tiny_pipe: latentrt.Pipeline, folder: Path) -> None:
    """Of all pictures, and in what encodes without a seed."""
    with pytest.raises(RequestError, match=r"got wildcard '__animals__'.*expected __animal__"):
        tiny_pipe(["a cat", "__animals__"], wildcards=folder, **ONE)
    with pytest.raises(RequestError, match="got keyword 'wildcards'"):
        tiny_pipe.encode("{a|b}", wildcards="")  # type: ignore[call-arg]


@pytest.mark.slow
def test_the_second_prompt(family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """Chosen by the same seed; one that is the prompt's own is the same."""
    pipe = family_pipe("sdxl")
    template = "{1|2|3|4|5|6|7|8|9}"
    (told,) = pipe(template, prompt_2=f"a {template}", wildcards="", seed=4, **ONE).metadata
    assert told.prompt_2 == f"a {told.prompt}"
    assert told.templates == {"prompt": template, "prompt_2": f"a {template}"}
    (told,) = pipe(template, prompt_2=template, wildcards="", seed=4, **ONE).metadata
    assert told.prompt_2 is None


def test_on_the_command_line(command: Callable[..., Any], tiny_bundle: Path, folder: Path, tmp_path: Path) -> None:
    """Every picture of a count by its own seed, whatever the batches."""
    options = ("--wildcards", folder, "--count", 3, "--seed", 7, "--steps", 1, "--json")
    done = command("generate", tiny_bundle, TEMPLATE, *options, "-o", tmp_path / "a.png")
    assert done.status == 0, done.stderr
    resolve = resolver_from_argument(folder)
    told = json.loads(done.stdout)["pictures"]
    assert [one["prompt"] for one in told] == [resolve(TEMPLATE, seed) for seed in (7, 8, 9)]
    assert [one["templates"] for one in told] == [{"prompt": TEMPLATE}] * 3
    parameters = str(read_parameters(tmp_path / "a-2.png"))
    assert parameters.startswith(resolve(TEMPLATE, 9))
    assert settings_from_parameters(parameters)["Wildcard prompt"] == TEMPLATE
    refused = command("generate", tiny_bundle, "{a|b", "--wildcards", "", "-o", tmp_path / "b.png")
    assert refused.status == 2
    assert "'{' at character 1" in refused.stderr
    assert not (tmp_path / "b.png").exists()
