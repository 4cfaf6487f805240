"""Pictures from pictures through OpenAI's client: they are those that the pipeline draws."""

from typing import Any

import numpy as np
import pytest
from openai import BadRequestError
from openai_answers import picture_of, png_bytes, same
from PIL import Image

from latentrt.runtime.pipeline import Pipeline

SETTINGS = {"num_inference_steps": 4, "guidance_scale": 2.0}


def random_picture(width: int = 32, height: int = 32) -> Image.Image:
    """Noise, which shows every pixel that moves."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8))


def png(image: Image.Image) -> tuple[str, bytes, str]:
    """A file as clients send it, with its name and type."""
    return "picture.png", png_bytes(image), "image/png"


def left_half(image: Image.Image) -> Image.Image:
    """White where it is redrawn."""
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def transparent_where(image: Image.Image, mask: Image.Image) -> Image.Image:
    """As OpenAI has masks."""
    layered = image.convert("RGBA")
    layered.putalpha(mask.point(lambda value: 255 - value))
    return layered


def test_without_a_mask_all_of_it_is_redrawn(served: Any, tiny_pipe: Pipeline) -> None:
    """By as much as ``strength`` says; several pictures of one."""
    image = random_picture()
    answer = served.client().images.edit(
        image=png(image), prompt="a cat", n=2, extra_body={**SETTINGS, "strength": 0.6, "seed": 4}
    )
    drawn = tiny_pipe.img2img("a cat", image=image, strength=0.6, seed=[4, 5], num_images_per_prompt=2, **SETTINGS)
    assert [data.seed for data in answer.data] == [4, 5]
    assert all(same(picture_of(data.b64_json), image) for data, image in zip(answer.data, drawn.images, strict=True))


def test_what_the_mask_has_transparent_is_redrawn(served: Any, tiny_pipe: Pipeline) -> None:
    """The rest stays bit for bit; the picture in a list of one, as for newer models."""
    image = random_picture()
    mask = left_half(image)
    answer = served.client().images.edit(
        image=[png(image)],
        mask=png(transparent_where(Image.new("RGB", image.size), mask)),
        prompt="a cat",
        size="32x32",
        extra_body={**SETTINGS, "seed": 4},
    )
    edited = picture_of(answer.data[0].b64_json)
    drawn = tiny_pipe.inpaint("a cat", image=image, mask_image=mask, seed=4, width=32, height=32, **SETTINGS)
    assert same(edited, drawn.images[0])
    assert same(edited.crop((16, 0, 32, 32)), image.crop((16, 0, 32, 32)))
    assert not same(edited.crop((0, 0, 16, 32)), image.crop((0, 0, 16, 32)))


def test_a_picture_brings_its_mask_with_it(served: Any, tiny_pipe: Pipeline) -> None:
    """Where it is transparent and no mask is sent; objects go through the form as well."""
    image = random_picture()
    mask = left_half(image)
    layered = transparent_where(image, mask)
    more = {"freeu": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.8}}
    answer = served.client().images.edit(image=png(layered), prompt="", extra_body={**SETTINGS, **more, "seed": 4})
    drawn = tiny_pipe.inpaint("", image=layered, mask_image=mask, seed=4, **SETTINGS, **more)
    assert same(picture_of(answer.data[0].b64_json), drawn.images[0])


def test_without_a_size_the_nearest_proportions_are_drawn(served: Any, tiny_pipe: Pipeline) -> None:
    """The answer tells which."""
    image = random_picture(90, 60)
    answer = served.client().images.edit(image=png(image), prompt="a cat", extra_body={**SETTINGS, "seed": 4})
    drawn = tiny_pipe.img2img("a cat", image=image, width=48, height=32, seed=4, **SETTINGS)
    assert answer.size == "48x32"
    assert same(picture_of(answer.data[0].b64_json), drawn.images[0])


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_variations_need_no_prompt(served: Any, tiny_pipe: Pipeline) -> None:
    """A transparent part is no mask there."""
    image = random_picture()
    layered = transparent_where(image, left_half(image))
    answer = served.client().images.create_variation(image=png(layered), n=1, extra_body={**SETTINGS, "seed": 4})
    drawn = tiny_pipe.img2img("", image=layered, seed=4, **SETTINGS)
    assert same(picture_of(answer.data[0].b64_json), drawn.images[0])


PICTURE = png(random_picture())


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"image": ("a.png", b"no picture", "image/png")}, "another format"),
        ({"image": [PICTURE, PICTURE]}, "several files 'image'"),
        ({"image": PICTURE, "mask": PICTURE}, "without transparent pixels"),
        ({"image": PICTURE, "mask": png(random_picture(16, 16))}, "a mask of 16x16 for an image of 32x32"),
        ({"image": PICTURE, "extra_body": {"strength": 2}}, "strength"),
        ({"image": PICTURE, "extra_body": {"mask_image": "AAAA"}}, "mask_image"),
        ({"image": PICTURE, "markup": PICTURE}, "a file 'markup'"),
        ({"image": PICTURE, "extra_body": {"hires": {"scale": 2}}}, "hires"),
        ({"image": PICTURE, "extra_body": {"regions": [{"prompt": "a"}]}}, "regions"),
    ],
)
def test_what_cannot_be_edited_is_a_bad_request(served: Any, sent: dict[str, Any], told: str) -> None:
    """Sent once."""
    before = served.requests
    with pytest.raises(BadRequestError, match=told):
        served.client().images.edit(prompt="a cat", **sent)
    assert served.requests == before + 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"prompt": NaN}'])
def test_bodies_that_are_no_json_are_bad_requests(served: Any, body: bytes) -> None:
    """As far as a client could send them."""
    with pytest.raises(BadRequestError):
        served.client().post("/images/generations", content=body, cast_to=object)


def test_a_form_is_no_json_and_the_other_way_round(served: Any) -> None:
    """Each route says what it expects."""
    with pytest.raises(BadRequestError, match="multipart"):
        served.client().post("/images/edits", body={"prompt": "a cat"}, cast_to=object)
    with pytest.raises(BadRequestError, match="no image"):
        served.client().post(
            "/images/edits",
            files={"mask": b"x"},
            cast_to=object,
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
