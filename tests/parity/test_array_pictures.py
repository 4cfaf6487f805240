"""Pictures and masks as arrays: every layout and range that diffusers' processors take, read as they read it."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.arrays import pictures_from_argument, rgb_array
from latentrt.runtime.pictures.image import array_from_image, pixels_from_image
from latentrt.runtime.pictures.mask import inpaint_input_from_pictures, masks_from_argument

WIDTH, HEIGHT = 48, 32
PIXELS = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)  # three pictures
UNIT = PIXELS.astype(np.float32) / np.float32(255.0)
MASKS = np.random.default_rng(1).random((3, HEIGHT, WIDTH), np.float32)


def first(array: Array) -> torch.Tensor:
    """torch's layout: channels before rows."""
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy())


PICTURES: dict[str, Any] = {
    "PIL": Image.fromarray(PIXELS[0]),
    "PIL in a list": [Image.fromarray(one) for one in PIXELS],
    "NumPy HWC": UNIT[0],
    "NumPy NHWC": UNIT,
    "NumPy in a list": list(UNIT),
    "NumPy batches in a list": [UNIT[:1], UNIT[1:]],
    "torch CHW": first(UNIT[0]),
    "torch NCHW": first(UNIT),
    "torch in a list": list(first(UNIT)),
    "torch batches in a list": [first(UNIT[:1]), first(UNIT[1:])],
    "torch in half": first(UNIT).half(),
    "torch in double": first(UNIT).double(),
    "torch with a gradient": first(UNIT).requires_grad_(),
    "torch in [-1, 1]": first(UNIT) * 2 - 1,
    "NumPy in [-1, 1]": UNIT * 2 - 1,
    "a bright one in [-1, 1]": [first(UNIT[0]) * 2 - 1, first(UNIT[1]) / 2 + 0.5],
}


