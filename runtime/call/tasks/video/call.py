"""A call of ``Pipeline.img2vid``, checked, and what its run starts from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from latentrt.engines.bundle.kinds import VAE_ENCODER
from latentrt.engines.bundle.records.conditioning import ConcatenatedRecord, ImageEncoderRecord
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.delivery import delivery_from_keywords
from latentrt.runtime.call.guidance.ramp import guidance_of_frames
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_noise
from latentrt.runtime.call.keywords.video_options import video_options_set
from latentrt.runtime.call.prompts.prompt_set import prompt_set_without_texts
from latentrt.runtime.call.request import Request
from latentrt.runtime.call.sampling import sampling_from_keywords
from latentrt.runtime.call.sizes.canvas import Canvas
from latentrt.runtime.call.tasks.seen_picture import concatenated_condition, image_embeds, image_latents, seen_condition
from latentrt.runtime.call.tasks.video.clip import Clip, clip_from_keywords, profile_of_video
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.checks import whole
from latentrt.runtime.denoiser.guider import Side
from latentrt.runtime.metadata.model_name import model_name_from_manifest
from latentrt.runtime.pictures.arrays import pictures_from_argument, size_of, warn_of_proportions
from latentrt.runtime.pictures.image import Picture, pixels_from_image
from latentrt.runtime.pictures.tiling import VaeMode
from latentrt.runtime.sampling.noise import Noise


def video_call(manifest: BundleManifest, image: Any, options: Mapping[str, Any]) -> CheckedCall:
    """A call of ``Pipeline.img2vid``, checked.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    check_workflow(manifest, Workflow.VIDEO)
    keywords = video_options_set(options)
    pictures = list(pictures_from_argument(image, manifest.latents.channels, latents=False))
    videos = whole(keywords.get("num_videos_per_prompt", 1), "num_videos_per_prompt")
    if videos < 1:
        raise RequestError(f"got num_videos_per_prompt {videos}, expected at least 1; leave it out for one")
    profile = profile_of_video(manifest, keywords, size_of(pictures[0]))
    _check_sizes(pictures, profile)
    clip = clip_from_keywords(keywords, profile.frames)
    shape = manifest.latents.shape(profile, videos * len(pictures))
    delivery = delivery_from_keywords(manifest, keywords)
    sampling = sampling_from_keywords(manifest, keywords, Workflow.VIDEO, None, shape)  # type: ignore[arg-type]
    request = Request(
        prompts=prompt_set_without_texts(shape[0]),
        canvas=Canvas(profile=profile, time_ids=(clip.time_ids, clip.time_ids), vae=VaeMode.WHOLE),
        sampling=sampling,
        guidance=guidance_of_frames(manifest, keywords, sampling.schedule, profile.frames),
        delivery=delivery,
        latent_shape=shape,
        model=model_name_from_manifest(manifest),
        clip=clip,
    )

    def start(engines: Engines, noise: Noise) -> InitialLatents:
        return latents_of_videos(engines, request, clip, pictures, noise)

    return CheckedCall(request=request, start=start)


def latents_of_videos(
    engines: Engines, request: Request, clip: Clip, pictures: list[Picture], noise: Noise
) -> InitialLatents:
    """Noise, and what the U-Net is told of the pictures; the videos of one picture follow each other.

    The order of the draws is diffusers': the noise of the pixels, also where it has no strength, then the latents'.
    Where one seed is shared each picture gets its noise once, for all of its videos; else each video has its own.
    """
    conditioning, profile = engines.bundle.manifest.conditioning, request.canvas.profile
    encoder, concatenated = conditioning.image_encoder, conditioning.concatenated
    assert isinstance(encoder, ImageEncoderRecord)  # every model that draws videos has both; for the type checker
    assert isinstance(concatenated, ConcatenatedRecord)
    videos, shapes = request.count // len(pictures), Shapes(profile=profile)
    seen = image_embeds(engines.engine(encoder.component, shapes), encoder, pictures)
    pixels = np.stack([pixels_from_image(picture, profile.width, profile.height) for picture in pictures])
    if noise.per_picture:
        pixels = np.repeat(pixels, videos, axis=0)
    if concatenated.noised:
        pixels = pixels + np.float32(clip.noise_aug_strength) * noise.of(pixels.shape)
    latents = image_latents(engines.engine(VAE_ENCODER, shapes), pixels)
    if concatenated.scaled:
        latents = engines.bundle.manifest.latents.scaled(latents)
    behind = _of_frames(np.repeat(latents, request.count // len(latents), axis=0), clip.frames)
    of_negative = np.zeros_like(behind) if concatenated.zeroed else behind
    initial = latents_from_noise(request, noise)
    return InitialLatents(
        x=initial.x,
        seen=seen_condition(np.repeat(seen, videos, axis=0)[:, None]),
        conditions=(concatenated_condition({Side.POSITIVE: behind, Side.NEGATIVE: of_negative}),),
    )


def _of_frames(latents: Array, frames: int) -> Array:
    """The same latents (N, C, h, w) for every frame: (N, F, C, h, w), in the memory of one frame."""
    count, *shape = latents.shape
    return np.broadcast_to(latents[:, None], (count, frames, *shape))


def _check_sizes(pictures: list[Picture], profile: Profile) -> None:
    """Refuses arrays of another size than the videos', and says which pictures will be stretched.

    Raises:
        RequestError: an array of another size.
    """
    for picture in pictures:
        width, height = size_of(picture)
        if isinstance(picture, np.ndarray) and (width, height) != (profile.width, profile.height):
            raise RequestError(
                f"got an image array of {width}x{height} pixels for videos of {profile}, expected "
                f"{profile.width}x{profile.height}; resize it first, or give a PIL picture, which is resized"
            )
        warn_of_proportions(picture, profile, "crop it to these proportions first")
