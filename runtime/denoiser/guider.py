"""Guidance as data: which passes a step makes, and how their predictions become one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.steps import step_at
from latentrt.runtime.sampling.run import Answer
from latentrt.runtime.sampling.schedule import Level


class Side(StrEnum):
    """What a prediction is steered by: what to draw, or what to steer away from.

    ``picture`` is what the picture of an edit alone steers: its prompts are those of the negative side.
    """

    NEGATIVE = "negative"
    PICTURE = "picture"
    POSITIVE = "positive"

    @property
    def told(self) -> "Side":
        """The side that it is told the same as, where it is told nothing of its own."""
        return Side.NEGATIVE if self is Side.PICTURE else self


@dataclass(frozen=True)
class Pass:
    """One of the predictions that a step combines: each sees conditions of its own.

    Attributes:
        side: of the prompts.
        prompt: which of the prompts that a picture is composed of, from 0.
        perturbed: whether its self-attentions are perturbed; otherwise it is told what the pass without that is.
    """

    side: Side
    prompt: int = 0
    perturbed: bool = False

    @property
    def unperturbed(self) -> "Pass":
        """The pass that it perturbs, or itself."""
        return replace(self, perturbed=False) if self.perturbed else self

    @property
    def reads(self) -> "Pass":
        """The pass whose prompts it reads, or itself."""
        return replace(self, side=self.side.told, perturbed=False)


NEGATIVE, PICTURE, POSITIVE = Pass(Side.NEGATIVE), Pass(Side.PICTURE), Pass(Side.POSITIVE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What the passes of a model call said; all arrays are (N, C, h, w).

    Attributes:
        unconditional: of the pass that the positive ones are steered away from: the negative one.
        conditional: of the positive passes, composed into one.
        perturbed: of these with perturbed self-attentions, likewise; None where there are none.
        perturbation: the weight of guidance away from the perturbed prediction.
        shift: by how much what is steered away from is itself steered away from others; 0 where it is not.
        scale: the weight of guidance.
        x: where the model was asked, scaled to unit variance.
        level: of the call.
    """

    unconditional: Array
    conditional: Array
    scale: float
    x: Array
    level: Level
    perturbed: Array | None = None
    perturbation: float = 0.0
    shift: Array | float = 0.0


Combiner = Callable[[Predictions], Array]
"""Makes one prediction (N, C, h, w) of those of all passes. It may keep state: each run has one of its own."""


@dataclass(frozen=True, kw_only=True)
class StepScales:
    """The weight of guidance at every step.

    ``scales`` has one weight per step of the whole run; at most 1 means none. ``ratios`` are the steps'
    noise-to-signal ratios, descending: a model call between two steps belongs to the one it comes after.
    """

    largest: ClassVar[float] = math.inf

    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    def at(self, level: Level) -> float:
        """The weight at a noise level."""
        return self.scales[step_at(self.ratios, level)]

    @property
    def guided(self) -> tuple[bool, ...]:
        """Which steps are guided."""
        return tuple(scale > 1.0 for scale in self.scales)

    def guides(self, level: Level) -> bool:
        """Whether the step of a noise level is guided."""
        return self.at(level) > 1.0

    def with_scale(self, scale: float) -> Self:
        """Another weight at all steps."""
        return replace(self, scales=(scale,) * len(self.scales))


@dataclass(frozen=True, kw_only=True)
class CfgPlusPlusScales(StepScales):
    """The weight λ of CFG++ at every step, 0 to 1, whatever it is: a guided step has both passes.

    ``inside`` says of each step whether it is guided.
    """

    largest = 1.0

    inside: tuple[bool, ...]

    @property
    def guided(self) -> tuple[bool, ...]:
        return self.inside

    def guides(self, level: Level) -> bool:
        return self.inside[step_at(self.ratios, level)]

    def with_scale(self, scale: float) -> Self:
        return replace(super().with_scale(scale), inside=(True,) * len(self.inside))


def classifier_free(predictions: Predictions) -> Array:
    """u + s · (c − u) (Ho and Salimans 2022, eq. 6)."""
    unconditional = predictions.unconditional
    return unconditional + predictions.scale * (predictions.conditional - unconditional)


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """The weight of perturbed-attention guidance: ``scale``, less ``adaptive`` for each timestep below 1000."""

    scale: float
    adaptive: float = 0.0

    def at(self, level: Level) -> float:
        """max(0, p − k · (1000 − t)), as diffusers' ``_get_pag_scale``."""
        if not self.adaptive:
            return self.scale
        return max(0.0, self.scale - self.adaptive * (1000.0 - float(level.timestep)))


def away_from_perturbed(predictions: Predictions) -> Array | float:
    """p · (c − c′) (Ahn et al. 2024, arXiv 2403.17377, eq. 16); 0 where no pass is perturbed."""
    if predictions.perturbed is None:
        return 0.0
    return predictions.perturbation * (predictions.conditional - predictions.perturbed)


