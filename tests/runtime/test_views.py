"""Calls that see a picture and read no prompt: what goes along with them, and what does not."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_loras import save_tiny_lora
from watched_engines import watch

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

COMMON: dict[str, Any] = {"num_inference_steps": 2, "seed": [1]}
Pipe = latentrt.Pipeline


@pytest.fixture(scope="module")
def views(tiny_zero123_bundle: Path) -> Iterator[Pipe]:
    """Zero123 in small."""
    with latentrt.open(tiny_zero123_bundle, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def variations(picture_bundle: Callable[[str], Path]) -> Iterator[Pipe]:
    """SD image variations in small."""
    with latentrt.open(picture_bundle("sd-image-variations"), threads=1) as pipe:
        yield pipe


def cut_out() -> Image.Image:
    """A red square before nothing."""
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (8, 8, 24, 24))
    return picture


def on_white() -> Image.Image:
    """The same before white."""
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste((255, 0, 0), (8, 8, 24, 24))
    return picture


def pixels(pipe: Pipe, image: Any, **keywords: Any) -> Any:
    """Of a view, as 8 bits."""
    return np.asarray(pipe.view(image, azimuth=30, **{**COMMON, **keywords}).images[0])


def test_what_is_transparent_is_white(views: Pipe) -> None:
    """In PIL pictures, arrays of 8 bits and arrays of floats, and nowhere black."""
    expected = pixels(views, on_white())
    eight = np.asarray(cut_out())
    for given in (cut_out(), eight, eight.astype(np.float32) / 255, np.asarray(on_white())):
        np.testing.assert_array_equal(pixels(views, given), expected)
    assert np.any(pixels(views, cut_out().convert("RGB")) != expected)


def test_the_settings_of_a_view(views: Pipe, tmp_path: Path) -> None:
    """In its metadata and in its file; the prompt is empty."""
    result = views.view(cut_out(), elevation=10, azimuth=[0, 60.5], distance=-0.1, num_inference_steps=2, seed=[3, 4])
    paths = result.save(tmp_path / "view.png")
    settings = [settings_from_parameters(str(read_parameters(path))) for path in paths]
    assert [one["Azimuth"] for one in settings] == ["0", "60.5"]
    assert [one["Seed"] for one in settings] == ["3", "4"]
    assert settings[1]["Elevation"] == "10"
    assert settings[1]["Distance"] == "-0.1"
    assert settings[1]["Prompt"] == ""
    assert "Image elevation" not in settings[1]
    assert result.metadata[1].poses[0].azimuth == 60.5


def test_several_pictures_and_several_of_each(views: Pipe) -> None:
    """A picture for each view; those of a view follow each other."""
    other = Image.new("RGB", (32, 32), "blue")
    result = views.view(
        [cut_out(), other], azimuth=[20, 90], num_images_per_prompt=2, num_inference_steps=2, seed=[1, 2, 3, 4]
    )
    assert [metadata.poses[0].azimuth for metadata in result.metadata] == [20, 20, 90, 90]
    alone = views.view(other, azimuth=90, num_inference_steps=2, seed=[4])
    np.testing.assert_allclose(result.latents[3:], alone.latents, atol=1e-4)


def test_callbacks_see_and_change(views: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, previews of every view, and what holds from there on."""
    seen: list[Any] = []

    def callback(pipe: Pipe, step: int, timestep: float, tensors: dict[str, Any]) -> Any:
        seen.append([picture.size for picture in pipe.preview(tensors["denoised"])])
        return {"guidance_scale": 1.0} if step == 0 else None

    progress: list[tuple[int, int]] = []
    runs = watch(views, monkeypatch)
    views.view(
        cut_out(),
        azimuth=[0, 90],
        num_inference_steps=3,
        seed=1,
        callback_on_step_end=callback,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert seen == [[(16, 16)] * 2] * 3
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert [len(run["sample"]) for run in runs["unet"]] == [4, 2, 2]


def test_views_are_submitted(views: Pipe, variations: Pipe) -> None:
    """And come back as they would be drawn, with others at the same time."""
    azimuths = [0.0, 40.0, 80.0]
    futures = [views.submit_view(cut_out(), azimuth=azimuth, **COMMON) for azimuth in azimuths]
    for future, azimuth in zip(futures, azimuths, strict=True):
        alone = views.view(cut_out(), azimuth=azimuth, **COMMON)
        np.testing.assert_allclose(future.result(60).latents, alone.latents, atol=1e-4)
        assert (future.step, future.steps) == (2, 2)
    submitted = variations.submit_variation(on_white(), **COMMON).result(60)
    np.testing.assert_allclose(submitted.latents, variations.variation(on_white(), **COMMON).latents, atol=1e-4)


def test_variations_of_several_pictures(variations: Pipe) -> None:
    """So many of each, in their order."""
    pictures = [on_white(), Image.new("RGB", (70, 40), "blue")]
    result = variations.variation(pictures, num_images_per_prompt=2, num_inference_steps=2, seed=[1, 2, 3, 4])
    alone = variations.variation(pictures[1], num_inference_steps=2, seed=[3])
    np.testing.assert_allclose(result.latents[2:3], alone.latents, atol=1e-4)
    assert len(result.images) == 4
    assert result.metadata[0].poses == ()


def test_loras_hold_weights_that_one_token_makes_idle(
    views: Pipe, tiny_zero123_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Queries and keys of cross-attentions, which the bundle does not hold and trainers save."""
    common: dict[str, Any] = {"components": ("unet",)}
    values = save_tiny_lora(tmp_path / "values.safetensors", tiny_zero123_bundle, modules="attn2.to_v", **common)
    queries = load_file(save_tiny_lora(tmp_path / "q.safetensors", tiny_bundle, modules="attn2.to_q", **common))
    save_file({**load_file(values), **queries}, tmp_path / "both.safetensors")
    try:
        names = [views.load_lora(tmp_path / f"{name}.safetensors") for name in ("values", "both")]
        chosen: list[dict[str, float]] = [{}, *({name: 1.0} for name in names)]
        none, one, both = (views.view(on_white(), loras=loras, **COMMON).latents for loras in chosen)
        np.testing.assert_array_equal(one, both)
        assert np.abs(one - none).max() > 0.1
    finally:
        views.unload_lora()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({"prompt": "a cat"}, "got prompt with a model that sees a picture, reads no prompt"),
    "negative prompt": ({"negative_prompt": "red"}, "got negative_prompt with a model that sees a picture, reads no"),
    "hires": ({"hires": 2.0}, "got hires with a model that sees a picture"),
    "image prompt": (
        {"image_prompt": ()},
        "got an image_prompt for a model that draws views of an object and reads no",
    ),
    "hand-over": ({"denoising_start": 0.5}, "got denoising_start with a model that sees"),
    "SDXL's": ({"original_size": (8, 8)}, "original_size"),
    "typo": ({"azimut": 3}, "did you mean azimuth"),
    "other kind": ({"image_elevation": 3}, "got image_elevation with a model whose fourth number is distance"),
    "lists": ({"azimuth": [1, 2, 3], "elevation": [1, 2]}, "2 of elevation and 3 of azimuth"),
    "not finite": ({"elevation": float("nan")}, "got elevation nan, expected -180 to 180"),
    "size": ({"width": 64, "height": 64}, "got size 64x64, but the bundle has 32x32x2, 48x32"),
    "seeds": ({"azimuth": [1, 2, 3], "seed": [1, 2]}, "got 2 seeds for 3 pictures"),
    "none": ({"num_images_per_prompt": 0}, "got num_images_per_prompt 0"),
    "embeds": ({"prompt_embeds": np.zeros((1, 1, 32), np.float32)}, "got prompt_embeds with a model that sees"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(views: Pipe, case: str) -> None:
    """Before any engine runs."""
    keywords, message = REFUSED[case]
    with pytest.raises(RequestError, match=message):
        views.view(cut_out(), **keywords)
    with pytest.raises(RequestError, match=message):
        views.submit_view(cut_out(), **keywords)


@pytest.mark.slow
def test_a_control_net_reads_prompts(views: Pipe, tiny_net: Path) -> None:
    """So it goes with no model that reads none; nor could one be built for it."""
    control = latentrt.Control(str(tiny_net), on_white())
    with pytest.raises(RequestError, match=r"got the .* for a model that draws views .* reads no text"):
        views.view(cut_out(), control=control)


def test_what_is_no_picture_is_refused(views: Pipe) -> None:
    """Nothing, latents, and an array of another size."""
    for image, message in (
        (None, "got image None"),
        ([], "got image"),
        (np.zeros((1, 4, 16, 16), np.float32), "which are latents"),
        (np.zeros((20, 20, 3), np.uint8), r"expected \(32, 32, 3\); resize it first"),
    ):
        with pytest.raises(RequestError, match=message):
            views.view(image)  # type: ignore[arg-type]


def test_each_model_says_which_call_draws_with_it(views: Pipe, variations: Pipe, tiny_pipe: Pipe) -> None:
    """Whatever it is asked for."""
    with pytest.raises(RequestError, match="use variation"):
        variations.view(on_white())
    with pytest.raises(RequestError, match="use view"):
        views.variation(on_white())
    with pytest.raises(RequestError, match="got a new view with a model that draws pictures from text"):
        tiny_pipe.view(on_white())
    with pytest.raises(RequestError, match="use view"):
        views("a cat")


def test_what_may_not_be_meant_is_told(views: Pipe) -> None:
    """Guidance that does nothing, as in every call, and a picture that is stretched."""
    with pytest.warns(UserWarning, match="a picture of 64x32 is stretched to 32x32 pixels; crop it, or pad it"):
        views.view(cut_out().resize((64, 32)), output_type="latent", **COMMON)
    with pytest.warns(UserWarning, match="got guidance_rescale without guidance"):
        views.view(cut_out(), guidance_scale=1.0, guidance_rescale=0.5, output_type="latent", **COMMON)
    with warnings.catch_warnings(action="error"):
        views.view(cut_out(), output_type="latent", **COMMON)
