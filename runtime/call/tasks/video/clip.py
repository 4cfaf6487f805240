"""What a call says of its videos beside their size, sampling and guidance."""

import math
from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.guidance.guidance import Guidance
from latentrt.runtime.call.keywords.video_options import FramesKeywords, MotionKeywords
from latentrt.runtime.checks import number, warn_caller, whole
from latentrt.runtime.metadata.clip_metadata import ClipMetadata

# The defaults of diffusers' pipeline
_FPS, _MOTION_BUCKET, _NOISE_AUG = 7, 127, 0.02
_TRAINED_FPS, _LARGEST_BUCKET = (5, 30), 255  # beyond which Stability's own script warns
_MOST_FPS, _MOST_BUCKET, _MOST_NOISE = 1000, 10_000, 10.0


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The frames of a video.

    Attributes:
        frames: F.
        fps: frames per second.
        motion_bucket_id: how much moves.
        noise_aug_strength: the deviation of the noise that the picture gets, whose pixels are in [−1, 1].
        chunk: frames that are decoded at once; None: as many as the decoder takes.
    """

    frames: int
    fps: int
    motion_bucket_id: int
    noise_aug_strength: float
    chunk: int | None

    @property
    def time_ids(self) -> tuple[float, ...]:
        """As the U-Net is told them: it was trained with frames per second less 1."""
        return float(self.fps - 1), float(self.motion_bucket_id), self.noise_aug_strength

    @property
    def decoded_at_once(self) -> int:
        """Frames that are decoded at once."""
        return self.frames if self.chunk is None else min(self.chunk, self.frames)

    def metadata(self, guidance: Guidance) -> dict[str, Any]:
        """What a video's metadata say of it; the numbers that the model was told are among them."""
        ramp = guidance.ramp if guidance.guides else None
        told = ClipMetadata(
            frames=self.frames,
            fps=self.fps,
            motion_bucket_id=self.motion_bucket_id,
            noise_aug_strength=self.noise_aug_strength,
            min_guidance_scale=None if ramp is None else ramp.first,
            decode_chunk_size=self.decoded_at_once,
        )
        return {"clip": told, "time_ids": ()}


class ClipKeywords(FramesKeywords, MotionKeywords, total=False):
    """What decides about the frames."""


def clip_from_keywords(keywords: ClipKeywords, frames: int) -> Clip:
    """Checks what is said of the frames.

    Args:
        keywords: those of the groups that were set.
        frames: of a video.

    Raises:
        RequestError: a number that cannot be.
    """
    fps = whole(keywords.get("fps", _FPS), "fps")
    if not 1 <= fps <= _MOST_FPS:
        raise RequestError(f"got fps {fps}, expected 1 to {_MOST_FPS} frames per second; {_FPS} is common")
    low, high = _TRAINED_FPS
    if not low <= fps <= high:
        warn_caller(f"fps {fps} is beyond what the model was trained with, {low} to {high}; it may not follow it")
    bucket = whole(keywords.get("motion_bucket_id", _MOTION_BUCKET), "motion_bucket_id")
    if not 0 <= bucket <= _MOST_BUCKET:
        raise RequestError(
            f"got motion_bucket_id {bucket}, expected 0 (little motion) to {_LARGEST_BUCKET} (much); "
            f"{_MOTION_BUCKET} is common"
        )
    if bucket > _LARGEST_BUCKET:
        warn_caller(f"motion_bucket_id {bucket} is beyond what the model was trained with, {_LARGEST_BUCKET}")
    noise = number(keywords.get("noise_aug_strength", _NOISE_AUG), "noise_aug_strength")
    if not (math.isfinite(noise) and 0.0 <= noise <= _MOST_NOISE):
        raise RequestError(f"got noise_aug_strength {noise:g}, expected 0 to {_MOST_NOISE:g}; {_NOISE_AUG:g} is common")
    chunk = None
    if "decode_chunk_size" in keywords:
        chunk = whole(keywords["decode_chunk_size"], "decode_chunk_size")
        if chunk < 1:
            raise RequestError(f"got decode_chunk_size {chunk}, expected at least 1 frame; leave it out for all")
    return Clip(frames=frames, fps=fps, motion_bucket_id=bucket, noise_aug_strength=noise, chunk=chunk)


def profile_of_video(manifest: BundleManifest, keywords: FramesKeywords, source: tuple[int, int]) -> Profile:
    """The size and the number of frames: the first profile that goes with what is given.

    Args:
        manifest: the bundle's.
        keywords: those of the group that were set.
        source: width and height of the picture: where a profile has them, it comes first.

    Raises:
        RequestError: no profile goes with what is given.
    """
    wanted = {
        name: whole(keywords[key], key)  # type: ignore[literal-required]
        for name, key in (("width", "width"), ("height", "height"), ("frames", "num_frames"))
        if key in keywords
    }
    fitting = [
        profile
        for profile in manifest.profiles
        if all(getattr(profile, name) == value for name, value in wanted.items())
    ]
    if not fitting:
        raise RequestError(_no_profile(manifest, wanted))
    return next((profile for profile in fitting if (profile.width, profile.height) == source), fitting[0])


def _no_profile(manifest: BundleManifest, wanted: dict[str, int]) -> str:
    """Why there is no such video, and what to do."""
    first, multiple = manifest.profiles[0], manifest.pixel_multiple
    width, height = wanted.get("width", first.width), wanted.get("height", first.height)
    frames = wanted.get("frames", first.frames)
    advice = ""
    if min(width, height) >= 1 and frames > 1 and not (width % multiple or height % multiple):
        advice = f", or build again with --profile {width}x{height}x{frames}f"
    known = ", ".join(map(str, manifest.profiles))
    size = f"{frames} frame{'s' * (frames != 1)} of {width}x{height}"
    return f"got {size}, but the bundle has {known}; ask for one of these{advice}"
