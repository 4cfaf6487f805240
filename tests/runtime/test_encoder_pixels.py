"""Pictures as the image encoders of Zero123 and Stable Video Diffusion take them, beside torch and diffusers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from latentrt.engines.bundle.records.conditioning import ImageEncoderRecord, Resizing
from latentrt.runtime.pictures.clip_pixels import encoder_pixels

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(224, 224), (256, 256), (1, 1), (7, 301), (64, 40), (223, 225), (1024, 576), (449, 1021)]


def record(resizing: Resizing, size: int = 224) -> ImageEncoderRecord:
    return ImageEncoderRecord(component="image_encoder", size=size, resizing=resizing, mean=MEAN, std=STD)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def squeezed(image: torch.Tensor, **options: bool) -> torch.Tensor:
    """Zero123's, of pixels in [−1, 1]."""
    return torch.nn.functional.interpolate(image, (224, 224), mode="bicubic", align_corners=True, **options)


def blurred(image: torch.Tensor) -> torch.Tensor:
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    resized: torch.Tensor = _resize_with_antialiasing(image, (224, 224))
    return resized


def library_pixels(image: Image.Image, resize: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """What the pipelines give CLIP: of [−1, 1], back in [0, 1], normalised."""
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255.0).permute(2, 0, 1)[None] * 2.0 - 1.0
    unit = (resize(pixels) + 1.0) / 2.0
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return np.asarray(((unit - mean) / std)[0].numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resizing", "resize"), [(Resizing.SQUEEZED, squeezed), (Resizing.BLURRED, blurred)])
def test_pixels_are_the_libraries_own(
    resizing: Resizing, resize: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int]
) -> None:
    """Of pictures that are smaller, as large, larger, of odd sides; the blur mirrors no line of one pixel."""
    if resizing is Resizing.BLURRED and 1 in size:
        size = (2, 2)
    image = noise(*size)
    found = encoder_pixels(image, record(resizing))
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, library_pixels(image, resize), atol=1e-5)


def test_pixels_are_those_of_diffusers_pipeline() -> None:
    """All that it does with a picture before the image encoder, its processor included."""
    from diffusers import StableVideoDiffusionPipeline
    from diffusers.image_processor import VaeImageProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels: torch.Tensor) -> "Seen":
            self.image_embeds = pixels.reshape(1, -1)
            return self

    class Stand:
        image_encoder, feature_extractor, video_processor = Seen(), CLIPImageProcessorPil(), VaeImageProcessor()

    image = noise(501, 330)
    expected = StableVideoDiffusionPipeline._encode_image(Stand, image, "cpu", 1, False)
    found = encoder_pixels(image, record(Resizing.BLURRED))
    np.testing.assert_allclose(found.reshape(-1), expected.detach().numpy().reshape(-1), atol=1e-5)


@pytest.mark.parametrize("size", [(256, 256), (1024, 576)])
def test_antialiasing_and_corners_would_show(size: tuple[int, int]) -> None:
    """What the comparison above must tell apart is far beyond its tolerance."""
    image = noise(*size)
    right = library_pixels(image, squeezed)

    def others(pixels: torch.Tensor) -> list[torch.Tensor]:
        corners = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic")
        return [squeezed(pixels, antialias=True), corners, blurred(pixels)]

    # From 256 to 224 the blur is a tenth of a pixel wide, and its share of the neighbours is nothing
    for index in range(2 if size == (256, 256) else 3):
        wrong = library_pixels(image, lambda pixels, index=index: others(pixels)[index])  # type: ignore[misc]
        assert np.abs(wrong - right).max() > 1e-3, index


def test_arrays_are_not_rounded() -> None:
    """A picture of floats keeps what 8 bits have no room for; of those that have it, both forms agree."""
    image = noise(300, 200)
    array = np.asarray(image, np.float32) / np.float32(255)
    wanted = record(Resizing.BLURRED)
    np.testing.assert_array_equal(encoder_pixels(array, wanted), encoder_pixels(image, wanted))
    shifted = encoder_pixels(array * np.float32(0.999), wanted)
    assert 1e-4 < np.abs(shifted - encoder_pixels(array, wanted)).max() < 1e-2


@pytest.mark.parametrize("resizing", list(Resizing))
def test_transparency_is_white(resizing: Resizing) -> None:
    """As where the autoencoder reads the picture, so that both see the same."""
    clear = Image.new("RGBA", (40, 60), (255, 0, 0, 0))
    white = Image.new("RGB", (40, 60), "white")
    np.testing.assert_array_equal(encoder_pixels(clear, record(resizing)), encoder_pixels(white, record(resizing)))


def test_every_mode_and_size() -> None:
    """Grey pictures have three channels, too, and the record's size counts."""
    for resizing in Resizing:
        for mode in ("L", "P", "LA", "1", "CMYK"):
            assert encoder_pixels(noise(30, 20).convert(mode), record(resizing, 30)).shape == (3, 30, 30)
