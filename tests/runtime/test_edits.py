"""Edits of a picture: which passes a step makes, what else a call takes, and what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.guider import (
    NEGATIVE,
    PICTURE,
    POSITIVE,
    Baseline,
    Guider,
    Pass,
    StepScales,
    classifier_free,
    shifted,
)
from latentrt.runtime.sampling.schedule import Level

EDIT = "instruct-pix2pix"
LEVEL = Level(500.0, 0.6, 0.8)
SHAPE = (2, 4, 6, 5)
FAST: dict[str, Any] = {"seed": 3, "num_inference_steps": 2, "output_type": "latent"}


def picture(seed: int = 1) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def pipe(picture_pipe: Callable[[str], latentrt.Pipeline]) -> latentrt.Pipeline:
    """A tiny InstructPix2Pix."""
    return picture_pipe(EDIT)


def guider(scale: float, towards: float) -> Guider:
    """Of an edit."""
    baseline = Baseline(passes=(PICTURE, NEGATIVE), scales=(towards,))
    steps = StepScales(scales=(scale,), ratios=(LEVEL.ratio,))
    return Guider(steps=steps, combine=shifted(classifier_free), baseline=baseline)


@pytest.mark.parametrize(
    ("scale", "towards", "passes"),
    [
        (7.5, 1.5, (NEGATIVE, PICTURE, POSITIVE)),
        (7.5, 1.0, (PICTURE, POSITIVE)),
        (1.0, 1.5, (POSITIVE,)),
    ],
)
def test_two_weights(scale: float, towards: float, passes: tuple[Pass, ...]) -> None:
    """u + s · (c − i) + z · (i − u), of no more passes than have a share; 1 of each is the prediction itself."""
    random = np.random.default_rng(3)
    every = {which: random.normal(size=SHAPE).astype(np.float32) for which in (NEGATIVE, PICTURE, POSITIVE)}
    run = guider(scale, towards)
    assert run.passes(LEVEL) == passes
    guided = run.combined({which: every[which] for which in passes}, every[POSITIVE], LEVEL).guided
    u, i, c = every[NEGATIVE], every[PICTURE], every[POSITIVE]
    wanted = u + scale * (c - i) + towards * (i - u) if scale > 1 else c
    np.testing.assert_allclose(guided, wanted, atol=1e-5)
    assert guided.dtype == np.float32


def drawn(pipe: latentrt.Pipeline, **options: Any) -> Array:
    """The latents of an edit in two steps."""
    return pipe.edit("make it snow", **{"image": picture(), **FAST, **options}).latents


WISHES: dict[str, dict[str, Any]] = {
    "another picture": {"image": picture(2)},
    "image_guidance_scale": {"image_guidance_scale": 2.5},
    "negative_prompt": {"negative_prompt": "summer"},
    "guidance_end": {"guidance_end": 0.5},
    "guidance_rescale": {"guidance_rescale": 0.7},
    "apg": {"apg": latentrt.Apg(norm_threshold=1.0)},
    "dynamic_thresholding": {"dynamic_thresholding": latentrt.DynamicThresholding(mimic_scale=3.0)},
    "pag_scale": {"pag_scale": 3.0},
    "freeu": {"freeu": latentrt.FreeU()},
    "deep_cache": {"deep_cache": 2, "num_inference_steps": 10},
    "regions": {"regions": [latentrt.Region("a cat", box=(0, 0, 0.5, 1))]},
    "vae": {"vae": "sliced"},
}


@pytest.mark.parametrize("wish", WISHES)
def test_what_else_holds(pipe: latentrt.Pipeline, wish: str) -> None:
    """Each changes the picture; but for the way through the autoencoder, which may not."""
    options = WISHES[wish]
    plain = drawn(pipe, **{name: value for name, value in options.items() if name == "num_inference_steps"})
    difference = np.abs(drawn(pipe, **options) - plain).max()
    assert difference < 1e-4 if wish == "vae" else difference > 1e-3


def test_submitted_and_checked(pipe: latentrt.Pipeline) -> None:
    """A picture alone is edited; its settings say how closely it is kept, as A1111's do."""
    options: dict[str, Any] = {**FAST, "image": picture(), "image_guidance_scale": 1.75}
    submitted = pipe.submit("make it snow", **options).result()
    result = pipe.edit("make it snow", **options)
    np.testing.assert_array_equal(submitted.latents, result.latents)
    (checked,) = pipe.check("make it snow", **options)
    assert checked == result.metadata[0]
    assert "CFG scale: 7.5, Image CFG scale: 1.75, Seed: 3" in checked.parameters()
    assert pipe.check("make it snow", image=picture())[0].image_guidance_scale == 1.5
    assert pipe.check("make it snow", image=picture(), guidance_scale=1.0)[0].image_guidance_scale is None


