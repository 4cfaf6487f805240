"""LoHa: the elementwise product of two low ranks."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import Fixed
from latentrt.runtime.adapters.formulas.low_rank import down_from_tucker, write_product
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors, check_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Hadamard(Fixed):
    """ΔW = s · (up₁ · down₁) ∘ (up₂ · down₂) (Hyeon-Woo et al. 2021, FedPara, https://arxiv.org/abs/2108.06098).

    LyCORIS' ``get_diff_weight`` multiplies by s twice, its forward pass once, as PEFT does and as is done here.

    Attributes:
        first: up₁ (out, rank) and down₁ (rank, in · kernel).
        second: the same.
        scale: s.
        shape: the weight's.
    """

    first: tuple[Array, Array]
    second: tuple[Array, Array]
    scale: float
    shape: tuple[int, ...]

    def write(self, matrix: Array) -> None:
        up, down = self.first
        write_product(matrix, up * np.float32(self.scale), down)
        factor = np.empty_like(matrix)
        write_product(factor, *self.second)
        matrix *= factor


def hadamard_from_tensors(tensors: ModuleTensors) -> Hadamard:
    """LoHa; with ``hada_t1`` and ``hada_t2`` both factors are Tucker decompositions.

    Raises:
        RequestError: tensors that are missing or do not fit each other.
    """
    (first_up, first_down), (second_up, second_down) = (_factor(tensors, index) for index in (1, 2))
    shape = (len(first_up), *first_down.shape[1:])
    if shape != (len(second_up), *second_down.shape[1:]):
        raise RequestError(
            f"got factors for weights of {shape} and {(len(second_up), *second_down.shape[1:])}, expected the same; "
            "get the file again"
        )
    return Hadamard(
        first=(first_up, first_down.reshape(len(first_down), -1)),
        second=(second_up, second_down.reshape(len(second_down), -1)),
        scale=tensors.scale(len(tensors.factor("hada_w1_b"))),
        shape=shape,
    )


def _factor(tensors: ModuleTensors, index: int) -> tuple[Array, Array]:
    """One factor's up (out, rank) and down (rank, in, *kernel)."""
    up, down = tensors.matrix(f"hada_w{index}_a"), tensors.factor(f"hada_w{index}_b")
    if f"hada_t{index}" not in tensors:
        check_ranks(**{f"hada_w{index}_a": (up, 1), f"hada_w{index}_b": (down, 0)})
        return up, down
    core = tensors.factor(f"hada_t{index}")
    check_ranks(**{f"hada_t{index}": (core, 1), f"hada_w{index}_b": (down, 0)})
    check_ranks(**{f"hada_t{index}": (core, 0), f"hada_w{index}_a": (up, 0)})
    return up.T, down_from_tucker(core, tensors.matrix(f"hada_w{index}_b"))
