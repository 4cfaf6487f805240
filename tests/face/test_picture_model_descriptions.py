"""What ``latentrt inspect`` and ``latentrt build`` say of models that are told a picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAID = {
    "svd": (
        "draws      videos",
        "sees       a picture of 32x32, bicubic behind a blur",
        "beside     latents of the picture, with noise as a call says, unscaled; zeros in the unconditional half",
        "profiles   32x32x4f, 48x32x3f",
    ),
    "zero123": (
        "draws      views of an object; a pose's fourth number is the change of the distance",
        "sees       a picture of 32x32, bicubic, without antialiasing",
        "beside     latents of the picture, unscaled; zeros in the unconditional half",
        "family     zero123 (its parts; if it is Stable Zero123, of which no name tells, --family stable-zero123)",
    ),
    "stable-zero123": (
        "draws      views of an object; a pose's fourth number is the polar angle of the picture's own view",
        "family     stable-zero123 (nothing but the folder's name, 'stable-zero123'; --family zero123 for the other)",
    ),
    "instruct-pix2pix": ("draws      edits of a picture", "beside     latents of the picture, unscaled"),
    "sd-image-variations": (
        "draws      variations of a picture",
        "sees       a picture of 32x32, whose middle is cut out",
    ),
}


@pytest.mark.parametrize("family", SAID)
@pytest.mark.grid(most=3)
def test_what_inspect_says(family: str, picture_bundle: Callable[[str], Path], command: Callable[..., Any]) -> None:
    """What the model draws, how it sees the picture, what lies beside the latents; and the same as data."""
    bundle = picture_bundle(family)
    lines = command("inspect", bundle).stdout.splitlines()
    for said in SAID[family]:
        assert any(line.startswith(said) for line in lines), said
    described = json.loads(command("inspect", bundle, "--json").stdout)
    assert SAID[family][0].removeprefix("draws      ").startswith(described["task"])
    assert (described["pose"] is not None) == ("zero123" in family)
    assert (described["image_encoder"] is None) == (family == "instruct-pix2pix")


def test_text_to_image_models_are_described_as_ever(tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Without a line on what all of them draw."""
    lines = command("inspect", tiny_bundle).stdout.splitlines()
    assert not any(line.startswith(("draws", "sees", "beside")) for line in lines)
