"""APG, adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416)."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.checks import number
from latentrt.runtime.denoiser.combiners.space import denoised, output
from latentrt.runtime.denoiser.guider import Combiner, Predictions

_SMALLEST_NORM = 1e-12  # torch's, below which a vector is not normalized


class Space(StrEnum):
    """Of what the guidance is split.

    Attributes:
        OUTPUT: of the model's output, as in diffusers.
        DENOISED: of the clean samples that it implies, as in the paper and in ComfyUI.
    """

    OUTPUT = "output"
    DENOISED = "denoised"


@dataclass(frozen=True, kw_only=True)
class Apg:
    """How adaptive projected guidance changes d, what the prompt's prediction has beyond the negative one.

    The defaults are the paper's for SDXL (its table 10).

    Attributes:
        eta: η, how much of the part of d along the prompt's prediction is kept: it makes colours saturate. 1 keeps it.
        norm_threshold: r, the largest norm of d of a picture; 0 is none. Norms grow with the root of the latents' size.
        momentum: β, how much of the steps before is added: d ← d + β · d of the step before; negative works against it.
        space: "output" or "denoised".

    Raises:
        RequestError: a value that cannot be.
    """

    eta: float = 0.0
    norm_threshold: float = 15.0
    momentum: float = -0.5
    space: str | Space = Space.OUTPUT

    def __post_init__(self) -> None:
        for name in ("eta", "norm_threshold", "momentum"):
            value = number(getattr(self, name), f"{name} of Apg")
            if not np.isfinite(value):
                raise RequestError(f"got {name} {value} of Apg, expected a finite number; correct it")
            object.__setattr__(self, name, value)
        if self.norm_threshold < 0.0:
            raise RequestError(
                f"got norm_threshold {self.norm_threshold:g} of Apg, expected at least 0, which is no limit; correct it"
            )
        if abs(self.momentum) >= 1.0:
            raise RequestError(
                f"got momentum {self.momentum:g} of Apg, expected a number between -1 and 1; -0.5 is common"
            )
        object.__setattr__(self, "space", choice(Space, self.space, "space of Apg"))

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return self.eta == 1.0 and self.norm_threshold == 0.0 and self.momentum == 0.0


def projected(combine: Combiner, apg: Apg, kind: PredictionType) -> Combiner:
    """A combiner that is given the prompt's prediction with a changed d (the paper's algorithm 1).

    With classifier-free guidance that is u + s · d, diffusers' ``AdaptiveProjectedGuidance``; the paper adds
    (s − 1) · d to the prompt's prediction. What is remembered of the steps before is each picture's own.

    Args:
        combine: the combiner.
        apg: the settings.
        kind: what the model predicts.
    """
    if apg.neutral:
        return combine
    before: Array | None = None

    def combined(predictions: Predictions) -> Array:
        nonlocal before
        of = predictions if apg.space is Space.OUTPUT else denoised(predictions, kind)
        d = of.conditional - of.unconditional
        if apg.momentum:
            d = before = d if before is None else d + apg.momentum * before
        if apg.norm_threshold:
            d = d * np.minimum(1.0, apg.norm_threshold / np.maximum(_norm(d), _SMALLEST_NORM)).astype(d.dtype)
        if apg.eta != 1.0:
            d = _split(d, of.conditional, apg.eta)
        changed = of.unconditional + d
        if apg.space is Space.DENOISED:
            changed = output(changed, predictions, kind)
        return combine(replace(predictions, conditional=changed))

    return combined


def _split(d: Array, conditional: Array, eta: float) -> Array:
    """d⊥ + η · d∥, by its parts across and along the prompt's prediction; in float64, as the reference."""
    exact, along = d.astype(np.float64), conditional.astype(np.float64)
    along /= np.maximum(_norm(along), _SMALLEST_NORM)
    parallel = (exact * along).sum(_axes(d), keepdims=True) * along
    return np.asarray(exact - (1.0 - eta) * parallel, d.dtype)


def _norm(array: Array) -> Array:
    """The norm of each picture, (N, 1, 1, 1)."""
    return np.asarray(np.sqrt(np.square(array).sum(_axes(array), keepdims=True)))


def _axes(array: Array) -> tuple[int, ...]:
    return tuple(range(1, array.ndim))
