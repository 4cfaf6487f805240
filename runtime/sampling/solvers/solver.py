"""What a solver is, and the steps that several share.

A solver is a generator. It yields an ``Evaluate`` where it wants the model and receives ``(x, denoised)``: x
again, because a callback or an inpaint blend may have replaced it, and the model's prediction of the clean
sample. One that asks with an ``EvaluateBoth`` receives ``(x, denoised, unguided)``. What it returns is the final x. It
does to arrays nothing but linear combinations with coefficients that are known before the first step; noise comes from
a callable. There is no other state than its local variables.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule


@dataclass(frozen=True, slots=True)
class Evaluate:
    """A solver's request: the model's prediction for ``x`` at ``level``."""

    x: Array
    level: Level


@dataclass(frozen=True, slots=True)
class EvaluateBoth(Evaluate):
    """A request for two predictions of the clean sample: the guided one, and the one that nothing guided."""


# Standard normal noise for the way between two levels; overlapping ways share the noise of one Brownian path.
NoiseSource = Callable[[Level, Level], Array]
Steps = Generator[Evaluate, tuple[Array, ...], Array]
Solver = Callable[[Array, Schedule, NoiseSource], Steps]


def deterministic_step(x: Array, denoised: Array, level: Level, target: Level) -> Array:
    """Keeps the noise that ``denoised`` implies in x and rescales it to the target's level.

    With h = λ_target − λ_level this is (σ'/σ) x − α' (e^{−h} − 1) x₀, the first-order DPM-Solver++ step.
    """
    kept = target.sigma / level.sigma
    return kept * x + (target.alpha - kept * level.alpha) * denoised


def ancestral_split(level: Level, target: Level, eta: float) -> tuple[Level, float]:
    """Where to go without noise, and how much fresh noise leads from there to the target.

    The noise is eta times that of DDPM's posterior (Song et al. 2021, eq. 16): sigma'² (1 − (r'/r)²) with the
    noise-to-signal ratios r of the two levels.
    """
    shrink = target.sigma * level.alpha / (target.alpha * level.sigma)
    fresh = eta * target.sigma * math.sqrt(max(1.0 - shrink * shrink, 0.0))
    down = math.sqrt(max(target.sigma**2 - fresh**2, 0.0))
    return Level(target.timestep, target.alpha, down), fresh
