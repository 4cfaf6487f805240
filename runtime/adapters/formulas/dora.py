"""DoRA: the direction of a changed weight, with a magnitude of its own."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.formula import Formula

Axis = Literal["outputs", "inputs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposed:
    """F(W) = m · V / ‖V‖ with V = W + ΔW (Liu et al. 2024, https://arxiv.org/abs/2402.09353, equation 5).

    The shape of m shows which norm is meant: PEFT's and, since 2025, LyCORIS' is one per output, LyCORIS' before one
    per input. LyCORIS adds the spacing of float32 at 1 to the norm, PEFT nothing.

    Attributes:
        direction: the formula of ΔW.
        magnitude: m: (out,), (out, 1, …) or (1, in, …); PEFT's of a convolution is (1, out, 1, 1).
        peft: m is PEFT's, so one per output.
    """

    direction: Formula
    magnitude: Array
    peft: bool

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight that ΔW or m does not fit."""
        self.direction.check(shape)
        if self._axis(shape) is None:
            raise RequestError(
                f"got DoRA's magnitudes of {self.magnitude.shape}, expected one per output or input of a weight of "
                f"{shape}; choose a file that was made for this model"
            )

    def change(self, weight: Array) -> Array:
        result = self.direction.change(weight)
        result += weight
        outputs = self._axis(weight.shape) == "outputs"
        cube = result.reshape(*weight.shape[:2], -1)
        norms = np.sqrt(np.einsum("oik,oik->o" if outputs else "oik,oik->i", cube, cube))
        magnitude = self.magnitude.reshape(-1)
        # A row of zeros has no direction: it stays one
        scales = np.divide(magnitude, norms, out=np.zeros_like(norms), where=norms > 0)
        result *= scales.reshape(*[1] * (not outputs), -1, *[1] * (weight.ndim - 2 + outputs))
        result -= weight
        return result

    def _axis(self, shape: tuple[int, ...]) -> Axis | None:
        """What m has one number per."""
        own, size = self.magnitude.shape, self.magnitude.size
        if len(shape) < 2 or sum(length != 1 for length in own) > 1:
            return None
        per_input = len(own) > 1 and own[0] == 1 and not self.peft
        if size == shape[0] and not (per_input and size == shape[1]):
            return "outputs"
        return "inputs" if size == shape[1] and not self.peft else None
