"""A formula of the transposed weight."""

from dataclasses import dataclass

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.formula import Formula


@dataclass(frozen=True, kw_only=True, eq=False)
class Transposed:
    """F(W) = G(Wᵀ)ᵀ: PEFT's ``fan_in_fan_out``, and its adapters of embeddings.

    Attributes:
        formula: G.
    """

    formula: Formula

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight that is no matrix, or of which the formula refuses the transposed one."""
        if len(shape) < 2:
            raise RequestError(
                f"got tensors for a matrix, expected {shape}; choose a file that was made for this model"
            )
        self.formula.check(shape[1::-1] + shape[2:])

    def change(self, weight: Array) -> Array:
        return self.formula.change(weight.swapaxes(0, 1)).swapaxes(0, 1)
