"""Guidance as numbers: how the prediction of every pass counts, where a combiner is linear."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.engines.bundle.unet.denoise_step import OTHER_PASSES
from latentrt.runtime.denoiser.guider import POSITIVE, Guider, Pass
from latentrt.runtime.sampling.schedule import Level


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The guided prediction u + Σ w · (o − u), brought back to the deviation of the first o.

    Attributes:
        base: u.
        others: o, at most so many as a step takes; the first is c.
        weights: w of each.
        rescale: how far it is brought back, 0 to 1.
    """

    base: Pass
    others: tuple[Pass, ...]
    weights: tuple[float, ...]
    rescale: float = 0.0

    @property
    def guides(self) -> bool:
        """Whether u is a prediction of its own, and not c."""
        return self.base not in self.others


@dataclass(frozen=True, kw_only=True)
class LinearGuidance:
    """A guider whose combiner is linear in the predictions but for ``rescale`` behind it (``Guidance.linear``)."""

    guider: Guider
    rescale: float = 0.0

    def passes(self, level: Level) -> tuple[Pass, ...]:
        """Those of a model call."""
        return self.guider.passes(level)

    def fits(self, levels: Sequence[Level], rows: int) -> bool:
        """Whether the passes of a picture at these levels fit into one call of so many rows, and into a step."""
        return all(len(self.passes(level)) <= min(rows, 1 + OTHER_PASSES) for level in levels)

    def shares(self, level: Level) -> Shares:
        """How the passes of a model call are combined.

        That is u + s · (c − u) + p · (c − c′) + Σ (z − 1) · (b − u′), each difference taken from u. Where nothing
        guides, it is c + p · (c − c′).
        """
        guider, passes = self.guider, self.passes(level)
        baseline, perturbed = guider.baseline, [which for which in passes if which.perturbed]
        weight_of_perturbed = guider.perturbation.at(level) if perturbed and guider.perturbation is not None else 0.0
        base = baseline.passes[0]
        if base not in passes:
            return Shares(
                base=POSITIVE, others=(POSITIVE, *perturbed), weights=(0.0, *(-weight_of_perturbed,) * len(perturbed))
            )
        weights = {POSITIVE: guider.steps.at(level) + weight_of_perturbed}
        weights |= dict.fromkeys(perturbed, -weight_of_perturbed)
        for scale, nearer, farther in zip(baseline.scales, baseline.passes, baseline.passes[1:], strict=False):
            if farther in passes:
                for which, sign in ((nearer, 1.0), (farther, -1.0)):
                    if which != base:
                        weights[which] = weights.get(which, 0.0) + sign * (scale - 1.0)
        return Shares(base=base, others=tuple(weights), weights=tuple(weights.values()), rescale=self.rescale)
