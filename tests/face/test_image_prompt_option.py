"""``--image-prompt``: what it reads, what it refuses, and that it draws what the keyword does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.arguments.addons import AddonArgument
from latentrt.arguments.image_prompts import IMAGE_PROMPT_OPTION, image_prompts_from_options
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import read_parameters


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture file with a colon in its name."""
    noise = np.random.default_rng(3).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a:b.png")
    return tmp_path / "a:b.png"


def test_paths_may_have_colons(photograph: Path, tmp_path: Path) -> None:
    """What is behind the longest path that exists is the scale."""
    (tmp_path / "x:y.bundle").mkdir()
    adapter = tmp_path / "x:y.bundle"
    for text, scale in (("", 1.0), (":0.4", 0.4)):
        expected = AddonArgument(bundle=adapter, image=photograph, scale=scale)
        assert IMAGE_PROMPT_OPTION.argument(f"{adapter}:{photograph}{text}") == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("none.bundle:{photo}", "there is none at the beginning"),
        ("{folder}", "without a picture"),
        ("{folder}:nothing.png:0.5", "got picture 'nothing.png'"),
        ("{folder}:{photo}:much", "got scale 'much'"),
        ("{folder}:{photo}:nan", "got scale 'nan'"),
    ],
)
def test_wrong_texts_are_refused(text: str, part: str, photograph: Path, tmp_path: Path) -> None:
    """In one sentence, with the form that is expected."""
    with pytest.raises(RequestError, match=part):
        IMAGE_PROMPT_OPTION.argument(text.format(folder=tmp_path, photo=photograph))


def test_options_beside_it_count_for_all_or_for_each(photograph: Path, tmp_path: Path) -> None:
    """Another number of them is refused, and so are those that stand alone."""
    one = f"{tmp_path}:{photograph}"
    more: dict[str, Any] = {"masks": (), "blocks": (), "starts": (), "ends": ()}
    first, second = image_prompts_from_options([one, one], **{**more, "blocks": ["style"], "starts": [0.1, 0.2]})
    assert (first.blocks, first.start, second.blocks, second.start) == ("style", 0.1, "style", 0.2)
    with pytest.raises(RequestError, match="3 times for 2 times"):
        image_prompts_from_options([one, one], **{**more, "ends": [0.5, 0.6, 0.7]})
    with pytest.raises(RequestError, match="without --image-prompt"):
        image_prompts_from_options([], **{**more, "ends": [0.5]})


def test_it_draws_what_the_keyword_does(
    adapter_bundle: Callable[[str, str], Path],
    tiny_bundle: Path,
    tiny_pipe: latentrt.Pipeline,
    photograph: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    """And the picture tells of it."""
    adapter, out = adapter_bundle("sd1", "base"), tmp_path / "out.png"
    ran = command(
        *("generate", tiny_bundle, "a cat", "--steps", "2", "--seed", "5", "--threads", "1", "-o", out),
        *("--image-prompt", f"{adapter}:{photograph}:0.6", "--image-prompt-end", "0.5"),
    )
    assert ran.status == 0, ran.stderr
    prompt = latentrt.ImagePrompt(adapter, Image.open(photograph), scale=0.6, end=0.5)
    expected = tiny_pipe("a cat", num_inference_steps=2, seed=5, image_prompt=prompt)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(expected.images[0]))
    told = str(read_parameters(out))
    assert "Image prompt 0" in told
    assert "Model: sd1-base, Weight: 0.6, Guidance Start: 0, Guidance End: 0.5" in told


def test_bad_image_prompts_are_refused(
    adapter_bundle: Callable[[str, str], Path],
    tiny_bundle: Path,
    tiny_pipe: latentrt.Pipeline,
    tiny_net: Path,
    photograph: Path,
) -> None:
    """A model or a net as the adapter, one for another model, no picture, numbers out of range."""
    adapter, image = adapter_bundle("sd1", "base"), Image.open(photograph)

    def refused(prompt: Any, part: str) -> None:
        with pytest.raises(latentrt.LatentrtError, match=part) as error:
            tiny_pipe("a cat", num_inference_steps=2, image_prompt=prompt)
        assert "\n" not in str(error.value)

    refused(latentrt.ImagePrompt(tiny_bundle, image), "model")
    refused(latentrt.ImagePrompt(tiny_net, image), "a ControlNet, as an image prompt's adapter")
    refused(latentrt.ImagePrompt(adapter_bundle("sdxl", "base"), image), "built for a model of sdxl")
    refused(latentrt.ImagePrompt(3, image), "expected the path of its bundle")  # type: ignore[arg-type]
    refused(latentrt.ImagePrompt(adapter, []), "images of image_prompt")
    refused(latentrt.ImagePrompt(adapter, image, scale=float("inf")), "a finite number")
    refused(latentrt.ImagePrompt(adapter, image, start=0.6, end=0.6), "expected the end later")
    refused(latentrt.ImagePrompt(adapter, image, end=1.5), "expected 0 to 1")
    refused(latentrt.ImagePrompt(adapter, image, blocks="stile"), "expected one of style")
    refused(latentrt.ImagePrompt(adapter, image, mask=[image, image]), "got 2 masks")  # type: ignore[arg-type]
    refused(latentrt.ImagePrompt(adapter, image, mask="mask.png"), "got mask of image_prompt 'mask.png'")  # type: ignore[arg-type]
    refused(str(adapter), "expected latentrt.ImagePrompt")
