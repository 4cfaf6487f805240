"""Guidance as data: which passes a step makes, and how their predictions become one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NewType

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.steps import step_at
from latentrt.runtime.sampling.schedule import Level

Pass = NewType("Pass", str)
"""A name for one of the predictions that a step combines: each pass sees conditions of its own."""

NEGATIVE, POSITIVE = Pass("negative"), Pass("positive")

Combiner = Callable[[Mapping[Pass, Array], float], Array]
"""Makes one prediction (N, C, h, w) of those of all passes, at a weight."""


@dataclass(frozen=True, kw_only=True)
class StepScales:
    """The weight of guidance at every step.

    ``scales`` has one weight per step of the whole run; at most 1 means none. ``ratios`` are the steps'
    noise-to-signal ratios, descending: a model call between two steps belongs to the one it comes after.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    def at(self, level: Level) -> float:
        """The weight at a noise level."""
        return self.scales[step_at(self.ratios, level)]


def classifier_free(predictions: Mapping[Pass, Array], scale: float) -> Array:
    """u + s · (c − u) (Ho and Salimans 2022, eq. 6)."""
    unconditional, conditional = predictions[NEGATIVE], predictions[POSITIVE]
    return unconditional + scale * (conditional - unconditional)


def rescaled(combine: Combiner, rescale: float) -> Combiner:
    """What a combiner gives, brought back towards the deviation of the conditional prediction.

    That is arXiv 2305.08891, eqs. 14 to 16, with φ = ``rescale``, 0 to 1.
    """

    def combined(predictions: Mapping[Pass, Array], scale: float) -> Array:
        guided, conditional = combine(predictions, scale), predictions[POSITIVE]
        axes = tuple(range(1, guided.ndim))
        ratio = conditional.std(axes, keepdims=True, ddof=1) / guided.std(axes, keepdims=True, ddof=1)
        return np.asarray(guided * (rescale * ratio + (1.0 - rescale)), guided.dtype)

    return combined


@dataclass(frozen=True, kw_only=True)
class Guider:
    """The passes of every step and their combiner.

    ``combine`` is None for a model that was distilled from guidance: it is told its weight and has one pass.
    """

    steps: StepScales
    combine: Combiner | None = classifier_free

    @cached_property
    def guides(self) -> bool:
        """Whether any step has more than one pass."""
        return self.combine is not None and any(scale > 1.0 for scale in self.steps.scales)

    def passes(self, level: Level) -> tuple[Pass, ...]:
        """The passes of a model call, in the order of their rows; a weight of 1 would only repeat the positive one."""
        return (NEGATIVE, POSITIVE) if self.combine is not None and self.steps.at(level) > 1.0 else (POSITIVE,)

    def combined(self, predictions: Mapping[Pass, Array], level: Level) -> Array:
        """One prediction (N, C, h, w) of those of all passes."""
        if self.combine is None or len(predictions) == 1:
            return predictions[POSITIVE]
        return self.combine(predictions, self.steps.at(level))
