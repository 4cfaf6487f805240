"""Videos are those of diffusers' StableVideoDiffusionPipeline: the same seed, the same draws, the same frames."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.video_reference import VideoReference, photograph
from shared import filled_once, no_preview_fitted
from watched_engines import watch

import latentrt
from latentrt.runtime.pictures.image import pixels_from_image

LATENTS, PSNR = 1e-3, 50.0
PICTURE, OTHER = photograph(1), photograph(2)


@pytest.fixture(scope="module")
def pipe(tiny_svd_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """Ours."""
    with latentrt.open(tiny_svd_bundle, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def theirs(tiny_svd_checkpoint: Path) -> VideoReference:
    """diffusers' on the same checkpoint."""
    return VideoReference(tiny_svd_checkpoint)


def compare(
    pipe: latentrt.Pipeline,
    theirs: VideoReference,
    image: Any = PICTURE,
    *,
    seeds: int | list[int] = 5,
    size: tuple[int, int] = (32, 32),
    **wishes: Any,
) -> latentrt.VideoResult:
    """Draws on both sides; both in a few steps."""
    told = {"num_frames": 4, "num_inference_steps": 3, **wishes}
    expected = theirs.draw(image, seeds=seeds, size=size, **told)
    ours = pipe.img2vid(image, seed=seeds, width=size[0], height=size[1], output_type="np", **told)
    assert ours.latents.shape == expected.latents.shape
    np.testing.assert_allclose(ours.latents, expected.latents, rtol=0, atol=LATENTS)
    frames = np.stack([np.asarray(video) for video in ours.frames])
    assert frames.shape == expected.pixels.shape
    assert -10 * np.log10(np.mean((frames - expected.pixels) ** 2)) >= PSNR
    return ours


def test_a_video(pipe: latentrt.Pipeline, theirs: VideoReference) -> None:
    """With all that is said of its motion, and chunks that do not divide its frames."""
    compare(
        pipe, theirs, fps=12, motion_bucket_id=40, noise_aug_strength=0.1, max_guidance_scale=2.5, decode_chunk_size=3
    )


def test_several_pictures(pipe: latentrt.Pipeline, theirs: VideoReference) -> None:
    """One seed for all; each video's chunks are of its own frames. A size that is not square."""
    wide = [photograph(seed, (96, 64)) for seed in (1, 2)]
    compare(pipe, theirs, wide, num_frames=3, size=(48, 32), decode_chunk_size=3, num_inference_steps=2)


def test_what_each_half_is_told(pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unconditional one sees zeros and is told the same numbers; at a last weight of 1 there is none."""
    call: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent", "noise_aug_strength": 0.0}
    runs = watch(pipe, monkeypatch)
    pipe.img2vid(PICTURE, fps=12, motion_bucket_id=40, max_guidance_scale=2.0, **call)
    channels = pipe.manifest.latents.channels
    (encoded,) = runs["vae_encoder"]
    np.testing.assert_array_equal(encoded["sample"][0], pixels_from_image(PICTURE, 32, 32))  # no noise at strength 0
    for run in runs["unet"]:
        (nothing, behind), tokens = run["sample"][:, :, channels:], run["encoder_hidden_states"]
        assert not nothing.any()
        assert not tokens[0].any()
        assert tokens[1].any()
        np.testing.assert_array_equal(behind, np.broadcast_to(behind[:1], behind.shape))  # the same for every frame
        np.testing.assert_allclose(run["time_ids"], [[11.0, 40.0, 0.0]] * 2)
    runs["unet"].clear()
    pipe.img2vid(PICTURE, max_guidance_scale=1.0, **call)
    assert [run["encoder_hidden_states"].any(axis=(1, 2)).tolist() for run in runs["unet"]] == [[True]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("ramp", [(1.0, 3.0), (1.5, 2.0), (1.0, 1.0), (2.0, 2.0), (3.0, 1.5), (0.0, 1.2)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_ramps_and_noise(
    pipe: latentrt.Pipeline,
    theirs: VideoReference,
    ramp: tuple[float, float],
    noise: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last frame's weight decides whether the unconditional half runs."""
    first, last = ramp
    runs = watch(pipe, monkeypatch)
    compare(
        pipe, theirs, min_guidance_scale=first, max_guidance_scale=last, noise_aug_strength=noise, decode_chunk_size=2
    )
    assert [len(run["sample"]) for run in runs["unet"]] == [2 if last > 1.0 else 1] * 3


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9, None])
def test_chunks(pipe: latentrt.Pipeline, theirs: VideoReference, chunk: int | None) -> None:
    """Of every size; one that is larger than the video is all of it."""
    compare(pipe, theirs, decode_chunk_size=chunk)


@pytest.mark.slow
def test_seeds(pipe: latentrt.Pipeline, theirs: VideoReference) -> None:
    """One for all videos, or one each; several videos of one picture; levels of a caller's own."""
    compare(pipe, theirs, [PICTURE, OTHER], seeds=[5, 6], decode_chunk_size=2)
    compare(pipe, theirs, [PICTURE, OTHER], seeds=7, decode_chunk_size=4)
    compare(pipe, theirs, num_videos_per_prompt=2, decode_chunk_size=2)
    levels = [700.0, 30.0, 2.0, 0.1, 0.0]
    compare(pipe, theirs, sigmas=levels, num_inference_steps=None)
    given = np.random.default_rng(0).standard_normal((1, 4, 4, 16, 16), np.float32)
    import torch

    expected = theirs.draw(PICTURE, seeds=1, size=(32, 32), latents=torch.from_numpy(given), num_inference_steps=2)
    ours = pipe.img2vid(PICTURE, seed=1, width=32, latents=given, num_inference_steps=2, output_type="latent")
    np.testing.assert_allclose(ours.latents, expected.latents, rtol=0, atol=LATENTS)


@pytest.mark.slow
def test_other_numbers_of_frames(tiny_svd_checkpoint: Path, theirs: VideoReference, shared: Path) -> None:
    """2 to 14, in one bundle."""
    counts = (2, 5, 8, 14)

    def build(folder: Path) -> None:
        with no_preview_fitted():
            latentrt.build(tiny_svd_checkpoint, folder, profiles=[f"32x32x{count}f" for count in counts])

    with latentrt.open(filled_once(shared / "svd-frames.bundle", build), threads=1) as pipe:
        for count, (noise, chunk) in zip(counts, product((0.0, 0.1), (1, 5)), strict=True):
            compare(
                pipe, theirs, num_frames=count, noise_aug_strength=noise, decode_chunk_size=chunk, num_inference_steps=2
            )
