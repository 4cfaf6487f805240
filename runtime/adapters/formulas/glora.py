"""GLoRA: a low rank of the weight itself, and one beside it."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import as_matrix
from latentrt.runtime.adapters.formulas.low_rank import LowRank, down_from_tucker
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors, check_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Generalized:
    """F(W) − W = s · (W · a1 · a2 + b1 · b2) (Chavan et al. 2023, https://arxiv.org/abs/2306.07967, equation 10).

    Of a convolution, the inputs of every place in W's kernel are multiplied alike.

    Attributes:
        right: a1 (in, rank) and a2 (rank, in).
        beside: s · b1 · b2.
        scale: s.
    """

    right: tuple[Array, Array]
    beside: LowRank
    scale: float

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another shape."""
        inputs = len(self.right[0])
        if shape[1:2] != (inputs,):
            raise RequestError(
                f"got tensors for a weight of {inputs} inputs, expected {shape}; "
                "choose a file that was made for this model"
            )
        self.beside.check(shape)

    def change(self, weight: Array) -> Array:
        first, second = self.right
        matrix = as_matrix(weight)
        if matrix.shape[1] == len(first):  # no kernel: one low rank of both
            up = np.concatenate([matrix @ first, self.beside.up], axis=1)
            down = np.concatenate([second, self.beside.down])
            return LowRank(up=up, down=down, scale=self.scale, shape=matrix.shape).change(weight)
        difference = self.beside.change(weight)
        inputs = np.moveaxis(weight, 1, -1)  # (out, *kernel, in)
        difference += np.moveaxis((inputs @ (first * np.float32(self.scale))) @ second, -1, 1)
        return difference


def generalized_from_tensors(tensors: ModuleTensors) -> Generalized:
    """GLoRA; older files of LyCORIS have both pairs the other way round, which their shapes tell.

    Raises:
        RequestError: tensors that are missing or do not fit each other.
    """
    first, second = tensors.matrix("a1.weight"), tensors.matrix("a2.weight")
    up, down = tensors.factor("b1.weight"), tensors.factor("b2.weight")
    new_ranks = {first.shape[1], len(second), up.shape[1], len(down)}
    old_ranks = {len(first), second.shape[1], len(up), down.shape[1]}
    if len(new_ranks) > 1 and len(old_ranks) == 1:
        first, second, up, down = second, first, down, up
    rank = len(second)
    if "bm.weight" in tensors:
        core = tensors.factor("bm.weight")
        check_ranks(bm=(core.swapaxes(0, 1), 0), b2=(down, 0))
        down = down_from_tucker(core, down.reshape(len(down), -1))
    check_ranks(a1=(first, 1), a2=(second, 0), b1=(up, 1), b2=(down, 0))
    if len(first) != second.shape[1]:
        raise RequestError(
            f"got a1 of {first.shape} and a2 of {second.shape}, expected as many inputs of both; get the file again"
        )
    scale = tensors.scale(rank)
    beside = LowRank(
        up=up.reshape(len(up), rank),
        down=down.reshape(rank, -1),
        scale=scale,
        shape=(len(up), *down.shape[1:]),
    )
    return Generalized(right=(first, second), beside=beside, scale=scale)
