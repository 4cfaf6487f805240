"""What lies under a mask as its redrawing begins."""

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.runtime.pictures.masked_content import MaskedContent, filled

SIZE = 32, 32


def halves() -> tuple[Image.Image, Image.Image]:
    """A picture of red on the left and blue on the right, green in the middle, and a mask of the green."""
    image, mask = Image.new("RGB", SIZE, "red"), Image.new("L", SIZE)
    image.paste("blue", (16, 0, 32, 32))
    image.paste("lime", (10, 0, 22, 32))
    mask.paste(255, (10, 0, 22, 32))
    return image, mask


@pytest.mark.parametrize("shape", [(32, 32), (31, 17), (1, 5)])
def test_the_colours_around_a_mask_fill_it(shape: tuple[int, int]) -> None:
    """What is kept stays; near an edge is its colour, and what lies under the mask counts nowhere."""
    height, width = shape
    pixels = np.zeros((2, 3, height, width), np.float32)
    pixels[..., 1:] = 1.0
    mask = np.zeros((2, 1, height, width), np.float32)
    mask[..., 1:-1] = 1
    pixels[np.broadcast_to(mask > 0, pixels.shape)] = 7.0
    pixels[1] *= 3.0  # pictures keep to themselves
    result = filled(pixels, mask)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[..., 0], 0.0)
    np.testing.assert_array_equal(result[0, :, :, -1], 1.0)
    assert 0.0 <= result[0].min() <= result[0].max() <= 1.0
    assert (np.diff(result[0], axis=-1) >= -1e-6).all()
    np.testing.assert_allclose(result[1], 3 * result[0], rtol=1e-5)


def test_a_mask_of_everything_is_filled_with_grey() -> None:
    """There is no colour to carry into it."""
    ones = np.ones((1, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(filled(np.ones((1, 3, 8, 8), np.float32), ones), 0.0)


def test_each_content_begins_a_run_of_its_own(tiny_pipe: latentrt.Pipeline) -> None:
    """What is kept is the same; the settings tell of all but the picture itself."""
    image, mask = halves()
    drawn, told = {}, {}
    for content in MaskedContent:
        result = tiny_pipe.inpaint(
            "a cat",
            image=image,
            mask_image=mask,
            masked_content=content.value,
            strength=0.5,
            num_inference_steps=2,
            seed=3,
        )
        drawn[content] = np.asarray(result.images[0])
        told[content] = result.metadata[0].parameters()
    kept = np.asarray(mask) == 0
    for content, pixels in drawn.items():
        np.testing.assert_array_equal(pixels[kept], np.asarray(image)[kept])
        assert ("Masked content" in told[content]) == (content is not MaskedContent.ORIGINAL)
    assert "Masked content: latent noise" in told[MaskedContent.NOISE]
    assert len({pixels.tobytes() for pixels in drawn.values()}) == 4


def test_nothing_is_zeros_brought_to_the_noise_level(tiny_pipe: latentrt.Pipeline) -> None:
    """What was under the mask counts for nothing."""
    image, mask = Image.new("RGB", SIZE, "red"), Image.new("L", SIZE, 255)
    common = {"mask_image": mask, "strength": 0.5, "num_inference_steps": 2, "seed": 3, "output_type": "latent"}
    nothing = tiny_pipe.inpaint("a", image=image, masked_content="nothing", **common).latents
    other = tiny_pipe.inpaint("a", image=Image.new("RGB", SIZE, "blue"), masked_content="nothing", **common).latents
    np.testing.assert_array_equal(nothing, other)
    original = tiny_pipe.inpaint("a", image=image, **common).latents
    assert not np.array_equal(nothing, original)
