"""How strongly a call is guided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.options import GuidanceKeywords
from latentrt.runtime.checks import is_list, number, numbers, share, warn_caller
from latentrt.runtime.denoiser.conditions.condition import Condition
from latentrt.runtime.denoiser.conditions.guidance_scale import GuidanceScaleCondition
from latentrt.runtime.denoiser.guider import (
    POSITIVE,
    Baseline,
    CfgPlusPlusScales,
    Combiner,
    Composition,
    Guider,
    Pass,
    Perturbation,
    Side,
    StepScales,
    classifier_free,
    perturbed,
    rescaled,
    shifted,
)
from latentrt.runtime.denoiser.steps import step_ratios, steps_between
from latentrt.runtime.sampling.schedule import Schedule

if TYPE_CHECKING:
    from latentrt.runtime.denoiser.combiners.apg import Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding
    from latentrt.runtime.denoiser.combiners.ramp import Ramp

LARGEST = 1000.0  # far beyond any picture; what is larger ends in infinity
_STRONG = 14.0  # above this, pictures of the SD family oversaturate


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly each step is guided, and what the prompts of a picture are composed of.

    ``embedding`` is the size of the embedded weight that the model takes; 0 where it takes none. ``ratios`` are the
    noise-to-signal ratios of the steps that the run takes, descending. What prompts are steered away from is the
    ``baseline``. ``ramp`` has the weights of a video's frames.
    """

    steps: StepScales
    rescale: float
    embedding: int
    prediction_type: PredictionType
    ratios: tuple[float, ...]
    baseline: Baseline = field(default_factory=Baseline)
    composition: Composition | None = None
    perturbation: Perturbation | None = None
    apg: "Apg | None" = None
    thresholding: "DynamicThresholding | None" = None
    ramp: "Ramp | None" = None

    @property
    def guides(self) -> bool:
        """Whether any step has a negative pass."""
        composes = self.composition is not None and self.composition.away_from_negative
        return composes or (not self.embedding and any(self.steps.guided))

    @property
    def linear(self) -> bool:
        """Whether it is linear in the passes' predictions but for the rescaling, with a number for each."""
        return all(one is None for one in (self.apg, self.thresholding, self.ramp, self.composition))

    def guider(self) -> Guider:
        """The passes of every step, and their combiner, for one run."""
        return Guider(
            steps=self.steps,
            combine=None if self.embedding else self._combiner(),
            baseline=self.baseline,
            composition=self.composition,
            perturbation=self.perturbation,
        )

    def _combiner(self) -> Combiner:
        """From the inside out: what the guided prediction is, of which d, away from what, and how it is rescaled."""
        combine: Combiner = classifier_free
        if self.ramp is not None:
            from latentrt.runtime.denoiser.combiners.ramp import ramped

            combine = ramped(self.ramp)
        if self.thresholding is not None:
            from latentrt.runtime.denoiser.combiners.dynamic_thresholding import thresholded

            combine = thresholded(self.thresholding, self.prediction_type, self.ratios)
        if self.apg is not None:
            from latentrt.runtime.denoiser.combiners.apg import projected

            combine = projected(combine, self.apg, self.prediction_type)
        if self.perturbation is not None:
            combine = perturbed(combine)
        if self.baseline.scales:
            combine = shifted(combine)
        return rescaled(combine, self.rescale) if self.rescale > 0.0 else combine

    def conditions(self) -> tuple[Condition, ...]:
        """What the U-Net is told of it."""
        return (GuidanceScaleCondition(self.steps, self.embedding),) if self.embedding else ()

    def metadata(self) -> dict[str, Any]:
        """What a picture's metadata say of its guidance."""
        scales: tuple[float | None, ...] = self.steps.scales
        renoised = isinstance(self.steps, CfgPlusPlusScales)
        if renoised:
            scales = tuple(scale if on else None for scale, on in zip(scales, self.steps.guided, strict=True))
        return {
            "guidance_scale": max(self.steps.scales),
            "guidance_scales": () if len(set(scales)) == 1 else scales,
            "image_guidance_scale": next(iter(self.baseline.scales), None) if self.guides else None,
            "guidance_rescale": self.rescale,
            "cfg_plus_plus": renoised,
            "apg": self.apg,
            "dynamic_thresholding": self.thresholding,
            "pag_scale": 0.0 if self.perturbation is None else self.perturbation.scale,
            "pag_adaptive_scale": 0.0 if self.perturbation is None else self.perturbation.adaptive,
        }