def test_encoded_prompts(pipe: latentrt.Pipeline) -> None:
    """In place of texts; and weights that change on the way."""
    embeds = pipe.encode("make it snow")
    np.testing.assert_allclose(pipe.edit(image=picture(), **FAST, **embeds).latents, drawn(pipe), atol=1e-5)
    stopped = drawn(pipe, callback_on_step_end=lambda *_: {"guidance_scale": 1.0})
    np.testing.assert_allclose(stopped, drawn(pipe, guidance_scale=[7.5, 1.0]), atol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"image": None}, "got image None, expected a PIL picture"),
    "latents": ({"image": np.zeros((1, 4, 16, 16), np.float32)}, "which are latents"),
    "another size": ({"image": Image.new("RGB", (40, 40))}, "got size 40x40"),
    "three pictures": ({"image": [picture()] * 3}, "got 3 images for 1 pictures"),
    "CFG++": ({"cfg_plus_plus": 0.6}, "got cfg_plus_plus in editing, whose guidance has two weights"),
    "hires": ({"hires": latentrt.Hires()}, "got hires in editing"),
    "strength": (
        {"strength": 0.5},
        "got keyword 'strength', expected one that drawing knows; an edit begins with noise: give image_guidance_scale",
    ),
    "a weight below 0": ({"image_guidance_scale": -1.0}, "got image_guidance_scale -1, expected 0 to 1000"),
    "a weight that is none": ({"image_guidance_scale": "much"}, "got image_guidance_scale 'much', expected a number"),
    "NaN": ({"image_guidance_scale": float("nan")}, "got image_guidance_scale nan"),
    "a start": (
        {"denoising_start": 0.5},
        "got denoising_start in editing, expected latents to go on from; leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(pipe: latentrt.Pipeline, name: str) -> None:
    """In one sentence, before anything is drawn."""
    options, reason = REFUSED[name]
    with pytest.raises(RequestError, match=re.escape(reason)):
        drawn(pipe, **options)


@pytest.mark.slow
def test_nets_and_image_prompts(
    pipe: latentrt.Pipeline, tiny_net: Path, adapter_bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Those for Stable Diffusion 1.x fit; so does a LoRA. With no weight they change nothing."""
    plain = drawn(pipe)
    for scale in (0.0, 1.0):
        control = [latentrt.Control(str(tiny_net), picture(5), scale=scale)]
        prompted = [latentrt.ImagePrompt(str(adapter_bundle("sd1", "base")), picture(5), scale=scale)]
        for added in ({"control": control}, {"image_prompt": prompted}):
            assert bool(np.abs(drawn(pipe, **added) - plain).max() > 1e-3) is bool(scale), added
    only = [latentrt.Control(str(tiny_net), picture(5), mode="control")]  # the picture's pass sees no more of it
    assert np.abs(drawn(pipe, control=only) - plain).max() > 1e-3
    name = pipe.load_lora(save_tiny_lora(tmp_path / "style.safetensors", pipe._bundle.root))
    assert np.abs(drawn(pipe, loras={name: 1.0}) - plain).max() > 1e-4
    pipe.unload_lora()