def ours(image: Any) -> Array:
    """Pictures (N, 3, H, W) in [−1, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures = pictures_from_argument(image, 4, latents=True)
    return np.stack([pixels_from_image(picture, WIDTH, HEIGHT) for picture in pictures])


@pytest.mark.parametrize("form", PICTURES)
def test_pictures(form: str) -> None:
    """The encoder sees what it sees in diffusers."""
    from diffusers.image_processor import VaeImageProcessor

    image = PICTURES[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = VaeImageProcessor(vae_scale_factor=8).preprocess(image).detach().float().numpy()
    tolerance = 1e-3 if "half" in form else 1e-6
    np.testing.assert_allclose(ours(image), theirs, atol=tolerance)


MORE: dict[str, Any] = {
    "uint8 HWC": PIXELS[0],
    "uint8 NHWC": PIXELS,
    "uint8 CHW": np.moveaxis(PIXELS[0], -1, 0),
    "uint8 of torch": first(PIXELS),
    "NumPy CHW": np.moveaxis(UNIT[0], -1, 0),
    "NumPy NCHW": np.moveaxis(UNIT, -1, 1),
    "torch HWC": torch.from_numpy(UNIT[0]),
    "torch NHWC": torch.from_numpy(UNIT),
    "float16": UNIT.astype(np.float16),
    "float64": UNIT.astype(np.float64),
    "bfloat16": first(UNIT).bfloat16(),
    "a tuple": tuple(UNIT),
    "mixed": [Image.fromarray(PIXELS[0]), UNIT[1], first(UNIT[2])],
    "rounded beyond its range": UNIT * np.float32(1.0002) - np.float32(1e-4),
}


@pytest.mark.parametrize("form", MORE)
def test_what_diffusers_takes_for_something_else(form: str) -> None:
    """8 bits, channels at the other end: as it is meant. One picture, or all three."""
    found = ours(MORE[form])
    expected = np.moveaxis(UNIT, -1, 1)[: len(found)] * 2 - 1
    tolerance = {"bfloat16": 8e-3, "float16": 1e-3, "rounded beyond its range": 1e-3}.get(form, 1e-6)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_channels_of_every_number() -> None:
    """Grey is in all three; transparency is laid on white, whatever holds it."""
    grey = PIXELS[0, ..., 0]
    for form in (grey, grey[..., None], grey[None], grey / 255.0, torch.from_numpy(grey)[None], grey[None, ..., None]):
        (picture,) = pictures_from_argument(form, 4, latents=True)
        expected = array_from_image(Image.fromarray(grey), WIDTH, HEIGHT)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
    clear = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    expected = array_from_image(Image.fromarray(clear), WIDTH, HEIGHT)
    np.testing.assert_array_equal(rgb_array(clear), expected)
    np.testing.assert_allclose(rgb_array(clear / 255.0), expected, atol=1 / 255)  # Pillow has 8 bits


def test_latents_are_told_by_their_channels() -> None:
    """As many as latents have, in front, as in diffusers; a single one of a result, too."""
    latents = np.random.default_rng(3).standard_normal((2, 4, 16, 24), np.float32)
    for form, expected in ((latents, latents), (torch.from_numpy(latents), latents), (latents[1], latents[1:])):
        np.testing.assert_array_equal(pictures_from_argument(form, 4, latents=True), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((2, 32, 48)), r"\(2, 32, 48\).*\(N, height, width, C\).*change its layout"),
        (np.zeros((1, 1, 3, 32, 48)), "change its layout"),
        (np.zeros(5), "change its layout"),
        (np.zeros((0, 32, 48, 3)), r"\(0, 32, 48, 3\)"),
        (UNIT[0] * 255, "from 0 to 255, outside"),
        (UNIT[0] * np.nan, "NaN"),
        (UNIT[0] - 2, "outside"),
        (torch.zeros(3, 32, 48, dtype=torch.int64), "int64.*expected uint8"),
        (PIXELS[0].astype(np.uint16), "uint16"),
        (PIXELS[0].astype(complex), "complex128"),
        ([[0.0, 1.0]], r"got image \[0.0, 1.0\]"),
        ([UNIT[0], None], "got image None"),
        ("cat.png", "got image 'cat.png'"),
        ([torch.zeros(1, 4, 16, 16)], "stack them"),
        (torch.zeros(3, 32, 48).to_sparse(), "cannot read image|change its layout"),
        (torch.zeros(3, 32, 48, device="meta"), "cannot read image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_pictures(image: Any, reason: str) -> None:
    """With the layout or the range that helps."""
    with pytest.raises(RequestError, match=reason) as refused:
        pictures_from_argument(image, 4, latents=True)
    assert len(str(refused.value)) < 500


def test_a_guessed_range_is_said() -> None:
    """Where values go below 0."""
    with pytest.warns(UserWarning, match=r"from -1 to 1 and is read as \[−1, 1\]; give floats in \[0, 1\]"):
        pictures_from_argument(UNIT * 2 - 1, 4, latents=True)


MASK_FORMS: dict[str, Any] = {
    "NumPy HW": MASKS[0],
    "NumPy HW1": MASKS[0, ..., None],
    "NumPy NHW": MASKS,
    "NumPy NHW1": MASKS[..., None],
    "NumPy in a list": list(MASKS),
    "torch 1HW": torch.from_numpy(MASKS[:1]),
    "torch NHW": torch.from_numpy(MASKS),
    "torch N1HW": torch.from_numpy(MASKS[:, None]),
    "torch of bool": torch.from_numpy(MASKS[:, None] >= 0.5),
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_masks(form: str) -> None:
    """What is redrawn is what diffusers redraws; one half lies between two values of 8 bits."""
    from diffusers.image_processor import VaeImageProcessor

    mask = MASK_FORMS[form]
    processor = VaeImageProcessor(
        vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True, do_resize=False
    )
    given = mask.float() if "bool" in form else mask
    theirs = np.asarray(processor.preprocess(given))
    images = [Image.new("RGB", (WIDTH, HEIGHT))]
    found = inpaint_input_from_pictures(images, masks_from_argument(mask), WIDTH, HEIGHT).mask
    assert found.shape == theirs.shape
    assert (found != theirs)[np.abs(MASKS[: len(found), None] - 0.5) > 1 / 255].sum() == 0


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((32, 48, 3)), r"\(32, 48, 3\).*of one channel"),
        (np.zeros((2, 3, 32, 48)), r"\(2, 3, 32, 48\)"),
        (np.zeros(4), r"\(4,\)"),
        ([torch.zeros(5)], r"\(5,\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_masks(mask: Any, reason: str) -> None:
    """With the layout that helps."""
    with pytest.raises(RequestError, match=reason):
        masks_from_argument(mask)


def test_every_workflow_takes_them(tiny_pipe: latentrt.Pipeline) -> None:
    """The same latents from PIL, NumPy and torch."""
    image, mask = Image.fromarray(PIXELS[0]), Image.fromarray((MASKS[0] > 0.5).astype(np.uint8) * 255)
    common: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
    calls: list[Callable[[Any, Any], latentrt.Result]] = [
        lambda image, mask: tiny_pipe.img2img("a", image=image, strength=0.5, **common),
        lambda image, mask: tiny_pipe.inpaint("a", image=image, mask_image=mask, **common),
    ]
    for call in calls:
        expected = call(image, mask).latents
        for picture, layer in ((UNIT[0], MASKS[0] > 0.5), (first(UNIT[:1]), torch.from_numpy(MASKS[:1] > 0.5))):
            np.testing.assert_allclose(call(picture, layer).latents, expected, atol=1e-5)
    square = np.ascontiguousarray(UNIT[0, :, :32])
    wide = [
        tiny_pipe.outpaint("a", image=form, right=16, **common).latents
        for form in (square, first(square), Image.fromarray(PIXELS[0, :, :32]))
    ]
    for other in wide[1:]:
        np.testing.assert_array_equal(other, wide[0])
    with pytest.raises(RequestError, match=r"got 3 pictures, expected one"):
        tiny_pipe.outpaint("a", image=UNIT, right=16)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"\(1, 4, 16, 16\), which are latents"):
        tiny_pipe.inpaint("a", image=np.zeros((1, 4, 16, 16), np.float32), mask_image=mask)
