"""The autoencoder in tiles and slices against diffusers' AutoencoderKL with tiling and slicing enabled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile
from latentrt.engines.store.components import OpenComponents
from latentrt.models import EMOJI
from latentrt.runtime.pictures.autoencoder import latents_from_pixels, pixels_from_latents
from latentrt.runtime.pictures.tiling import VaeMode, vae_engine
from latentrt.runtime.sampling.noise import Noise

# fp32 convolutions in another order, of values up to about 10: 1e-6 to 1e-5 is what that leaves
TOLERANCE = 5e-5
# Latents (height, width) in units of a tile: less than one, exactly one, edge tiles of many lengths
SIZES = [(1.0, 1.0), (1.0, 1.5), (0.5, 2.25), (1.75, 2.0), (1.125, 1.5), (3.0, 2.5)]


@pytest.fixture(scope="module", params=["tiny", "embedded"])
def both(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tiny_bundle: Path, emoji_bundle: Path
) -> Iterator[tuple[OpenComponents, Any]]:
    """A bundle's components and the same autoencoder in diffusers, tiling enabled."""
    checkpoint, bundle = (tiny_checkpoint, tiny_bundle) if request.param == "tiny" else (EMOJI, emoji_bundle)
    vae: Any = AutoencoderKL.from_pretrained(checkpoint / "vae")
    vae.enable_tiling()
    components = OpenComponents(open_bundle(bundle), Backend.ORT_CPU, threads=None)
    yield components, vae
    components.close()


def profile_of(components: OpenComponents, size: tuple[float, float]) -> Profile:
    """A profile of some tiles; the bundle need not have it."""
    tile = components.bundle.manifest.latents.tile_pixels
    return Profile(width=round(size[1] * tile), height=round(size[0] * tile), batch=2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.grid
def test_decoding(both: tuple[OpenComponents, Any], size: tuple[float, float]) -> None:
    """Two pictures of random latents."""
    components, vae = both
    profile, record = profile_of(components, size), components.bundle.manifest.latents
    shape = (2, record.channels, profile.height // record.height_factor, profile.width // record.height_factor)
    latents = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    engine = vae_engine(components, "vae_decoder", profile, VaeMode.TILED)
    pixels = pixels_from_latents(engine, record, latents)
    with torch.inference_mode():
        decoded = vae.decode(torch.from_numpy(latents) / record.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(pixels, expected, atol=TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.grid
def test_encoding(both: tuple[OpenComponents, Any], size: tuple[float, float]) -> None:
    """The sampled latents, so that the noise is the same, too."""
    components, vae = both
    profile, record = profile_of(components, size), components.bundle.manifest.latents
    shape = (1, 3, profile.height, profile.width)
    pixels = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    engine = vae_engine(components, "vae_encoder", profile, VaeMode.TILED)
    latent = (1, record.channels, profile.height // record.height_factor, profile.width // record.height_factor)
    latents = latents_from_pixels(engine, record, pixels, Noise(5, latent), 1)
    with torch.inference_mode():
        posterior = vae.encode(torch.from_numpy(pixels)).latent_dist
    expected = posterior.sample(torch.Generator().manual_seed(5)) * record.scaling_factor
    np.testing.assert_allclose(latents, expected.numpy(), atol=TOLERANCE)


def test_tiles_are_not_the_whole(both: tuple[OpenComponents, Any]) -> None:
    """What the comparison can see: with tiles the same latents decode differently, by more than the tolerance."""
    components, _ = both
    profile, record = profile_of(components, (1.5, 1.5)), components.bundle.manifest.latents
    shape = (1, record.channels, profile.height // record.height_factor, profile.width // record.height_factor)
    latents = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    whole, tiled = (
        pixels_from_latents(vae_engine(components, "vae_decoder", profile, mode), record, latents)
        for mode in (VaeMode.WHOLE, VaeMode.TILED)
    )
    assert np.abs(whole - tiled).max() > 20 * TOLERANCE


def test_slices(both: tuple[OpenComponents, Any]) -> None:
    """One by one is the same as together."""
    components, _ = both
    profile, record = profile_of(components, (1.0, 1.0)), components.bundle.manifest.latents
    side = profile.height // record.height_factor
    latents = np.random.default_rng(3).normal(size=(3, record.channels, side, side)).astype(np.float32)
    whole, sliced = (
        pixels_from_latents(vae_engine(components, "vae_decoder", profile, mode), record, latents)
        for mode in (VaeMode.WHOLE, VaeMode.SLICED)
    )
    np.testing.assert_allclose(sliced, whole, atol=TOLERANCE)


def test_the_tile_is_diffusers(both: tuple[OpenComponents, Any]) -> None:
    """From the VAE's config."""
    components, vae = both
    record = components.bundle.manifest.latents
    assert (record.tile_pixels, record.tile_pixels // record.height_factor) == (
        vae.tile_sample_min_size,
        vae.tile_latent_min_size,
    )
