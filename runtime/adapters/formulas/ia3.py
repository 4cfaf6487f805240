"""(IA)³: every output or every input of a weight, scaled."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaling:
    """F(W) − W = W · v along one axis (Liu et al. 2022, https://arxiv.org/abs/2205.05638).

    LyCORIS learns v, from 0; PEFT learns 1 + v, from 1.

    Attributes:
        factors: v.
        on_input: v scales the inputs, not the outputs.
    """

    factors: Array
    on_input: bool

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another number of inputs or outputs."""
        axis = int(self.on_input)
        if (self.factors.size,) != shape[axis : axis + 1]:
            raise RequestError(
                f"got {self.factors.size} scales of {'inputs' if self.on_input else 'outputs'}, expected those of a "
                f"weight of {shape}; choose a file that was made for this model"
            )

    def change(self, weight: Array) -> Array:
        axis = int(self.on_input)
        factors = self.factors.reshape(*[1] * axis, -1, *[1] * (weight.ndim - axis - 1))
        return np.multiply(weight, factors, out=np.empty_like(weight, subok=False))


def rescaling_from_tensors(tensors: ModuleTensors) -> Rescaling:
    """LyCORIS' (IA)³."""
    return Rescaling(factors=tensors.tensor("weight"), on_input=bool(tensors.number("on_input")))


def peft_rescaling_from_tensors(tensors: ModuleTensors) -> Rescaling:
    """PEFT's (IA)³: a feedforward module's inputs are scaled, any other's outputs, then with the bias."""
    return Rescaling(factors=tensors.tensor("ia3_l") - np.float32(1), on_input=tensors.options.feedforward)