def perturbed(combine: Combiner) -> Combiner:
    """What a combiner gives, and away from the perturbed prediction: u + s · (c − u) + p · (c − c′)."""
    return lambda predictions: combine(predictions) + away_from_perturbed(predictions)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the positive passes are steered away from, and what that is steered away from in its turn.

    Two scales of guidance are u + s · (c − b) + z · (b − u) (Brooks et al. 2022, arXiv 2211.09800, eq. 3), which is
    guidance by s away from b, and (z − 1) · (b − u) beside it.

    Attributes:
        passes: b first; then what each is steered away from.
        scales: z, the weight of each step of that chain; at 1 what lies behind it has no share, and is not made.
    """

    passes: tuple[Pass, ...] = (NEGATIVE,)
    scales: tuple[float, ...] = ()

    @property
    def made(self) -> tuple[Pass, ...]:
        """The passes that have a share, in the order of their rows."""
        weighing = [place for place, scale in enumerate(self.scales, 1) if scale != 1.0]
        return self.passes[: max(weighing, default=0) + 1][::-1]

    def shift(self, predictions: Mapping[Pass, Array]) -> Array | float:
        """Σ (z − 1) · (b − u) of the chain; 0 where there is none."""
        pairs = zip(self.scales, self.passes, self.passes[1:], strict=False)
        terms = ((z - 1.0) * (predictions[b] - predictions[u]) for z, b, u in pairs if u in predictions)
        return sum(terms, 0.0)


def shifted(combine: Combiner) -> Combiner:
    """What a combiner gives, and as far beside it as its baseline is steered."""
    return lambda predictions: combine(predictions) + predictions.shift


def rescaled(combine: Combiner, rescale: float) -> Combiner:
    """What a combiner gives, brought back towards the deviation of the conditional prediction.

    That is arXiv 2305.08891, eqs. 14 to 16, with φ = ``rescale``, 0 to 1.
    """

    def combined(predictions: Predictions) -> Array:
        guided, conditional = combine(predictions), predictions.conditional
        axes = tuple(range(1, guided.ndim))
        ratio = conditional.std(axes, keepdims=True, ddof=1) / guided.std(axes, keepdims=True, ddof=1)
        return np.asarray(guided * (rescale * ratio + (1.0 - rescale)), guided.dtype)

    return combined


@dataclass(frozen=True, kw_only=True, eq=False)
class Composition:
    """Several prompts of one picture: how much each counts, and where.

    Attributes:
        weights: of each positive pass, (N or 1, 1, h or 1, w or 1) float32; those that count nowhere are not made.
    """

    weights: Mapping[Pass, Array]

    @cached_property
    def away_from_negative(self) -> bool:
        """Whether the weights do not sum up to 1 everywhere, so that the negative prediction has a share."""
        return not np.allclose(sum(self.weights.values()), 1.0, atol=1e-5)

    def composed(self, predictions: Mapping[Pass, Array], unconditional: Array | None) -> Array:
        """u + Σ wᵢ · (cᵢ − u) (arXiv 2206.01714, eq. 11), which is Σ wᵢ · cᵢ where the weights sum up to 1.

        Args:
            predictions: of the passes.
            unconditional: u; None where there is no negative pass.
        """
        if unconditional is None or not self.away_from_negative:
            return np.asarray(sum(weight * predictions[which] for which, weight in self.weights.items()))
        away = (weight * (predictions[which] - unconditional) for which, weight in self.weights.items())
        return np.asarray(sum(away, unconditional))


@dataclass(frozen=True, kw_only=True, eq=False)
class Guider:
    """The passes of every step and their combiner. Belongs to one run.

    ``combine`` is None for a model that was distilled from guidance: it is told its weight and has no negative pass.
    ``baseline`` is what the positive passes are steered away from.
    ``composition`` is None where every picture has one prompt. With a ``perturbation`` the positive passes are made
    once more, perturbed, in the steps in which it weighs anything; where a step guides, ``combine`` weighs them.
    """

    steps: StepScales
    combine: Combiner | None = classifier_free
    baseline: Baseline = field(default_factory=Baseline)
    composition: Composition | None = None
    perturbation: Perturbation | None = None

    @cached_property
    def _positives(self) -> tuple[Pass, ...]:
        if self.composition is None:
            return (POSITIVE,)
        return tuple(self.composition.weights)

    def _guides(self, level: Level) -> bool:
        return self.combine is not None and self.steps.guides(level)

    def passes(self, level: Level) -> tuple[Pass, ...]:
        """The passes of a model call, in the order of their rows; a weight of 1 would only repeat the positive ones."""
        composes = self.composition is not None and self.composition.away_from_negative
        negatives = self.baseline.made if self._guides(level) else self.baseline.passes[:1] if composes else ()
        passes = (*negatives, *self._positives)
        if self.perturbation is None or not self.perturbation.at(level):
            return passes
        return (*passes, *(replace(which, perturbed=True) for which in self._positives))

    def combined(self, predictions: Mapping[Pass, Array], x: Array, level: Level) -> Answer:
        """The guided prediction of those of all passes, and the unguided one; where nothing guides, they are the same.

        Args:
            predictions: by pass.
            x: where the model was asked, scaled to unit variance.
            level: of the call.
        """
        unconditional = predictions.get(self.baseline.passes[0])
        conditional = self._conditional(predictions, unconditional)
        of_perturbed = {which.unperturbed: one for which, one in predictions.items() if which.perturbed}
        merged = Predictions(
            unconditional=conditional if unconditional is None else unconditional,
            conditional=conditional,
            scale=self.steps.at(level),
            x=x,
            level=level,
            perturbed=self._conditional(of_perturbed, unconditional) if of_perturbed else None,
            perturbation=0.0 if self.perturbation is None else self.perturbation.at(level),
            shift=self.baseline.shift(predictions),
        )
        if unconditional is None or self.combine is None or not self._guides(level):
            unguided = conditional + away_from_perturbed(merged) if of_perturbed else conditional
            return Answer(unguided, unguided)
        return Answer(self.combine(merged), unconditional)

    def _conditional(self, predictions: Mapping[Pass, Array], unconditional: Array | None) -> Array:
        """The predictions of the positive passes, composed into one."""
        if self.composition is None:
            return predictions[POSITIVE]
        return self.composition.composed(predictions, unconditional)
