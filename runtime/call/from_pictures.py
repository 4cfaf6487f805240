"""Requests that start from pictures: how large they are, and how many there may be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.records.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.canvas import SourceSize
from latentrt.runtime.call.initial_latents import Pictures
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.request import Request, request_from_options
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.pictures.arrays import pictures_from_argument, size_of


def image_request(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    image: Any,
    strength: float | None,
    options: Options,
    additions: Additions,
) -> tuple[Request, Pictures]:
    """What ``Pipeline.img2img`` is asked for, checked, and its pictures.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    images = pictures_from_argument(image, manifest.latents.channels, latents=True)
    if options.get("denoising_start") is None:
        strength = manifest.defaults.strength if strength is None else strength
    elif strength is not None or not isinstance(images, np.ndarray):
        given = "strength" if strength is not None else "a picture"
        raise RequestError(f"got {given} with denoising_start, expected the latents of another run alone; leave it out")
    request = request_from_options(
        manifest,
        prompt,
        options,
        Workflow.IMAGE,
        strength=strength,
        source=source_size(manifest, images),
        additions=additions,
    )
    check_count(len(images), request, "images")
    return request, images


def source_size(manifest: BundleManifest, images: Pictures) -> SourceSize:
    """That of the first picture, or of the picture that latents stand for."""
    if isinstance(images, np.ndarray):
        width, height = manifest.latents.pixel_size(images)
        remedy = f"give latents {images.shape} of a picture of one of these sizes"
    else:
        width, height = size_of(images[0])
        remedy = "resize the picture to one of these"
        if isinstance(images[0], Image.Image):
            remedy = "give width and height of one of these, to which the picture is resized"
    return SourceSize(width=width, height=height, remedy=remedy)


def check_count(given: int, request: Request, what: str) -> None:
    """Refuses pictures that are neither one for all nor one for each.

    Raises:
        RequestError: their number.
    """
    if given not in (1, request.count):
        raise RequestError(f"got {given} {what} for {request.count} pictures; give one, or one per picture")
