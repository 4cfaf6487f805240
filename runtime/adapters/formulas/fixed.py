"""Formulas that add the same to every weight: F(W) − W does not depend on W."""

from abc import ABC, abstractmethod
from math import prod

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array


class Fixed(ABC):
    """A difference ΔW of its own shape, which fits a weight of the same numbers of outputs and of columns.

    A 1x1 convolution and a matrix are one, as is a convolution whose kernel was flattened.

    Attributes:
        shape: the weight's as the file tells it: (out, in, *kernel), (out, in · kernel) or (size,).
    """

    shape: tuple[int, ...]

    @abstractmethod
    def write(self, matrix: Array) -> None:
        """Writes ΔW.

        Args:
            matrix: (out, columns), in C or Fortran order.
        """

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another shape.

        Raises:
            RequestError: with both shapes.
        """
        if not fits(self.shape, shape):
            raise RequestError(
                f"got tensors for a weight of {self.shape}, expected {shape}; "
                "choose a file that was made for this model"
            )

    def change(self, weight: Array) -> Array:
        """ΔW in the weight's shape and memory order."""
        difference = np.empty_like(weight, subok=False)
        matrix = as_matrix(difference)
        self.write(matrix)
        if not np.shares_memory(matrix, difference):  # an order that no matrix has
            difference[...] = matrix.reshape(weight.shape)
        return difference


def fits(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the shape ``own`` tells a weight of ``shape``, of which axes of one may be missing."""
    if len(own) == 2 and own == (shape[0], prod(shape[1:])):
        return True
    return without_ones(own) == without_ones(shape)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of one that end it."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def as_matrix(weight: Array) -> Array:
    """A weight as (out, in · kernel): a view in C order and, of a matrix or a 1x1 convolution, in every order."""
    return weight.reshape(len(weight), -1)
