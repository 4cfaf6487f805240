"""Calls that draw variations of a picture."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_noise
from latentrt.runtime.call.keywords.from_picture import set_seen_options
from latentrt.runtime.call.tasks.seen_picture import image_embeds, seen_condition
from latentrt.runtime.call.tasks.views.seen_request import of_each_drawn, repeats_from_keywords, request_without_prompts
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.pictures.arrays import pictures_from_argument
from latentrt.runtime.sampling.noise import Noise


def variation_call(
    manifest: BundleManifest, image: Any, options: Mapping[str, Any], additions: Additions
) -> CheckedCall:
    """A call of ``Pipeline.variation``, checked. The image encoder sees each picture once.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    check_workflow(manifest, Workflow.VARIATION)
    keywords = set_seen_options(options)
    encoder = manifest.conditioning.image_encoder
    assert encoder is not None  # as check_workflow says; for the type checker
    pictures = list(pictures_from_argument(image, manifest.latents.channels, latents=False))
    repeats = repeats_from_keywords(keywords)
    count = len(pictures) * repeats
    request = request_without_prompts(manifest, keywords, Workflow.VARIATION, count, additions=additions)
    of_each = of_each_drawn(len(pictures), count, repeats)

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        engine = engines.engine(encoder.component, Shapes(profile=request.canvas.profile))
        tokens = image_embeds(engine, encoder, pictures)[of_each, None]
        return replace(latents_from_noise(request, noise), seen=seen_condition(tokens))

    return CheckedCall(request=request, start=start)
