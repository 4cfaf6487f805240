"""``Hires``: how a call enlarges what it drew and draws it on, as a caller chooses it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.runtime.sampling.samplers import Sampler

if TYPE_CHECKING:
    from latentrt.runtime.upscaling.upscaler import Upscaler


class LatentUpscaler(StrEnum):
    """How latents are enlarged: as torch's ``interpolate`` does it."""

    LATENT = "latent"
    LATENT_ANTIALIASED = "latent-antialiased"
    LATENT_BICUBIC = "latent-bicubic"
    LATENT_BICUBIC_ANTIALIASED = "latent-bicubic-antialiased"
    LATENT_NEAREST = "latent-nearest"
    LATENT_NEAREST_EXACT = "latent-nearest-exact"


class PictureUpscaler(StrEnum):
    """How pictures are enlarged between decoding and encoding: by Pillow's filters."""

    LANCZOS = "lanczos"
    BICUBIC = "bicubic"
    NEAREST = "nearest"


@dataclass(frozen=True, kw_only=True, eq=False)
class Hires:
    """A second pass at a larger size.

    Attributes:
        scale: how many times as wide and high the picture becomes; both sizes are profiles of the bundle.
        strength: how much of the schedule the second pass runs, above 0 to 1.
        steps: that the second pass takes, exactly; None: as many as the first.
        upscaler: what enlarges: "latent" and its kin enlarge latents, which blurs where ``strength`` is below 0.5;
            "lanczos", "bicubic" and "nearest" the decoded picture; so does an upscaler, given as the path of its
            bundle or as ``latentrt.open_upscaler`` opened it.
        sampler: of the second pass, as a call takes it; None: the first one's.
        prompt: of the second pass, one for all or one per prompt; None: the call's. Both text encoders of SDXL read
            it.
        negative_prompt: likewise.
        guidance_scale: of the second pass; None: the call's.
    """

    scale: float = 2.0
    strength: float = 0.55
    steps: int | None = None
    upscaler: "str | Path | Upscaler" = LatentUpscaler.LATENT
    sampler: str | Sampler | None = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    guidance_scale: float | None = None
