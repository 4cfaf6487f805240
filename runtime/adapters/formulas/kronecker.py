"""LoKr: the Kronecker product of two matrices."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import Fixed
from latentrt.runtime.adapters.formulas.low_rank import down_from_tucker
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors, check_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Kronecker(Fixed):
    """ΔW = s · w1 ⊗ w2 (Edalati et al. 2022, KronA, https://arxiv.org/abs/2212.10650).

    A kernel belongs to w2, and w1 ⊗ w2 with it flattened into w2's columns has its numbers in the same order.
    LyCORIS' ``get_diff_weight`` multiplies by s twice, its forward pass once, as PEFT does and as is done here.

    Attributes:
        first: w1 (a, b), or what it is the product of.
        second: w2 (out / a, in / b · kernel), or what it is the product of.
        scale: s.
        shape: the weight's.
    """

    first: tuple[Array, ...]
    second: tuple[Array, ...]
    scale: float
    shape: tuple[int, ...]

    def write(self, matrix: Array) -> None:
        first = reduce(np.matmul, self.first) * np.float32(self.scale)
        # In the order of what is written, or NumPy walks through that in leaps
        second = np.require(reduce(np.matmul, self.second), requirements="C" if matrix.flags.c_contiguous else "F")
        blocks = matrix.reshape(len(first), len(second), first.shape[1], second.shape[1])  # always a view
        np.multiply(first[:, None, :, None], second[None, :, None, :], out=blocks)


def kronecker_from_tensors(tensors: ModuleTensors) -> Kronecker:
    """LoKr: either matrix is there as a whole or as two factors, the second also as a Tucker decomposition.

    The rank is that of w1's factors, else of w2's. Of two whole matrices LyCORIS has s = 1 whatever alpha says, PEFT
    alpha / rank of its config.

    Raises:
        RequestError: tensors that are missing or do not fit each other.
    """
    first, first_rank = _first(tensors)
    second, kernel, second_rank = _second(tensors)
    rank = first_rank or second_rank
    if rank is None and tensors.options.kind is not None:
        rank = tensors.options.rank
    outputs, inputs = len(first[0]) * len(second[0]), first[-1].shape[1] * second[-1].shape[1]
    return Kronecker(
        first=first,
        second=(*second[:-1], second[-1].reshape(len(second[-1]), -1)),
        scale=1.0 if rank is None else tensors.scale(rank),
        shape=(outputs, inputs, *kernel),
    )


def _first(tensors: ModuleTensors) -> tuple[tuple[Array, ...], int | None]:
    """What w1 is the product of, and the rank if there is one."""
    if "lokr_w1" in tensors:
        return (tensors.matrix("lokr_w1"),), None
    left, right = tensors.matrix("lokr_w1_a"), tensors.matrix("lokr_w1_b")
    check_ranks(lokr_w1_a=(left, 1), lokr_w1_b=(right, 0))
    return (left, right), len(right)


def _second(tensors: ModuleTensors) -> tuple[tuple[Array, ...], tuple[int, ...], int | None]:
    """What w2 is the product of, the kernel of the last factor, and the rank if there is one."""
    if "lokr_w2" in tensors:
        whole = tensors.factor("lokr_w2")
        return (whole,), whole.shape[2:], None
    left, right = tensors.matrix("lokr_w2_a"), tensors.factor("lokr_w2_b")
    rank = len(right)
    if "lokr_t2" in tensors:
        core = tensors.factor("lokr_t2")
        check_ranks(lokr_t2=(core.swapaxes(0, 1), 0), lokr_w2_b=(right, 0))
        left, right = left.T, down_from_tucker(core, tensors.matrix("lokr_w2_b"))
    check_ranks(lokr_w2_a=(left, 1), lokr_w2_b=(right, 0))
    return (left, right), right.shape[2:], rank
