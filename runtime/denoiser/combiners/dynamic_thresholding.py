"""Dynamic thresholding: strong guidance within the range of a weaker one.

What A1111's extension of this name does (github.com/mcmonkeyprojects/sd-dynamic-thresholding, ``dynthres_core.py``), to
the clean samples that the predictions imply, whatever the sampler. That is where the extension works in ComfyUI, and in
A1111 with the samplers of k-diffusion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError, shown
from latentrt.engines.spec import Array
from latentrt.runtime.checks import number, share
from latentrt.runtime.denoiser.combiners.space import denoised, output
from latentrt.runtime.denoiser.guider import Combiner, Predictions, classifier_free
from latentrt.runtime.denoiser.steps import step_at

_LOWEST_PERCENTILE = 50.0


class ScaleMode(StrEnum):
    """How a scale changes over the steps of a run, above its minimum."""

    CONSTANT = "constant"
    LINEAR_DOWN = "linear_down"
    COSINE_DOWN = "cosine_down"
    HALF_COSINE_DOWN = "half_cosine_down"
    LINEAR_UP = "linear_up"
    COSINE_UP = "cosine_up"
    HALF_COSINE_UP = "half_cosine_up"
    POWER_UP = "power_up"
    POWER_DOWN = "power_down"
    LINEAR_REPEATING = "linear_repeating"
    COSINE_REPEATING = "cosine_repeating"
    SAWTOOTH = "sawtooth"

    @property
    def takes_value(self) -> bool:
        """Whether it depends on the scheduler value."""
        return self.value.startswith(("power", "linear_rep", "cosine_rep", "sawtooth"))


# The part of the scale that is left at a share t of the run, with the scheduler value v
_CURVES: Mapping[ScaleMode, Callable[[float, float], float]] = {
    ScaleMode.CONSTANT: lambda t, v: 1.0,
    ScaleMode.LINEAR_DOWN: lambda t, v: 1.0 - t,
    ScaleMode.COSINE_DOWN: lambda t, v: math.cos(t * math.pi / 2.0),
    ScaleMode.HALF_COSINE_DOWN: lambda t, v: math.cos(t),
    ScaleMode.LINEAR_UP: lambda t, v: t,
    ScaleMode.COSINE_UP: lambda t, v: 1.0 - math.cos(t * math.pi / 2.0),
    ScaleMode.HALF_COSINE_UP: lambda t, v: 1.0 - math.cos(t),
    ScaleMode.POWER_UP: lambda t, v: t**v,
    ScaleMode.POWER_DOWN: lambda t, v: 1.0 - t**v,
    ScaleMode.LINEAR_REPEATING: lambda t, v: abs(1.0 - 2.0 * (t * v % 1.0)),
    ScaleMode.COSINE_REPEATING: lambda t, v: 0.5 + 0.5 * math.cos(2.0 * math.pi * t * v),
    ScaleMode.SAWTOOTH: lambda t, v: t * v % 1.0,
}


class Startpoint(StrEnum):
    """From where values shrink: their channel's mean, or zero."""

    MEAN = "mean"
    ZERO = "zero"


class Variability(StrEnum):
    """What the range of values is: their largest absolute distance from the mean, or their standard deviation."""

    AD = "ad"
    STD = "std"


