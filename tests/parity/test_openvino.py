"""Pictures that openvino draws in float32 equal diffusers', of every family and of the embedded model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.lora_files import saved_by_diffusers
from parity.reference import DiffusersReference
from parity.test_control import psnr
from parity.test_families import FROM_TEXT, LCM, MASKED, ROWS, SIZE, STEPS, Both, assert_equal, mask, picture
from parity.test_pipelines import check
from shared import filled_once

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_openvino(shared: Path) -> Callable[[Path], Path]:
    """A bundle with engines for openvino beside its own."""

    def built(bundle: Path) -> Path:
        def build(folder: Path) -> None:
            shutil.copytree(bundle, folder)
            latentrt.build(folder, backend="openvino")

        return filled_once(shared / f"openvino-{bundle.name}", build)

    return built


@pytest.mark.parametrize("name", ROWS)
def test_a_familys_pictures_are_diffusers(
    name: str,
    on_openvino: Callable[[Path], Path],
    family_bundle: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
) -> None:
    """From text, from pictures and within masks; with guidance and without; one and two at once."""
    with latentrt.open(on_openvino(family_bundle(name)), backend="openvino", threads=2) as pipe:
        assert pipe.backend == "openvino"
        sides = Both(ROWS[name], pipe, DiffusersReference(family_checkpoint(name)))
        negative = {} if name in LCM else {"negative_prompt": "blurry"}
        if name in FROM_TEXT:
            sides.compare(guidance_scale=1.0)
            sides.compare()
            sides.compare(prompt=["a cat", "two words"], seed=[3, 4], **negative)
        if name not in MASKED:
            sides.compare(image=picture(), strength=0.6, **negative)
        sides.compare(image=picture(), mask_image=mask(), strength=1.0, guidance_scale=1.0)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m_k"])
def test_the_embedded_models_pictures_are_diffusers(
    sampler: str, on_openvino: Callable[[Path], Path], emoji_bundle: Path
) -> None:
    """A whole picture, and one from a picture."""
    reference = DiffusersReference(EMOJI)
    with latentrt.open(on_openvino(emoji_bundle), backend="openvino", threads=2) as pipe:
        for strength, steps in ((None, 20), (0.5, 5)):
            check(
                pipe,
                reference,
                sampler=sampler,
                spacing="leading",
                prediction="epsilon",
                strength=strength,
                guidance=7.5,
                negative=None,
                prompt="crying face",
                steps=steps,
            )


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_loras_pictures_are_diffusers(
    family: str,
    on_openvino: Callable[[Path], Path],
    family_bundle: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Of U-Net and text encoders, convolutions among them; gone again it is the picture without."""
    theirs = DiffusersReference(family_checkpoint(family))
    file = saved_by_diffusers(theirs.text, tmp_path, convolutions=True)
    with latentrt.open(on_openvino(family_bundle(family)), backend="openvino", threads=2) as pipe:
        sides = Both(ROWS[family], pipe, theirs)
        plain = sides.compare()
        pipe.load_lora(file, name="style")
        theirs.text.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="style")
        wishes: dict[str, Any] = {"prompt": "a red apple", "sampler": "euler", "guidance_scale": 4.0}
        expected = theirs.draw(**wishes, seeds=7, size=SIZE, steps=STEPS)
        drawn = sides.drawn(**wishes, seed=7, num_inference_steps=STEPS, loras={"style": 1.0})
        assert_equal(drawn, expected)
        assert np.abs(drawn.latents - plain.latents).max() > 1e-2
        pipe.unload_lora()
        theirs.text.unload_lora_weights()
        np.testing.assert_array_equal(sides.compare().latents, plain.latents)


@pytest.mark.parametrize("name", ["tiny_bundle", "emoji_bundle"])
@pytest.mark.parametrize("branch", [0, 1])
def test_deep_caches_pictures_are_those_of_ort_cpu(
    name: str, branch: int, on_openvino: Callable[[Path], Path], request: pytest.FixtureRequest
) -> None:
    """From text and from a picture; one that goes on without it is the picture without."""
    bundle = on_openvino(request.getfixturevalue(name))
    wishes: dict[str, Any] = {"sampler": "dpmpp_2m", "guidance_scale": 4.0, "num_inference_steps": 12}
    wishes |= {"seed": 5, "output_type": "np"}
    cache = latentrt.DeepCache(interval=3, branch=branch)
    drawn = []
    for backend in ("openvino", "ort-cpu"):
        with latentrt.open(bundle, backend=backend, threads=2) as pipe:
            profile = pipe.manifest.profiles[0]
            start = picture().resize((profile.width, profile.height))
            plain = pipe("a red apple", **wishes)
            cached = pipe("a red apple", **wishes, deep_cache=cache)
            changed = pipe.img2img("a red apple", image=start, strength=0.9, **wishes, deep_cache=cache)
            drawn.append([plain, cached, changed])
            np.testing.assert_array_equal(pipe("a red apple", **wishes).latents, plain.latents)
    for ours, theirs in zip(*drawn, strict=True):
        assert parity_of(ours.latents, theirs.latents).relative_error <= 1e-4
        assert psnr(np.stack(ours.images), np.stack(theirs.images)) >= 50.0
    plain, cached, _ = drawn[0]
    assert parity_of(cached.latents, plain.latents).relative_error >= 1e-3
