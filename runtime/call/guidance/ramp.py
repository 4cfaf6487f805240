"""How strongly the frames of a video are guided."""

import math
from typing import Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.guidance.guidance import LARGEST, Guidance
from latentrt.runtime.call.keywords.video_options import RampKeywords
from latentrt.runtime.checks import number
from latentrt.runtime.denoiser.combiners.ramp import Ramp
from latentrt.runtime.denoiser.guider import StepScales
from latentrt.runtime.denoiser.steps import step_ratios
from latentrt.runtime.sampling.schedule import Schedule

_FIRST = 1.0  # of diffusers' pipeline


def guidance_of_frames(manifest: BundleManifest, keywords: RampKeywords, schedule: Schedule, frames: int) -> Guidance:
    """The same at every step: from the first frame's weight to the last one's, which decides whether there is any.

    Args:
        manifest: the bundle's.
        keywords: those of the group that were set.
        schedule: of the run.
        frames: of a video.

    Raises:
        RequestError: a weight that cannot be.
    """
    first = _weight(keywords.get("min_guidance_scale", _FIRST), "min_guidance_scale")
    last = _weight(keywords.get("max_guidance_scale", manifest.defaults.guidance_scale), "max_guidance_scale")
    if last <= 1.0 < first:
        raise RequestError(
            f"got min_guidance_scale {first:g} and max_guidance_scale {last:g}, which switches guidance off for all "
            "frames; give max_guidance_scale above 1, or leave min_guidance_scale out"
        )
    ratios = step_ratios(schedule.all_steps)
    return Guidance(
        steps=StepScales(scales=(last,) * len(ratios), ratios=ratios),
        rescale=0.0,
        embedding=0,
        prediction_type=schedule.prediction_type,
        ratios=step_ratios(schedule.steps),
        ramp=Ramp(first=first, frames=frames),
    )


def _weight(value: Any, name: str) -> float:
    scale = number(value, name)
    if not (math.isfinite(scale) and 0.0 <= scale <= LARGEST):
        raise RequestError(f"got {name} {scale:g}, expected 0 to {LARGEST:g}; 1 to 3 is common")
    return scale