@dataclass(frozen=True, kw_only=True)
class DynamicThresholding:
    """How the guided prediction is brought into the range that a weaker guidance would have; defaults as in A1111.

    Attributes:
        mimic_scale: the guidance scale whose range is kept.
        threshold_percentile: in percent; what is above this percentile of the distances is clamped (``ad`` alone).
        mimic_mode: how ``mimic_scale`` changes over the steps, of ``ScaleMode``.
        mimic_scale_min: where it changes to.
        cfg_mode: likewise of the guidance scale.
        cfg_scale_min: likewise.
        scheduler_value: the power, or the number of repetitions, of modes that have one.
        separate_feature_channels: whether each channel of the latents has a range of its own.
        scaling_startpoint: "mean" or "zero".
        variability_measure: "ad" or "std".
        interpolate_phi: φ, how much of the result counts against plain guidance, 0 to 1.

    Raises:
        RequestError: a value that cannot be.
    """

    mimic_scale: float = 7.0
    threshold_percentile: float = 100.0
    mimic_mode: str | ScaleMode = ScaleMode.CONSTANT
    mimic_scale_min: float = 0.0
    cfg_mode: str | ScaleMode = ScaleMode.CONSTANT
    cfg_scale_min: float = 0.0
    scheduler_value: float = 4.0
    separate_feature_channels: bool = True
    scaling_startpoint: str | Startpoint = Startpoint.MEAN
    variability_measure: str | Variability = Variability.AD
    interpolate_phi: float = 1.0

    def __post_init__(self) -> None:
        of = "of DynamicThresholding"
        kinds: Mapping[str, type[StrEnum]] = {
            "mimic_mode": ScaleMode,
            "cfg_mode": ScaleMode,
            "scaling_startpoint": Startpoint,
            "variability_measure": Variability,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, choice(kind, getattr(self, name), f"{name} {of}"))
        for name in ("mimic_scale", "threshold_percentile", "mimic_scale_min", "cfg_scale_min", "scheduler_value"):
            value = number(getattr(self, name), f"{name} {of}")
            if not (math.isfinite(value) and value >= 0.0):
                raise RequestError(f"got {name} {value:g} {of}, expected a number of at least 0; correct it")
            object.__setattr__(self, name, value)
        if not _LOWEST_PERCENTILE <= self.threshold_percentile <= 100.0:
            raise RequestError(
                f"got threshold_percentile {self.threshold_percentile:g} {of}, expected {_LOWEST_PERCENTILE:g} to 100 "
                "percent; 99.5 is common"
            )
        if not isinstance(self.separate_feature_channels, (bool, np.bool_)):
            raise RequestError(
                f"got separate_feature_channels {shown(self.separate_feature_channels)} {of}, expected True or False; "
                "correct it"
            )
        object.__setattr__(self, "interpolate_phi", share(self.interpolate_phi, f"interpolate_phi {of}"))

    @property
    def modes(self) -> tuple[ScaleMode, ScaleMode]:
        """How the mimicked scale changes, and the guidance scale."""
        return ScaleMode(self.mimic_mode), ScaleMode(self.cfg_mode)

    def scales(self, scale: float, t: float) -> tuple[float, float]:
        """The guidance scale and the mimicked one.

        Args:
            scale: the guidance scale of a step.
            t: the share of the run that has passed, 0 to 1.
        """
        mimic, cfg = self.modes
        return (
            self._at(scale, cfg, self.cfg_scale_min, t),
            self._at(self.mimic_scale, mimic, self.mimic_scale_min, t),
        )

    def _at(self, scale: float, mode: ScaleMode, least: float, t: float) -> float:
        return scale if mode is ScaleMode.CONSTANT else least + (scale - least) * _CURVES[mode](t, self.scheduler_value)


def thresholded(settings: DynamicThresholding, kind: PredictionType, ratios: Sequence[float]) -> Combiner:
    """Classifier-free guidance whose clean sample keeps the range that it has at another scale.

    Where both scales are the same, it is plain guidance.

    Args:
        settings: the settings.
        kind: what the model predicts.
        ratios: the noise-to-signal ratios of the steps that the run takes, descending.
    """

    def combined(predictions: Predictions) -> Array:
        t = step_at(ratios, predictions.level) / max(len(ratios) - 1, 1)
        scale, mimicked = settings.scales(predictions.scale, t)
        plain = _at_scale(predictions, scale)
        if scale == mimicked or settings.interpolate_phi == 0.0:
            return plain
        clean = denoised(predictions, kind)
        kept = _in_range(_at_scale(clean, scale), _at_scale(clean, mimicked), settings)
        found, phi = output(kept, predictions, kind), settings.interpolate_phi
        return found if phi == 1.0 else phi * found + (1.0 - phi) * plain

    return combined


def _at_scale(predictions: Predictions, scale: float) -> Array:
    return classifier_free(replace(predictions, scale=scale))


def _in_range(guided: Array, mimicked: Array, settings: DynamicThresholding) -> Array:
    """Clean samples (N, C, h, w) with the variability of others; each picture has its own."""
    places = (2, 3) if settings.separate_feature_channels else (1, 2, 3)
    mean = guided.mean((2, 3), keepdims=True)
    centred, reference = guided - mean, mimicked - mimicked.mean((2, 3), keepdims=True)
    if settings.variability_measure is Variability.STD:
        own, wanted = centred.std(places, keepdims=True, ddof=1), reference.std(places, keepdims=True, ddof=1)
    else:
        own, wanted = np.abs(centred), np.abs(reference).max(places, keepdims=True)
        own = np.asarray(np.percentile(own, settings.threshold_percentile, places, keepdims=True), guided.dtype)
    if settings.scaling_startpoint is Startpoint.ZERO:
        return guided * _divided(wanted, own)
    if settings.variability_measure is Variability.AD:
        own = np.maximum(own, wanted)
        centred = np.clip(centred, -own, own)
    return np.asarray(centred * _divided(wanted, own) + mean)


def _divided(wanted: Array, own: Array) -> Array:
    """wanted / own; 1 where there is nothing to scale."""
    return np.asarray(np.divide(wanted, own, out=np.ones_like(own), where=own > 0.0))
