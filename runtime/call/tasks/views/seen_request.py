"""What calls have in common of models that see pictures and read no prompt."""

from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.delivery import delivery_from_keywords
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.prompts.prompt_set import prompt_set_without_texts
from latentrt.runtime.call.request import Request, request_of_parts, warn_of_guidance
from latentrt.runtime.call.sampling import sampling_from_keywords
from latentrt.runtime.call.sizes.canvas import canvas_from_keywords
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.checks import whole

if TYPE_CHECKING:
    from latentrt.runtime.additions import Additions


def request_without_prompts(
    manifest: BundleManifest, keywords: Options, workflow: Workflow, count: int, *, additions: "Additions | None"
) -> Request:
    """Checks a call that draws ``count`` pictures from noise, and fills in the bundle's defaults.

    Raises:
        RequestError: the first argument that cannot be served, with what to do.
    """
    delivery = delivery_from_keywords(manifest, keywords)
    canvas = canvas_from_keywords(manifest, keywords, None, from_picture=True)
    shape = manifest.latents.shape(canvas.profile, count)
    sampling = sampling_from_keywords(manifest, keywords, workflow, None, shape)
    prompts = prompt_set_without_texts(count)
    request = request_of_parts(manifest, keywords, prompts, canvas, sampling, delivery, additions=additions)
    if not request.guidance.guides:
        warn_of_guidance(keywords)
    if request.loras is not None:
        request.loras.warn_of_settings(manifest, sampling, request.guidance)
    return request


def repeats_from_keywords(keywords: Options) -> int:
    """How many pictures of each there are to be.

    Raises:
        RequestError: fewer than one.
    """
    repeats = whole(keywords.get("num_images_per_prompt", 1), "num_images_per_prompt")
    if repeats < 1:
        raise RequestError(f"got num_images_per_prompt {repeats}, expected at least 1; raise it")
    return repeats


def of_each_drawn(pictures: int, count: int, repeats: int) -> Array:
    """Which picture each of ``count`` drawn ones is told of: one for all, or one for every ``repeats`` of them."""
    return np.arange(count) // repeats % pictures