def guidance_from_keywords(
    manifest: BundleManifest, keywords: GuidanceKeywords, schedule: Schedule, weights: Sequence[Array] = ()
) -> Guidance:
    """The weight of every step of a schedule, off outside of the interval.

    Args:
        manifest: the bundle's.
        keywords: those of the group that were set.
        schedule: of the run.
        weights: of the prompts that each picture is composed of, (N, 1, h or 1, w or 1).

    Raises:
        RequestError: a weight, an interval or a rescale that cannot be.
    """
    start = share(keywords.get("guidance_start", 0.0), "guidance_start")
    end = share(keywords.get("guidance_end", 1.0), "guidance_end")
    if start >= end:
        raise RequestError(
            f"got guidance_start {start:g} and guidance_end {end:g}, expected the end later; correct them"
        )
    ratios = step_ratios(schedule.all_steps)
    inside = steps_between(start, end, len(ratios))
    rescale = share(keywords.get("guidance_rescale", 0.0), "guidance_rescale")
    if rescale and manifest.guidance_embedding:
        raise RequestError(
            f"got guidance_rescale {rescale:g} with a model that has its guidance built in; leave it out"
        )
    apg = thresholding = None
    if not keywords.keys().isdisjoint(("cfg_plus_plus", "apg", "dynamic_thresholding")):
        from latentrt.runtime.call.guidance import settings  # loaded by those who use it

        settings.check_model(manifest, keywords)
        apg, thresholding = settings.apg_from_keywords(keywords), settings.thresholding_from_keywords(keywords)
    if "cfg_plus_plus" in keywords:
        steps: StepScales = settings.cfg_plus_plus_scales(keywords, ratios, inside)
    else:
        steps = _scales(manifest, keywords, ratios, inside)
    if max(steps.scales) > _STRONG and apg is None and thresholding is None:
        warn_caller(f"guidance_scale {max(steps.scales):g} is strong; colours may saturate")
    return Guidance(
        steps=steps,
        rescale=rescale,
        embedding=manifest.guidance_embedding,
        prediction_type=schedule.prediction_type,
        ratios=step_ratios(schedule.steps),
        composition=_composition(manifest, weights),
        apg=apg,
        thresholding=thresholding,
        perturbation=_perturbation(keywords),
    )


def _scales(
    manifest: BundleManifest,
    keywords: GuidanceKeywords,
    ratios: tuple[float, ...],
    inside: tuple[bool, ...],
) -> StepScales:
    """The weight of every step; 1 outside of the interval."""
    scale: Any = keywords.get("guidance_scale")
    scale = manifest.defaults.guidance_scale if scale is None else scale
    scales = weights_of_steps(scale, "guidance_scale", "guidance scales", len(ratios))
    for value in scales:
        if not (math.isfinite(value) and value >= 0.0):
            raise RequestError(f"got guidance_scale {value}, expected a number of at least 0; 7.5 is common")
        if value > LARGEST:
            raise RequestError(f"got guidance_scale {value:g}, expected at most {LARGEST:g}; 7.5 is common")
    return StepScales(
        scales=tuple(value if guided else 1.0 for value, guided in zip(scales, inside, strict=True)), ratios=ratios
    )


def weights_of_steps(value: Any, name: str, plural: str, steps: int) -> tuple[float, ...]:
    """A number for every step, from one for all or one each.

    Raises:
        RequestError: no numbers, or another number of them.
    """
    if isinstance(value, str) or not is_list(value):
        return (number(value, name),) * steps
    found = numbers(value, name)
    if len(found) != steps:
        raise RequestError(
            f"got {len(found)} {plural} for a schedule of {steps} steps; give one, or one per step, those before the "
            "start included"
        )
    return found


def _perturbation(keywords: GuidanceKeywords) -> Perturbation | None:
    """How much perturbed attentions weigh; None where they do not."""
    scale, adaptive = (number(keywords.get(name, 0.0), name) for name in ("pag_scale", "pag_adaptive_scale"))
    if not (math.isfinite(scale) and scale >= 0.0):
        raise RequestError(f"got pag_scale {scale:g}, expected a number of at least 0; 3 is common")
    if scale > LARGEST:
        raise RequestError(f"got pag_scale {scale:g}, expected at most {LARGEST:g}; 3 is common")
    if not (math.isfinite(adaptive) and adaptive >= 0.0):
        raise RequestError(
            f"got pag_adaptive_scale {adaptive:g}, expected a number of at least 0: what pag_scale falls by with "
            "each timestep; 0.005 is common"
        )
    idle = ["pag_adaptive_scale"] * bool(adaptive) + ["pag_applied_layers"] * ("pag_applied_layers" in keywords)
    if idle and "pag_scale" not in keywords:
        warn_caller(f"got {' and '.join(idle)} without pag_scale, where it changes nothing; give pag_scale=3, too")
    return Perturbation(scale=scale, adaptive=adaptive) if scale else None


def composition_of(weights: Sequence[Array]) -> Composition | None:
    """What the pictures are composed of; None where each has its first prompt alone, which counts wholly.

    Args:
        weights: of their prompts, (N or 1, 1, h or 1, w or 1).
    """
    if not weights:
        return None
    counting = {Pass(Side.POSITIVE, index): one for index, one in enumerate(weights) if np.any(one)}
    counting = counting or {POSITIVE: weights[0]}
    if list(counting) == [POSITIVE] and np.all(counting[POSITIVE] == 1.0):
        return None
    return Composition(weights=counting)


def _composition(manifest: BundleManifest, weights: Sequence[Array]) -> Composition | None:
    composition = composition_of(weights)
    if composition is not None and composition.away_from_negative and manifest.guidance_embedding:
        raise RequestError(
            "got prompts whose weights do not sum up to 1, with a model that has its guidance built in and no negative "
            "prompt to weigh them against; give them weights that do, or draw one prompt"
        )
    return composition
