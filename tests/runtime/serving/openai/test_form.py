"""Forms with brackets in the names of their fields, as the client writes them."""

import re

import pytest
from openai import OpenAI

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.openai.form import values_from_form

NESTED = {
    "prompt": "a cat",
    "seed": ["3", "4"],
    "hires": {"scale": "2", "upscaler": "lanczos"},
    "loras": {"style[v2]": {"unet": {"up": {"block_1": ["0.5", "1.0"]}}}},
}


def test_what_the_client_spells_with_brackets_is_read_back() -> None:
    """Objects in objects, lists, and a name that has brackets of its own."""
    client = OpenAI(api_key="none")
    fields = client.qs.stringify_items(NESTED)  # type: ignore[arg-type]
    assert ("loras[style[v2]][unet][up][block_1][]", "0.5") in fields
    blocks = {"style[v2]": {"unet": {"up": {"block_1": [0.5, 1.0]}}}}
    assert values_from_form(fields) == {**NESTED, "loras": blocks}


def test_objects_may_be_json() -> None:
    """Lists of objects cannot be told apart otherwise. Texts stay what they are."""
    fields = [
        ("regions", '[{"prompt": "a cat", "box": [0, 0, 1, 1]}]'),
        ("prompt", "{red|blue}"),
        ("sampler[name]", "er_sde"),
        ("sampler[eta]", "1"),
        ("hires[prompt]", "1"),
    ]
    assert values_from_form(fields) == {
        "regions": [{"prompt": "a cat", "box": [0, 0, 1, 1]}],
        "prompt": "{red|blue}",
        "sampler": {"name": "er_sde", "eta": 1},
        "hires": {"prompt": "1"},
    }
    with pytest.raises(RequestError, match="hires that is no JSON"):
        values_from_form([("hires", "{scale: 2}")])


@pytest.mark.parametrize(
    "names",
    [
        ["a[b"],
        ["[b]"],
        ["a[][b]"],
        ["a[b]c"],
        ["a[1][2][3][4][5][6][7]"],
        ["a", "a"],
        ["a", "a[b]"],
        ["a[b]", "a"],
        ["a[]", "a[b]"],
        ["a[b]", "a[]"],
        ["a", "a[]"],
    ],
)
def test_names_that_fit_nothing_are_refused(names: list[str]) -> None:
    """By the one that does not fit."""
    with pytest.raises(RequestError, match=re.escape(repr(names[-1]))):
        values_from_form([(name, "1") for name in names])


def test_texts_that_are_nearly_numbers_stay_texts() -> None:
    """What they are given to refuses them; a server that failed here would be asked again."""
    for text in ("01", "1.", "-", "\u0663", "9" * 5000, "1e999", "nan"):
        assert values_from_form([("loras[style]", text)]) == {"loras": {"style": text}}
