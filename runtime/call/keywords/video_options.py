"""The keywords of ``Pipeline.img2vid``, by group; the names are diffusers' own where it has them.

As in ``options.py``, what is behind the annotations is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, cast

from latentrt.runtime.call.keywords.options import DeliveryKeywords, set_options

if TYPE_CHECKING:
    from latentrt.engines.spec import Array
    from latentrt.runtime.sampling.samplers import Sampler


class FramesKeywords(TypedDict, total=False):
    """The frames.

    Attributes:
        num_frames: frames of a video; together with ``width`` and ``height`` a profile of the bundle. None takes the
            first profile that goes with what is given, or that of the picture's own size where there is one.
        width: in pixels.
        height: in pixels.
        num_videos_per_prompt: videos of each picture, in the order of the pictures.
        decode_chunk_size: frames that are decoded at once: more take more memory, fewer change pixels where two chunks
            meet. None decodes all frames of a video at once, or as many as its decoder was compiled for.
    """

    num_frames: int | None
    width: int | None
    height: int | None
    num_videos_per_prompt: int
    decode_chunk_size: int | None


class MotionKeywords(TypedDict, total=False):
    """What the model is told of the motion.

    Attributes:
        fps: frames per second, at least 1: the model was trained with 5 to 30. It is the result's, too.
        motion_bucket_id: how much moves, from 0 on: the model was trained with numbers up to 255.
        noise_aug_strength: how much noise the picture gets before it is encoded: the more, the more moves, and the
            less like the picture it looks. At least 0.
    """

    fps: int
    motion_bucket_id: int
    noise_aug_strength: float


class RampKeywords(TypedDict, total=False):
    """Guidance.

    Attributes:
        min_guidance_scale: weight of classifier-free guidance for the first frame; default: 1.
        max_guidance_scale: that for the last frame; those between are even between both. At most 1 means none, and half
            the work. None takes the bundle's.
    """

    min_guidance_scale: float
    max_guidance_scale: float | None


class VideoSamplingKeywords(TypedDict, total=False):
    """Sampling.

    Attributes:
        num_inference_steps: sampler steps.
        sampler: a name from ``latentrt samplers``, or a ``Sampler`` with wishes about its schedule and options.
        sigmas: noise levels to visit instead of the sampler's own, descending, the last one being where the last step
            ends (0).
        seed: one seed for all videos, as ``torch.Generator().manual_seed`` in diffusers, or one per video: each is then
            as if it was drawn alone. None draws one at random per video.
        latents: initial noise (N, F, C, H/f, W/f) float32 of unit variance instead of the seed's.
    """

    num_inference_steps: int | None
    sampler: str | Sampler | None
    sigmas: Sequence[float] | None
    seed: int | Sequence[int] | None
    latents: Array | None


class VideoOptions(FramesKeywords, MotionKeywords, RampKeywords, VideoSamplingKeywords, DeliveryKeywords, total=False):
    """What ``img2vid`` may be told beyond its pictures; what is left out, or None, is the bundle's default.

    ``progress`` is called after every model call and after every decoded chunk. ``guidance_scale`` of callbacks is that
    of the last frame.
    """


_GROUPS = (FramesKeywords, MotionKeywords, RampKeywords, VideoSamplingKeywords, DeliveryKeywords)
VideoOptions.__doc__ = "\n\n".join(cleandoc(group.__doc__ or "") for group in (VideoOptions, *_GROUPS))

_NO_TEXT = "a model that draws videos reads no text; leave it out"
_RAMP = "give max_guidance_scale for the last frame, and min_guidance_scale for the first"
VIDEO_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "prompt": _NO_TEXT,
        "negative_prompt": _NO_TEXT,
        "guidance_scale": _RAMP,
        "num_images_per_prompt": "give num_videos_per_prompt",
        "frames": "give num_frames",
        "decoding_t": "give decode_chunk_size",
        "cond_aug": "give noise_aug_strength",
        "timesteps": "a model with EDM's noise levels has no timesteps: give sigmas",
        "strength": "a video starts from noise: give noise_aug_strength for the noise of the picture",
    }
)
"""Advice, by the name of a keyword that ``img2vid`` does not take."""


def video_options_set(options: Mapping[str, Any]) -> VideoOptions:
    """Those that were set: the ones that are not None.

    Raises:
        RequestError: an unknown one, with the name that it comes close to, or what does here what it does elsewhere.
    """
    return cast(VideoOptions, set_options(options, VideoOptions, VIDEO_ELSEWHERE))
