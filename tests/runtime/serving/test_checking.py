"""What is refused as an order arrives."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.hires.hires import Hires
from latentrt.runtime.serving.jobs.checking import check_order
from latentrt.runtime.serving.jobs.order import Order


def test_all_that_inpainting_takes_is_known(tiny_bundle: Path) -> None:
    """Its own arguments are no keywords of a call, and not refused as unknown ones."""
    image = Image.new("RGB", (32, 32))
    own = {"strength": 0.5, "kept_pixels": "exact", "masked_content": "fill", "padding_mask_crop": 4}
    keywords = {"image": image, "mask_image": image.convert("L"), **own}
    check_order(Order(prompt="a cat", keywords=keywords), open_bundle(tiny_bundle).manifest)


def test_an_upscaler_of_the_catalog_is_not_opened(tiny_bundle: Path) -> None:
    """Its name is no path; all else of a second pass is checked."""
    manifest = open_bundle(tiny_bundle).manifest
    sizes = (*manifest.profiles, Profile(width=64, height=64))
    manifest = manifest.model_copy(update={"profiles": sizes})
    check_order(Order(prompt="a", keywords={"hires": Hires(upscaler="x4")}), manifest)
    with pytest.raises(RequestError, match="strength"):
        check_order(Order(prompt="a", keywords={"hires": Hires(upscaler="x4", strength=0.0)}), manifest)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"strength": 0.5}, "got strength without image"),
        ({"mask_image": Image.new("L", (32, 32))}, "got mask_image without image"),
        ({"image": Image.new("RGB", (32, 32)), "padding_mask_crop": 4}, "got padding_mask_crop without mask_image"),
    ],
)
def test_what_means_nothing_alone_is_refused(tiny_bundle: Path, names: dict[str, Any], said: str) -> None:
    """As the order arrives, and not when it is drawn."""
    with pytest.raises(RequestError, match=said):
        check_order(Order(prompt="a cat", keywords=names), open_bundle(tiny_bundle).manifest)
