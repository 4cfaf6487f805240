"""The linear preview against what the decoder draws: the embedded model's own pictures, and odd latents."""

from pathlib import Path

import numpy as np
import pytest

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.preview import preview_from_latents

NAMES = ["strawberry", "red heart", "cat face", "green apple", "dog face", "pizza", "banana", "tree"]


@pytest.fixture(scope="module")
def drawn(emoji_pipe: latentrt.Pipeline) -> tuple[Array, Array]:
    """Latents (N, C, h, w) and their decoded pictures averaged to the latents' size (N, h, w, 3) in [0, 1]."""
    result = emoji_pipe(NAMES, seed=list(range(len(NAMES))), num_inference_steps=12, output_type="np")
    factor = emoji_pipe.manifest.latents.height_factor
    pixels = np.stack([np.asarray(image) for image in result.images])
    count, height, width, _ = pixels.shape
    blocks = pixels.reshape(count, height // factor, factor, width // factor, factor, 3)
    return result.latents, blocks.mean((2, 4))


def psnr(result: Array, reference: Array) -> float:
    """In dB, for pictures in [0, 1]."""
    return float(-10 * np.log10(((result - reference) ** 2).mean()))


def test_it_looks_like_the_decoded_picture(emoji_pipe: latentrt.Pipeline, drawn: tuple[Array, Array]) -> None:
    """Far better than the best constant colour, near the best linear map there is, and right in light and dark."""
    latents, pictures = drawn
    preview = preview_from_latents(emoji_pipe.manifest.preview, latents)
    assert (preview.shape, preview.dtype) == (pictures.shape, np.uint8)
    ours = psnr(preview / 255, pictures)
    constant = psnr(pictures.mean((0, 1, 2)), pictures)
    assert ours > constant + 4
    rows = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
    rows = np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)
    best = np.linalg.lstsq(rows, pictures.reshape(-1, 3), rcond=None)[0]
    assert ours > psnr((rows @ best).reshape(pictures.shape), pictures) - 1.5
    for one, picture in zip(preview, pictures, strict=True):
        assert np.corrcoef(one.mean(-1).ravel(), picture.mean(-1).ravel())[0, 1] > 0.8
    red = preview[NAMES.index("red heart")].astype(float)[4:12, 4:12].mean((0, 1))
    assert red[0] > red[1:].max() + 20


def test_the_fit_is_measured_on_other_pictures(emoji_bundle: Path, tiny_bundle: Path) -> None:
    """The figure is in the manifest, for a random autoencoder, too; and no coefficient runs away."""
    for bundle in (emoji_bundle, tiny_bundle):
        manifest = open_bundle(bundle).manifest
        record = manifest.preview
        assert len(record.matrix) == manifest.latents.channels
        assert 10.0 < record.psnr < 100.0
        assert np.abs(np.asarray(record.matrix)).max() < 100.0


@pytest.mark.slow
def test_a_build_repeats_it(emoji_bundle: Path) -> None:
    """The same pictures in the same order at every build: the fit is equal to the last digits."""
    from latentrt.export.modules.vae import load_vae
    from latentrt.export.sources.source import checkpoint_from_model
    from latentrt.export.tracing.preview import fit_preview

    checkpoint = checkpoint_from_model("emoji")
    encoder, decoder = load_vae(checkpoint)
    again = fit_preview(encoder, decoder, checkpoint.latents, 64)
    np.testing.assert_allclose(again.matrix, open_bundle(emoji_bundle).manifest.preview.matrix, atol=1e-4)


def test_latents_of_any_size_and_value(emoji_pipe: latentrt.Pipeline) -> None:
    """Colours end at black and white; what is no number is black."""
    latents = np.zeros((3, 4, 5, 7), np.float32)
    latents[1], latents[2] = 1e30, np.nan
    preview = preview_from_latents(emoji_pipe.manifest.preview, latents)
    assert preview.shape == (3, 5, 7, 3)
    np.testing.assert_allclose(preview[0, 0, 0], np.asarray(emoji_pipe.manifest.preview.bias) * 255, atol=1)
    assert set(np.unique(preview[1])) <= {0, 255}
    assert (preview[2] == 0).all()


def test_a_broken_autoencoder_does_not_stop_the_fit() -> None:
    """Its component's gate names the fault; until then the fit goes through, whatever it is worth."""
    import torch

    from latentrt.engines.bundle.records.latent_space import LatentSpace
    from latentrt.export.tracing.preview import fit_preview

    class Broken(torch.nn.Module):
        def __init__(self, shape: tuple[int, ...], value: float) -> None:
            super().__init__()
            self.shape, self.value = shape, value

        def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.full(self.shape, self.value),)

    record = LatentSpace(
        channels=4, scaling_factor=1.0, shift_factor=0.0, height_factor=4, width_factor=4, tile_pixels=64
    )
    for value in (float("nan"), float("inf"), 1e30):
        fitted = fit_preview(Broken((1, 8, 4, 4), value), Broken((1, 3, 16, 16), value), record, 16)
        assert np.isfinite(np.asarray(fitted.matrix)).all()
