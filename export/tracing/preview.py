"""The linear map from latents to colours, fitted to what a checkpoint's own autoencoder makes of pictures."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.manifest import PreviewRecord
from latentrt.engines.pixels import normalized
from latentrt.engines.spec import Array

# One picture in this many is kept out of the fit, to measure it
_HELD_OUT = 4
_CROPS = 16
_SEED = 7
_NOISE = 0.3  # of the latents' unit deviation
_LARGEST = 64  # pixels: larger pictures say nothing more about colours, and SD 1.5 takes a second for each of 128


def fit_preview(encoder: torch.nn.Module, decoder: torch.nn.Module, space: LatentSpace, size: int) -> PreviewRecord:
    """Fits rgb = latent · matrix + bias by least squares to what the decoder draws.

    The latents are those of pictures with a little noise added, because the loop's are not the encoder's either.
    On pictures that the embedded model draws this comes within 1.5 dB of the map fitted to those very pictures; what a
    linear map of single latents cannot tell, such as that model's blues, no choice of pictures mends.

    Args:
        encoder: sample (B, 3, H, W) → the posterior's parameters (B, 2C, h, w).
        decoder: latent_sample (B, C, h, w) → sample (B, 3, H, W).
        space: the latents' scale; the map takes scaled latents.
        size: the shortest side of the bundle's pictures in pixels; the fit takes squares of at most this and 64.

    Returns:
        The map, and its PSNR against decoded pictures kept out of the fit, averaged to the latents' size.
    """
    side, factor = min(size, _LARGEST) // space.height_factor, space.height_factor
    random = np.random.default_rng(_SEED)
    pairs = []
    with torch.inference_mode():
        for picture in _pictures(side * factor, random):
            mean = encoder(torch.from_numpy(normalized(picture)[None]))[0].chunk(2, 1)[0]
            noise = torch.from_numpy(random.normal(0.0, _NOISE, mean.shape).astype(np.float32))
            latents = space.scaled(mean) + noise
            decoded = decoder(space.unscaled(latents))[0][0].permute(1, 2, 0).numpy()
            colours = np.clip(decoded / 2 + 0.5, 0.0, 1.0).reshape(side, factor, side, factor, 3).mean((1, 3))
            pairs.append((_with_one(latents[0].flatten(1).T.numpy()), colours.reshape(-1, 3).astype(np.float64)))
    held = pairs[::_HELD_OUT]
    fitted = [pair for index, pair in enumerate(pairs) if index % _HELD_OUT]
    solution = np.linalg.lstsq(*_joined(fitted), rcond=None)[0]
    latents, colours = _joined(held)
    return PreviewRecord(
        matrix=tuple((r, g, b) for r, g, b in solution[:-1].tolist()),
        bias=tuple(solution[-1].tolist()),
        psnr=parity_of(latents @ solution, colours).psnr,
    )


def _joined(pairs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """All rows below each other; what is not finite counts as 0, and the gates will name whose fault it is."""
    latents, colours = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return np.nan_to_num(latents, posinf=0.0, neginf=0.0), np.nan_to_num(colours)


def _with_one(latents: Array) -> Array:
    return np.concatenate([latents.astype(np.float64), np.ones((len(latents), 1))], axis=1)


def _pictures(size: int, random: np.random.Generator) -> Iterator[Array]:
    """Pictures (size, size, 3) float32 in [0, 1], the same at every build.

    Crops of the photograph, mirrored, with colours exchanged and gains changed, so that no colour goes with no
    other; flat colours and blocks of colour on white; noise, for contrast.
    """
    whole = photograph()
    for index in range(_CROPS):
        side = int(random.integers(whole.height // 4, whole.height + 1))
        left, top = (int(random.integers(0, edge - side + 1)) for edge in whole.size)
        crop = whole.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        picture = np.asarray(crop, np.float32)[:, :: -1 if index % 2 else 1] / 255.0
        picture = picture[..., random.permutation(3)]
        if index >= 2:  # two stay as they are but for the order of colours
            picture = picture * random.uniform(0.4, 1.6, 3) + random.uniform(-0.3, 0.3, 3)
        yield np.clip(picture, 0.0, 1.0).astype(np.float32)
    for _ in range(2 * _CROPS):
        ground = _colour(random) if random.uniform() < 0.5 else np.ones(3)
        picture = np.broadcast_to(ground, (size, size, 3)).astype(np.float32)
        for _ in range(3):
            low, high = np.sort(random.integers(0, size + 1, (2, 2)), axis=0)
            picture[low[0] : high[0], low[1] : high[1]] = _colour(random)
        yield picture
    for level in np.linspace(0.0, 1.0, _CROPS // 2):
        coarse = random.uniform(0, 1, (4, 4, 3)) * 0.5 + level * 0.5
        yield np.asarray(np.kron(coarse, np.ones((size // 4 + 1,) * 2 + (1,)))[:size, :size], np.float32)


def _colour(random: np.random.Generator) -> Array:
    """Any colour, or as often a pure one: models of drawings use little else."""
    colour = random.uniform(0, 1, 3)
    if random.uniform() < 0.5:
        colour = (colour - colour.min()) / max(np.ptp(colour), 1e-6) * random.uniform(0.6, 1.0)
    return np.asarray(colour)
