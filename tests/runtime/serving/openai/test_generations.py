"""Pictures from text through OpenAI's client: they are those that the pipeline draws."""

import asyncio
from typing import Any

import pytest
from openai import BadRequestError
from openai_answers import picture_of, same

from latentrt.runtime.pipeline import Pipeline

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0, "negative_prompt": "a dog", "sampler": "euler"}


def test_pictures_are_those_of_the_pipeline(served: Any, tiny_pipe: Pipeline) -> None:
    """With the settings of ``extra_body``; each picture has its seed, by which it is drawn again."""
    answer = served.client().images.generate(
        prompt="a cat", model="tiny", n=2, size="48x32", quality="high", user="me", extra_body={**SETTINGS, "seed": 5}
    )
    drawn = tiny_pipe("a cat", width=48, height=32, seed=[5, 6], num_images_per_prompt=2, **SETTINGS)
    assert [data.seed for data in answer.data] == [5, 6]
    for data, image, metadata in zip(answer.data, drawn.images, drawn.metadata, strict=True):
        picture = picture_of(data.b64_json)
        assert picture.format == "PNG"
        assert same(picture, image)
        assert picture.info["parameters"] == metadata.parameters()
        assert (data.url, data.revised_prompt) == (None, None)
    assert (answer.output_format, answer.size, answer.background) == ("png", "48x32", "opaque")
    assert answer.usage.total_tokens == 0
    again = served.client().images.generate(prompt="a cat", size="48x32", extra_body={**SETTINGS, "seed": 6})
    assert same(picture_of(again.data[0].b64_json), drawn.images[1])


def test_the_client_for_asyncio_gets_the_same(served: Any, tiny_pipe: Pipeline) -> None:
    """Two requests at once; ``steps`` and ``cfg_scale`` are other names, and null is as if left out."""

    async def both() -> list[Any]:
        async with served.async_client() as client:
            body = {"steps": 2, "cfg_scale": 2.0, "clip_skip": None}
            requests = [
                client.images.generate(prompt="a cat", size="auto", extra_body={**body, "seed": seed})
                for seed in (1, 2)
            ]
            return await asyncio.gather(*requests)

    for seed, answer in zip((1, 2), asyncio.run(both()), strict=True):
        drawn = tiny_pipe("a cat", seed=seed, num_inference_steps=2, guidance_scale=2.0)
        assert same(picture_of(answer.data[0].b64_json), drawn.images[0])


def test_without_a_seed_every_picture_has_another(served: Any) -> None:
    """And the answer tells them."""
    answer = served.client().images.generate(prompt="a cat", n=2, extra_body={"steps": 1})
    assert len({data.seed for data in answer.data}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_other_formats(served: Any, output_format: Any) -> None:
    """Better quality has more bytes."""
    sizes = []
    for quality in (10, 100):
        answer = served.client().images.generate(
            prompt="a cat", output_format=output_format, output_compression=quality, extra_body={"steps": 1, "seed": 3}
        )
        assert answer.output_format == output_format
        assert picture_of(answer.data[0].b64_json).format == output_format.upper()
        sizes.append(len(answer.data[0].b64_json))
    assert sizes[0] < sizes[1]


def test_an_url_holds_the_picture(served: Any) -> None:
    """Nothing is kept that another kind of URL could lead to."""
    (data,) = served.client().images.generate(prompt="a cat", response_format="url", extra_body={"steps": 1}).data
    head, _, text = data.url.partition(",")
    assert head == "data:image/png;base64"
    assert data.b64_json is None
    assert picture_of(text).size == (32, 32)


REFUSED = {
    "background": {"background": "transparent"},
    "n": {"n": 11},
    "output_format": {"output_format": "svg"},
    "frame_count": {"extra_body": {"frame_count": 2}},
    "width": {"extra_body": {"width": 32}},
    "strength": {"extra_body": {"strength": 0.5}},
    "input_fidelity": {"extra_body": {"input_fidelity": "high"}},
    "seed": {"extra_body": {"seed": "five"}},
    None: {"size": "large"},
}


@pytest.mark.parametrize(("param", "asked"), REFUSED.items())
def test_what_would_change_the_picture_is_refused(served: Any, param: str | None, asked: dict[str, Any]) -> None:
    """Once: the client knows that to ask again would not help."""
    before = served.requests
    with pytest.raises(BadRequestError) as raised:
        served.client().images.generate(prompt="a cat", **asked)
    assert raised.value.param == param
    assert "expected" in raised.value.message or "no field" in raised.value.message
    assert served.requests == before + 1


@pytest.mark.parametrize(
    "asked",
    [
        {"size": "64x64"},  # no profile
        {"extra_body": {"sampler": "nothing"}},
        {"extra_body": {"steps": 2, "num_inference_steps": 2}},
        {"extra_body": {"loras": {"nothing": 1.0}}},
        {"output_compression": 50},
        {"n": 2, "extra_body": {"seed": [1, 2, 3]}},
    ],
)
def test_what_cannot_be_drawn_is_a_bad_request(served: Any, asked: dict[str, Any]) -> None:
    """Also where only the pipeline knows."""
    before = served.requests
    with pytest.raises(BadRequestError, match=r"got .+; "):
        served.client().images.generate(prompt="a cat", **asked)
    assert served.requests == before + 1
