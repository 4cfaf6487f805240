"""What a video's settings tell beside those of a picture."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClipMetadata:
    """The frames of a video, what the model was told of their motion, and how they were decoded.

    ``min_guidance_scale`` is the weight of guidance of the first frame; None where nothing guides.
    """

    frames: int
    fps: int
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float | None
    decode_chunk_size: int

    def pairs(self) -> dict[str, str]:
        """As they are written; A1111 has no videos."""
        pairs = {} if self.min_guidance_scale is None else {"Min CFG scale": f"{self.min_guidance_scale:g}"}
        return {
            **pairs,
            "Frames": str(self.frames),
            "FPS": str(self.fps),
            "Motion bucket": str(self.motion_bucket_id),
            "Noise augmentation": f"{self.noise_aug_strength:g}",
            "Decode chunk": str(self.decode_chunk_size),
        }
