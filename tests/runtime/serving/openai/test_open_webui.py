"""Open WebUI's requests, as it writes them; it has no client that a test could run."""

from base64 import b64decode
from typing import Any

import httpx
import pytest
from openai_answers import picture_of, png_bytes

BEARER = {"Authorization": "Bearer a token of this test"}


def test_pictures_from_a_chat(served: Any) -> None:
    """Its parameters of the admin panel go beside OpenAI's fields; it reads ``url`` first, and takes all for PNG."""
    body = {
        "model": "tiny",
        "prompt": "a cat",
        "n": 1,
        "size": "48x32",
        "response_format": "b64_json",
        "num_inference_steps": 2,
        "guidance_scale": 2,
        "negative_prompt": "blurry",
    }
    answer = httpx.post(f"{served.url}/images/generations", json=body, headers=BEARER)
    answer.raise_for_status()
    (image,) = answer.json()["data"]
    assert not image["url"]
    assert picture_of(image["b64_json"]).size == (48, 32)
    assert b64decode(image["b64_json"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("field", ["image", pytest.param("image[]", marks=pytest.mark.slow)])
def test_an_attached_picture_is_edited(served: Any, field: str) -> None:
    """A form in which a model that was not chosen is an empty text."""
    form = {"model": "", "prompt": "a cat", "n": "1", "size": "32x32", "response_format": "b64_json"}
    files = {field: ("0c2b.png", png_bytes(), "image/png")}
    answer = httpx.post(f"{served.url}/images/edits", data=form, files=files, headers=BEARER, timeout=60)
    answer.raise_for_status()
    assert picture_of(answer.json()["data"][0]["b64_json"]).size == (32, 32)
