"""OpenAI's fields as an order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.serving.http.openai.fields import ImageFields
from latentrt.runtime.serving.http.openai.size import nearest_size, size_from_text
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.order_json import JobRequest, order_from_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.runtime.serving.jobs.service import Service

_OTHER_NAMES = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale"}


def order_from_fields(
    fields: ImageFields,
    service: "Service",
    read: "Callable[[str], Image]",
    *,
    image: "Image | None" = None,
    mask_image: "Image | None" = None,
) -> Order:
    """The order that a request stands for. Each picture has a seed of its own, counted up from the one given.

    Args:
        fields: of the request.
        service: whose models and sizes it may name.
        read: decodes a picture in a field.
        image: what is edited.
        mask_image: white where it is redrawn.

    Raises:
        UnknownNameError: a model that there is not.
        RequestError: fields that contradict each other, or a picture that cannot be read.
    """
    catalog = service.models.catalog
    model = catalog.model(fields.model or None)
    n = fields.n or 1
    given = _keywords(fields)
    seed = given.pop("seed", None)
    request = JobRequest.model_construct(_fields_set=set(given), **given)
    order = order_from_json(request, catalog, read)
    keywords: dict[str, Any] = {**order.keywords, "num_images_per_prompt": n}
    if seed is not None:
        keywords["seed"] = _seeds(seed, n)
    if image is not None:
        keywords["image"] = image
    if mask_image is not None:
        keywords["mask_image"] = mask_image
    size = size_from_text(fields.size)
    if size is None and "padding_mask_crop" not in keywords:  # which keeps the picture's own size
        profiles = _profiles(service, model)
        size = (profiles[0].width, profiles[0].height) if image is None else nearest_size(profiles, *image.size)
    if size is not None:
        keywords["width"], keywords["height"] = size
    return replace(order, model=model, prompt=order.prompt or "", keywords=keywords)


def drawn_size(order: Order) -> tuple[int, int] | None:
    """Width and height of the pictures in pixels; None where that is the model's to say."""
    keywords = order.keywords
    if "width" not in keywords:
        return None
    scale = keywords["hires"].scale if "hires" in keywords else 1.0
    return round(keywords["width"] * scale), round(keywords["height"] * scale)


def _profiles(service: "Service", model: str) -> Sequence[Profile]:
    """Those that may be drawn; all where none may, so that the service says so."""
    profiles, sizes = service.models.bundle(model).manifest.profiles, service.limits.sizes
    return [one for one in profiles if sizes is None or (one.width, one.height) in sizes] or profiles


def _keywords(fields: ImageFields) -> dict[str, Any]:
    """The fields that are the pipeline's, by its names.

    Raises:
        RequestError: a value under both of its names.
    """
    given = {name: getattr(fields, name) for name in fields.model_fields_set}
    given = {_OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    for other, name in _OTHER_NAMES.items():
        if getattr(fields, other) is not None and getattr(fields, name, None) is not None:
            raise RequestError(f"got {other} and {name}, which are the same; leave one out")
    return {name: value for name, value in given.items() if name in JobRequest.model_fields and name != "model"}


def _seeds(seed: int | Sequence[int], n: int) -> list[int]:
    return [seed + index for index in range(n)] if isinstance(seed, int) else list(seed)
