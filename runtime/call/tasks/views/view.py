"""Calls that draw views of the object in a picture."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from latentrt.engines.batches import batch_results
from latentrt.engines.bundle.kinds import VAE_ENCODER
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.unet.net_inputs import IMAGE_EMBEDS, POSE
from latentrt.engines.engine import Engine
from latentrt.engines.pixels import normalized
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_noise
from latentrt.runtime.call.keywords.from_picture import PoseKeywords, ViewOptions, set_seen_options
from latentrt.runtime.call.tasks.seen_picture import concatenated_condition, image_embeds, image_latents, seen_condition
from latentrt.runtime.call.tasks.views.pose import pose_array, poses_from_keywords
from latentrt.runtime.call.tasks.views.seen_request import of_each_drawn, repeats_from_keywords, request_without_prompts
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.denoiser.conditions.text import STATES
from latentrt.runtime.denoiser.guider import Side
from latentrt.runtime.pictures.arrays import pictures_from_argument, warn_of_proportions
from latentrt.runtime.pictures.image import array_from_image
from latentrt.runtime.pictures.tiling import vae_engine
from latentrt.runtime.sampling.noise import Noise


def view_call(manifest: BundleManifest, image: Any, options: Mapping[str, Any], additions: Additions) -> CheckedCall:
    """A call of ``Pipeline.view``, checked.

    The image encoder and the autoencoder see each picture once, however many views there are of it.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    check_workflow(manifest, Workflow.VIEW)
    keywords = set_seen_options(options, ViewOptions)
    conditioning, space = manifest.conditioning, manifest.latents
    encoder, pose_record, concatenated = conditioning.image_encoder, conditioning.pose, conditioning.concatenated
    assert encoder is not None  # as check_workflow says, with the next one; for the type checker
    assert pose_record is not None
    pictures = list(pictures_from_argument(image, space.channels, latents=False))
    repeats = repeats_from_keywords(keywords)
    poses = poses_from_keywords(pose_record.kind, cast(PoseKeywords, keywords), len(pictures))
    poses = tuple(pose for pose in poses for _ in range(repeats))
    request = request_without_prompts(manifest, keywords, Workflow.VIEW, len(poses), additions=additions)
    request = replace(request, poses=poses)
    profile = request.canvas.profile
    shown = [array_from_image(picture, profile.width, profile.height) for picture in pictures]
    for picture in pictures:
        warn_of_proportions(picture, profile, "crop it, or pad it with white")
    of_each = of_each_drawn(len(pictures), len(poses), repeats)

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        shapes = Shapes(profile=profile)
        embeds = image_embeds(engines.engine(encoder.component, shapes), encoder, list(shown))
        tokens = posed_tokens(engines.engine(pose_record.component, shapes), embeds[of_each], pose_array(poses))
        initial = replace(latents_from_noise(request, noise), seen=seen_condition(tokens))
        if concatenated is None:
            return initial
        pixels = np.stack([normalized(picture) for picture in shown])
        latents = image_latents(vae_engine(engines, VAE_ENCODER, profile, request.canvas.vae), pixels)[of_each]
        latents = space.scaled(latents) if concatenated.scaled else latents
        against = np.zeros_like(latents) if concatenated.zeroed else latents
        behind = concatenated_condition({Side.POSITIVE: latents, Side.NEGATIVE: against})
        return replace(initial, conditions=(behind,))

    return CheckedCall(request=request, start=start)


def posed_tokens(engine: Engine, embeds: Array, poses: Array) -> Array:
    """What the U-Net attends to: (N, 1, width) of a picture's embeddings (N, width) and poses (N, 4)."""
    results = batch_results(engine, {IMAGE_EMBEDS: embeds, POSE: poses})
    return np.concatenate([result[STATES] for result in results])
