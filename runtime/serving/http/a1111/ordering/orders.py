"""Requests of A1111's API as orders."""

from collections.abc import Callable
from secrets import randbelow
from typing import Any

from PIL.Image import Image

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.a1111.bodies import DrawingBody, Img2ImgBody
from latentrt.runtime.serving.http.a1111.ordering.hires import hires_from_body
from latentrt.runtime.serving.http.a1111.ordering.inpainting import inpainting_keywords
from latentrt.runtime.serving.http.a1111.ordering.refusals import refuse_unserved
from latentrt.runtime.serving.http.a1111.ordering.samplers import CFG_PLUS_PLUS_SCALE, DEFAULT_TITLE, SamplerChoice
from latentrt.runtime.serving.http.a1111.settings import A1111Settings
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.order import Order

_SEEDS = 1 << 32  # that are drawn at random, as there
_DEFAULT_CFG = 7.0  # of A1111, for samplers of CFG++ in requests without one
ReadPicture = Callable[[str, str], Image]


def order_from_body(body: DrawingBody, settings: A1111Settings, models: Models, read: ReadPicture) -> Order:
    """The order that a request stands for.

    Args:
        body: the request.
        settings: what it is drawn with, its overrides among them.
        models: of the service.
        read: decodes the picture of a field of that name.

    Raises:
        UnknownNameError: a sampler, model, or upscaler that there is not.
        RequestError: something that cannot be served.
    """
    manifest = models.bundle(settings.model).manifest
    choice = sampler_choice(body)
    if choice is not None:
        choice.named()  # an unknown sampler is told before anything else, as there
    refuse_unserved(body, manifest.seamless)
    steps = body.steps or manifest.defaults.num_inference_steps
    keywords: dict[str, Any] = {
        "prompt_syntax": "a1111",
        "seed": seeds(body),
        "num_images_per_prompt": body.pictures,
        "num_inference_steps": body.steps,
        "sampler": None if choice is None else choice.sampler(manifest.schedule, steps),
        "negative_prompt": body.negative_prompt or None,
        "clip_skip": _clip_skip(settings, manifest),
        "guidance_scale": body.cfg_scale,
    }
    if choice is not None and choice.cfg_plus_plus:
        scale = _DEFAULT_CFG if body.cfg_scale is None else body.cfg_scale
        keywords |= {"guidance_scale": None, "cfg_plus_plus": scale / CFG_PLUS_PLUS_SCALE}
    size = _size(body)
    if size is not None:
        keywords |= {"width": size[0], "height": size[1]}
    if isinstance(body, Img2ImgBody):
        mask = None if body.mask is None else read(body.mask, "mask")
        images = [read(text, "init_images") for text in body.init_images]
        keywords |= inpainting_keywords(body, images, mask, size)
        if manifest.conditioning.task is Task.EDITS and mask is None:
            _check_begins_with_noise(body)
            keywords |= {"strength": None, "image_guidance_scale": body.image_cfg_scale}
    elif body.enable_hr:
        first = manifest.profiles[0]
        keywords["hires"] = hires_from_body(
            body, choice, size or (first.width, first.height), manifest.schedule, steps, models.catalog.upscalers
        )
    set_keywords = {name: value for name, value in keywords.items() if value is not None}
    return Order(prompt=body.prompt, model=settings.model, keywords=set_keywords)


def _check_begins_with_noise(body: Img2ImgBody) -> None:
    """Refuses a strength that edits do not have.

    Raises:
        RequestError: it is not that of a run which begins with noise.
    """
    if body.denoising_strength != 1.0:
        raise RequestError(
            f"got denoising_strength {body.denoising_strength:g} with a model that draws edits of a picture, which "
            "begin with noise, expected 1; send 1"
        )


def sampler_choice(body: DrawingBody) -> SamplerChoice | None:
    """What a request says of its sampler; None where it leaves it to the model."""
    title = body.sampler_title
    if not title and not body.scheduler:
        return None
    options = {name: getattr(body, name) for name in ("s_churn", "s_tmin", "s_tmax", "s_noise")}
    return SamplerChoice(title=title or DEFAULT_TITLE, scheduler=body.scheduler, eta=body.eta, options=options)


def seeds(body: DrawingBody) -> tuple[int, ...]:
    """One per picture, counted up from the first, which is drawn at random where it is below 0."""
    first = randbelow(_SEEDS) if body.seed < 0 else body.seed
    return tuple(first + index for index in range(body.pictures))


def _size(body: DrawingBody) -> tuple[int, int] | None:
    """The width and height that are asked for; None: the model's or the picture's own."""
    if body.width is None and body.height is None:
        return None
    if body.width is None or body.height is None:
        raise RequestError(f"got width {body.width} and height {body.height}, expected both or none; give both")
    return body.width, body.height


def _clip_skip(settings: A1111Settings, manifest: BundleManifest) -> int | None:
    """The layers to leave out. A1111 heeds its setting with models of one text encoder alone."""
    if settings.clip_layer == 1 or len(manifest.conditioning.text_encoders) > 1:
        return None
    return settings.clip_layer - 1
