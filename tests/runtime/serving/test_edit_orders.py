"""Orders of edits: a picture alone is edited by a model that draws edits, whichever API brings it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.a1111.bodies import Img2ImgBody
from latentrt.runtime.serving.http.a1111.ordering.orders import order_from_body
from latentrt.runtime.serving.http.a1111.settings import A1111Settings
from latentrt.runtime.serving.http.openai.fields import EditRequest
from latentrt.runtime.serving.http.openai.order import order_from_fields
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.checking import check_order
from latentrt.runtime.serving.jobs.job import JobState
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.service import Service
from latentrt.runtime.serving.jobs.warming import warm

PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8))
TOLD: dict[str, Any] = {"image": PICTURE, "num_inference_steps": 2, "seed": (3,), "image_guidance_scale": 1.75}


@pytest.fixture(scope="module")
def bundle(picture_bundle: Callable[[str], Path]) -> Path:
    """Of a tiny InstructPix2Pix."""
    return picture_bundle("instruct-pix2pix")


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    """One that draws with it."""
    service = Service(Models(Catalog(models={"edit": bundle}), lambda path: latentrt.open(path, threads=1)))
    yield service
    service.close()


def test_an_order_is_an_edit(service: Service, picture_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """The same as the call's, once every size was drawn to warm the model."""
    warm(service, "edit")
    job = service.submit(Order(prompt="make it snow", keywords=TOLD))
    assert job.wait() is JobState.DONE
    assert job.result is not None
    expected = picture_pipe("instruct-pix2pix").edit("make it snow", **TOLD)
    np.testing.assert_allclose(job.result.latents, expected.latents, atol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({}, "got text-to-image with a model that draws edits of a picture; use edit"),
        ({"image": PICTURE, "strength": 0.5}, "got image-to-image with a model that draws edits"),
        ({"image": PICTURE, "mask_image": PICTURE.convert("L")}, "got inpainting with a model that draws edits"),
        ({"image": PICTURE, "left": 16}, "got inpainting with a model that draws edits"),
        ({"image_guidance_scale": 2.0}, "got image_guidance_scale without image"),
        ({"image": PICTURE, "image_guidance_scale": -1.0}, "got image_guidance_scale -1"),
        ({"image": PICTURE, "strength": 0.5, "image_guidance_scale": 2.0}, "got strength with image_guidance_scale"),
    ],
)
def test_refused_orders(bundle: Path, keywords: dict[str, Any], said: str) -> None:
    """As they arrive."""
    with pytest.raises(RequestError, match=said):
        check_order(Order(prompt="a cat", keywords=keywords), open_bundle(bundle).manifest)


def test_other_models_have_no_such_weight(tiny_bundle: Path) -> None:
    """And say what they draw."""
    order = Order(prompt="a cat", keywords={"image": PICTURE, "image_guidance_scale": 2.0})
    with pytest.raises(RequestError, match="got editing with a model that draws pictures from text; use img2img"):
        check_order(order, open_bundle(tiny_bundle).manifest)


def test_requests_of_other_apis(service: Service) -> None:
    """OpenAI's edits without a mask, and A1111's img2img at strength 1, with its name of the second weight."""
    fields = EditRequest.model_validate({"prompt": "make it snow", "image_guidance_scale": 2.0})
    order = order_from_fields(fields, service, lambda text: PICTURE, image=PICTURE)
    assert order.keywords["image_guidance_scale"] == 2.0
    assert "strength" not in order.keywords
    manifest = service.models.bundle("edit").manifest
    check_order(order, manifest)

    def body(**fields: Any) -> Order:
        given = {"prompt": "make it snow", "init_images": ["…"], "image_cfg_scale": 1.75, **fields}
        settings = A1111Settings(model="edit")
        return order_from_body(Img2ImgBody.model_validate(given), settings, service.models, lambda text, name: PICTURE)

    order = body(denoising_strength=1.0)
    assert order.keywords["image_guidance_scale"] == 1.75
    check_order(order, manifest)
    with pytest.raises(RequestError, match=r"got denoising_strength 0\.75 .* expected 1; send 1"):
        body()
