"""Edits of a picture: what a prompt says to change about it (InstructPix2Pix, arXiv 2211.09800)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.guidance.guidance import LARGEST, Guidance
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_noise
from latentrt.runtime.call.keywords.options import Options, set_options
from latentrt.runtime.call.request import Request, request_from_options
from latentrt.runtime.call.sizes.from_pictures import check_count, encoder_of, source_size
from latentrt.runtime.call.tasks.seen_picture import concatenated_condition, image_latents
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.checks import number, warn_caller
from latentrt.runtime.denoiser.guider import NEGATIVE, PICTURE, Baseline, Side
from latentrt.runtime.pictures.arrays import pictures_from_argument
from latentrt.runtime.pictures.image import Picture, pixels_from_image
from latentrt.runtime.sampling.noise import Noise

IMAGE_GUIDANCE_SCALE = 1.5
"""What the authors draw with, and diffusers."""
_NAME = "image_guidance_scale"
_ELSEWHERE = {"strength": f"an edit begins with noise: give {_NAME}"}


def edit_call(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    image: Any,
    image_guidance_scale: float | None,
    options: Options,
    additions: Additions,
) -> CheckedCall:
    """A call of ``Pipeline.edit``, checked.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    check_workflow(manifest, Workflow.EDIT)
    set_options(options, advice=_ELSEWHERE)
    images = pictures_from_argument(image, manifest.latents.channels, latents=False)
    request = request_from_options(
        manifest, prompt, options, Workflow.EDIT, source=source_size(manifest, images), additions=additions
    )
    check_count(len(images), request, "images")
    request = replace(request, guidance=guidance_with_picture(request.guidance, image_guidance_scale, options))
    pictures = list(images)

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        behind = concatenated_condition(_latents_of_sides(engines, request, pictures))
        return replace(latents_from_noise(request, noise), conditions=(behind,))

    return CheckedCall(request=request, start=start)


def guidance_with_picture(guidance: Guidance, image_guidance_scale: float | None, options: Options) -> Guidance:
    """Guidance towards the picture beside that by the prompt.

    As in diffusers there is neither where one of the weights is too small for it.

    Args:
        guidance: by the prompt.
        image_guidance_scale: the weight of the picture; None: what is common.
        options: the keywords of the call.

    Raises:
        RequestError: a weight that cannot be, or CFG++.
    """
    if options.get("cfg_plus_plus") is not None:
        raise RequestError("got cfg_plus_plus in editing, whose guidance has two weights; leave it out")
    scale = IMAGE_GUIDANCE_SCALE if image_guidance_scale is None else number(image_guidance_scale, _NAME)
    if not 0.0 <= scale <= LARGEST:
        raise RequestError(f"got {_NAME} {scale:g}, expected 0 to {LARGEST:g}; {IMAGE_GUIDANCE_SCALE:g} is common")
    steps = guidance.steps
    if scale < 1.0 and guidance.guides:
        warn_caller(f"got {_NAME} {scale:g}, below 1, where nothing guides; give 1 or more, or guidance_scale=1")
        steps = steps.with_scale(1.0)
    elif image_guidance_scale is not None and not guidance.guides:
        warn_caller(f"got {_NAME} without guidance, where it changes nothing; raise guidance_scale above 1")
    return replace(guidance, steps=steps, baseline=Baseline(passes=(PICTURE, NEGATIVE), scales=(scale,)))


def _latents_of_sides(engines: Engines, request: Request, pictures: Sequence[Picture]) -> dict[Side, Array]:
    """What lies behind the noised latents in every pass, (N, C, h, w)."""
    manifest, profile = engines.bundle.manifest, request.canvas.profile
    pixels = np.stack([pixels_from_image(picture, profile.width, profile.height) for picture in pictures])
    latents = image_latents(encoder_of(engines, request), pixels)
    record = manifest.conditioning.concatenated
    if record is not None and record.scaled:
        latents = manifest.latents.scaled(latents)
    latents = np.tile(latents, (request.count // len(latents), 1, 1, 1))
    zeroed = record is None or record.zeroed
    negative = np.zeros_like(latents) if zeroed else latents
    return {Side.POSITIVE: latents, Side.PICTURE: latents, Side.NEGATIVE: negative}
