"""Sizes in words, and the size that is chosen for a picture."""

import pytest

from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.serving.http.openai.size import nearest_size, size_from_text

PROFILES = [
    Profile(width=512, height=512),
    Profile(width=768, height=512),
    Profile(width=512, height=768, batch=4),
    Profile(width=1024, height=1024),
]


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("auto", None), ("", None), (None, None)])
def test_sizes_are_read(text: str | None, size: tuple[int, int] | None) -> None:
    """None where the server chooses."""
    assert size_from_text(text) == size


@pytest.mark.parametrize("text", ["512", "x512", "512x768x2", "512X768", "large", "0x512", "-1x5"])
def test_other_words_are_refused(text: str) -> None:
    """With the form that is expected."""
    with pytest.raises(RequestError, match="WIDTHxHEIGHT"):
        size_from_text(text)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((512, 768), (512, 768)),
        ((1024, 1024), (1024, 1024)),
        ((640, 640), (512, 512)),
        ((2000, 2000), (1024, 1024)),
        ((4000, 3000), (768, 512)),
        ((300, 900), (512, 768)),
    ],
)
def test_a_picture_is_drawn_over_in_the_size_of_the_nearest_proportions(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    """Its own, where there is that; among squares the one of the nearest area."""
    assert nearest_size(PROFILES, *picture) == size
